"""Tensors that MindSpore's engine cuts into slices, one on each device: what a rule may do there, and norms of wholes.

In the modes "semi_auto_parallel" and "auto_parallel" a step is written for whole tensors, and what runs is the same on
slices of them. Where it looks at more than one element at a time, it would take a slice for the whole.
"""

import weakref
from collections.abc import Callable, Iterable

from mindspore import Parameter, ops
from mindspore.communication import management
from mindspore.ops.primitive import constexpr
from mindspore.parallel._auto_parallel_context import auto_parallel_context
from mindspore.parallel._utils import _get_enable_parallel_optimizer

from ms_optim import _math
from ms_optim._compiled import Check, checked

SLICING = ("semi_auto_parallel", "auto_parallel")
# What says of a parameter that no unit of it is on several devices.
WHOLE = "whole"


def is_group(value):
    """Whether a checked argument is the name of a group of devices, that hold parts of something."""
    return value is not None and value != WHOLE


def slicing_mode() -> str | None:
    """The parallel mode that there is now, if it slices tensors."""
    mode = auto_parallel_context().get_parallel_mode()
    return mode if mode in SLICING else None


def listed(names: list[str]) -> str:
    """Names as a message has them: three, and how many more."""
    return f"{names[:3]} and {len(names) - 3} more" if len(names) > 3 else f"{names}"


def unsliced(reason: str, params: Iterable[Parameter]) -> str:
    """What must be, because of a reason why a step of these parameters cannot be taken on slices."""
    return (
        "the parallel mode must be 'data_parallel', or another that does not slice tensors, for "
        f"{listed([param.name for param in params])}, because {reason}"
    )


def wanted_of_rows(params: Iterable[Parameter], groups: Iterable[str | None], kind: object) -> str | None:
    """What `matrix_group` of these parameters must say where MindSpore slices tensors; None if it does."""
    said = [(param, group) for param, group in zip(params, groups) if param.ndim]
    unsaid = [param.name for param, group in said if group is None]
    if unsaid:
        return (
            f"'matrix_group' must be {kind} for {listed(unsaid)} where MindSpore slices tensors, which may cut matrices"
        )
    zero = _get_enable_parallel_optimizer()
    cut = [param.name for param, group in said if group == WHOLE and zero and param.parallel_optimizer]
    if not cut:
        return None
    return f"'matrix_group' must be the name of a communication group for {listed(cut)}, which the optimizer slices"


def refuse(owner: str, wanted: str | None) -> None:
    """Raise if tensors are sliced now, and something must be then that is not.

    Raises:
        ValueError: Naming the mode, and what must be.
    """
    mode = slicing_mode()
    if mode and wanted:
        raise ValueError(f"For '{owner}', {wanted}, but the parallel mode is {mode!r}.")


def refused_when_compiled(owner: str, wanted: str | Callable[[], str | None] | None) -> Check:
    """Refuse now, and return what refuses again where it is compiled: `AutoParallel` sets the mode only then.

    What must be is a text, or the method that says it, whose object is not kept.
    """
    if not callable(wanted):
        return checked(refuse, owner, wanted)
    method = weakref.WeakMethod(wanted)

    def check():
        says = method()
        refuse(owner, says() if says else None)

    return checked(check)


def total_of_devices(part, group):
    """The sum over the devices of a communication group, in float32: none of them sums float64."""
    return ops.AllReduce(ops.ReduceOp.SUM, group)(part.float())


def root_of_total(part, group):
    """The root of the sum over the devices of a communication group."""
    return total_of_devices(part, group).sqrt().to(part.dtype)


@constexpr
def in_slices():
    """Whether tensors are sliced where this is compiled: what a graph then reads as a shape is that of the whole."""
    return slicing_mode() is not None


def adder():
    """How float32 is summed here."""
    return _math.sum_by_axes if in_slices() else _math.sum_in_parts


def norm_over(x, axes, group, add):
    """The L2 norm along adjacent axes, which stay, or of all, of what the devices of a group hold parts of.

    The largest element is known to no device: elements are taken relative to the sum of all. `add` takes sums.
    """
    root = root_of_total(add(x.abs(), axes), group)
    scale = (root * root).clamp(_math.TINY, _math.HUGE)
    x = x / scale
    return root_of_total(add(x * x, axes), group) * scale


def norm_of_units(group):
    """What computes the L2 norm, as `_math.norm` does, of units that the devices of a group hold parts of."""

    def norm_of_unit(x, axes):
        if is_group(group):
            return norm_over(x, axes, group, adder())
        return _math.norm(x, axes, adder())

    return norm_of_unit


def ones_along(x):
    """A one for each slice along the first axis that is here when a step runs.

    Where MindSpore slices, a shape that is read is that of the whole, and `ones_like` of it a constant.
    """
    x = x.sum(tuple(range(1, len(x.shape)))) if len(x.shape) > 1 else x
    return (x == x).logical_or(x != x).to(x.dtype)


def length_of_whole(x, group):
    """How many slices along the first axis the devices of a group have; None if there are no parts.

    Those of each device count, also where it has all of them: sums over the devices are then as many times too large.
    """
    if not is_group(group) or len(x.shape) == 0:
        return None
    return total_of_devices(ones_along(x).sum(), group).to(x.dtype)


def mean_of_slices(x, axis, group, length):
    """The mean along an axis, which stays, of slices along the first axis of a whole of that length."""
    if length is None:
        return _math.mean(x, axis)
    if len(x.shape) + axis > 0:
        return _math.mean(x, axis, adder())
    return total_of_devices(_math.sum_of_products(x, 1 / length, (0,), adder()), group).to(x.dtype)


def mean_square_of_slices(x, axis, group, length):
    """The same of squares."""
    if length is None:
        return _math.mean_square(x, axis)
    if len(x.shape) + axis > 0:
        return _math.mean_square(x, axis, adder())
    return total_of_devices(_math.sum_of_products(x, x * (1 / length), (0,), adder()), group).to(x.dtype)


def root_mean_square_of_slices(x, group, length):
    """The root of the mean of all squares, of a whole of that length of which the devices have slices."""
    if length is None:
        return _math.root_mean_square(x)
    return norm_over(x, None, group, adder()) / (length * _math.product(x.shape[1:])).sqrt()


def stays_whole(kept, group):
    """Whether state is whole where its parameter is in slices, as MindSpore leaves it if the shapes differ."""
    return is_group(group) and in_slices() and kept.shape[0] > 1


def slices_of_all(x, kept, group):
    """The slices along the first axis of all devices, for state that stays whole; else those that are here."""
    return ops.AllGather(group)(x)[: kept.shape[0]] if stays_whole(kept, group) else x


def own_slices(kept, x, group):
    """Those slices along the first axis of state that are of the same places as x."""
    if not stays_whole(kept, group):
        return kept
    ones = ones_along(x).int()
    places = ones.cumsum(0) - 1 + _rank_and_size(group)[0] * ones.sum()
    return ops.gather(kept, places % kept.shape[0], 0)


@constexpr
def _rank_and_size(group):
    """Which of the devices of a group this is, and how many there are."""
    return management.get_rank(group), management.get_group_size(group)


def shape_of_whole(x, group):
    """The shape of a matrix whose rows the devices of a group have: where MindSpore slices, that of x as it is read."""
    rows, columns = x.shape
    if is_group(group) and not in_slices():
        rows = rows * _rank_and_size(group)[1]
    return rows, columns


def rows_of_all(x, group):
    """The rows of all devices of a group, in the order of their ranks."""
    return ops.AllGather(group)(x) if is_group(group) else x


def own_rows(x, group):
    """Those rows of what all devices of a group have that are of this device."""
    if not is_group(group):
        return x
    rank, size = _rank_and_size(group)
    return ops.Split(0, size)(x)[rank]
