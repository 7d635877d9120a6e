"""Checkpoint files of torch and MindSpore, and the same numbers as tensors of either."""

import errno
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from ms_optim._files import kind_of, path_of, replacing
from ms_optim._values import as_array
from ms_optim.checkpoint import damaged, read_checkpoint
from ms_optim.convert.pickles import read

# Whose a file is that is written, by how its name ends.
FORMATS = {".pt": "torch", ".pth": "torch", ".bin": "torch", ".ckpt": "MindSpore", ".safetensors": "safetensors"}


def torch_package() -> Any:
    """The package, which only what is made for torch needs."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise ImportError(f"For 'convert', what is made for torch needs the package torch, but {error}.") from error


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

    Whose it is shows in its first bytes, whatever its name ends in. No torch is needed, and nothing that a file
    contains is run: an `argparse.Namespace` and the like are dicts of what they hold, a pickled module is its state
    dict, and an object of any other class is an `Unread`, with the `name` of its class and, in `given`, what it was
    made of. A file of `mindspore.save_checkpoint` does not say how many tensors it has: one that is cut off between two
    of them has fewer, which `restore` and `to_mindspore` then miss.

    Args:
        file (Union[str, PathLike]): Of `torch.save` (".pt", ".pth", ".bin", or Lightning's ".ckpt"), of
            `mindspore.save_checkpoint`, or of safetensors.

    Returns:
        dict, what the file holds, by name.

    Raises:
        TypeError: If `file` is no path.
        ValueError: If the file is none of these, is damaged, or is no mapping.
        OSError: If it cannot be read.
    """
    path = path_of("load", file)
    if kind_of("load", path) == "torch":
        return _of_torch(path, lambda wide: wide)
    try:
        found = read_checkpoint("load", path)
        return {name: array(value, name) if isinstance(value, Tensor) else value for name, value in found.items()}
    except ValueError as error:
        raise ValueError(f"For 'load', '{path}' must hold only tensors of real numbers, but got: {error}") from error


def read_tensors(file: str | os.PathLike) -> Mapping:
    """What `load` reads, with the dtypes of the file: a bfloat16 is a Tensor."""
    path = path_of("load", file)
    if kind_of("load", path) == "torch":
        return _of_torch(path, lambda wide: Tensor(wide, ms.bfloat16))
    return read_checkpoint("load", path)


def _of_torch(path, bfloat16):
    try:
        found = read(path, bfloat16)
    except Exception as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a place in the file that is none
            raise
        raise damaged("load", path, error) from error
    if not isinstance(found, Mapping):
        raise ValueError(f"For 'load', '{path}' must hold a mapping by name, but got {type(found).__name__}.")
    return found


def write_torch(content: Mapping, file: str | os.PathLike) -> None:
    """Write what holds tensors of torch, such as state dicts by name, for `torch.load`."""
    with replacing(file) as path:
        torch_package().save(content, path)


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
