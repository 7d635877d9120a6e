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


def without_axis(conditions):
    """A condition that has one axis, or a tuple of them, as what has none needs it."""
    if isinstance(conditions, tuple):
        made = ()
        for condition in conditions:
            made = (*made, condition.reshape(()))
        return made
    return conditions.reshape(())


load, store = MultitypeFuncGraph("load"), MultitypeFuncGraph("store")


@load.register("TypeType", "Tensor")
def _load(dtype, slot):
    """A slot as a rule takes it."""
    return slot.to(dtype)


@load.register("TypeType", "None")
def _load_nothing(dtype, slot):
    return None


@store.register("Tensor", "Tensor", "Tensor", "Tensor")
def _store(moves, slot, new, old):
    """Write a slot where its parameter moves."""
    return ops.assign(slot, new.where(moves, old).to(slot.dtype))


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


def latest(copy, param, widened):
    """What a step starts from: the copy, or, where it does not round to it, the parameter, which was written since."""
    return copy.where(copy.to(param.dtype) == param, widened)


@functools.cache
def lift(update: Callable, scaled: bool, masters: bool = False) -> MultitypeFuncGraph:
    """The rule of one tensor as a graph of fixed arity that `HyperMap` applies to every parameter.

    It computes in float64 for float64 parameters and in float32 for all others, and rounds once, on store. Where the
    parameter does not move all stays as it is, chosen and not multiplied, so that no NaN comes in. If `scaled`, the
    last number multiplies the gradient first. With `masters` the last slot is what is rounded to the parameter.
    """
    lifted, name = MultitypeFuncGraph(update.__name__), update.__name__

    def check(made, slots):
        """Raise unless the rule gives what it has to: what is missing would be kept as it was, and nothing said."""
        if made != slots:
            raise TypeError(
                f"For the rule '{name}', what it returns must be a pair, the new parameter and a tuple of {slots} new "
                f"slots, but got {'something else' if made < 0 else f'{made} slots'}."
            )

    returned = _compiled.Check(check)

    @lifted.register("Tensor", "Tensor", "Tensor", "Tuple", "Tensor", "Tuple", "Tuple", "Bool", "String")
    def apply(param, grad, numbers, conditions, moves, slots, flags, present, said):
        if not present:
            return True
        fits(param, grad, present, said)
        dtype = ms.float64 if param.dtype == ms.float64 else ms.float32
        numbers = numbers.unbind()
        grad = grad.to(dtype)
        if scaled:
            grad = grad * numbers[-1]
            numbers = numbers[:-1]
        state = hyper_map(ops.partial(load, dtype), slots)
        old_param, master = param.to(dtype), None
        if masters:
            master, slots, state = slots[-1], slots[:-1], state[:-1]
        if master is not None:
            old_param = latest(master, param, old_param)
        if param.ndim == 0:
            moves, conditions = without_axis(moves), without_axis(conditions)
        made = update(old_param, grad, state, *numbers, *conditions, *flags)
        _compiled.check_again(returned, slots_made(made), len(state))
        new_param, new_state = made
        new_param = new_param.where(moves, old_param)
        ops.assign(param, new_param.to(param.dtype))
        if master is not None:
            ops.assign(master, new_param)
        hyper_map(ops.partial(store, moves), slots, new_state, state)
        return True

    def refuse(param, grad, numbers, conditions, moves, slots, flags, present, said):
        return fits(param, grad, present, said)

    for kind in SPARSE_KINDS:
        lifted.register("Tensor", kind, "Tensor", "Tuple", "Tensor", "Tuple", "Tuple", "Bool", "String")(refuse)
    return lifted
