"""A rule in MindSpore's operators: lifted from one tensor to all, as it runs where there is no native kernel."""

import functools
from collections.abc import Callable

import mindspore as ms
from mindspore import ops
from mindspore.ops import MultitypeFuncGraph

from ms_optim._gradients import SPARSE_KINDS, fits


@functools.cache
def lift(update: Callable, scaled: bool) -> MultitypeFuncGraph:
    """The rule of one tensor as a graph of fixed arity that `HyperMap` applies to every parameter.

    It computes in float64 for float64 parameters and in float32 for all others, and rounds once, on store. The row of
    numbers ends with whether the parameter moves: where it does not, all stays as it is, chosen and not multiplied, so
    that no NaN comes in. If `scaled`, the number before it multiplies the gradient first.
    """
    lifted = MultitypeFuncGraph(update.__name__)

    @lifted.register("Tensor", "Tensor", "Tensor", "Tuple", "Tuple", "Bool", "String")
    def apply(param, grad, numbers, slots, flags, present, said):
        if not present:
            return True
        fits(param, grad, present, said)
        dtype = ms.float64 if param.dtype == ms.float64 else ms.float32
        numbers = numbers.to(dtype).unbind()
        moves = numbers[-1] > 0
        numbers = numbers[:-1]
        grad = grad.to(dtype)
        if scaled:
            grad = grad * numbers[-1]
            numbers = numbers[:-1]
        state = ()
        for slot in slots:
            state = (*state, None if slot is None else slot.to(dtype))
        old_param = param.to(dtype)
        new_param, new_state = update(old_param, grad, state, *numbers, *flags)
        ops.assign(param, new_param.where(moves, old_param).to(param.dtype))
        for slot, new, old in zip(slots, new_state, state):
            if slot is not None:
                ops.assign(slot, new.where(moves, old).to(slot.dtype))
        return True

    def refuse(param, grad, numbers, slots, flags, present, said):
        return fits(param, grad, present, said)

    for kind in SPARSE_KINDS:
        lifted.register("Tensor", kind, "Tensor", "Tuple", "Tuple", "Bool", "String")(refuse)
    return lifted
