"""Files of torch read without torch: tensors, numbers and containers, and nothing that a file contains is run.

A pickle holds all but the numbers of tensors, which lie beside it in a zip, and behind it in files of torch before 1.6.
"""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ms_optim._files import ZIP
from ms_optim.convert.stand_ins import DTYPES, KNOWN, Array, Storage, StoredTensor, Unread, unread

# Of the format that is no zip.
VERSION = 1001


class _Unpickler(pickle.Unpickler):
    """Makes what is known, and has the storages by their keys."""

    def __init__(self, file):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module, name):
        """What a name stands for."""
        module = {"__builtin__": "builtins"}.get(module, module)  # as pickles that Python 2 can read have it
        return KNOWN.get((module, name)) or unread(f"{module}.{name}")

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
        return self.storages.setdefault(str(key), Storage(kind, count))


def read(path: Path, bfloat16: Callable[[np.ndarray], Any]) -> Any:
    """What `torch.save` has written: numbers, strings and containers, arrays, and `Unread` objects.

    A module is its state dict.

    Args:
        path: The file.
        bfloat16: What makes a tensor of bfloat16, which NumPy has not, of the same numbers in float32.

    Raises:
        OSError: If the file cannot be read.
        Exception: As zip and pickle raise, if it is damaged.
    """
    with path.open("rb") as file:
        begins = file.read(len(ZIP))
        file.seek(0)
        root, order = _from_zip(file) if begins == ZIP else _from_pickles(file)
    return _Plain(order, bfloat16).of(root)


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

    def __init__(self, order, bfloat16):
        self.order, self.bfloat16, self._made = order, bfloat16, {}

    def of(self, value):
        """The plain data of a value."""
        if isinstance(value, (str, int, float, bytes, type(None))):
            return value
        if id(value) not in self._made:
            self._made[id(value)] = (value, value)  # the first keeps the id its own
            self._made[id(value)] = (value, self._of(value))
        return self._made[id(value)][1]

    def _of(self, value):
        if isinstance(value, StoredTensor):
            return value.value(self.order, self.bfloat16)
        if isinstance(value, Array):
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
