"""What the library computes of two vectors."""

import math

import numpy as np
import pytest
from helpers import kernels
from helpers.native import DTYPES, VECTORS, needs_library

from ms_optim import _native

pytestmark = needs_library


def pair(size, dtype):
    """Two vectors, one of all magnitudes."""
    rng = np.random.default_rng(size)
    return (rng.standard_normal(size) * 10 ** rng.uniform(-6, 6, size)).astype(dtype), rng.standard_normal(size, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_added_up_in_float64(dtype):
    """As exactly as float64 can; where there are a NaN or infinities of both signs, the sum is NaN."""
    for size in VECTORS:
        one, other = pair(size, dtype)
        products = one.astype(np.float64) * other
        assert abs(_native.dot(one, other) - math.fsum(products)) <= 1e-15 * np.abs(products).sum(), size
    for odd in ([np.nan], [np.inf, -np.inf]):
        one[-len(odd) :], other[-len(odd) :] = odd, 1
        assert math.isnan(_native.dot(one, other))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_added_has_the_bits_of_numpy(dtype):
    """In place, and of any values, denormal ones too."""
    for size in VECTORS:
        one, other = pair(size, dtype)
        other[::7] = np.finfo(dtype).tiny / 8
        expected, place = one + dtype(-0.3) * other, one.ctypes.data
        _native.add_scaled(one, float(dtype(-0.3)), other)
        assert one.ctypes.data == place
        np.testing.assert_array_equal(one, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_and_instruction_sets_give_the_same_bits(dtype, copy_of_library):
    """They share chunks, whose sums are added up in order."""
    vectors = pair(VECTORS[-1], dtype)
    libraries = [copy_of_library(threads=count, MS_OPTIM_SIMD=sets) for count, sets in ((1, "2"), (2, "1"), (3, "0"))]
    first, *others = (kernels.replay(library, [("dot", vectors), ("add_scaled", vectors)]) for library in libraries)
    for other in others:
        assert other[0][0] == first[0][0]
        np.testing.assert_array_equal(other[1][1][0], first[1][1][0])
