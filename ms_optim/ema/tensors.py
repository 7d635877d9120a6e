"""What averages are made of: the step of one tensor, and Parameters that begin as others are."""

from collections.abc import Iterable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops
from mindspore.common.dtype import dtype_to_nptype
from mindspore.common.initializer import Initializer
from mindspore.ops import MultitypeFuncGraph

from ms_optim import _compiled, _direct, _native
from ms_optim._clones import beside
from ms_optim._math import is_near, lerp, way_of
from ms_optim.arguments import FLOATS

# The dtypes that averages are computed in.
COMPUTED = ms.float32, ms.float64

average = MultitypeFuncGraph("average")


def sides(weight):
    """How `lerp` goes by a float64 weight: in float32, then in float64."""
    single = weight.float()
    return (way_of(single), is_near(single)), (way_of(weight), is_near(weight))


def ways(fused: bool, averages: Iterable[Parameter], copied: Sequence[bool]) -> Tensor | tuple[int | None, ...]:
    """What a graph takes of how each is averaged: the kernel's layout, or by what `average` goes.

    That is 0 in float32 and 1 in float64; None is copied.
    """
    if fused:
        return Tensor(np.array(copied, np.int32))
    return tuple(None if own else int(param.dtype == ms.float64) for param, own in zip(averages, copied))


@average.register("Tuple", "Tensor", "Tensor", "Tensor", "Number")
def _averaged(weight, due, average, value, way):
    """Compute average <- average + weight*(value - average), in float32 unless it is float64.

    The weight is given as its `sides`, which are decided once for all tensors. Where it is not due, the average is not
    what weight 0 gives: that would be NaN for an infinite value.
    """
    dtype, (far, near) = COMPUTED[way], weight[way]
    new = lerp(ops.cast(average, dtype), ops.cast(value, dtype), far, near)
    return _written(average, ops.cast(new, average.dtype), due)


@average.register("Tuple", "Tensor", "Tensor", "Tensor", "None")
def _copied(weight, due, average, value, way):
    """Take the value."""
    return _written(average, ops.cast(value, average.dtype), due)


def _written(average, new, due):
    return ops.assign(average, ops.where(due, new, average))


def use_kernel(cell: Any, owner: str, averages: Sequence[Parameter], values: Sequence[Parameter]) -> None:
    """Let a Cell average by the native kernel: give it that, and what checks its tensors and launches it directly."""
    cell.check_averages = _compiled.checked(_native.check_averages, owner, averages, values, cell.copied)
    kernel = _native.average_kernel(owner)
    cell.kernel = kernel.primitive()
    cell.launch = _direct.average_launch(kernel, cell.check_averages.function, averages, cell.copied)


class AsParameter(Initializer):
    """What a Parameter holds when the values are asked for: `as_it_is` tells these, and nothing begins by that."""

    def __init__(self, param: Parameter):
        super().__init__()
        self._param = param

    def as_it_is(self, dtype: ms.Type) -> Tensor:
        """What the Parameter holds now, as a Tensor of a dtype."""
        array = np.empty(self._param.shape, dtype_to_nptype(dtype))
        self._initialize(array)
        return Tensor(array, dtype)

    def _initialize(self, arr):
        values = self._param.init_data().asnumpy()
        if values.shape != arr.shape:  # one is sliced and the other is not
            raise RuntimeError(
                f"For 'EMA', '{self._param.name}' must be sliced as its average is, {arr.shape}, but is {values.shape}."
            )
        arr[...] = values.astype(arr.dtype)


def shadow_dtype(param: Parameter) -> ms.Type:
    """The dtype of an average: in a half it would hardly move."""
    return ms.float32 if param.dtype in FLOATS and param.dtype != ms.float64 else param.dtype


def shadow(param: Parameter) -> Parameter:
    """An average that begins as the parameter is: now, or if it is not initialized yet, when it is needed first."""
    return beside(param, f"ema.{param.name}", shadow_dtype(param), AsParameter(param))


def check_parameters(owner: str, name: str, params: Iterable[Parameter]) -> list[Parameter]:
    """The Parameters of an argument, as a list.

    Raises:
        TypeError: If they are none, or of a dtype that nothing computes with.
    """
    if isinstance(params, Tensor) or not isinstance(params, Iterable):
        raise TypeError(f"For '{owner}', '{name}' must be a list of Parameters, but got {type(params).__name__}.")
    params = list(params)
    odd = [type(param).__name__ for param in params if not isinstance(param, Parameter)]
    if odd:
        raise TypeError(f"For '{owner}', '{name}' must be a list of Parameters, but got an element of {odd[0]}.")
    packed = [param for param in params if param.dtype == ms.qint4x2]
    if packed:
        raise TypeError(
            f"For '{owner}', '{name}' must be floats, integers or bools, but got {packed[0].dtype} for "
            f"'{packed[0].name}'."
        )
    return params
