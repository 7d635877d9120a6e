"""Norms and means in both forms: float64, as on CPU, and float32 in parts, as on other devices."""

import functools

import numpy as np
import pytest
from mindspore import Tensor, nn

from ms_optim import _math
from ms_optim._math import PART

BOUND = 3e-7


@pytest.fixture(params=["float64", "float32"])
def form(request, monkeypatch):
    """In which sums are taken."""
    monkeypatch.setattr(_math, "sums_in_float64", request.param == "float64")


class Graph(nn.Cell):
    """A function of each of several tensors and what goes with it, compiled together."""

    def __init__(self, function, others):
        super().__init__()
        self.function, self.others = function, others

    def construct(self, *tensors):
        """Call it for each."""
        found = ()
        for x, rest in zip(tensors, self.others):
            found = (*found, self.function(x, *rest))
        return found


@functools.cache
def graph_of(function, in_float64, others):
    """One for all tests of a function in a form, which compiles once for each list of shapes."""
    return Graph(function, others)


def compiled(function, *calls):
    """What the function, which gives a tuple, gives in one graph for each tensor and the rest, as float64."""
    graph = graph_of(function, _math.sums_in_float64, tuple(tuple(rest) for _, *rest in calls))
    return [[one.asnumpy().astype(np.float64) for one in each] for each in graph(*(Tensor(x) for x, *_ in calls))]


def drawn(shape, magnitude=1.0):
    """Numbers of one sign and of both, in halves."""
    values = np.random.default_rng(0).normal(size=shape)
    values.ravel()[::2] = np.abs(values.ravel()[::2]) + 1
    return (values * magnitude).astype(np.float32)


def assert_close(got, expected, name=""):
    """Each to its own size."""
    np.testing.assert_allclose(got, expected, rtol=BOUND, atol=0, err_msg=str(name))


def norm_and_mean(x):
    """Of all elements."""
    return _math.norm(x, None), _math.root_mean_square(x)


def norms_and_mean(x):
    """Those of all elements, and of rows."""
    return _math.norm(x, None), _math.norm(x, (1,)), _math.root_mean_square(x)


def norm_along(x, axes):
    """That alone."""
    return (_math.norm(x, axes),)


def means_along(x, axis):
    """Of numbers and of their squares."""
    return _math.mean(x, axis), _math.mean_square(x, axis)


def means_and_norm_along(x, axis):
    """Those, and the norm."""
    return _math.mean(x, axis), _math.mean_square(x, axis), _math.norm(x, (len(x.shape) + axis,))


def norms_of_rows_and_mean(x):
    """Of the rows; the mean is that of the first of them."""
    return _math.norm(x, (1,)), _math.root_mean_square(x[:1])


def totals(x):
    """Of numbers and of their squares."""
    return _math.total(x), _math.sum_of_products(x, x, None)


@functools.cache
def many(count):
    """So many numbers, their norm and their root mean square."""
    x = drawn((count,))
    square = np.square(x.astype(np.float64))
    return x, np.sqrt(square.sum()), np.sqrt(square.mean())


def test_norms_of_many_elements(form, graph):
    """A float32 sum of a million in turn would be 1e-5 off."""
    cases = [many(count) for count in (1, 2, 7, 1000, PART, PART + 1, 65_536, 1_000_003, 16 * 2**20)]
    for (norm, mean), (x, *expected) in zip(compiled(norm_and_mean, *((x,) for x, *_ in cases)), cases, strict=True):
        assert_close([norm, mean], expected, x.shape)


@pytest.mark.parametrize("magnitude", [1e-30, 1e-23, 1e-19, 1e-10, 1e10, 1e19, 1e30])
def test_norms_of_all_magnitudes(magnitude, form, graph):
    """Squares of float32 vanish below 1e-23 and are infinite above 1.8e19."""
    x = drawn((50, 100), magnitude)
    wide = x.astype(np.float64)
    ((norm, norms, mean),) = compiled(norms_and_mean, (x,))
    assert_close(norm, np.linalg.norm(wide))
    assert_close(norms, np.linalg.norm(wide, axis=1, keepdims=True))
    assert_close(mean, np.sqrt(np.square(wide).mean()))


def test_norms_of_one_large_element_among_small(form, graph):
    """What vanishes beside it does not count."""
    x = drawn((50, 100), 1e-25)
    x[0, 0], x[1, 7] = 3e38, 1.0
    ((_, norms, _),) = compiled(norms_and_mean, (x,))
    assert_close(norms, np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True))


def test_norms_of_units(form, graph):
    """Along the axes of a unit, which stay."""
    cases = [
        ((3, 4, 3, 3), (1, 2, 3)),
        ((3, 600, 3, 3), (1, 2, 3)),
        ((2, PART), (1,)),
        ((2, 2 * PART), (1,)),
        ((2, 3 * PART + 5), (1,)),
        ((2, PART + 1, 3), (1,)),
        ((2, 5, 3), (1,)),
        ((), None),
        ((70, 90), None),
    ]
    calls = [(drawn(shape), axes) for shape, axes in cases]
    for (got,), (x, axes) in zip(compiled(norm_along, *calls), calls, strict=True):
        square = np.square(x.astype(np.float64))
        expected = np.sqrt(square.sum() if axes is None else square.sum(axes, keepdims=True))
        assert got.shape == np.shape(expected)
        assert_close(got, expected, x.shape)


def test_means_of_rows_and_columns(form, graph):
    """Of numbers and of their squares."""
    shapes = [(3, 5), (2, 3, 5), (3, 2 * PART + 3), (2 * PART + 3, 3)]
    calls = [(np.abs(drawn(shape)), axis) for shape in shapes for axis in (-1, -2)]
    for (mean, mean_square), (x, axis) in zip(compiled(means_along, *calls), calls, strict=True):
        wide = x.astype(np.float64)
        assert_close(mean, wide.mean(axis, keepdims=True), (x.shape, axis))
        assert_close(mean_square, np.square(wide).mean(axis, keepdims=True), (x.shape, axis))


# What is summed at once, in whole parts, in parts and a rest; along the first axis, one in the middle, and the last.
LENGTHS = (5, 64, 1000, PART)
PLACES = [
    (place, axis) for n in LENGTHS for place, axis in (((n, 48), -2), ((n, 1), -2), ((3, n, 16), -2), ((48, n), -1))
]


@pytest.mark.parametrize("magnitude", [1e-30, 1.0, 1e30])
def test_means_and_norms_of_all_lengths(magnitude, form, graph):
    """Where each column is added up element by element, 4096 of them would be 3e-6 off."""
    calls = [(np.abs(drawn(shape, magnitude)), axis) for shape, axis in PLACES]
    for (mean, mean_square, norm), (x, axis) in zip(compiled(means_and_norm_along, *calls), calls, strict=True):
        wide = x.astype(np.float64)
        assert_close(mean, wide.mean(axis, keepdims=True), (x.shape, axis))
        assert_close(norm, np.linalg.norm(wide, axis=axis, keepdims=True), (x.shape, axis))
        if magnitude == 1:  # another square is nothing, or infinite
            assert_close(mean_square, np.square(wide).mean(axis, keepdims=True), (x.shape, axis))


def test_what_is_not_finite_and_what_is_nothing(form, graph):
    """A NaN is one, infinity is infinite, and zeros have norm 0."""
    counts = (3, 2 * PART + 1)
    inputs = [np.zeros((4, count), np.float32) for count in counts]
    for x in inputs:
        x[1, 0], x[2, 1], x[3] = np.nan, -np.inf, 1.0
    found = compiled(norms_of_rows_and_mean, *((x,) for x in inputs))
    for count, (norms, mean) in zip(counts, found, strict=True):
        np.testing.assert_array_equal(norms.ravel()[:3], [0.0, np.nan, np.inf])
        assert_close(norms.ravel()[3], np.sqrt(count))
        np.testing.assert_array_equal(mean, 0.0)


def test_sums_of_products(form, graph):
    """Of one sign, of as many elements as a network has."""
    x = np.abs(drawn((1_000_003,)))
    ((total, products),) = compiled(totals, (x,))
    assert_close(total, x.astype(np.float64).sum())
    assert_close(products, np.square(x.astype(np.float64)).sum())
