"""A rule in MindSpore's operators: lifted from one tensor to all, as it runs where there is no native kernel."""

import functools
import os
from collections.abc import Callable

import mindspore as ms
from mindspore import ops
from mindspore.ops import MultitypeFuncGraph

from ms_optim import _compiled, _math
from ms_optim._gradients import SPARSE_KINDS, fits

# Set to float32, sums are taken on CPU as on other devices.
SUMS = "MS_OPTIM_SUMS"

# Not a loop or `zip`, where there can be one: MindSpore parses and infers these anew for each turn.
hyper_map = ops.HyperMap()


def prepare_sums() -> None:
    """Let graphs that are compiled from now on take sums as it is best where they run."""
    _math.sums_in_float64 = ms.get_context("device_target") == "CPU" and os.environ.get(SUMS) != "float32"


def _together(*conditions):
    """The conditions of one parameter."""
    return conditions


def cut(rows, moves, dtype, conditions, weights):
    """What the rule takes of the numbers of a step, for each parameter: they are cast once, and decided on once.

    A vector of bools is split into some of one element: `unbind` of bools goes back to the host on Ascend.

    Args:
        rows: The numbers of each parameter.
        moves: Whether each moves.
        dtype: That of the computation.
        conditions: As `decide` takes them.
        weights: The same.

    Returns:
        For each parameter its row, its conditions, and whether it moves.
    """
    numbers, made = _math.decide(rows.to(dtype), conditions, weights)
    chosen = ((),) * rows.shape[0]
    if made:
        parts = ()
        for condition in made:
            parts = (*parts, ops.Split(0, rows.shape[0])(condition))
        chosen = hyper_map(_together, *parts)
    return ops.unbind(numbers), chosen, ops.Split(0, rows.shape[0])(moves)


without_axis = MultitypeFuncGraph("without_axis")


def _as_it_is(has_axis, condition):
    """What is decided of a parameter that has an axis."""
    return condition


for _kind in ("Tensor", "Tuple"):
    without_axis.register("Bool", _kind)(_as_it_is)


@without_axis.register("None", "Tensor")
def _without_axis(has_axis, condition):
    """And of one that has none: a condition of one element has an axis."""
    return condition.reshape(())


@without_axis.register("None", "Tuple")
def _without_axes(has_axis, conditions):
    made = ()
    for condition in conditions:
        made = (*made, condition.reshape(()))
    return made


load, store = MultitypeFuncGraph("load"), MultitypeFuncGraph("store")


@load.register("TypeType", "Tensor")
def _load(dtype, slot):
    """A slot as a rule takes it."""
    return ops.cast(slot, dtype)


@load.register("TypeType", "None")
def _load_nothing(dtype, slot):
    return None


@store.register("Tensor", "Tensor", "Tensor", "Tensor")
def _store(moves, slot, new, old):
    """Write a slot where its parameter moves."""
    return ops.assign(slot, ops.cast(ops.where(moves, new, old), slot.dtype))


@store.register("Tensor", "None", "None", "None")
def _store_nothing(moves, slot, new, old):
    return True


def length(made):
    """How many a tuple has; -1 of what is none."""
    return len(made) if isinstance(made, tuple) else -1


def slots_made(made):
    """How many slots a rule gives beside the parameter, in a tuple; -1 if it does not give the two."""
    if length(made) == 2:
        return length(made[1])
    return -1


latest, keep = MultitypeFuncGraph("latest"), MultitypeFuncGraph("keep")


@latest.register("Tensor", "Tensor", "Tensor")
def _latest(copy, param, widened):
    """What a step starts from: the copy, or, where it does not round to it, the parameter, which was written since."""
    return copy.where(copy.to(param.dtype) == param, widened)


@latest.register("None", "Tensor", "Tensor")
def _itself(copy, param, widened):
    return widened


@keep.register("Tensor", "Tensor")
def _keep(copy, new_param):
    """Write the copy."""
    return ops.assign(copy, new_param)


@keep.register("None", "Tensor")
def _keep_nothing(copy, new_param):
    return True


def _scaled(grad, numbers):
    """The gradient times the last of the numbers, and the others."""
    return grad * numbers[-1], numbers[:-1]


def _as_given(grad, numbers):
    return grad, numbers


def scaling(scaled):
    """What takes the factor of the gradients out of the numbers, if there is one."""
    return _scaled if scaled else _as_given


def _begun(param, slots, dtype):
    """What a step starts from, and the slots of the rule."""
    return ops.cast(param, dtype), slots


def _begun_at_copy(param, slots, dtype):
    """The same, where the last slot is what is rounded to the parameter."""
    return latest(slots[-1], param, ops.cast(param, dtype)), slots[:-1]


def _ended(param, new_param, slots):
    """Write a parameter."""
    return ops.assign(param, ops.cast(new_param, param.dtype))


def _ended_at_copy(param, new_param, slots):
    """The same, and what is rounded to it."""
    return ops.assign(param, ops.cast(new_param, param.dtype)), keep(slots[-1], new_param)


@functools.cache
def lift(update: Callable, scaled: bool, masters: bool = False) -> MultitypeFuncGraph:
    """The rule of one tensor as a graph of fixed arity that `HyperMap` applies to every parameter.

    It computes in the dtype that is given, float64 for float64 parameters and float32 for all others, and rounds once,
    on store. Where what begins the message of a misfit is None, the gradient is absent and nothing is done. Where the
    parameter does not move all stays as it is, chosen and not multiplied, so that no NaN comes in. If `scaled`, the
    last number multiplies the gradient first. With `masters` the last slot is what is rounded to the parameter.
    """
    lifted, name = MultitypeFuncGraph(update.__name__), update.__name__
    scale = scaling(scaled)
    begin, end = (_begun_at_copy, _ended_at_copy) if masters else (_begun, _ended)

    def check(made, slots):
        """Raise unless the rule gives what it has to: what is missing would be kept as it was, and nothing said."""
        if made != slots:
            raise TypeError(
                f"For the rule '{name}', what it returns must be a pair, the new parameter and a tuple of {slots} new "
                f"slots, but got {'something else' if made < 0 else f'{made} slots'}."
            )

    returned = _compiled.Check(check)

    @lifted.register("Tensor", "Tensor", "Tensor", "Tuple", "Tensor", "Tuple", "Tuple", "TypeType", "String")
    def apply(param, grad, numbers, conditions, moves, slots, flags, dtype, said):
        fits(param, grad, said)
        grad, numbers = scale(ops.cast(grad, dtype), ops.unbind(numbers))
        old_param, kept = begin(param, slots, dtype)
        state = hyper_map(ops.partial(load, dtype), kept)
        made = update(old_param, grad, state, *numbers, *conditions, *flags)
        _compiled.check_again(returned, slots_made(made), len(state))
        new_param = ops.where(moves, made[0], old_param)
        end(param, new_param, slots)
        hyper_map(ops.partial(store, moves), kept, made[1], state)
        return True

    @lifted.register("Tensor", "Tensor", "Tensor", "Tuple", "Tensor", "Tuple", "Tuple", "TypeType", "None")
    def skip(param, grad, numbers, conditions, moves, slots, flags, dtype, said):
        return True

    def refuse(param, grad, numbers, conditions, moves, slots, flags, dtype, said):
        return fits(param, grad, said)

    for kind in SPARSE_KINDS:
        lifted.register("Tensor", kind, "Tensor", "Tuple", "Tensor", "Tuple", "Tuple", "TypeType", "String")(refuse)
    return lifted
