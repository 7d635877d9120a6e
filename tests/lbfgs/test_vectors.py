"""Steps on long vectors, of which the library computes."""

import mindspore as ms
import numpy as np
import pytest
import torch
from helpers.native import needs_library
from mindspore import Parameter, Tensor

from ms_optim import LBFGS, _native
from ms_optim.lbfgs.vectors import LONG
from parity.sides.mindspore import set_mode

SIZE = max(LONG.values()) + 5
KWARGS = {"lr": 0.3, "max_iter": 6, "history_size": 3, "tolerance_grad": 0, "tolerance_change": 0}


def of_torch(start, scale, dtype, steps):
    """Where torch goes on a quadratic function with this diagonal, in a dtype."""
    weight, scale = torch.nn.Parameter(torch.tensor(start, dtype=dtype)), torch.tensor(scale, dtype=dtype)
    optimizer, weights = torch.optim.LBFGS([weight], **KWARGS), []

    def closure():
        weight.grad = scale * weight.detach()
        return torch.tensor(0.0)

    for _ in range(steps):
        optimizer.step(closure)
        weights.append(weight.detach().double().numpy().copy())
    return weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("with_library", [pytest.param(True, marks=needs_library), False])
def test_long_vectors_go_where_torchs_do(with_library, dtype, monkeypatch):
    """By the library, and where it was installed without a compiler: no further from the truth than torch."""
    set_mode("graph")
    if not with_library:
        monkeypatch.setattr(_native, "library", lambda: None)
    calls, add_scaled = [], _native.add_scaled
    monkeypatch.setattr(_native, "add_scaled", lambda *args: (calls.append(args), add_scaled(*args)))
    start = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
    scale = np.linspace(0.5, 2, SIZE, dtype=np.float32)
    truth, torchs = (of_torch(start, scale, each, 3) for each in (torch.float64, dtype))
    kind = ms.float64 if dtype is torch.float64 else ms.float32
    param, diagonal = Parameter(Tensor(start, kind), name="weight"), scale.astype(ms.dtype_to_nptype(kind))
    optimizer = LBFGS([param], **KWARGS)
    for true, expected in zip(truth, torchs):
        optimizer.step(lambda: (Tensor(0.0, ms.float32), (Tensor(diagonal * param.asnumpy()),)))
        allowed = max(3 * np.abs(expected - true).max(), 1e-13)
        assert np.abs(param.asnumpy() - true).max() <= allowed
    assert bool(calls) == with_library
