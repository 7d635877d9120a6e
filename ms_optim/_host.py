"""Numbers on the host: what Parameters hold, without a copy, and arrays on which `scalars` computes as in a graph."""

import ctypes
import functools
import math
import mmap
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor
from mindspore._c_expression import PyNativeExecutor_

from ms_optim import _native

try:  # the class below Tensor: through Tensor's own methods the same takes three times as long
    from mindspore._c_expression import TensorPy

    address, is_contiguous = TensorPy._data_ptr, TensorPy.is_contiguous
    nbytes_of, shape_of, dtype_of = (attrgetter(name) for name in ("_nbytes", "_shape", "_dtype"))
    all_there = all(hasattr(TensorPy, name) for name in ("_nbytes", "_shape", "_dtype"))
except (ImportError, AttributeError):  # all of it is MindSpore's own affair
    all_there = False

_DTYPES = {ms.bool_: np.bool_, ms.int32: np.int32, ms.float32: np.float32, ms.float64: np.float64}


# How many tensors are asked for one thing before the next: what is asked of each is near in memory.
CHUNK = 64


def look(chunks: Iterable[Sequence[Tensor]], *getters: Callable[[Tensor], Any]) -> tuple[list, ...]:
    """What each function gives for every tensor, in lists."""
    found: tuple[list, ...] = tuple([] for _ in getters)
    for chunk in chunks:
        for values, of in zip(found, getters):
            values += map(of, chunk)
    return found


def chunks(tensors: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    """The tensors as `look` takes them."""
    return [tensors[i : i + CHUNK] for i in range(0, len(tensors), CHUNK)]


# Until nothing is queued, which might read or write memory.
wait = PyNativeExecutor_.get_instance().sync


# Of Linux, from 5.14 on: MADV_POPULATE_WRITE.
_POPULATE = 23
_madvise = getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None


def populate(tensor: Tensor) -> None:
    """Let the system back a new tensor with memory now, where a kernel would wait for each page twice."""
    begin = -(-address(tensor) // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (address(tensor) + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if _madvise is not None and end > begin:
        _madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _POPULATE)  # if it cannot, the pages come later


def memory(tensor: Tensor) -> np.ndarray:
    """What a contiguous tensor holds: an array over its own memory, to read and to write, for as long as it is kept."""
    wait()
    return _over(tensor)


def _over(tensor):
    buffer = (ctypes.c_char * tensor.nbytes).from_address(address(tensor))
    return np.frombuffer(buffer, _DTYPES[tensor.dtype]).reshape(tensor.shape)


@functools.cache
def _is_cpu():
    """Whether this is the device, which is one and the same from the first tensor on."""
    return ms.get_context("device_target") == "CPU"


def copy(tensor: Tensor, value: Tensor) -> bool:
    """Copy the memory of a tensor of the same dtype and shape, and say whether that can be done here."""
    return usable() and copy_memory(tensor, value)


def copy_memory(tensor: Tensor, value: Tensor) -> bool:
    """The same on CPU, without asking whether it is wanted."""
    wait()
    if not (is_contiguous(tensor) and is_contiguous(value)) or nbytes_of(tensor) != nbytes_of(value):
        return False
    place, source = address(tensor), address(value)
    if place and source:
        ctypes.memmove(place, source, nbytes_of(tensor))
    return bool(place and source)


def usable() -> bool:
    """Whether memory is read and written here."""
    return not obstacle() and _is_cpu()


class Memory:
    """The memory of several tensors, as of one in `memory`."""

    def __init__(self, tensors: Sequence[Tensor]):
        self._tensors = tensors
        self._found: tuple[list, ...] = ()
        self._arrays: list[np.ndarray] = []

    def is_there(self) -> bool:
        """Whether each has memory, in the order of its elements."""
        return all(map(is_contiguous, self._tensors)) and all(map(address, self._tensors))

    def arrays(self) -> list[np.ndarray]:
        """An array over each."""
        wait()
        found = look([self._tensors], address, nbytes_of)
        if found != self._found:
            self._arrays, self._found = list(map(_over, self._tensors)), found
        return self._arrays


def apart(tensors: Sequence[Tensor], written: Sequence[Tensor]) -> list[Tensor]:
    """The tensors, with copies of those that lie in what is written: a graph may read them after that.

    Where memory is not told, these are the ones that are written themselves.
    """
    if not (all_there and _is_cpu()):
        own = {*map(id, written)}
        return [copied(tensor) if id(tensor) in own else tensor for tensor in tensors]
    starts, sizes = (np.array(found, np.uint64) for found in look(chunks(written), address, nbytes_of))
    order = np.argsort(starts)
    starts, ends = starts[order], np.maximum.accumulate((starts + sizes)[order])
    first, sizes = (np.array(found, np.uint64) for found in look(chunks(tensors), address, extent))
    before = np.searchsorted(starts, first + sizes)  # how many of the written begin before the end
    shared = (before > 0) & (ends[np.maximum(before, 1) - 1] > first)
    return [copied(tensor) if here else tensor for tensor, here in zip(tensors, shared)]


def extent(tensor: Tensor) -> int:
    """How many bytes lie between the first of a tensor and its end, which are more than it has where it is a view."""
    if is_contiguous(tensor):
        return nbytes_of(tensor)
    return tensor.itemsize * (1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride())))


def copied(tensor: Tensor) -> Tensor:
    """A copy with memory of its own."""
    return Tensor(tensor.asnumpy().copy(), tensor.dtype)


# Set to 0 it keeps everything off the memory of tensors: direct calls compile, as steps in graphs do.
SWITCH = "MS_OPTIM_DIRECT"


def obstacle() -> str | None:
    """Why memory is not touched although the device is the CPU, or None."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    return None if all_there else "this version of MindSpore does not tell where tensors lie"


def _exp(number):
    try:
        return math.exp(number)
    except OverflowError:
        return math.inf


class Vector(np.ndarray):
    """An array with what `scalars` and the schedules of an average use of Tensors, to the same bits as on CPU."""

    def where(self, condition, other):
        """Take other where the condition is false."""
        return np.where(condition, self, other).view(Vector)

    def sqrt(self):
        """Take the root."""
        return np.sqrt(self)

    def exp(self):
        """Take e to the power, as the C library does: NumPy's is another function where there is AVX-512."""
        return np.array([_exp(x) for x in self.flat]).reshape(self.shape).view(Vector)

    def double(self):
        """Convert to float64."""
        return self.astype(np.float64)

    def int(self):
        """Convert to int32."""
        return self.astype(np.int32)

    def minimum(self, other):
        """Take the smaller."""
        return np.minimum(self, other)

    def maximum(self, other):
        """Take the larger."""
        return np.maximum(self, other)

    def __pow__(self, exponent):
        return _native.power_of_arrays(self, exponent).view(Vector)

    def __rpow__(self, base):
        return _native.power_of_arrays(base, self).view(Vector)


def vector(values: Any) -> Vector:
    """A float64 copy."""
    return np.array(values, np.float64).view(Vector)
