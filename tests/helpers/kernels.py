"""Calls the native kernels as MindSpore does, without it; run as a script it replays calls in another process."""

import ctypes
import pickle
import sys
from pathlib import Path

import numpy as np


def call(library, rule, arrays, present=None):
    """The code that a function returns, after it has written into the arrays, its inputs.

    Args:
        library: The path of the library.
        rule: The name of the function.
        arrays: The inputs in order; for the rule of an optimizer: numbers, present, layout, parameters, gradients and
            slots.
        present: How many inputs are said to be there; None is all of them.
    """
    arrays = [*arrays, np.zeros(1, np.float32)]
    count = len(arrays)
    shapes = [(ctypes.c_int64 * max(1, array.ndim))(*array.shape) for array in arrays]
    return getattr(ctypes.CDLL(str(library)), rule)(
        count if present is None else present + 1,
        (ctypes.c_void_p * count)(*[array.ctypes.data for array in arrays]),
        (ctypes.c_int * count)(*[array.ndim for array in arrays]),
        (ctypes.POINTER(ctypes.c_int64) * count)(
            *[ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64)) for shape in shapes]
        ),
        (ctypes.c_char_p * count)(*[array.dtype.name.encode() for array in arrays]),
        None,
        None,
    )


def replay(library, calls):
    """The code of each call, and its inputs as they are after it. A call is the name of a rule and its inputs."""
    outcomes = []
    for rule, arrays in calls:
        arrays = [array.copy() for array in arrays]
        outcomes.append((call(library, rule, arrays), arrays))
    return outcomes


if __name__ == "__main__":
    calls, outcomes = map(Path, sys.argv[2:])
    outcomes.write_bytes(pickle.dumps(replay(sys.argv[1], pickle.loads(calls.read_bytes()))))
