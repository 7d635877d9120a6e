"""Numbers of 16 bits, numbers that are not finite or normal, and copies between dtypes."""

import mindspore as ms
import numpy as np
import pytest
import torch
from helpers import kernels
from helpers.native import (
    DTYPES,
    FUSED,
    NATIVE,
    OF_TORCH,
    Native,
    Torch,
    arguments,
    assert_bits,
    fuses,
    needs_library,
    those_of,
)
from mindspore import Parameter, Tensor

from ms_optim import OPTIMIZERS, SGD, AdamW, _native
from parity.sides import torch as torch_side
from parity.sides.mindspore import set_mode

pytestmark = needs_library


# MindSpore has a dtype of NumPy for its own bfloat16.
HALVES = [np.dtype(np.float16), Tensor(np.zeros(1), ms.bfloat16).asnumpy().dtype]
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-42, 3e38, -1.5, 1e-20, 1e-30]


@fuses
@pytest.mark.parametrize("name", OF_TORCH)
@pytest.mark.parametrize("kwargs", [{}, {"weight_decay": 0.1, "maximize": True}], ids=str)
def test_special_values_are_torchs_and_the_callers_floats_come_back(name, kwargs, exact_roots):
    """Each with each; the caller flushes denormal numbers, as MindSpore does, and the kernel does not."""
    kwargs = those_of(OPTIMIZERS[name], **kwargs)
    param, grad = (np.float32(axis).ravel() for axis in np.meshgrid(SPECIAL, SPECIAL))
    with torch_side.default_dtype(torch.float64), np.errstate(all="ignore"):
        native = Native(OPTIMIZERS[name], [param], **kwargs)
        reference = Torch(OPTIMIZERS[name], [param], name in FUSED, **kwargs)
        for step, grads in enumerate([grad, grad[::-1].copy(), grad]):
            inputs = native.inputs([grads])
            torch.set_flush_denormal(True)
            code = kernels.call(native.library, native.rule, inputs)
            flushed = np.float32([1e-40]) * np.float32(2)
            torch.set_flush_denormal(False)
            assert code == 0
            assert flushed[0] == 0
            reference.step([grads])
            assert_bits(native.outcome(), reference.outcome(), f"at step {step}")


def convert(values, dtype):
    """The values as the kernels convert them: a copied average is one of another dtype."""
    result = np.zeros(values.shape, dtype)
    assert (
        kernels.call(
            _native.library(), "average", [np.array(0.5), np.array(True), np.ones(1, np.int32), result, values]
        )
        == 0
    )
    return result


def test_halves_convert_as_in_numpy():
    """Each of them to float32 and back, and floats to the nearest, ties to even."""
    halves = np.arange(65536).astype(np.uint16).view(np.float16)
    floats = halves.astype(np.float32)
    assert_bits({"float32": convert(halves, np.float32)}, {"float32": floats})
    assert_bits({"float16": convert(floats, np.float16)}, {"float16": halves})
    finite = np.sort(floats[np.isfinite(floats)])
    middles = (finite[1:] + finite[:-1]) / 2
    middles = np.concatenate([middles, np.float32([65520.0, -65520.0, 1e30, 2.0**-25, -(2.0**-25), 1e-40])])
    drawn = np.random.default_rng(0).integers(0, 2**32, 300_000, np.uint32).view(np.float32)
    beside = [np.nextafter(middles, np.float32(side)) for side in (np.inf, -np.inf)]
    for values in (middles, *beside, drawn):
        with np.errstate(all="ignore"):
            assert_bits({"float16": convert(values, np.float16)}, {"float16": values.astype(np.float16)})


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("name", NATIVE)
def test_halves_are_computed_in_float32_and_rounded_once(name, half):
    """Parameters and slots, or a gradient alone; what dtypes the others in a call have is of no matter.

    Unlike in torch 2.13, whose fused SGD leaves bfloat16 parameters of 64 elements where they are.
    """
    rng = np.random.default_rng(0)
    halves, grads = (
        [rng.standard_normal(shape).astype(np.float32).astype(half) for shape in ((8,), (1096,), (4, 24), (4, 8, 3))]
        for _ in range(2)
    )
    singles, doubles = ([param.astype(dtype) for param in halves] for dtype in DTYPES)
    kwargs = arguments(name)
    single, double = (Native(OPTIMIZERS[name], params, **kwargs) for params in (singles, doubles))
    single.step([grad.astype(np.float32) for grad in grads])
    double.step([grad.astype(np.float64) for grad in grads])
    mixed = Native(OPTIMIZERS[name], [*halves, *singles, *doubles, *singles], **kwargs)
    mixed.step([*grads, *grads, *grads, *(grad.astype(np.float64) for grad in grads)])
    expected = [*(param.astype(half) for param in single.params), *single.params, *double.params, *single.params]
    slots = [
        *([kept if kept is None else kept.astype(half) for kept in row] for row in single.slots),
        *single.slots,
        *double.slots,
        *single.slots,
    ]
    for got, value, states, kept in zip(mixed.params, expected, mixed.slots, slots, strict=True):
        for one, other in zip([got, *states], [value, *kept], strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one.astype(np.float64), other.astype(np.float64), strict=True)


@fuses
@pytest.mark.parametrize("mode", ["graph", "pynative"])
def test_bfloat16_has_the_bits_of_torch(mode):
    """MindSpore's own operators on CPU have no bfloat16."""
    set_mode(mode)
    rng = np.random.default_rng(0)
    kwargs = {"lr": 0.03, "weight_decay": 0.6, "amsgrad": True, "fused": True}
    values = [torch.tensor(rng.standard_normal(shape)).bfloat16() for shape in ((), (7,), (40, 33))]
    ours = AdamW([Parameter(as_bfloat16(value), name=f"p{i}") for i, value in enumerate(values)], **kwargs)
    params = [torch.nn.Parameter(value) for value in values]
    reference = torch.optim.AdamW(params, **kwargs)
    for _ in range(20):
        grads = [torch.tensor(rng.standard_normal(value.shape)).bfloat16() for value in values]
        ours(tuple(map(as_bfloat16, grads)))
        for param, grad in zip(params, grads):
            param.grad = grad
        reference.step()
    for param, expected in zip(ours.parameters, params):
        np.testing.assert_array_equal(param.float().asnumpy(), expected.detach().float().numpy())
        for slot, state in ours.state[param.name].items():
            kept = reference.state[expected][slot]
            np.testing.assert_array_equal(state.float().asnumpy(), kept.float().numpy(), err_msg=slot)


def as_bfloat16(value):
    """A tensor of torch in MindSpore."""
    return Tensor(value.float().numpy(), ms.bfloat16)


def test_bfloat16_converts_as_in_torch():
    """Each of them to float32, and floats to the nearest, ties to even."""
    set_mode("graph")
    every = torch.arange(65536).to(torch.uint16).view(torch.bfloat16)
    beside = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    floats = ((torch.arange(65536) << 16)[:, None] | beside).flatten().to(torch.uint32).view(torch.float32)
    wide, narrow = (
        SGD([Parameter(Tensor(np.zeros(size), dtype), name=f"p{size}")], lr=1.0, maximize=True, fused=True)
        for size, dtype in ((65536, ms.float32), (floats.numel(), ms.bfloat16))
    )
    wide((Tensor(every.float().numpy()).astype(ms.bfloat16),))
    np.testing.assert_array_equal(wide.parameters[0].asnumpy(), every.float().numpy())
    narrow((Tensor(floats.numpy()),))
    np.testing.assert_array_equal(narrow.parameters[0].float().asnumpy(), floats.bfloat16().float().numpy())


@pytest.mark.parametrize(
    "dtype", [np.bool_, np.int8, np.uint8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64]
)
def test_a_copied_average_is_a_copy(dtype):
    """Of any dtype, at no weight at all, and when it is due."""
    value, mean = np.arange(-3, 90).astype(dtype), np.zeros(93, dtype)
    for due in (False, True):
        assert (
            kernels.call(
                _native.library(), "average", [np.array(0.0), np.array(due), np.ones(1, np.int32), mean, value]
            )
            == 0
        )
        np.testing.assert_array_equal(mean, value * due if dtype != np.bool_ else value & due)


def test_a_copy_into_another_dtype_comes_from_anywhere():
    """Not by interpolation, which makes NaN of an infinite average."""
    values = np.float16([1, np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(convert(values, np.float64), values.astype(np.float64), strict=True)
    mean = np.float32([np.inf, np.nan])
    kernels.call(
        _native.library(), "average", [np.array(0.5), np.array(True), np.ones(1, np.int32), mean, np.float16([2, 3])]
    )
    assert mean.tolist() == [2, 3]
