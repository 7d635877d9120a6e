"""Builds the native kernels and calls them as MindSpore does; run as a script it replays calls in another process."""

import ctypes
import functools
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np


@functools.cache
def name_of(dtype):
    """What MindSpore calls a dtype."""
    return dtype.name.encode()


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
    shapes = [(ctypes.c_int64 * array.ndim)(*array.shape) for array in arrays]
    return getattr(ctypes.CDLL(str(library)), rule)(
        count if present is None else present + 1,
        (ctypes.c_void_p * count)(*[array.ctypes.data for array in arrays]),
        (ctypes.c_int * count)(*[array.ndim for array in arrays]),
        (ctypes.c_void_p * count)(*map(ctypes.addressof, shapes)),
        (ctypes.c_char_p * count)(*[name_of(array.dtype) for array in arrays]),
        None,
        None,
    )


def call_on_vectors(library, function, arrays):
    """What a function of two vectors gives, after it has added a part of the second to the first if it does that."""
    one, other = arrays
    called = getattr(ctypes.CDLL(str(library)), f"ms_optim_{function}_{one.dtype}")
    called.restype, factor = (None, [ctypes.c_double(0.3)]) if function == "add_scaled" else (ctypes.c_double, [])
    places = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
    return called(places[0], *factor, places[1], ctypes.c_int64(other.size))


def replay(library, calls):
    """What each call returns, and its inputs as they are after it. A call is the name of a function and its inputs."""
    outcomes = []
    for function, arrays in calls:
        arrays = [array.copy() for array in arrays]
        run = call_on_vectors if function in ("dot", "add_scaled") else call
        outcomes.append((run(library, function, arrays), arrays))
    return outcomes


SOURCES = Path(__file__).parents[2] / "ms_optim" / "kernels"


def build(path, *flags, sources=SOURCES):
    """Compile the kernels, for one instruction set and without optimization; return the path."""
    flags = ("-std=c++17", "-O0", "-ffp-contract=off", "-fPIC", "-shared", "-pthread", "-DMS_OPTIM_PLAIN", *flags)
    done = subprocess.run(["g++", *flags, sources / "kernels.cpp", "-o", path], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return path


def change(at, value):
    """A function that replaces one input."""

    def apply(arrays):
        return [*arrays[:at], value(arrays[at]) if callable(value) else value, *arrays[at + 1 :]]

    return apply


# What makes of the inputs of Adam of two vectors what it must refuse. They are numbers, present, layout, 2 parameters,
# 2 gradients and 4 slots.
BAD = {
    "a slot of another dtype": change(8, lambda slot: slot.astype(np.float64)),
    "a slot of another size": change(10, lambda slot: slot[1:].copy()),
    "a gradient of another size": change(6, lambda grad: grad[1:].copy()),
    "an integer gradient": change(5, lambda grad: grad.astype(np.int32)),
    "a gradient of float8": change(5, lambda grad: grad.astype(np.int8)),
    "a parameter of integers": change(4, lambda param: param.astype(np.int64)),
    "a number too few": change(0, lambda numbers: numbers[:, 1:].copy()),
    "a row too many": change(0, lambda numbers: np.concatenate([numbers, numbers])),
    "a row too few": change(0, lambda numbers: numbers[:1].copy()),
    "numbers in float32": change(0, lambda numbers: numbers.astype(np.float32)),
    "presence in integers": change(1, lambda present: present.astype(np.int32)),
    "a layout in int64": change(2, lambda layout: layout.astype(np.int64)),
    "numbers in a vector": change(0, lambda numbers: numbers.ravel()),
    "a layout of one parameter": change(2, lambda layout: layout[:1].copy()),
    "a flag too many": change(2, lambda layout: np.concatenate([layout, layout[:, :1]], 1)),
    "presence of one parameter": change(1, lambda present: present[:1].copy()),
    "a slot that is not there": change(2, lambda layout: np.ones_like(layout)),
    "a slot that is not meant": change(2, lambda layout: layout * 0),
    "no slots": lambda arrays: arrays[:7],
    "no gradients": lambda arrays: arrays[:5],
    "one slot too many": lambda arrays: [*arrays, arrays[-1].copy()],
    "numbers alone": lambda arrays: arrays[:3],
    "nothing": lambda arrays: [],
}


if __name__ == "__main__":
    calls, outcomes = map(Path, sys.argv[2:])
    outcomes.write_bytes(pickle.dumps(replay(sys.argv[1], pickle.loads(calls.read_bytes()))))
