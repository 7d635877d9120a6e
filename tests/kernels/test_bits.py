"""The bits of the kernels against those of torch, at every size and in each instruction set."""

import mindspore as ms
import numpy as np
import pytest
import torch
from helpers import kernels
from helpers.native import (
    CHUNK,
    DTYPES,
    FUSED,
    FUSES,
    NATIVE,
    OF_TORCH,
    SIZES,
    Native,
    Torch,
    arguments,
    assert_bits,
    draw,
    fuses,
    needs_library,
    run,
    some_params,
    those_of,
)
from mindspore import Parameter, Tensor

from ms_optim import OPTIMIZERS, SGD, AdamW, _native
from parity.cases import CASES
from parity.judge.compare import compare
from parity.sides import mindspore as mindspore_side
from parity.sides import torch as torch_side
from parity.sides.mindspore import set_mode

pytestmark = needs_library


# Every branch of the fused forms; betas on both sides of lerp's middle.
ADAM = (
    {},
    {"lr": 0.05, "betas": (0.8, 0.99999), "eps": 1e-3},
    {"lr": 0.01, "betas": (0.0, 0.5), "eps": 1e-6, "weight_decay": 0.7},
    {"lr": 0.1, "betas": (0.999, 0.9), "eps": 1e-12, "weight_decay": 0.3, "maximize": True},
    {"lr": 0.02, "betas": (0.45, 0.3), "eps": 1e-4, "weight_decay": 0.5, "amsgrad": True},
)


GRIDS = {
    "Adam": (*ADAM, {"lr": 0.03, "weight_decay": 0.6, "decoupled_weight_decay": True}),
    "AdamW": (ADAM[0], ADAM[3]),
    # 1 + step * lr_decay is exact, for torch's compiler fuses it: that shows in float64.
    "Adagrad": (
        {},
        {"lr": 0.1, "lr_decay": 0.25, "initial_accumulator_value": 0.5, "eps": 1e-3, "weight_decay": 0.3},
        {"lr": 0.5, "lr_decay": 2.0**-7, "eps": 1e-2, "weight_decay": 0.1, "maximize": True},
    ),
}


def grid(name):
    """The arguments that an optimizer is compared with, of one group."""
    return GRIDS.get(name) or tuple(case.kwargs for case in CASES[name] if not case.groups)


def assert_steps_equal(cls, kwargs, dtype, fused):
    """The kernel and torch, from the same parameters on the same gradients.

    They are compared after three steps of each magnitude of gradients, the first of which comes once more at the end.
    """
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(size).astype(dtype) for size in SIZES]
    native, reference = Native(cls, params, **kwargs), Torch(cls, params, fused, **kwargs)
    for step in range(0, 30, 2):
        grads = draw(rng, step, dtype)
        native.step(grads)
        reference.step(grads)
        if step % 6 == 4:
            assert_bits(native.outcome(), reference.outcome(), f"at step {step}")


@fuses
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "kwargs"), [(name, kwargs) for name in FUSED for kwargs in grid(name)])
def test_the_bits_are_those_of_torch_fused(name, kwargs, dtype, exact_roots):
    """Of parameters and slots, through the magnitudes of gradients and once more the first of them."""
    assert_steps_equal(OPTIMIZERS[name], kwargs, dtype, True)


@fuses
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "kwargs"),
    [(name, kwargs) for name in OF_TORCH if name not in FUSED for kwargs in grid(name)],
)
def test_the_bits_are_those_of_torch_but_for_its_roots(name, kwargs, dtype, exact_roots):
    """Of the optimizers without a fused form; torch keeps mu_product, eta and mu in float32 unless told otherwise."""
    with torch_side.default_dtype(torch.float64):
        assert_steps_equal(OPTIMIZERS[name], kwargs, dtype, False)


@fuses
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight", [0.0, 1e-5, 0.1, 0.49999, 0.5, 0.7, 1.0])
def test_an_average_has_the_bits_of_lerp(weight, dtype):
    """On both sides of the middle, and through infinities."""
    rng = np.random.default_rng(0)
    means = [rng.standard_normal(size).astype(dtype) for size in SIZES]
    expected = [torch.tensor(mean) for mean in means]
    for step in range(20):
        values = draw(rng, step, dtype)
        values[-1][3], values[-2][5], values[30][7] = np.inf, np.nan, -0.0
        kernels.call(
            _native.library(),
            "average",
            [np.array(weight), np.array(True), np.zeros(len(SIZES), np.int32), *means, *values],
        )
        torch._foreach_lerp_(expected, [torch.tensor(value) for value in values], weight)
        assert_bits({"mean": np.concatenate(means)}, {"mean": torch.cat(expected).numpy()})


@fuses
@pytest.mark.parametrize(
    ("name", "kwargs"), [("SGD", {"momentum": 0.9, "nesterov": True}), ("Adam", {"amsgrad": True}), ("Adagrad", {})]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ends_of_chunks(name, kwargs, dtype, exact_roots):
    """Where one thread's share ends and the next one's begins."""
    rng = np.random.default_rng(0)
    sizes = [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK + 7, 70001]
    params = [rng.standard_normal(size).astype(dtype) for size in sizes]
    native, reference = Native(OPTIMIZERS[name], params, **kwargs), Torch(OPTIMIZERS[name], params, True, **kwargs)
    for step in range(3):
        grads = draw(rng, step, dtype, sizes)
        native.step(grads)
        reference.step(grads)
    assert_bits(native.outcome(), reference.outcome())


@fuses
@pytest.mark.parametrize(
    ("name", "kwargs"), [("SGD", {"momentum": 0.9, "dampening": 0.5}), ("AdamW", {}), ("Adagrad", {"lr_decay": 0.5})]
)
def test_an_absent_parameter_stands_still(name, kwargs, exact_roots):
    """And so do its slots and its step; the others go on."""
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(size).astype(np.float32) for size in SIZES]
    native, reference = Native(OPTIMIZERS[name], params, **kwargs), Torch(OPTIMIZERS[name], params, True, **kwargs)
    for step in range(6):
        grads = [grad if step == 5 or rng.random() < 0.5 else None for grad in draw(rng, step, np.float32)]
        rows = [[param, *(kept for kept in row if kept is not None)] for param, row in zip(native.params, native.slots)]
        before = [[array.copy() for array in row] for row in rows]
        native.step(grads)
        reference.step(grads)
        for grad, now, then in zip(grads, rows, before):
            assert grad is not None or all(map(np.array_equal, now, then))
    assert_bits(native.outcome(), reference.outcome())


def test_every_instruction_set_gives_the_same_bits(copy_of_library):
    """AVX-512 and AVX2 do; without a fused multiply-add a step is off by what that rounds."""
    best, avx2, plain = (copy_of_library(MS_OPTIM_SIMD=level) for level in "210")
    params = some_params()
    for name in NATIVE:
        expected, got = (run(OPTIMIZERS[name], library, params, **arguments(name)) for library in (best, avx2))
        assert_bits(got, expected, name)
    got, expected = (run(SGD, library, params, **arguments("SGD"))["parameter"] for library in (plain, best))
    assert (got != expected).any() == FUSES


@pytest.mark.parametrize("name", OF_TORCH)
def test_without_fused_multiply_adds_it_is_as_exact_as_torch(name, copy_of_library):
    """Judged by the error of torch's own float32, as in the parity suite."""
    plain = copy_of_library(MS_OPTIM_SIMD="0")
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(size).astype(np.float32) for size in SIZES]
    kwargs = those_of(OPTIMIZERS[name], lr=0.05, weight_decay=0.1)
    with torch_side.default_dtype(torch.float64):
        runs = [
            Native(OPTIMIZERS[name], params, plain, **kwargs),
            Torch(OPTIMIZERS[name], params, name in FUSED, **kwargs),
            Torch(OPTIMIZERS[name], [param.astype(np.float64) for param in params], name in FUSED, **kwargs),
        ]
        traces = [{}, {}, {}]
        for _ in range(20):
            grads = draw(rng, 0, np.float32)
            for each, trace, dtype in zip(runs, traces, (np.float32, np.float32, np.float64)):
                each.step([grad.astype(dtype) for grad in grads])
                for kind, value in each.outcome().items():
                    trace.setdefault((kind, "all"), []).append(value)
    verdict = compare(*traces, initial={"all": np.concatenate(params)})
    assert verdict.passed, str(verdict)


@fuses
@pytest.mark.parametrize("mode", mindspore_side.MODES)
def test_the_bits_are_torchs_through_the_optimizer(mode, exact_roots):
    """In both modes, denormal numbers among them; GRAPH flushes them everywhere else.

    In float64 the numbers of a step show a power of MindSpore, which is an ulp off in vectors.
    """
    set_mode(mode)
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(n).astype(dtype) for dtype in DTYPES for n in (1, 7, 300)]
    values.append(np.float32(rng.standard_normal(99) * 1e-39))
    kwargs = dict(lr=0.01, weight_decay=0.1, betas=(0.9, 0.99))
    ours = AdamW([Parameter(Tensor(value), name=f"p{i}") for i, value in enumerate(values)], fused=True, **kwargs)
    reference = Torch(AdamW, values, True, **kwargs)
    for _ in range(30):
        grads = [
            (rng.standard_normal(value.shape) * (1e-38 if i == len(values) - 1 else 1)).astype(value.dtype)
            for i, value in enumerate(values)
        ]
        ours(tuple(map(Tensor, grads)))
        reference.step(grads)
    for param, expected in zip(ours.parameters, reference.params):
        if param.dtype == ms.float64:
            np.testing.assert_allclose(param.asnumpy(), expected.detach().numpy(), rtol=1e-13)
        else:
            np.testing.assert_array_equal(param.asnumpy(), expected.detach().numpy())
        for slot in ("exp_avg", "exp_avg_sq"):
            np.testing.assert_array_equal(
                ours.state[param.name][slot].asnumpy(), reference.optimizer.state[expected][slot].numpy()
            )
