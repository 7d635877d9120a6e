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
    """A function of a tensor and what is no tensor, compiled."""

    def __init__(self, function, *rest):
        super().__init__()
        self.function, self.rest = function, rest

    def construct(self, x):
        """Call it."""
        return self.function(x, *self.rest)


@functools.cache
def graph_of(function, in_float64, *rest):
    """One for all tests of a function in a form, which compiles once for each shape."""
    return Graph(function, *rest)


def compiled(function, x, *rest):
    """What the function gives in a graph, as float64."""
    return graph_of(function, _math.sums_in_float64, *rest)(Tensor(x)).asnumpy().astype(np.float64)


def drawn(shape, magnitude=1.0):
    """Numbers of one sign and of both, in halves."""
    values = np.random.default_rng(0).normal(size=shape)
    values.ravel()[::2] = np.abs(values.ravel()[::2]) + 1
    return (values * magnitude).astype(np.float32)


def assert_close(got, expected):
    """Each to its own size."""
    np.testing.assert_allclose(got, expected, rtol=BOUND, atol=0)


@pytest.mark.parametrize("count", [1, 2, 7, 1000, PART, PART + 1, 65_536, 1_000_003, 16 * 2**20])
def test_norms_of_many_elements(count, form, graph):
    """A float32 sum of a million in turn would be 1e-5 off."""
    x = drawn((count,))
    assert_close(compiled(_math.norm, x, None), np.linalg.norm(x.astype(np.float64)))
    assert_close(compiled(_math.root_mean_square, x), np.sqrt(np.square(x.astype(np.float64)).mean()))


@pytest.mark.parametrize("magnitude", [1e-30, 1e-23, 1e-19, 1e-10, 1e10, 1e19, 1e30])
def test_norms_of_all_magnitudes(magnitude, form, graph):
    """Squares of float32 vanish below 1e-23 and are infinite above 1.8e19."""
    x = drawn((50, 100), magnitude)
    wide = x.astype(np.float64)
    assert_close(compiled(_math.norm, x, None), np.linalg.norm(wide))
    assert_close(compiled(_math.norm, x, (1,)), np.linalg.norm(wide, axis=1, keepdims=True))
    assert_close(compiled(_math.root_mean_square, x), np.sqrt(np.square(wide).mean()))


def test_norms_of_one_large_element_among_small(form, graph):
    """What vanishes beside it does not count."""
    x = drawn((5, 300), 1e-25)
    x[0, 0], x[1, 7] = 3e38, 1.0
    assert_close(compiled(_math.norm, x, (1,)), np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 4, 3, 3), (1, 2, 3)),
        ((3, 600, 3, 3), (1, 2, 3)),
        ((2, PART), (1,)),
        ((2, 2 * PART), (1,)),
        ((2, 3 * PART + 5), (1,)),
        ((2, PART + 1, 3), (1,)),
        ((2, 5, 3), (1,)),
        ((), None),
        ((70, 90), None),
    ],
)
def test_norms_of_units(shape, axes, form, graph):
    """Along the axes of a unit, which stay."""
    x = drawn(shape)
    square = np.square(x.astype(np.float64))
    expected = np.sqrt(square.sum() if axes is None else square.sum(axes, keepdims=True))
    got = compiled(_math.norm, x, axes)
    assert got.shape == np.shape(expected)
    assert_close(got, expected)


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 5), (3, 2 * PART + 3), (2 * PART + 3, 3)])
def test_means_of_rows_and_columns(shape, axis, form, graph):
    """Of numbers and of their squares."""
    x = np.abs(drawn(shape))
    wide = x.astype(np.float64)
    assert_close(compiled(_math.mean, x, axis), wide.mean(axis, keepdims=True))
    assert_close(compiled(_math.mean_square, x, axis), np.square(wide).mean(axis, keepdims=True))


@pytest.mark.parametrize("count", [3, 2 * PART + 1])
def test_what_is_not_finite_and_what_is_nothing(count, form, graph):
    """A NaN is one, infinity is infinite, and zeros have norm 0."""
    x = np.zeros((4, count), np.float32)
    x[1, 0], x[2, 1], x[3] = np.nan, -np.inf, 1.0
    norms = compiled(_math.norm, x, (1,)).ravel()
    np.testing.assert_array_equal(norms[:3], [0.0, np.nan, np.inf])
    assert_close(norms[3], np.sqrt(count))
    np.testing.assert_array_equal(compiled(_math.root_mean_square, x[:1]), 0.0)


def test_sums_of_products(form, graph):
    """Of one sign, of as many elements as a network has."""
    x = np.abs(drawn((1_000_003,)))
    assert_close(compiled(_math.total, x), x.astype(np.float64).sum())
    expected = np.square(x.astype(np.float64)).sum()
    assert_close(Graph(_square)(Tensor(x)).asnumpy(), expected)


def _square(x):
    return _math.sum_of_products(x, x, None)
