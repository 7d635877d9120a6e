"""Saving so that nothing is lost, and restoring into cells that may have compiled."""

import contextlib
import fcntl
import glob
import itertools
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import mindspore as ms
from mindspore import Tensor, nn
from mindspore.train.checkpoint_pb2 import Checkpoint

from ms_optim._values import write

FORMATS = (".ckpt", ".safetensors")


def save(cell: nn.Cell, file: str | os.PathLike):
    """Write every Parameter of a network, an optimizer or a training cell into a checkpoint.

    The file is the whole new checkpoint or, whenever the process or the machine stops, the one that was there before.
    What is written until then is in a hidden folder beside it; the next `save` removes what a killed process has left.

    Args:
        cell (Cell): What is saved, by the names of its Parameters.
        file (Union[str, PathLike]): Ends in ".ckpt" or ".safetensors". Its folder must be there. If it is a link, the
            file that the link names is written.

    Raises:
        TypeError: If `cell` is not a Cell.
        ValueError: If two Parameters have one name, or `file` ends otherwise.
        OSError: If the file cannot be written.

    Examples:
        >>> import tempfile
        >>> import ms_optim
        >>> from mindspore import nn
        >>> net = nn.Dense(2, 3)
        >>> optimizer = ms_optim.Adam(net.trainable_params())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ms_optim.save(optimizer, folder + "/step-100.ckpt")
        ...     ms_optim.restore(optimizer, folder + "/step-100.ckpt")
        []
    """
    if not isinstance(cell, nn.Cell):
        raise TypeError(f"For 'save', 'cell' must be a Cell, but got {type(cell).__name__}.")
    path = Path(file)
    if path.suffix not in FORMATS:
        raise ValueError(f"For 'save', 'file' must end in one of {FORMATS}, but got {str(file)!r}.")
    names = [param.name for param in cell.get_parameters()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"For 'save', the Parameters of 'cell' must have different names, but got {twice} more than once."
        )
    with replacing(path) as written:
        # A list, because a Cell is saved with what its own `state_dict` gives.
        ms.save_checkpoint(
            [{"name": param.name, "data": param} for param in cell.get_parameters()],
            str(written),
            format=path.suffix[1:],
        )


@contextlib.contextmanager
def replacing(file: str | os.PathLike) -> Iterator[Path]:
    """Where to write what then, whole and on the disk, takes the place of a file; unless an exception was raised."""
    path = Path(os.path.realpath(file))
    prefix = f".{path.name}-saving-"
    for left in path.parent.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(OSError), _lock(left, fcntl.LOCK_EX | fcntl.LOCK_NB):
            shutil.rmtree(left)
    with _own_folder(path.parent, prefix) as folder:
        written = Path(folder, Path(file).name)
        yield written
        _to_disk(written)
        os.replace(written, path)
    _to_disk(path.parent)


@contextlib.contextmanager
def _own_folder(parent, prefix):
    """A new folder for a while, locked as long as this process lives: by that others know that it is in use."""
    while True:
        with tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as folder, contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):  # a file system without locks, where no one removes what is left
                held.enter_context(_lock(folder, fcntl.LOCK_EX))
            if os.path.exists(folder):  # unless another has removed it before it was locked
                yield folder
                return


@contextlib.contextmanager
def _lock(folder, how):
    """Hold the lock of a folder, or raise OSError."""
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, how)
        yield
    finally:
        os.close(number)


def _to_disk(path):
    """Wait until a file or a folder is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def restore(cell: nn.Cell, parameters: Mapping[str, Tensor] | str | os.PathLike) -> list[str]:
    """Give a network, an optimizer or a training cell the values of a checkpoint, at any time.

    `mindspore.load_param_into_net` replaces buffers that a step which has compiled goes on reading: the values it shows
    afterwards are not those that the step uses. This writes into the buffers.

    Args:
        cell (Cell): Every one of its Parameters gets a value.
        parameters (Union[Mapping[str, Tensor], str, PathLike]): Values by name, as `mindspore.load_checkpoint` returns
            them, of the shapes and dtypes of the Parameters; or the file that holds them.

    Returns:
        list[str], the names that the cell does not have.

    Raises:
        TypeError: If `cell` is not a Cell, `parameters` not a mapping or a value not a Tensor.
        ValueError: If a Parameter has no value, or one of another shape or dtype, or the file is damaged. Nothing is
            written then.
        OSError: If the file cannot be read.

    Examples:
        >>> import mindspore as ms
        >>> import ms_optim
        >>> from mindspore import nn
        >>> net = nn.Dense(2, 3)
        >>> optimizer = ms_optim.SGD(net.trainable_params(), lr=0.1, momentum=0.9)
        >>> saved = {name: param.copy() for name, param in optimizer.parameters_dict().items()}
        >>> ms_optim.restore(optimizer, saved)
        []
    """
    if not isinstance(cell, nn.Cell):
        raise TypeError(f"For 'restore', 'cell' must be a Cell, but got {type(cell).__name__}.")
    if isinstance(parameters, (str, os.PathLike)):
        suffix = Path(parameters).suffix
        if suffix not in FORMATS:
            raise ValueError(f"For 'restore', a file must end in one of {FORMATS}, but got {str(parameters)!r}.")
        parameters = read("restore", parameters)
    if not isinstance(parameters, Mapping):
        raise TypeError(
            f"For 'restore', 'parameters' must map names to Tensors or be a file, but got {type(parameters).__name__}."
        )
    wanted = {param.name: param for param in cell.get_parameters()}
    missing = sorted(wanted.keys() - parameters.keys())
    if missing:
        raise ValueError(f"For 'restore', 'parameters' must hold a value for each Parameter, but lacks {missing}.")
    for name, param in wanted.items():
        value = parameters[name]
        if not isinstance(value, Tensor):
            raise TypeError(f"For 'restore', '{name}' must be a Tensor, but got {type(value).__name__}.")
        if (value.shape, value.dtype) != (param.shape, param.dtype):
            raise ValueError(
                f"For 'restore', '{name}' must be {param.dtype} of shape {param.shape}, but got "
                f"{value.dtype} of shape {value.shape}."
            )
    for name, param in wanted.items():
        write(param, parameters[name])
    return [name for name in parameters if name not in wanted]


def read(owner: str, file: str | os.PathLike) -> dict:
    """What a checkpoint of MindSpore holds, by name; if it is damaged, a ValueError that names it."""
    path = Path(file)
    with path.open("rb"):
        pass
    try:
        if path.suffix == ".ckpt":
            _check_lengths(path.read_bytes())
        return ms.load_checkpoint(str(path), format=path.suffix[1:])
    except OSError:
        raise
    except Exception as error:
        raise damaged(owner, path, error) from error


def _check_lengths(content):
    """Raise if a tensor of a .ckpt has not the bytes that its shape and dtype say: MindSpore copies them unchecked."""
    records = Checkpoint.FromString(content[:-17] if content[-17:-10] == b"crc_num" else content).value
    for name, parts in itertools.groupby(records, key=lambda record: record.tag):  # a large tensor is in parts
        parts = list(parts)
        tensor, count = parts[-1].tensor, sum(len(part.tensor.tensor_content) for part in parts)
        dims = [] if tensor.dims == [0] else tensor.dims
        wanted = math.prod(dims) * max(1, int(re.sub(r"\D", "", tensor.tensor_type) or 8) // 8)
        fits = (count == wanted and min(dims, default=0) >= 0) or tensor.tensor_type in ("", "str")
        if not fits or len({part.HasField("tensor") for part in parts}) > 1:
            raise ValueError(f"{count} bytes for '{name}', {tensor.tensor_type} of shape {tuple(dims)}")


def damaged(owner: str, path: Path, error: Exception) -> ValueError:
    """What to raise where another package could not read a file: each has its own kind of error."""
    return ValueError(
        f"For '{owner}', '{path}' must be a whole checkpoint, but got {type(error).__name__}: "
        f"{str(error).strip().partition(chr(10))[0]}"
    )
