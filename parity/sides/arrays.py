"""Arrays of NumPy with the methods of tensors that rules use: their mathematics, with no framework's arithmetic."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from parity.cases.formats import rounded_to


def _seen(found):
    """What a function of NumPy gives, which is a number where it has no axes."""
    return (found if isinstance(found, np.ndarray) else np.asarray(found)).view(Array)


def _plain(value, dtype):
    """An array as NumPy has it, or a number in a dtype."""
    return value.view(np.ndarray) if isinstance(value, np.ndarray) else np.asarray(value, dtype)


def _one(function):
    """A method that is a function of NumPy."""

    def method(self):
        return _seen(function(self.view(np.ndarray)))

    return method


def _two(function):
    """An operator, or a method, that is a function of NumPy of the array and of another or a number."""

    def method(self, other):
        return _seen(function(self.view(np.ndarray), _plain(other, self.dtype)))

    return method


def _swapped(function):
    """The operator of which the array is the second operand."""
    return _two(lambda one, other: function(other, one))


class Array(np.ndarray):
    """An array as rules see a tensor, in float32 or float64.

    As of a tensor, a number of Python is taken in the dtype of the array, and what has no axes stays an array.
    """

    def __array_ufunc__(self, function, method, *inputs, **options):
        plain = [_plain(value, self.dtype) for value in inputs]
        if function is np.power and method == "__call__":
            return _power(*plain).view(Array)
        return _seen((function if method == "__call__" else getattr(function, method))(*plain, **options))

    # A step is a hundred small operations, of which NumPy's way through the method above would take half the time.
    __add__ = __radd__ = _two(np.add)
    __sub__, __rsub__ = _two(np.subtract), _swapped(np.subtract)
    __mul__ = __rmul__ = _two(np.multiply)
    __truediv__, __rtruediv__ = _two(np.true_divide), _swapped(np.true_divide)
    __lt__, __le__, __gt__, __ge__ = map(_two, (np.less, np.less_equal, np.greater, np.greater_equal))
    __eq__, __ne__ = _two(np.equal), _two(np.not_equal)
    __neg__, __abs__ = _one(np.negative), _one(np.abs)

    def __getitem__(self, place):
        return _seen(self.view(np.ndarray)[place])

    def __iter__(self):
        return iter(self.unbind())

    @property
    def mT(self):
        """The matrix transposed."""
        return self.swapaxes(-1, -2)

    def to(self, dtype):
        """Convert to a dtype."""
        return self.astype(dtype)

    def double(self):
        """Convert to float64."""
        return self.astype(np.float64)

    def float(self):
        """Convert to float32."""
        return self.astype(np.float32)

    def int(self):
        """Convert to int32."""
        return self.astype(np.int32)

    def bfloat16(self):
        """Round to bfloat16, which are float32 numbers here."""
        return array(rounded_to(self, "bfloat16"))

    logical_and, logical_or = _two(np.logical_and), _two(np.logical_or)
    logical_not = _one(np.logical_not)
    abs, sqrt, exp, log = map(_one, (np.abs, np.sqrt, np.exp, np.log))
    # NaN if one is.
    minimum, maximum = _two(np.minimum), _two(np.maximum)

    def where(self, condition, other):
        """Take other where the condition is false."""
        return np.where(np.asarray(condition), self.view(np.ndarray), _plain(other, self.dtype)).view(Array)

    def sign(self):
        """Take the sign, which NaN has none of: 0, as in torch and in MindSpore."""
        return array(np.where(np.isnan(self), 0, np.sign(self)), self.dtype)

    def clamp(self, least, most):
        """Bring into a range."""
        return self.maximum(least).minimum(most)

    def sum(self, axes=None, keepdims=False, **_):
        """Add along axes, or all."""
        return array((_sum_in_order if _in_order else np.sum)(np.asarray(self), axes, keepdims=keepdims))

    def mean(self, axes=None, keepdims=False, **_):
        """Average along axes, or all."""
        return array(np.mean(np.asarray(self), axes, keepdims=keepdims))

    def amax(self, axes, keepdims):
        """Take the largest along axes."""
        return array(np.max(np.asarray(self), axes, keepdims=keepdims))

    def unbind(self, axis=0):
        """Split into what there is along an axis, which goes."""
        whole = self.view(np.ndarray)
        if axis:
            whole = np.moveaxis(whole, axis, 0)
        return tuple(whole[i, ...].view(Array) for i in range(len(whole)))


_in_order = False


@contextlib.contextmanager
def summed_in_order() -> Iterator[None]:
    """Add one element after another, as a framework may that has no other sum for some layout: NumPy does it better."""
    global _in_order
    _in_order = True
    try:
        yield
    finally:
        _in_order = False


def _sum_in_order(values, axes, keepdims):
    axes = tuple(range(values.ndim)) if axes is None else axes if isinstance(axes, tuple) else (axes,)
    axes = tuple(axis % values.ndim for axis in axes)
    rest = tuple(axis for axis in range(values.ndim) if axis not in axes)
    rows = values.transpose(*axes, *rest).reshape(-1, *(values.shape[axis] for axis in rest))
    total = np.add.accumulate(rows, 0, dtype=values.dtype)[-1] if len(rows) else np.sum(rows, 0)
    return np.expand_dims(total, axes) if keepdims else total


def _power(base, exponent):
    """Powers as the C library has them, and Python: of arrays NumPy's are off by a last bit where there is AVX-512."""
    base, exponent = np.broadcast_arrays(base, exponent)
    powers = [one**other for one, other in zip(base.flat, exponent.flat)]
    return np.array(powers, np.result_type(base, exponent)).reshape(base.shape)


def array(values: Any, dtype: Any = None) -> Array:
    """The values as an array, without a copy where there need not be one."""
    return np.asarray(values, dtype).view(Array)
