"""Functions of several of a step's numbers: in a graph they are one matrix, and so one operator and not several."""

import numpy as np
from mindspore import Tensor, ops
from mindspore.ops.primitive import constexpr


def at_once(function, *vectors):
    """What a function gives for each of several vectors of one length."""
    if isinstance(vectors[0], Tensor):
        return ops.unbind(function(ops.stack(vectors)))
    return tuple(map(function, vectors))


def now_and_next(function, step):
    """What a function gives for a step and for the one after it."""
    if isinstance(step, Tensor):
        return ops.unbind(function(step + _rows((0, 1), step.dtype, step.shape)))
    return function(step), function(step + 1)


def less(*pairs):
    """Each vector less a constant, which is exact in float32."""
    vectors, constants = zip(*pairs)
    if isinstance(vectors[0], Tensor):
        return ops.unbind(ops.stack(vectors) - _rows(constants, vectors[0].dtype, vectors[0].shape))
    return tuple(vector - constant for vector, constant in pairs)


@constexpr
def _rows(constants, dtype, shape):
    """A matrix with a row of each constant, which is known when a graph is compiled."""
    return Tensor(np.stack([np.full(shape, constant) for constant in constants]), dtype)


def complements(*vectors):
    """1 - x of each."""
    return at_once(complement, *vectors)


def complement(number):
    """1 - x."""
    return 1 - number
