"""Files of torch read without torch: tensors, numbers and containers, and nothing that a file contains is run.

A pickle names functions and classes, and has them called. Here a name stands for what is in `_KNOWN`, exactly, all of
which only makes data; every other name stands for a class of `Unread`, which takes whatever a pickle does to it and
does nothing. The numbers of tensors lie beside the pickle in a zip, and behind it in files of torch before 1.6.
"""

import datetime
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

# Of the format that is no zip.
VERSION = 1001
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


class _Fields(dict):
    """What an object is that has attributes and nothing else."""

    def __init__(self, *args):
        super().__init__(*(arg for arg in args if isinstance(arg, Mapping)))

    def __setstate__(self, state):
        self.update(state)


class _Items(dict):
    """A dict of another class; the attributes that it may have, such as the versions of layers, are no items."""

    def __init__(self, *args):
        super().__init__(*(arg for arg in args if isinstance(arg, (Mapping, list, tuple))))

    def __setstate__(self, state):
        pass


class _Dtype:
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


class _Array:
    """An array of NumPy."""

    def __init__(self, *_):
        self.value = None

    def __setstate__(self, state):
        _, shape, dtype, fortran, raw = state
        self.fill(raw, dtype, shape, "F" if fortran else "C")

    def fill(self, raw, dtype, shape, order):
        """Take the numbers."""
        found = dtype.read(raw) if isinstance(dtype, _Dtype) else None
        self.value = unread("numpy.ndarray")(raw) if found is None else found.reshape(shape, order=order)
        return self


class _Storage:
    """The numbers of tensors, which come when the pickle has been read."""

    def __init__(self, kind, count):
        self.kind, self.count, self.raw = kind, count, bytearray()

    @property
    def size(self):
        """How many bytes it has."""
        return self.count * np.dtype(DTYPES[self.kind]).itemsize


class _Tensor:
    """A tensor: a part of a storage."""

    def __init__(self, storage, offset, shape, strides):
        self.storage, self.kind, self.offset = storage, storage.kind, offset
        self.shape, self.strides = tuple(shape), tuple(strides)

    def __setstate__(self, state):
        pass

    def value(self, order):
        """The array, which shares its memory with others of the storage; a Tensor where NumPy has no such dtype."""
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
        wide = np.left_shift(found, np.uint32(16), dtype=np.uint32)
        return Tensor(wide.view(np.float32), ms.bfloat16)


def _tensor(storage, offset, shape, strides, *_):
    if isinstance(storage, Unread):
        return unread(f"{_OF}{storage.name}")()
    return _Tensor(storage, offset, shape, strides)


def _tensor_of_dtype(storage, offset, shape, strides, _, __, dtype, *___):
    """A tensor of a dtype that came after the storages that are called by theirs."""
    kind = dtype.name.removeprefix("torch.")
    if kind not in DTYPES:
        return unread(f"{_OF}{dtype.name}")()
    tensor = _Tensor(storage, offset, shape, strides)
    tensor.kind = kind
    return tensor


def _number(dtype, raw):
    found = dtype.read(raw) if isinstance(dtype, _Dtype) else None
    return unread("numpy.generic")(raw) if found is None else found[0]


def _encoded(text, encoding):
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in {encoding}")
    return text.encode("latin1")


def _path(*parts):
    return str(Path(*parts))


def _first(value, *_):
    return value


# What names stand for.
_KNOWN: dict[tuple[str, str], Callable] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_dtype,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): lambda function, _, args, __: function(*args),
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): _Items,
    ("collections", "defaultdict"): _Items,
    ("collections", "Counter"): _Items,
    ("argparse", "Namespace"): _Fields,
    ("types", "SimpleNamespace"): _Fields,
    ("datetime", "datetime"): datetime.datetime,
    ("datetime", "date"): datetime.date,
    ("datetime", "timedelta"): datetime.timedelta,
    ("_codecs", "encode"): _encoded,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "complex"): complex,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
}
for _core in ("numpy.core", "numpy._core"):
    _KNOWN[f"{_core}.multiarray", "scalar"] = _number
    _KNOWN[f"{_core}.multiarray", "_reconstruct"] = _Array
    _KNOWN[f"{_core}.numeric", "_frombuffer"] = lambda *what: _Array().fill(*what)
for _home in ("pathlib", "pathlib._local"):
    _KNOWN |= {(_home, f"{kind}Path"): _path for kind in ("", "Posix", "Windows", "Pure", "PurePosix", "PureWindows")}


class _Unpickler(pickle.Unpickler):
    """Makes what is known, and has the storages by their keys."""

    def __init__(self, file):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module, name):
        """What a name stands for."""
        module = {"__builtin__": "builtins"}.get(module, module)  # as pickles that Python 2 can read have it
        return _KNOWN.get((module, name)) or unread(f"{module}.{name}")

    def persistent_load(self, pid):
        """The storage of tensors; files before torch 1.6 have classes of modules too."""
        if pid[0] == "module":
            return pid[1]
        what, dtype, key, _, count, *view = pid
        kind = dtype.name.rpartition(".")[2].removesuffix("Storage")
        if what != "storage" or any(view):
            raise pickle.UnpicklingError(f"a {what} of {dtype.name}{' in another' if any(view) else ''}")
        if kind not in DTYPES:
            return dtype()
        return self.storages.setdefault(str(key), _Storage(kind, count))


def read(path: Path) -> Any:
    """What `torch.save` has written: numbers, strings and containers, arrays, and `Unread` objects.

    A module is its state dict. bfloat16 is a Tensor of MindSpore, because NumPy has none.

    Raises:
        OSError: If the file cannot be read.
        Exception: As zip and pickle raise, if it is damaged.
    """
    with path.open("rb") as file:
        root, order = _from_zip(file) if zipfile.is_zipfile(file) else _from_pickles(file)
    return _Plain(order).of(root)


def _from_zip(file):
    with zipfile.ZipFile(file) as members:
        (pickled,) = (name for name in members.namelist() if name.endswith("/data.pkl"))
        home = pickled.removesuffix("data.pkl")
        if f"{home}constants.pkl" in members.namelist():
            raise pickle.UnpicklingError("a module of TorchScript")
        compressed = [member.filename for member in members.infolist() if member.compress_type != zipfile.ZIP_STORED]
        if compressed:
            raise pickle.UnpicklingError(f"{compressed[0]!r} that is compressed")
        for member in members.infolist():
            member.CRC = member.CRC or None  # which torch can be told not to compute
        order = members.read(f"{home}byteorder") if f"{home}byteorder" in members.namelist() else b"little"
        with members.open(pickled) as content:
            unpickler = _Unpickler(content)
            root = unpickler.load()
        for key, storage in unpickler.storages.items():
            storage.raw = bytearray(members.read(f"{home}data/{key}"))
    return root, ">" if order == b"big" else "<"


def _from_pickles(file):
    file.seek(0)
    _, version, machine = (_Unpickler(file).load() for _ in range(3))
    if version != VERSION:
        raise pickle.UnpicklingError(f"version {version!r} of the format")
    unpickler = _Unpickler(file)
    root = unpickler.load()
    order = "<" if machine.get("little_endian", True) else ">"
    for key in _Unpickler(file).load():
        if key not in unpickler.storages:
            raise pickle.UnpicklingError("tensors of a kind whose size is not known")
        storage = unpickler.storages[key]
        count = int(np.frombuffer(file.read(8), f"{order}i8")[0])
        if count != storage.count:
            raise pickle.UnpicklingError(f"a storage of {count} and not {storage.count} numbers")
        storage.raw = bytearray(file.read(storage.size))
    return root, order


class _Plain:
    """Makes plain data of what a pickle has made; what occurs twice, or in itself, is made once."""

    def __init__(self, order):
        self.order, self._made = order, {}

    def of(self, value):
        """The plain data of a value."""
        if isinstance(value, (str, int, float, bytes, type(None))):
            return value
        if id(value) not in self._made:
            self._made[id(value)] = (value, value)  # the first keeps the id its own
            self._made[id(value)] = (value, self._of(value))
        return self._made[id(value)][1]

    def _of(self, value):
        if isinstance(value, _Tensor):
            return value.value(self.order)
        if isinstance(value, _Array):
            return value.value
        if isinstance(value, np.generic):
            return value.item() if value.dtype.kind in "biuf" else value
        if isinstance(value, type):  # a class or a function itself
            return value()
        if isinstance(value, dict):
            return self._fill(value, {}, lambda made: made.update({key: self.of(item) for key, item in value.items()}))
        if isinstance(value, list):
            return self._fill(value, [], lambda made: made.extend(map(self.of, value)))
        if isinstance(value, tuple):
            return tuple(map(self.of, value))
        if isinstance(value, Unread):
            if _is_module(value):
                return self.of(_state_dict(value))
            value.given = [self.of(given) for given in value.given]
        return value

    def _fill(self, value, made, fill):
        """Make a container that may hold itself."""
        self._made[id(value)] = (value, made)
        fill(made)
        return made


def _is_module(value):
    """Whether it is a module of torch, by its attributes."""
    state = value.given[-1] if isinstance(value, Unread) and value.given else None
    return isinstance(state, dict) and {"_parameters", "_buffers", "_modules"} <= state.keys()


def _state_dict(module, prefix="", around=()):
    """The names and tensors of a module, from its attributes."""
    state, found = module.given[-1], {}
    unsaved = state.get("_non_persistent_buffers_set", ())
    for kind in ("_parameters", "_buffers"):
        for name, value in state[kind].items():
            if value is not None and (kind == "_parameters" or name not in unsaved):
                found[prefix + name] = value
    for name, inner in state["_modules"].items():
        if _is_module(inner) and inner not in around:
            found |= _state_dict(inner, f"{prefix}{name}.", (*around, module))
    return found
