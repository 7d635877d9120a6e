"""All parameters as one vector: functions of vectors, and what reads and writes Parameters.

On CPU vectors are arrays of NumPy, for an iteration takes two small functions for each pair of the history; elsewhere
they are Tensors, and the functions are compiled. The arithmetic is one and the same.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops
from mindspore.ops import MultitypeFuncGraph

from ms_optim import _compiled, _host, _math, _native
from ms_optim._math import sum_of_products

# Of arrays of float64, which BLAS adds up in one thread.
CHUNK = 8192
# From so many elements on the library is faster than NumPy, although it takes longer to be called.
LONG = {"dot": CHUNK, "add_scaled": 8 * CHUNK}


class Graph(nn.Cell):
    """A function of tensors, compiled once for each of their shapes and dtypes, in both modes.

    Args:
        function (Callable): Of Tensors.
        of_arrays (Callable): Of arrays, where that is not the same source. Default: `function`.
    """

    def __init__(self, function: Callable, of_arrays: Callable | None = None):
        super().__init__()
        self.function, self.of_arrays = function, of_arrays or function

    def __call__(self, *vectors):
        """Run it."""
        if isinstance(vectors[0], np.ndarray):
            return self.of_arrays(*vectors)
        return _compiled.call(self, *vectors)

    def construct(self, *tensors):
        """Call it."""
        return self.function(*tensors)


def _is_for_library(function, vector):
    return vector.size >= LONG[function] and _native.library() is not None


def _dot_of_arrays(a, b):
    if _is_for_library("dot", a):
        return np.array([_native.dot(a, b)]).astype(a.dtype)
    total = 0.0
    for i in range(0, a.size, CHUNK):
        total += np.dot(*(part[i : i + CHUNK].astype(np.float64, copy=False) for part in (a, b)))
    return np.array([total]).astype(a.dtype)


def _dot(a, b):
    return sum_of_products(a, b, None).to(a.dtype)


# The sum of products.
dot = Graph(_dot, _dot_of_arrays)


def _sum_of_magnitudes_of_array(vector):
    return dot(vector, np.sign(vector))


def _sum_of_magnitudes(vector):
    return dot(vector, vector.sign())


sum_of_magnitudes = Graph(_sum_of_magnitudes, _sum_of_magnitudes_of_array)


def _largest_of_array(vector):
    return np.abs(vector).max(keepdims=True)


def _largest(vector):
    return vector.abs().max().where(ops.isnan(vector).logical_not().all(), float("nan"))


# The largest magnitude; NaN if there is one, which the maximum passes over on CPU.
largest = Graph(_largest, _largest_of_array)


@Graph
def curvature_pair(grad, previous, d, t):
    """How gradient and parameters have changed, y and s; y*s and its reciprocal; y*s / y*y."""
    y, s = grad - previous, d * t
    ys = dot(y, s)
    return y, s, ys, 1 / ys, ys / dot(y, y)


def _added_to_array(x, factor, y):
    if _is_for_library("add_scaled", x):
        _native.add_scaled(x, factor.item(), y)
        return x
    return np.add(x, factor * y, out=x)


def _added(x, factor, y):
    return x + factor * y


# x + factor * y; an array is written into.
add_scaled = Graph(_added, _added_to_array)


@Graph
def backward(q, y, s, r):
    """Go one pair back in the history: q, if it is an array in its place, without what is along y; how much that is."""
    weight = dot(s, q) * r
    return add_scaled(q, -weight, y), weight


@Graph
def forward(d, y, s, r, weight):
    """Go one pair forward, in the same way."""
    return add_scaled(d, weight - dot(y, d) * r, s)


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


class OnDevice:
    """Vectors are Tensors."""

    def __init__(self, parameters: ParameterTuple, like: Tensor):
        self.parameters, self.like = parameters, like
        self.read, self._writer = Reader(parameters, like), Writer(parameters)

    def write(self, origin: Tensor, t: float | np.ndarray, d: Tensor) -> None:
        """Put the parameters at origin + t * d."""
        self._writer(origin, like_of(t, d), d)

    def flat(self, gradients: Iterable[Tensor | None]) -> Tensor:
        """Gradients as one vector."""
        given = (ops.zeros_like(param) if grad is None else grad for grad, param in zip(gradients, self.parameters))
        return flat(self.like, *given)

    def place(self, value: Any, scalar: bool) -> Any:
        """A vector or number of a state, wherever it was."""
        return Tensor(value.reshape(() if scalar else -1)) if isinstance(value, np.ndarray) else value


class OnHost:
    """Vectors are arrays, and a number is an array of one element."""

    def __init__(self, parameters: ParameterTuple, like: Tensor):
        self.parameters, self.memory = parameters, _host.Memory(parameters)
        self.dtype = like.asnumpy().dtype

    def usable(self) -> bool:
        """Whether this is the way now."""
        return _host.usable() and _math.sums_in_float64 and self.memory.is_there()

    def _flat(self, arrays):
        return np.concatenate([array.reshape(-1) for array in arrays]).astype(self.dtype, copy=False)

    def read(self) -> np.ndarray:
        """Lay the parameters end to end."""
        return self._flat(self.memory.arrays())

    @np.errstate(all="ignore")
    def write(self, origin: np.ndarray, t: float | np.ndarray, d: np.ndarray) -> None:
        """Put the parameters at origin + t * d."""
        vector, begin = origin + like_of(t, d) * d, 0
        for array in self.memory.arrays():
            array[...] = vector[begin : begin + array.size].reshape(array.shape)
            begin += array.size

    def flat(self, gradients: Iterable[Tensor | None]) -> np.ndarray:
        """Gradients as one vector."""
        return self._flat(
            np.zeros(param.shape, self.dtype) if grad is None else grad.asnumpy()
            for grad, param in zip(gradients, self.parameters)
        )

    def place(self, value: Any, scalar: bool) -> Any:
        """A vector or number of a state, wherever it was."""
        return value.asnumpy().reshape(-1).copy() if isinstance(value, Tensor) else value


def number(scalar: Tensor | np.ndarray) -> np.ndarray:
    """A scalar on the host, as `Point` has it."""
    return scalar if isinstance(scalar, np.ndarray) else scalar.asnumpy().reshape(1)


def like_of(value: float | np.ndarray, vector: Any) -> Any:
    """A number of the host where a vector is, in its dtype."""
    if isinstance(vector, np.ndarray):
        return np.reshape(value, 1).astype(vector.dtype)
    return Tensor(np.reshape(value, ()), vector.dtype)
