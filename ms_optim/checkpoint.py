"""Saving so that nothing is lost, and restoring into cells that may have compiled."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

FORMATS = (".ckpt", ".safetensors")


def save(cell: nn.Cell, file: str | os.PathLike):
    """Write every Parameter of a network, an optimizer or a training cell into a checkpoint.

    The file is the whole new checkpoint or, whenever the process or the machine stops, the one that was there before.

    Args:
        cell (Cell): What is saved, by the names of its Parameters.
        file (Union[str, PathLike]): Ends in ".ckpt" or ".safetensors". Its folder must be there.

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
        raise ValueError(f"For 'save', the Parameters of 'cell' must have different names, but got {twice} more than "
                         "once.")
    with replacing(path) as written:
        # A list, because a Cell is saved with what its own `state_dict` gives.
        ms.save_checkpoint([{"name": param.name, "data": param} for param in cell.get_parameters()], str(written),
                           format=path.suffix[1:])


@contextlib.contextmanager
def replacing(file: str | os.PathLike) -> Iterator[Path]:
    """Where to write what then, whole and on the disk, takes the place of a file; unless an exception was raised."""
    path = Path(file)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        written = Path(folder, path.name)
        yield written
        _to_disk(written)
        os.replace(written, path)
    _to_disk(path.parent)


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
        ValueError: If a Parameter has no value, or one of another shape or dtype. Nothing is written then.

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
        parameters = ms.load_checkpoint(str(parameters), format=suffix[1:])
    if not isinstance(parameters, Mapping):
        raise TypeError("For 'restore', 'parameters' must map names to Tensors or be a file, but got "
                        f"{type(parameters).__name__}.")
    wanted = {param.name: param for param in cell.get_parameters()}
    missing = sorted(wanted.keys() - parameters.keys())
    if missing:
        raise ValueError(f"For 'restore', 'parameters' must hold a value for each Parameter, but lacks {missing}.")
    for name, param in wanted.items():
        value = parameters[name]
        if not isinstance(value, Tensor):
            raise TypeError(f"For 'restore', '{name}' must be a Tensor, but got {type(value).__name__}.")
        if (value.shape, value.dtype) != (param.shape, param.dtype):
            raise ValueError(f"For 'restore', '{name}' must be {param.dtype} of shape {param.shape}, but got "
                             f"{value.dtype} of shape {value.shape}.")
    for name, param in wanted.items():
        assign(param, parameters[name])
    return [name for name in parameters if name not in wanted]


def assign(param: Parameter, value: Tensor):
    """Write into the buffer of a Parameter, which a step that has compiled goes on reading."""
    if param.dtype == ms.bfloat16:  # for which `assign` has no kernel on CPU
        param.copy_(value)
    else:
        ops.assign(param, value)
