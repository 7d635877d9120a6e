"""Checkpoint files of torch and MindSpore, and the same numbers as tensors of either."""

import importlib
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from ms_optim._files import replacing
from ms_optim._values import as_array
from ms_optim.checkpoint import damaged, read_checkpoint

# Whose a file is, by how it ends.
FORMATS = {".pt": "torch", ".pth": "torch", ".ckpt": "MindSpore", ".safetensors": "either"}


def torch_package() -> Any:
    """The package, which only files and tensors of torch need."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise ImportError(f"For 'convert', files and tensors of torch need the package torch, but {error}.") from error


def array(value: Any, name: str = "a value") -> np.ndarray:
    """The numbers of a tensor of either framework; bfloat16 as float32."""
    return as_array(value, f"For 'convert', '{name}'")


def dtype_of(value: Any) -> str:
    """The name of a dtype of either framework or of NumPy."""
    return str(value.dtype).rpartition(".")[2].lower()


def same(one: Any, other: Any) -> bool:
    """Whether they hold the same numbers; NaN is NaN."""
    one, other = array(one), array(other)
    if one.dtype.kind != other.dtype.kind:  # NumPy would compare an integer as the float64 nearest to it
        one, other = one.astype(object), other.astype(object)
    return np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")


def ms_tensor(values: np.ndarray, dtype: ms.Type, name: str) -> Tensor:
    """A Tensor of MindSpore that holds the very numbers."""
    tensor = Tensor(np.ascontiguousarray(values).reshape(values.shape), dtype)
    if not same(tensor, values):
        raise ValueError(
            f"For 'to_mindspore', {dtype} must hold the numbers of '{name}' exactly, but they are "
            f"{values.dtype} and would be rounded."
        )
    return tensor


def torch_tensor(values: np.ndarray, dtype: str, exactly: bool = True) -> Any:
    """A tensor of torch that holds the numbers."""
    torch = torch_package()
    tensor = torch.from_numpy(np.array(values)).to(getattr(torch, dtype))
    if exactly and not same(tensor, values):
        raise ValueError(
            f"For 'to_torch', {dtype} must hold the numbers exactly, but they are {values.dtype} and would be rounded."
        )
    return tensor


def load(file: str | os.PathLike) -> dict:
    """Read a checkpoint as numpy arrays and plain dicts, lists and numbers; bfloat16 as float32, which is exact.

    Nothing that a file contains is run. A ".ckpt" does not say how many tensors it has: one that is cut off between two
    of them has fewer, which `restore` and `to_mindspore` then miss.

    Args:
        file (Union[str, PathLike]): Ends in ".pt" or ".pth" (torch.save), ".ckpt" (mindspore.save_checkpoint) or
            ".safetensors".

    Returns:
        dict, what the file holds, by name.

    Raises:
        ValueError: If the file ends otherwise, holds code or anything but tensors, numbers and containers, is damaged,
            or is no mapping.
        OSError: If it cannot be read.
        ImportError: If it is torch's and there is no torch.
    """
    found = read_tensors(file)
    try:
        return _as_arrays(found)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"For 'load', '{file}' must hold only dense tensors, numbers and containers, but got: {error}"
        ) from error


def _as_arrays(value, name=""):
    if isinstance(value, Mapping):
        return {key: _as_arrays(item, f"{name}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_as_arrays(item, f"{name}[{i}]") for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    return array(value, name) if hasattr(value, "dtype") else value


def read_tensors(file: str | os.PathLike) -> Mapping:
    """What `load` reads, as the tensors of whoever reads it, which have its dtypes."""
    path = Path(file)
    if path.suffix not in FORMATS:
        raise ValueError(f"For 'load', 'file' must end in one of {(*FORMATS,)}, but got {str(path)!r}.")
    if FORMATS[path.suffix] != "torch":
        return read_checkpoint("load", path)
    load_torch = torch_package().load
    try:
        found = load_torch(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next(
            (line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "WeightsUnpickler error" in line),
            "no checkpoint of torch",
        )
        raise ValueError(
            f"For 'load', '{path}' must hold only tensors, numbers and containers, and nothing else in it "
            f"was run, but got: {reason}"
        ) from None
    except OSError:
        raise
    except Exception as error:
        raise damaged("load", path, error) from error
    if not isinstance(found, Mapping):
        raise ValueError(f"For 'load', '{path}' must hold a mapping by name, but got {type(found).__name__}.")
    return found


def write_tensors(values: Mapping, file: str | os.PathLike) -> None:
    """Write tensors of either framework by name, with their dtypes; a file that would not hold them is not written."""
    suffix = Path(file).suffix
    with replacing(file) as path:
        if FORMATS[suffix] == "torch":
            torch_package().save(
                {name: torch_tensor(array(value), dtype_of(value)) for name, value in values.items()}, path
            )
        else:
            ms.save_checkpoint(
                [
                    {"name": name, "data": ms_tensor(array(value), getattr(ms, dtype_of(value)), name)}
                    for name, value in values.items()
                ],
                str(path),
                format=suffix[1:],
            )
        lost = sorted(values.keys() - read_tensors(path).keys())  # MindSpore reads no empty tensor from a .ckpt
        if lost:
            raise ValueError(f"For 'convert', '{file}' must hold all tensors, but MindSpore finds no {lost} in it.")
