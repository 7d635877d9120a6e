"""All parameters as one vector: compiled functions of vectors, and what reads and writes Parameters."""

from collections.abc import Callable
from typing import Any

import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops
from mindspore.ops import MultitypeFuncGraph

from ms_optim import _compiled
from ms_optim._math import sum_of_products


class Graph(nn.Cell):
    """A function of tensors, compiled once for each of their shapes and dtypes, in both modes."""

    def __init__(self, function: Callable):
        super().__init__()
        self.function = function

    def __call__(self, *tensors):
        """Run it."""
        return _compiled.call(self, *tensors)

    def construct(self, *tensors):
        """Call it."""
        return self.function(*tensors)


@Graph
def dot(a, b):
    """The sum of products."""
    return sum_of_products(a, b, None).to(a.dtype)


@Graph
def largest(vector):
    """The largest magnitude; NaN if there is one, which the maximum passes over on CPU."""
    return vector.abs().max().where(ops.isnan(vector).logical_not().all(), float("nan"))


@Graph
def changes(grad, previous, d, t):
    """How gradient and parameters have changed, y and s; y*s and its reciprocal; y*s / y*y."""
    y, s = grad - previous, d * t
    ys = dot(y, s)
    return y, s, ys, 1 / ys, ys / dot(y, y)


@Graph
def backward(q, y, s, r):
    """Go one pair back in the history: q without what is along y, and how much that is."""
    weight = dot(s, q) * r
    return q - weight * y, weight


@Graph
def forward(d, y, s, r, weight):
    """Go one pair forward."""
    return d + (weight - dot(y, d) * r) * s


_ravel = MultitypeFuncGraph("ravel")
_write = MultitypeFuncGraph("write")


@_ravel.register("Tensor", "Tensor")
def _raveled(like, tensor):
    return tensor.reshape(-1).to(like.dtype)


@_write.register("Tensor", "Tensor", "Number")
def _written(vector, param, begin):
    piece = ops.slice(vector, (begin,), (param.size,))
    ops.assign(param, piece.reshape(param.shape).to(param.dtype))
    return True


@Graph
def flat(like, *tensors):
    """What the tensors hold, end to end, in the dtype of the first argument."""
    return ops.cat(ops.HyperMap()(ops.partial(_ravel, like), tensors))


class Reader(nn.Cell):
    """The parameters as one vector, in the dtype of `like`."""

    def __init__(self, parameters: ParameterTuple, like: Tensor):
        super().__init__(auto_prefix=False)
        self.parameters, self.like = parameters, like

    def __call__(self):
        """Read it."""
        return _compiled.call(self)

    def construct(self):
        """Lay the parameters end to end."""
        return flat(self.like, *self.parameters)


class Writer(nn.Cell):
    """Puts the parameters at origin + t * d; a graph of its own, for one that reads them too loses float64's digits."""

    def __init__(self, parameters: ParameterTuple):
        super().__init__(auto_prefix=False)
        self.parameters = parameters
        self.begins = tuple(np.cumsum([0, *(param.size for param in parameters)])[:-1].tolist())
        self.hyper_map = ops.HyperMap()

    def __call__(self, origin: Tensor, t: Tensor, d: Tensor) -> Any:
        """Write it."""
        return _compiled.call(self, origin, t, d)

    def construct(self, origin, t, d):
        """Give each parameter its part."""
        return self.hyper_map(ops.partial(_write, origin + t * d), self.parameters, self.begins)


def number(scalar: Tensor) -> np.ndarray:
    """A scalar of the device on the host, as `Point` has it."""
    return scalar.asnumpy().reshape(1)


def tensor_of(value: float | np.ndarray, like: Tensor) -> Tensor:
    """A number of the host on the device, in the dtype of `like`."""
    return Tensor(np.reshape(value, ()), like.dtype)
