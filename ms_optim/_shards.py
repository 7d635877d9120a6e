"""Tensors that MindSpore's engine cuts into slices, one on each device: what a rule may do there, and norms of wholes.

In the modes "semi_auto_parallel" and "auto_parallel" a step is written for whole tensors, and what runs is the same on
slices of them. Where it looks at more than one element at a time, it would take a slice for the whole.
"""

from collections.abc import Iterable, Mapping
from math import gcd, prod
from typing import Any

from mindspore import Parameter, ops
from mindspore.communication import management
from mindspore.ops import MultitypeFuncGraph, PrimitiveWithCheck, prim_attr_register
from mindspore.ops.primitive import constexpr
from mindspore.parallel._auto_parallel_context import auto_parallel_context
from mindspore.parallel._utils import _get_device_num, _get_enable_parallel_optimizer

from ms_optim import _math
from ms_optim._compiled import Check, check_of, run_check
from ms_optim._gradients import SPARSE_KINDS

SLICING = ("semi_auto_parallel", "auto_parallel")
# What says of a parameter that no unit of it is on several devices.
WHOLE = "whole"
# Parameters smaller than so many KiB MindSpore does not cut for ZeRO, unless it is told another number.
THRESHOLD = 64

# The shapes of parameters by name, before they were cut.
Wholes = Mapping[str, tuple[int, ...]]


def is_group(value):
    """Whether a checked argument is the name of a group of devices, that hold parts of something."""
    return value is not None and value != WHOLE


def slicing_mode() -> str | None:
    """The parallel mode that there is now, if it slices tensors."""
    mode = auto_parallel_context().get_parallel_mode()
    return mode if mode in SLICING else None


def devices() -> int:
    """How many devices there are, as far as communication has been set up."""
    try:
        return management.get_group_size()
    except (RuntimeError, ValueError):
        return 1


def listed(names: list[str]) -> str:
    """Names as a message has them: three, and how many more."""
    return f"{names[:3]} and {len(names) - 3} more" if len(names) > 3 else f"{names}"


def unsliced(reason: str, params: Iterable[Parameter]) -> str:
    """What must be, because of a reason why a step of these parameters cannot be taken on slices."""
    return (
        "the parallel mode must be 'data_parallel', or another that does not slice tensors, for "
        f"{listed([param.name for param in params])}, because {reason}"
    )


def may_be_cut(param: Parameter) -> bool:
    """Whether MindSpore slices the optimizer now (ZeRO), and may cut a parameter along its first axis for it.

    It leaves whole what is small, and what is not divisible.
    """
    if not _get_enable_parallel_optimizer() or not param.parallel_optimizer or not param.ndim:
        return False
    kibibytes = auto_parallel_context().get_parallel_optimizer_threshold()
    if param.size * param.itemsize < 1024 * (THRESHOLD if kibibytes < 0 else kibibytes):
        return False
    return not auto_parallel_context().get_device_num_is_set() or gcd(param.shape[0], _get_device_num()) > 1


def named_for(what: str, names: list[str], why: str) -> str:
    """That an argument must name the devices that have the parts of some parameters."""
    return f"{what!r} must be the name of a communication group for {listed(names)}, {why}"


# Why such must be named, where MindSpore cuts, and where others have.
SLICED = "which the optimizer may slice where their 'parallel_optimizer' is not False"
CUT = "of which there are parts here"


def wanted_of_rows(optimizer: Any, wholes: Wholes | None) -> str | None:
    """What `matrix_group` of the parameters of an optimizer must say where tensors are in parts; None if it does."""
    column, kind = optimizer.flag_names.index("matrix_group"), optimizer.kinds["matrix_group"]
    pairs = zip(optimizer.parameters, optimizer.flags)
    said = [(param, flags[column]) for param, flags in pairs if param.ndim]
    if wholes is not None:
        cut = [(param, group) for param, group in said if param.name in wholes]
        across = [param.name for param, _ in cut if param.shape[1:] != wholes[param.name][1:]]
        if across:
            return f"parameters must be cut along their first axis alone, but not so {listed(across)}"
        unnamed = [param.name for param, group in cut if not is_group(group)]
        return named_for("matrix_group", unnamed, CUT) if unnamed else None
    unsaid = [param.name for param, group in said if group is None]
    if unsaid:
        return (
            f"'matrix_group' must be {kind} for {listed(unsaid)} where MindSpore slices tensors, which may cut matrices"
        )
    unnamed = [param.name for param, group in said if group == WHOLE and may_be_cut(param)]
    return named_for("matrix_group", unnamed, SLICED) if unnamed else None


def parts_of(whole: tuple[int, ...], part: tuple[int, ...]) -> int:
    """Into how many parts of a shape a whole is cut."""
    return prod(-(-size // own) for size, own in zip(whole, part))


def group_of_parts(what: str, group: str | None, name: str, parts: int) -> str | None:
    """That an argument must name as many devices as there are parts of a parameter; None if it does."""
    if not is_group(group):
        return named_for(what, [name], CUT)
    count = management.get_group_size(group)
    if count == parts:
        return None
    return f"{what!r} must be the name of a group of {parts} devices for ['{name}'], where {group!r} is of {count}"


def wanted_of_slice(
    group: str | None, name: str, whole: tuple[int, ...], part: tuple[int, ...], copies: bool
) -> str | None:
    """What must be, and is not, where MindSpore has cut a parameter whose `matrix_group` is said.

    Args:
        group: What that is.
        name: That of the parameter.
        whole: Its shape.
        part: That of the slice.
        copies: Whether several devices of the group may have the same.
    """
    if part[1:] != whole[1:]:
        return f"['{name}'] must be cut along its first axis alone"
    parts = parts_of(whole, part)
    if copies and is_group(group) and (parts == 1 or len(whole) == 1):
        parts *= max(management.get_group_size(group) // parts, 1)
    if parts == 1:
        return f"'matrix_group' must be 'whole' for ['{name}']" if is_group(group) else None
    return group_of_parts("matrix_group", group, name, parts)


def why_sliced(params: Iterable[Parameter]) -> str | None:
    """Why tensors are in slices where a step is taken or compiled now; None if they are not, as far as is known."""
    mode = slicing_mode()
    if mode:
        return f"the parallel mode is {mode!r}"
    # An `AutoParallel` sets the mode while it compiles and no longer; on one device `set_data` says so of other shapes.
    return "MindSpore has sliced parameters" if devices() > 1 and any(param.sliced for param in params) else None


def refuse_parts(optimizer: Any) -> None:
    """Raise if there are parts of tensors, MindSpore's or cut by hand, which a step of an optimizer takes for wholes.

    Raises:
        ValueError: Naming the parameters, and what must be.
    """
    optimizer._hold("is_cut", False)  # as a graph begins
    owner, why = type(optimizer).__name__, why_sliced(optimizer.parameters)
    wholes = None if why else cut_since(optimizer)
    wanted = optimizer.wanted_for_parts(wholes)
    if wanted:
        raise ValueError(f"For '{owner}', {wanted}, but {why}." if why else f"For '{owner}', {wanted}.")
    # A kernel has a check of its own.
    for slot, column in optimizer.state.slots.items() if wholes and not optimizer.fused else ():
        shape_of = next(own.shape for own in optimizer.slots if own.name == slot)
        for param, kept in zip(optimizer.parameters, column):
            if kept is not None and kept.shape != shape_of(param.shape):
                raise ValueError(
                    f"For '{owner}', '{kept.name}' must be of shape {shape_of(param.shape)}, as its parameter is of "
                    f"{param.shape} since it was cut, but got {kept.shape}."
                )


def cut_since(optimizer: Any) -> Wholes:
    """The shapes that the parameters of an optimizer had when it was made, of those that have others now."""
    pairs = zip(optimizer.parameters, optimizer.shapes)
    return {param.name: shape for param, shape in pairs if param.shape != shape}


def parts_refused(optimizer: Any) -> Check:
    """Refuse parts now, and return what refuses again where it is compiled: `AutoParallel` sets the mode only then."""
    refuse_parts(optimizer)
    return check_of(optimizer, refuse_parts)


def refuse_slice(optimizer: Any, place: int, whole: tuple[int, ...], part: tuple[int, ...]) -> None:
    """Raise if MindSpore has cut a parameter otherwise than an optimizer was told, or not, where it has cut one.

    Raises:
        ValueError: Naming the parameter, its shapes, and what must be.
    """
    if part != whole:
        optimizer._hold("is_cut", True)
    # Before anything is cut, a whole tells nothing.
    wanted = optimizer.wanted_for_slice(place, whole, part) if optimizer.is_cut else None
    if wanted:
        done = f"cuts it from {whole} to {part}" if part != whole else f"leaves it whole, of {whole}"
        raise ValueError(f"For '{type(optimizer).__name__}', {wanted}, but MindSpore {done}.")


def slice_refused(optimizer: Any) -> Check:
    """What refuses a slice that MindSpore has cut, by `seen`."""
    return check_of(optimizer, refuse_slice)


class StopGradient(PrimitiveWithCheck):
    """An operator that hands on what it is given, and is told its shape whenever a graph is inferred.

    MindSpore infers a step for wholes, cuts them, and infers it again; before it runs, it drops operators of this name,
    which is one of its own. None that has a kernel would be dropped.

    Args:
        number (int): That of the check, which takes what follows and the shape.
        place (int): That of the parameter among all.
        whole (tuple): The shape in the first inference.
    """

    @prim_attr_register
    def __init__(self, number, place, whole):
        self.number, self.place, self.whole = number, place, whole

    def check_shape(self, shape):
        """Check a slice."""
        run_check(self.number, self.place, tuple(self.whole), tuple(shape))


seen = MultitypeFuncGraph("seen")


@seen.register("Number", "Tensor", "Number")
def _seen(number, grad, place):
    """A gradient of which the shape is checked where MindSpore has cut it, as it does its parameter."""
    return StopGradient(number, place, grad.shape)(grad)


def _seen_sparse(number, grad, place):
    """One that the step refuses."""
    return grad


for _kind in SPARSE_KINDS:
    seen.register("Number", _kind, "Number")(_seen_sparse)


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


def adder(usual=_math.sum_in_parts):
    """How float32 is summed here."""
    return _math.sum_by_axes if in_slices() else usual


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
    if length is None or len(x.shape) + axis > 0:
        return _math.mean(x, axis, adder(_math.sum_of_mean))
    return total_of_devices(_math.sum_of_products(x, 1 / length, (0,), adder(_math.sum_of_mean)), group).to(x.dtype)


def mean_square_of_slices(x, axis, group, length):
    """The same of squares."""
    if length is None or len(x.shape) + axis > 0:
        return _math.mean_square(x, axis, adder(_math.sum_of_mean))
    return total_of_devices(_math.sum_of_products(x, x * (1 / length), (0,), adder(_math.sum_of_mean)), group).to(
        x.dtype
    )


def root_mean_square_of_slices(x, group, length):
    """The root of the mean of all squares, of a whole of that length of which the devices have slices."""
    if length is None:
        return _math.root_mean_square(x, adder())
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
    gather = ops.AllGather(group)
    return gather.rank, gather.rank_size


def shape_of_whole(x, group):
    """The shape of a matrix whose rows the devices of a group have: where MindSpore slices, that of x as it is read."""
    rows, columns = x.shape
    if is_group(group) and not in_slices():
        rows = rows * _rank_and_size(group)[1]
    return rows, columns


def rows_of_all(x, group, rows):
    """The rows of all devices of a group, in the order of their ranks; NaN if they are not so many.

    They are not where a device has more of them than another, or all have the same, or columns are cut.
    """
    if not is_group(group):
        return x
    seen = total_of_devices(ones_along(x).sum(), group)
    return ops.AllGather(group)(x.where(seen == rows, float("nan")))


def own_rows(x, group):
    """Those rows of what all devices of a group have that are of this device."""
    if not is_group(group):
        return x
    rank, size = _rank_and_size(group)
    return ops.Split(0, size)(x)[rank]
