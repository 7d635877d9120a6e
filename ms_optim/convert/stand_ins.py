"""What the names in a pickle of torch stand for where it is read: what only makes data.

A pickle names functions and classes, and has them called. A name stands for what is in `KNOWN`, exactly; every other
name stands for a class of `Unread`, which takes whatever a pickle does to it and does nothing.
"""

import datetime
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

# What torch calls a storage or a dtype, and how NumPy reads it. It has no bfloat16.
DTYPES = {
    "Double": "f8",
    "Float": "f4",
    "Half": "f2",
    "BFloat16": "u2",
    "Long": "i8",
    "Int": "i4",
    "Short": "i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
    "ComplexDouble": "c16",
    "ComplexFloat": "c8",
    "Untyped": "u1",
    "uint16": "u2",
    "uint32": "u4",
    "uint64": "u8",
}
# How the name begins of a tensor of a dtype that is not read.
_OF = "torch.Tensor of "


class Unread:
    """In the place of an object that is not read: its class, or the function that makes it, and what that is given."""

    name = ""

    def __new__(cls, *args, **kwargs):
        """Take anything, as the `__new__` of any class does."""
        self = super().__new__(cls)
        self.given = [*args, *kwargs.values()]
        return self

    def __init__(self, *args, **kwargs):
        pass

    def __repr__(self):
        return f"<unread {self.name}>"

    @property
    def is_tensor(self) -> bool:
        """Whether it is a tensor: a sparse or quantized one, or of a dtype that MindSpore and NumPy have not."""
        return self.name.startswith(("torch._utils._rebuild_", _OF))

    def __call__(self, *args):
        """Take what a method is given."""
        return type(self)(*args)

    def __setstate__(self, state):
        self.given.append(state)

    def __setitem__(self, key, value):
        self.given.append((key, value))

    def append(self, value):
        """Keep what a pickle adds."""
        self.given.append(value)

    def extend(self, values):
        """Keep what a pickle adds."""
        self.given.extend(values)

    add = append


def unread(name: str) -> type[Unread]:
    """The class that stands for what goes by a name."""
    return type("Unread", (Unread,), {"name": name})


class Fields(dict):
    """What an object is that has attributes and nothing else."""

    def __init__(self, *args):
        super().__init__(*(arg for arg in args if isinstance(arg, Mapping)))

    def __setstate__(self, state):
        self.update(state)


class Items(dict):
    """A dict of another class; the attributes that it may have, such as the versions of layers, are no items."""

    def __init__(self, *args):
        super().__init__(*(arg for arg in args if isinstance(arg, (Mapping, list, tuple))))

    def __setstate__(self, state):
        pass


class Dtype:
    """A dtype of NumPy."""

    def __init__(self, text, *_):
        self.text, self.order = str(text), "="

    def __setstate__(self, state):
        self.order = state[1]

    def read(self, raw):
        """The numbers, strings or times in bytes, in one axis; None if it is something else."""
        try:
            dtype = np.dtype(self.text)
        except TypeError:
            return None
        if dtype.kind not in "biufcSUMm" or not isinstance(raw, (bytes, bytearray)):
            return None
        return np.frombuffer(raw, dtype.newbyteorder(self.order) if self.order in ("<", ">") else dtype)


class Array:
    """An array of NumPy."""

    def __init__(self, *_):
        self.value = None

    def __setstate__(self, state):
        _, shape, dtype, fortran, raw = state
        self.fill(raw, dtype, shape, "F" if fortran else "C")

    def fill(self, raw, dtype, shape, order):
        """Take the numbers."""
        found = dtype.read(raw) if isinstance(dtype, Dtype) else None
        self.value = unread("numpy.ndarray")(raw) if found is None else found.reshape(shape, order=order)
        return self


class Storage:
    """The numbers of tensors, which come when the pickle has been read."""

    def __init__(self, kind, count):
        self.kind, self.count, self.raw = kind, count, bytearray()

    @property
    def size(self):
        """How many bytes it has."""
        return self.count * np.dtype(DTYPES[self.kind]).itemsize


class StoredTensor:
    """A tensor: a part of a storage."""

    def __init__(self, storage, offset, shape, strides):
        self.storage, self.kind, self.offset = storage, storage.kind, offset
        self.shape, self.strides = tuple(shape), tuple(strides)

    def __setstate__(self, state):
        pass

    def value(self, order, bfloat16):
        """The array, which shares its memory with others of the storage; or what a function makes of a float32 one."""
        dtype = np.dtype(DTYPES[self.kind]).newbyteorder(order)
        whole = np.frombuffer(self.storage.raw, dtype)[self.offset :]
        count = 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if min((self.offset, *self.shape, *self.strides)) < 0 or (0 not in self.shape and count > len(whole)):
            raise pickle.UnpicklingError(f"a tensor of shape {self.shape} in a storage of {len(whole)} numbers")
        if 0 in self.shape:
            found = np.empty(self.shape, dtype)
        else:
            strides = [stride * dtype.itemsize for stride in self.strides]
            found = np.lib.stride_tricks.as_strided(whole, self.shape, strides)
        found = found.astype(dtype.newbyteorder("="), copy=False)
        if self.kind != "BFloat16":
            return found
        return bfloat16(np.left_shift(found, np.uint32(16), dtype=np.uint32).view(np.float32))


class _Function:
    """A function that a pickle may call, and may not give attributes to."""

    def __init__(self, function):
        self._function = function

    def __call__(self, *args):
        return self._function(*args)

    def __setstate__(self, state):
        raise pickle.UnpicklingError("a function that is changed")


@_Function
def _tensor(storage, offset, shape, strides, *_):
    if isinstance(storage, Unread):
        return unread(f"{_OF}{storage.name}")()
    return StoredTensor(storage, offset, shape, strides)


@_Function
def _tensor_of_dtype(storage, offset, shape, strides, _, __, dtype, *___):
    """A tensor of a dtype that came after the storages that are called by theirs."""
    kind = dtype.name.removeprefix("torch.")
    if kind not in DTYPES:
        return unread(f"{_OF}{dtype.name}")()
    tensor = StoredTensor(storage, offset, shape, strides)
    tensor.kind = kind
    return tensor


@_Function
def _number(dtype, raw):
    found = dtype.read(raw) if isinstance(dtype, Dtype) else None
    return unread("numpy.generic")(raw) if found is None else found[0]


@_Function
def _array(*what):
    return Array().fill(*what)


@_Function
def _of_type(function, _, args, __):
    return function(*args)


@_Function
def _encoded(text, encoding):
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in {encoding}")
    return text.encode("latin1")


@_Function
def _path(*parts):
    return str(Path(*parts))


@_Function
def _first(value, *_):
    return value


@_Function
def _member(owner, *names):
    """What Python 3.11 before 3.11.4 makes of a choice of an enum: it is none that is read, of that class."""
    known = isinstance(owner, type) and issubclass(owner, Unread)
    return owner(*names) if known else unread("builtins.getattr")(owner, *names)


# What names stand for.
KNOWN: dict[tuple[str, str], Callable] = {
    ("builtins", "getattr"): _member,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_dtype,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): Items,
    ("collections", "defaultdict"): Items,
    ("collections", "Counter"): Items,
    ("argparse", "Namespace"): Fields,
    ("types", "SimpleNamespace"): Fields,
    ("datetime", "datetime"): datetime.datetime,
    ("datetime", "date"): datetime.date,
    ("datetime", "timedelta"): datetime.timedelta,
    ("_codecs", "encode"): _encoded,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "complex"): complex,
    ("numpy", "dtype"): Dtype,
    ("numpy", "ndarray"): Array,
}
for _core in ("numpy.core", "numpy._core"):
    KNOWN[f"{_core}.multiarray", "scalar"] = _number
    KNOWN[f"{_core}.multiarray", "_reconstruct"] = Array
    KNOWN[f"{_core}.numeric", "_frombuffer"] = _array
for _home in ("pathlib", "pathlib._local"):
    KNOWN |= {(_home, f"{kind}Path"): _path for kind in ("", "Posix", "Windows", "Pure", "PurePosix", "PureWindows")}
