"""A number of a rule that is no int: where a graph is compiled a Python float would be a float32."""

import numpy as np
from mindspore import Tensor
from mindspore.ops.primitive import constexpr


def exact(numerator, denominator, like):
    """A quotient of two ints in the precision and shape of `like`, which costs a graph no operator."""
    if isinstance(like, Tensor):
        return _constant(numerator, denominator, like.dtype, like.shape)
    return (0 * like + numerator) / denominator


@constexpr
def _constant(numerator, denominator, dtype, shape):
    """The quotient as a Tensor that is known when a graph is compiled."""
    return Tensor(np.full(shape, numerator / denominator), dtype)
