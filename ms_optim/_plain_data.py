"""What a checkpoint holds beside Parameters: plain data and state dicts, as JSON, and the arrays in them as tensors."""

import json
from collections.abc import Mapping
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from ms_optim._values import LIST, as_array

# The entry of a file that has the data as JSON in bytes; those that begin so have the arrays.
ENTRY, ARRAYS = "ms_optim.also", "ms_optim.also."


def as_json(what: Any) -> Tensor:
    """JSON as a tensor of bytes, which any checkpoint can hold."""
    return Tensor(np.frombuffer(json.dumps(what).encode(), np.uint8))


def from_json(entry: Tensor) -> Any:
    """What `as_json` was given."""
    return json.loads(entry.asnumpy().tobytes())


def encoded(owner: str, given: Mapping[str, Any]) -> dict[str, Tensor]:
    """The entries that hold values, or the state dicts of what has such, by name.

    Raises:
        TypeError: If a name is no text, or a value has no state dict and is not plain data: None, numbers, text, arrays
            and Tensors, and lists, tuples and mappings of these.
        ValueError: If an array is not of real numbers.
    """
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise TypeError(f"For '{owner}', 'also' must map names to values, but got {given!r}.")
    arrays: dict[str, Tensor] = {}

    def encode(value, path):
        if isinstance(value, np.generic):
            value = value.item()
        if hasattr(value, "load_state_dict"):
            return {"state": encode(value.state_dict(), path)}
        if value is None or isinstance(value, (bool, str)) or type(value) in (int, float):
            return value
        if isinstance(value, LIST):
            items = [encode(item, f"{path}[{i}]") for i, item in enumerate(value)]
            return {"list" if isinstance(value, list) else "tuple": items}
        if isinstance(value, Mapping):
            return {"dict": [[encode(key, path), encode(item, f"{path}.{key}")] for key, item in value.items()]}
        if not hasattr(value, "dtype"):
            raise TypeError(
                f"For '{owner}', '{path}' of 'also' must be plain data, or have a state dict, but got "
                f"{type(value).__name__}."
            )
        name = f"{ARRAYS}{len(arrays)}"
        kind = "tensor" if isinstance(value, Tensor) else "array"
        array = as_array(value, f"For '{owner}', '{path}' of 'also'")
        if array.size:  # MindSpore reads no empty tensor from a .ckpt
            arrays[name] = Tensor(np.ascontiguousarray(array).reshape(-1))
        return {kind: [name, list(array.shape), str(value.dtype) if kind == "tensor" else str(array.dtype)]}

    described = {name: encode(value, name) for name, value in given.items()}
    return {ENTRY: as_json(described), **arrays}


class Saved(dict):
    """A state dict that was saved for something that has such."""


def decoded(entries: Mapping[str, Tensor]) -> dict[str, Any]:
    """What `encoded` was given, by name; a `Saved` for what had a state dict."""

    def decode(value):
        if not isinstance(value, dict):
            return value
        ((kind, inner),) = value.items()
        if kind == "state":
            return Saved(decode(inner))
        if kind in ("list", "tuple"):
            items = [decode(item) for item in inner]
            return items if kind == "list" else tuple(items)
        if kind == "dict":
            return {decode(key): decode(item) for key, item in inner}
        name, shape, dtype = inner
        array = entries[name].asnumpy().reshape(shape) if 0 not in shape else np.zeros(shape, np.float32)
        return array.astype(dtype) if kind == "array" else Tensor(array, getattr(ms, dtype.lower()))

    return {name: decode(value) for name, value in from_json(entries[ENTRY]).items()} if ENTRY in entries else {}


def is_plain_data(name: str) -> bool:
    """Whether an entry is of these."""
    return name == ENTRY or name.startswith(ARRAYS)
