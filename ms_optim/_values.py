"""Numbers and tensors of either framework, as state dicts hold them, and writing them into Parameters."""

import math
import reprlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from ms_optim import _host

LIST = (list, tuple)


def as_array(value: Any, what: str = "A tensor", shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Numbers, an array, a Tensor of MindSpore or one of torch, on any device, as an array; bfloat16 as float32.

    Raises:
        ValueError: If it does not hold real numbers, each in its place, or has another shape. `what` begins the
            message.
    """
    said = f"{what} must be real numbers in a dense tensor or array, but got " + (
        f"{type(value).__name__} of {value.dtype}" if hasattr(value, "dtype") else reprlib.repr(value)
    )
    try:
        if isinstance(value, Tensor):
            value = value.asnumpy()
        elif hasattr(value, "detach"):
            value = value.detach().cpu().resolve_neg()
            value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{said}: {error}") from None
    if array.dtype.kind == "V" and array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ValueError(f"{said}.")
    if shape is not None and array.shape != tuple(shape):
        raise ValueError(f"{what} must be of shape {tuple(shape)}, but got {array.shape}.")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def as_number(value: Any, what: str, whole: bool = False, finite: bool = True) -> float | int:
    """A finite number, or one element, as Python's; if `whole`, an integer that an int32 can count to.

    Raises:
        ValueError: If it is none. `what` begins the message.
    """
    array = as_array(value, what)
    if array.size != 1 or array.dtype.kind == "b":
        got = f"shape {array.shape}" if array.size != 1 else array.item()
        raise ValueError(f"{what} must be a number, but got {got}.")
    number = array.item()
    if whole and not (0 <= number < 2**31 and number == int(number)):
        raise ValueError(f"{what} must be an integer in [0, 2**31), but got {number}.")
    if finite and not math.isfinite(number):
        raise ValueError(f"{what} must be finite, but got {number}.")
    return int(number) if whole else number


def plain(value: Any, what: str) -> Any:
    """An argument without tensors and arrays: one element is a number, several are a list."""
    if isinstance(value, LIST):
        items = [plain(item, what) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if not hasattr(value, "dtype"):
        return value
    array = as_array(value, what)
    return array.item() if array.size == 1 and array.ndim < 2 else array.tolist()


def write(param: Parameter, value: Tensor) -> None:
    """Write a Tensor of the same shape and dtype into the buffer of a Parameter, which compiled steps go on reading.

    A Parameter that has no buffer yet (made under `no_init_parameters`) gets one that is its own, and will not be
    initialized any more. No operator writes 4-bit integers on CPU: they get a new buffer too.
    """
    if param.has_init or param.dtype == ms.qint4x2:
        param.set_data(copy_of(value), param.sliced)  # it would share the buffer of the value
        keep_values(param)
    elif _host.copy(param, value):
        pass  # an operator for each takes ten times as long
    elif param.dtype == ms.bfloat16:  # for which `assign` has no kernel on CPU
        param.copy_(value)
    else:
        ops.assign(param, value)


def copy_of(tensor: Tensor) -> Tensor:
    """A copy of what a tensor holds."""
    if isinstance(tensor, Parameter):
        keep_values(tensor)
    if tensor.dtype == ms.qint4x2:  # which no operator copies on CPU
        return Tensor(tensor.asnumpy().copy(), tensor.dtype)
    return tensor.copy()


def as_it_is(value: Tensor) -> Tensor:
    """A Tensor that has values: of an average that has not begun yet, what it would begin with, so that it still may.

    Its parameter may be given other values before the first step.
    """
    begins = getattr(getattr(getattr(value, "init_mode", None), "init", None), "as_it_is", None)
    return begins(value.dtype) if begins and value.has_init else value


def keep_values(param: Parameter) -> None:
    """Let copies of a Parameter have its values.

    One that was made under `no_init_parameters` and was given values since keeps its initializer: `clone`, `copy` and
    pickle would draw anew from it.
    """
    if not param.has_init:
        param.init_mode = None


def settle(params: Iterable[Parameter]) -> None:
    """Let Parameters hold values, and copies of them have these: made under `no_init_parameters` they may not yet.

    MindSpore copies what has no memory so that both are to share it.
    """
    for param in params:
        param.init_data()
        keep_values(param)


def held(table: Sequence, step: int) -> Any:
    """What a table has for a step: its last holds."""
    return table[min(step, len(table) - 1)]


def repeated(names: Iterable[str]) -> list[str]:
    """Those that occur more than once, in order."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def float64_parameter(value: float | list | np.ndarray, name: str) -> Parameter:
    """Numbers that a graph reads at every step; a Python float in a graph would be a float32."""
    return Parameter(Tensor(np.array(value, np.float64)), name=name, requires_grad=False)
