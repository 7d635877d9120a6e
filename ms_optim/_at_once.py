"""Functions of several of a step's numbers: in a graph they are one matrix, and so one operator and not several."""

from mindspore import Tensor, ops


def at_once(function, *vectors):
    """What a function gives for each of several vectors of one length."""
    if isinstance(vectors[0], Tensor):
        return ops.unbind(function(ops.stack(vectors)))
    return tuple(map(function, vectors))


def complements(*vectors):
    """1 - x of each."""
    return at_once(complement, *vectors)


def complement(number):
    """1 - x."""
    return 1 - number
