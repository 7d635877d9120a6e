"""Clipping by units, against the reference and the composed path."""

import numpy as np
import pytest
import torch
from helpers.native import DTYPES, UNITS, Native, needs_library
from mindspore import Parameter, Tensor

from ms_optim import MomentumAGC
from parity.judge.compare import compare, compare_exactly
from parity.references import SGDAGC
from parity.sides.mindspore import set_mode

pytestmark = needs_library


@pytest.mark.parametrize(
    "kwargs",
    [
        {"unit": "output", "clipping": 0.1, "clip_eps": 0.5, "weight_decay": 0.1, "dampening": 0.3},
        {"unit": "squeezed", "clipping": 0.1, "nesterov": True, "exempt": ("p1", "p*3")},
        {"unit": "squeezed", "clipping": 0.9, "momentum": 0.0, "maximize": True, "weight_decay": 0.1},
        {"unit": "output", "clipping": 0.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_units_are_clipped_as_in_the_reference(kwargs, dtype):
    """Some of them and others not, in steps of all magnitudes; float32 is judged by the reference's own error."""
    rng = np.random.default_rng(0)
    params = [np.asarray(rng.standard_normal(shape), np.float32) for shape in UNITS]
    native = Native(MomentumAGC, [param.astype(dtype) for param in params], lr=0.1, **kwargs)
    references = [
        SGDAGC(
            [(f"p{i}", torch.nn.Parameter(torch.tensor(param, dtype=precision))) for i, param in enumerate(params)],
            lr=0.1,
            **kwargs,
        )
        for precision in (torch.float32, torch.float64)
    ]
    traces = [{}, {}, {}]
    for _ in range(4):
        sizes = rng.choice([0.01, 0.3, 100.0], len(params))
        drawn = [np.asarray(size * rng.standard_normal(shape), np.float32) for size, shape in zip(sizes, UNITS)]
        native.step([grad.astype(dtype) for grad in drawn])
        keep(traces[0], enumerate(native.params), "parameter")
        keep(traces[0], ((i, row[0]) for i, row in enumerate(native.slots)), "momentum_buffer")
        for reference, trace in zip(references, traces[1:]):
            members = reference.param_groups[0]["params"]
            for param, grad in zip(members, drawn):
                param.grad = torch.tensor(grad, dtype=param.dtype)
            reference.step()
            keep(trace, ((i, param.detach().numpy()) for i, param in enumerate(members)), "parameter")
            keep(trace, ((i, momentum_of(reference, param)) for i, param in enumerate(members)), "momentum_buffer")
    initial = {i: param for i, param in enumerate(params)}
    if dtype == np.float64:
        verdict = compare_exactly(traces[0], traces[2], initial=initial)
    else:
        verdict = compare(*traces, ratio=1.5, initial=initial)
    assert verdict.passed, str(verdict)


@pytest.mark.parametrize("shape", [(2, 8), (3, 1001), (2, 40000)])
def test_a_clipped_gradient_is_rounded_once(shape):
    """The clipping is a float32 as in the composed path, the norms and the factor are float64."""
    rng = np.random.default_rng(0)
    param, grad = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    native = Native(MomentumAGC, [param], clipping=0.1)
    native.step([grad])
    norms = [np.sqrt(np.square(x.astype(np.float64)).sum(1, keepdims=True)) for x in (param, grad)]
    clipped = (grad * (norms[0] * np.float64(np.float32(0.1)) / norms[1])).astype(np.float32)
    np.testing.assert_array_equal(native.slots[0][0], clipped)


def momentum_of(reference, param):
    """The buffer of a parameter of torch, if it has one."""
    buffer = reference.state[param].get("momentum_buffer")
    return None if buffer is None else buffer.numpy()


def keep(trace, arrays, kind):
    """Add a copy of each array that there is to a trace."""
    for name, array in arrays:
        if array is not None:
            trace.setdefault((kind, name), []).append(array.copy())


@pytest.mark.parametrize("unit", ["output", "squeezed"])
def test_units_are_clipped_as_in_the_composed_path(unit):
    """In float64, where both are exact."""
    rng = np.random.default_rng(0)
    set_mode("graph")
    shapes = [shape for shape in UNITS if np.prod(shape) < 5000 or shape in ((70000,), (2, 9000, 5))]
    grads = [
        [Tensor(np.asarray(scale * rng.standard_normal(shape))) for shape in shapes] for scale in (0.02, 1.0, 30.0)
    ]
    values = [np.asarray(rng.standard_normal(shape)) for shape in shapes]
    optimizers = [
        MomentumAGC(
            [Parameter(Tensor(value), name=f"p{i}") for i, value in enumerate(values)],
            lr=0.1,
            clipping=0.05,
            weight_decay=0.1,
            unit=unit,
            exempt="p4",
            fused=fused,
        )
        for fused in (True, False)
    ]
    for step in grads:
        for optimizer in optimizers:
            optimizer(tuple(step))
    native, composed = (
        [param.asnumpy() for param in (*optimizer.parameters, *optimizer.momentum_buffer)] for optimizer in optimizers
    )
    for one, other in zip(native, composed, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)
