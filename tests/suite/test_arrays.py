"""Arrays of NumPy that rules take for tensors."""

import operator

import numpy as np
import pytest

from parity.sides.arrays import Array, array

OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv]
COMPARISONS = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]


@pytest.mark.parametrize("apply", OPERATORS, ids=lambda apply: apply.__name__)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("values", [1 / 3, [1 / 3, 0.7]], ids=["no axes", "one axis"])
def test_a_number_of_python_has_the_dtype_of_the_array(apply, dtype, values):
    """On either side of an operator, and what has no axes stays an array."""
    x, number = array(values, dtype), dtype(0.1)
    for found, expected in (
        (apply(x, 0.1), apply(np.array(values, dtype), number)),
        (apply(0.1, x), apply(number, np.array(values, dtype))),
    ):
        assert isinstance(found, Array) and found.shape == x.shape
        assert found.dtype == dtype and np.array_equal(found, expected)


@pytest.mark.parametrize("apply", COMPARISONS, ids=lambda apply: apply.__name__)
@pytest.mark.parametrize("values", [0.1, [0.1, 0.0, 0.7, np.nan]], ids=["no axes", "one axis"])
def test_numbers_are_compared_in_the_dtype_of_the_array(apply, values):
    """On either side, so that what is 0.1 in float32 equals 0.1; what has no axes stays an array."""
    x, number = array(values, np.float32), np.float32(0.1)
    for found, expected in (
        (apply(x, 0.1), apply(np.array(values, np.float32), number)),
        (apply(0.1, x), apply(number, np.array(values, np.float32))),
        (apply(x, x), apply(np.array(values), np.array(values))),
    ):
        assert isinstance(found, Array) and found.shape == x.shape
        assert found.dtype == np.bool_ and np.array_equal(found, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("values", [1 / 3, [1 / 3, 0.7]], ids=["no axes", "one axis"])
def test_powers_have_the_dtype_of_the_array(values, dtype):
    """A number of Python too, on either side."""
    x = array(values, dtype)
    for found, expected in ((x**0.1, np.power(values, 0.1)), (0.1**x, np.power(0.1, values))):
        assert isinstance(found, Array) and found.shape == x.shape and found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=2 * np.finfo(dtype).eps)


def test_powers_are_those_of_python():
    """To the last bit, on any processor: a bias correction by them is a difference of equals."""
    steps = np.arange(1.0, 2000.0)
    for beta in (0.9, 0.999, 0.99999):
        found = array(np.full(steps.shape, beta)) ** array(steps)
        assert found.tolist() == [beta**step for step in steps.tolist()]
        assert (beta ** array(steps)).tolist() == found.tolist()
    with np.errstate(divide="ignore"):
        assert (array([2.0, 0.0]) ** -1.0).tolist() == [0.5, np.inf]


def test_parts_are_arrays_without_axes():
    """By index, by `unbind` along any axis, and where one goes through them."""
    x = array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    parts = [x[0, 1], *x[0], *x.unbind(1)[0]]
    assert all(isinstance(part, Array) and part.shape == () for part in parts)
    assert [float(part) for part in parts] == [2.0, 1.0, 2.0, 1.0, 3.0]


def test_what_numpy_has_otherwise_than_tensors():
    """The sign of NaN is 0, and what is taken by a condition keeps its dtype beside a number of Python."""
    x = array([np.nan, -2.0, 0.0, 3.0], np.float32)
    assert x.sign().tolist() == [0.0, -1.0, 0.0, 1.0]
    chosen = x.where(array([False, True, True, False]), 0.1)
    assert chosen.dtype == np.float32
    assert chosen.tolist() == [np.float32(0.1), -2.0, 0.0, np.float32(0.1)]
