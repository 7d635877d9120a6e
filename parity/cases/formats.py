"""What floats can tell apart, in each of the formats that parameters have; NumPy has no bfloat16."""

from typing import NamedTuple

import numpy as np


class Format(NamedTuple):
    """The gap after 1, the smallest number that no compiler flushes to zero, and the largest."""

    eps: float
    tiny: float
    largest: float


FORMATS = {
    name: Format(*(float(getattr(np.finfo(name), limit)) for limit in ("eps", "tiny", "max")))
    for name in ("float16", "float32", "float64")
} | {"bfloat16": Format(2.0**-7, 2.0**-126, (2 - 2.0**-7) * 2.0**127)}


def ulp(magnitude: np.ndarray, dtype: str) -> np.ndarray:
    """The gap between neighbours of a float type; below the normal numbers the smallest of them."""
    _, exponent = np.frexp(np.asarray(magnitude, np.float64))
    return np.maximum(np.ldexp(FORMATS[dtype].eps, exponent - 1), FORMATS[dtype].tiny)


def rounded_to(value: np.ndarray, dtype: str) -> np.ndarray:
    """An array in a format; bfloat16 as the float32 numbers that it has."""
    if dtype != "bfloat16":
        return np.asarray(value, dtype)
    bits = np.array(value, np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.asarray(bits.astype(np.uint32).view(np.float32)).reshape(np.shape(value))
