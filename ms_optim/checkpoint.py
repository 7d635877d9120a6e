"""Saving so that nothing is lost, and restoring into cells that may have compiled."""

import itertools
import math
import os
import re
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, log, nn
from mindspore.train.checkpoint_pb2 import Checkpoint
from mindspore.train.serialization import tensor_to_ms_type
from safetensors import safe_open

from ms_optim._files import kind_of, path_of, replacing
from ms_optim._plain_data import as_json, encoded, from_json, is_plain_data
from ms_optim._slices import SLICES, about, files_beside, fitting, merged, own_file, taken_early, why_unfit
from ms_optim._state import Swappable
from ms_optim._values import as_it_is, repeated, write
from ms_optim.optimizer import Optimizer

FORMATS = (".ckpt", ".safetensors")
# The entry of a file that says, as JSON in bytes, which class wrote the state of each optimizer; it goes by the name of
# its global step.
WRITERS = "ms_optim.writers"
# The entry that has, as JSON in bytes, the CRC-32 of the bytes of each other one by its name.
CHECKSUMS = "ms_optim.checksums"


def save(cell: nn.Cell, file: str | os.PathLike, also: Mapping[str, Any] | None = None) -> None:
    """Write every Parameter of a network, an optimizer or a training cell into a checkpoint.

    The file is the whole new checkpoint or, whenever the process or the machine stops, the one that was there before.
    What is written until then is in a hidden folder beside it; the next `save` removes what a killed process has left.
    Where tensors are sliced over devices, in semi_auto_parallel and auto_parallel, each device writes its slices into a
    file of its own, with its rank in the name ("step-100.rank_3.ckpt" for "step-100.ckpt"), which also has the place of
    each slice, if `cell` is the one that was compiled or holds it: `restore` merges them then.
    A file has two entries more: "ms_optim.writers" says which class wrote the state of an optimizer, and
    "ms_optim.checksums" has a checksum of each tensor, which `restore` compares. ".safetensors" is the faster format.

    Args:
        cell (Cell): What is saved, by the names of its Parameters; state of an optimizer by the name that its parameter
            has now, though a Cell has been put around the network since.
        file (Union[str, PathLike]): Ends in ".ckpt" or ".safetensors". Its folder must be there. If it is a link, the
            file that the link names is written.
        also (Mapping[str, Any]): What a loop needs besides, for `resume`: what has a state dict, as a scheduler, LBFGS
            or a `RandomState`, and plain data, as the epoch and the best metric. Default: ``None`` .

    Raises:
        TypeError: If `cell` is not a Cell, or `also` has what is neither.
        ValueError: If two Parameters have one name, `file` ends otherwise, or `also` has an array that is not of real
            numbers.
        RuntimeError: If `cell` or `also` holds an optimizer inside `average_parameters`, where averages are in the
            place of the weights. The network alone can be saved there.
        OSError: If the file cannot be written.

    Examples:
        >>> import tempfile
        >>> import ms_optim
        >>> from mindspore import nn
        >>> net = nn.Dense(2, 3)
        >>> optimizer = ms_optim.Adam(net.trainable_params())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ms_optim.save(optimizer, folder + "/step-100.safetensors")
        ...     ms_optim.restore(optimizer, folder + "/step-100.safetensors")
        []
    """
    if not isinstance(cell, nn.Cell):
        raise TypeError(f"For 'save', 'cell' must be a Cell, but got {type(cell).__name__}.")
    path = to_be_saved("save", file)
    params = _named(cell)
    twice = repeated(name for name, _ in params)
    if twice:
        raise ValueError(
            f"For 'save', the Parameters of 'cell' must have different names, but got {twice} more than once."
        )
    # a network may hold averages of its own, and be saved with these
    _refuse_swapped("save", "cell", _parts(cell, nn.Optimizer))
    for part in _parts(cell, Optimizer):
        part.follow_requires_grad()
    path, entries = own_file(path, cell), dict(params)
    entries |= about(cell, entries)
    entries = {name: as_it_is(value) for name, value in entries.items()}
    if also is not None:
        entries |= encoded("save", also)
        _refuse_swapped("save", "also", also.values())
    _warn_of_lost(cell, () if also is None else also.values())
    writers = _writers(cell)
    if writers:
        entries[WRITERS] = as_json(writers)
    entries[CHECKSUMS] = as_json({name: _checksum(value) for name, value in entries.items()})
    with replacing(path) as written:
        # A list, because a Cell is saved with what its own `state_dict` gives.
        ms.save_checkpoint(
            [{"name": name, "data": data} for name, data in entries.items()], str(written), format=path.suffix[1:]
        )


def to_be_saved(owner: str, file: str | os.PathLike) -> Path:
    """Where `save` is to write.

    Raises:
        TypeError, ValueError: If that is no path, or ends otherwise than a checkpoint.
    """
    path = path_of(owner, file)
    if path.suffix not in FORMATS:
        raise ValueError(f"For '{owner}', 'file' must end in one of {FORMATS}, but got {str(file)!r}.")
    return path


def _named(cell):
    """Each Parameter of a cell with its name; that of state follows the name that its parameter has now."""
    names = {}
    for part, present_names in _methods(cell, "present_names"):
        names |= present_names(part)
    return [(names.get(id(param), param.name), param) for param in cell.get_parameters()]


def _checksum(value):
    """The CRC-32 of the bytes of a tensor."""
    return zlib.crc32(np.ascontiguousarray(value.asnumpy()).reshape(-1).view(np.uint8))


def _writers(cell):
    """The class of each optimizer in a cell, by the name of its global step; of an EMA that of what is in it."""
    return {
        part.global_step.name: type(part).__name__
        for _, part in cell.cells_and_names()
        if isinstance(part, nn.Optimizer) and not any(isinstance(inner, nn.Optimizer) for inner in part.cells())
    }


def _parts(cell, kind):
    """The parts of a cell of some kind."""
    return [part for _, part in cell.cells_and_names() if isinstance(part, kind)]


def _warn_of_lost(cell, also):
    """Name what has state that no Parameters hold, as LBFGS, and is not in `also`, which takes it."""
    told = {id(part) for part in also}
    for part in _parts(cell, nn.Optimizer):
        if getattr(part, "takes_closure", False) and part.state and id(part) not in told:
            log.warning(
                f"For 'save', the state of {type(part).__name__} is not saved with 'cell', because it is not in "
                "Parameters: give the optimizer in 'also'."
            )


def _refuse_swapped(owner, argument, parts):
    """Raise if averages are in the place of the weights of an optimizer or of an average."""
    if any(getattr(part, "swapped", False) for part in parts):
        raise RuntimeError(
            f"For '{owner}', '{argument}' must not hold an optimizer or an EMA inside 'average_parameters', where the "
            f"averages are in the place of the weights: leave the block first, or {owner} the network alone."
        )


def restore(cell: nn.Cell, parameters: Mapping[str, Tensor] | str | os.PathLike) -> list[str]:
    """Give a network, an optimizer or a training cell the values of a checkpoint, at any time.

    `mindspore.load_param_into_net` replaces buffers that a step which has compiled goes on reading: the values it shows
    afterwards are not those that the step uses. This writes into the buffers.

    A Cell may have three methods for it: `present_names()` returns names for Parameters of its own, by their `id`, that
    are not theirs; `legacy_parameters(saved)`, which is given the mapping if that lacks a Parameter, returns values, by
    name, for Parameters of its own that older files do not have; and `restored()` is called when all are written.

    Args:
        cell (Cell): Every one of its Parameters gets a value.
        parameters (Union[Mapping[str, Tensor], str, PathLike]): Values by name, as `mindspore.load_checkpoint` returns
            them, of the shapes and dtypes of the Parameters; or the file that holds them. Where tensors are sliced over
            devices a file of this device's slices, with its rank in the name, goes before the one that is named; before
            the first compilation too, once the optimizer is made. Whole tensors are cut to what this device has. Slices
            of another layout, or of another number of devices, are merged from the files of all, if these are there.

    Returns:
        list[str], the names that the cell does not have.

    Raises:
        TypeError: If `cell` is not a Cell, `parameters` not a mapping or a value not a Tensor.
        ValueError: If a Parameter has no value, or one of another shape or dtype, or the state was written by another
            class of optimizer, or the file is damaged, or slices do not fit and not all are there. Nothing is written
            then.
        RuntimeError: If `cell` holds an optimizer or an EMA inside `average_parameters`, whose end would undo it.
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
        parameters = read_for("restore", cell, parameters)
    if not isinstance(parameters, Mapping):
        raise TypeError(
            f"For 'restore', 'parameters' must map names to Tensors or be a file, but got {type(parameters).__name__}."
        )
    _refuse_swapped("restore", "cell", _parts(cell, Swappable))
    _refuse_another_writer(cell, parameters.get(WRITERS))
    wanted = dict(_named(cell))
    saved = {name: value for name, value in parameters.items() if not _is_own(name)}
    for name, param in wanted.items():
        if name not in saved and param.name in saved and param.name not in wanted:
            saved[name] = saved.pop(param.name)  # of a file that another name was written into
    saved |= fitting(cell, wanted, saved, parameters.get(SLICES))
    early = taken_early(cell, wanted, saved, parameters.get(SLICES))
    values = _completed(cell, saved, wanted)
    for name, param in wanted.items():
        value = values[name]
        if not isinstance(value, Tensor):
            raise TypeError(f"For 'restore', '{name}' must be a Tensor, but got {type(value).__name__}.")
        if (param.dtype, value.dtype) == (ms.qint4x2, ms.int8):  # as which safetensors has it
            value = values[name] = Tensor(value.asnumpy(), ms.qint4x2)
        fits = early[name].fits(value) if name in early else (value.shape, value.dtype) == (param.shape, param.dtype)
        if not fits:
            raise ValueError(
                f"For 'restore', '{name}' must be {param.dtype} of shape {param.shape}, but got "
                f"{value.dtype} of shape {value.shape}."
            )
    if WRITERS not in parameters:
        for part in _parts(cell, Optimizer):
            _warn_of_numbers(type(part).__name__, part.numbers_given(values))
    for name, param in wanted.items():
        if name in early:
            early[name].take(values[name])
        else:
            write(param, values[name])
    for part, restored in _methods(cell, "restored"):
        restored(part)
    return [name for name in saved if name not in wanted]


def read_for(owner: str, cell: nn.Cell, file: str | os.PathLike) -> dict:
    """What a checkpoint holds for a cell, by name: its own slices if these fit it, or else wholes."""
    path = path_of(owner, file)
    own, beside = own_file(path, cell), files_beside(path)
    found = own if own.exists() else path if path.exists() else next(iter(beside.values()), path)
    entries = read_checkpoint(owner, found)
    unfit = SLICES in entries and why_unfit(cell, dict(_named(cell)), from_json(entries[SLICES]))
    return merged(found, entries, partial(read_checkpoint, owner), unfit) if unfit else entries


def _is_own(name):
    """Whether an entry of a file is no Parameter."""
    return name in (WRITERS, CHECKSUMS, SLICES) or is_plain_data(name)


def _refuse_another_writer(cell, entry):
    """Raise if the state of an optimizer is that of another class: what only one of them has would be lost."""
    if entry is None:
        return
    try:
        writers = dict(from_json(entry))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"For 'restore', '{WRITERS}' must be an entry that 'save' wrote, but got: {error}") from None
    for name, writer in _writers(cell).items():
        if writers.get(name, writer) != writer:
            raise ValueError(
                f"For 'restore', the state of '{name}' must be of {writer}, as the optimizer is, but that of "
                f"{writers[name]} was saved; where that is meant, 'parameters' must be a mapping without '{WRITERS}'."
            )


def _warn_of_numbers(owner, given):
    """Say what arguments become where nothing tells whether the state is of this class: Adam's has AdamW's names."""
    if given:
        said = ", ".join(f"'{name}' {new}, which was {old}" for name, (old, new) in given.items())
        log.warning(
            f"For 'restore', 'parameters' do not say of which class of optimizers the state is, as files of MindSpore "
            f"do not: {owner} gets of it {said}."
        )


def _completed(cell, saved, wanted):
    """What is saved, and what the parts of a cell say of their Parameters that an older file lacks."""
    values = saved
    if not wanted.keys() <= saved.keys():
        for part, legacy_parameters in _methods(cell, "legacy_parameters"):
            values = legacy_parameters(part, saved) | values
    missing = sorted(wanted.keys() - values.keys())
    if missing:
        raise ValueError(f"For 'restore', 'parameters' must hold a value for each Parameter, but lacks {missing}.")
    return values


def _methods(cell, name):
    """The parts of a cell that have a method of their own class, and that method."""
    return [(part, getattr(type(part), name)) for _, part in cell.cells_and_names() if hasattr(type(part), name)]


def read_checkpoint(owner: str, file: str | os.PathLike) -> dict:
    """What a checkpoint of MindSpore holds, by name; if it is damaged, a ValueError that names it."""
    path = path_of(owner, file)
    kind = kind_of(owner, path)
    if kind == "torch":
        raise ValueError(f"For '{owner}', '{path}' must be a checkpoint of MindSpore, but it is of torch.")
    try:
        if kind == "safetensors":
            with safe_open(path, framework="np") as opened:
                tensors = {name: _tensor(opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118
        else:
            tensors = _tensors(path.read_bytes()) or ms.load_checkpoint(str(path))
        _compare_checksums(tensors)
    except OSError:
        raise
    except Exception as error:
        raise damaged(owner, path, error) from error
    return tensors


def _compare_checksums(tensors):
    """Take the entry of checksums out, if there is one, and raise a ValueError where a tensor has another."""
    entry = tensors.pop(CHECKSUMS, None)
    if entry is None:
        renamed = [name for name in tensors if _are_checksums(tensors, name)]
        if renamed:
            raise ValueError(f"no '{CHECKSUMS}', but what it holds as {renamed[0]!r}")
        return
    expected = from_json(entry)
    lost = sorted(expected.keys() - tensors.keys())
    if lost:
        raise ValueError(f"no {lost}, which were saved")
    for name, checksum in expected.items():
        if _checksum(tensors[name]) != checksum:
            raise ValueError(f"other bytes for '{name}' than were saved")


def _are_checksums(tensors, name):
    """Whether an entry holds those of all others, under another name than was written."""
    if getattr(tensors[name], "dtype", None) != ms.uint8 or tensors[name].ndim != 1:
        return False
    if tensors[name].asnumpy()[:2].tobytes() != b'{"':
        return False
    try:
        held = from_json(tensors[name])
    except (RecursionError, ValueError):
        return False
    return isinstance(held, dict) and held.keys() == tensors.keys() - {name}


def _tensor(array):
    """A Tensor of an array, which may be one of bfloat16."""
    return Tensor(array.astype(np.float32), ms.bfloat16) if array.dtype.kind == "V" else Tensor.from_numpy(array)


def _tensors(content):
    """The tensors of a .ckpt, if it has no other entries.

    Raises:
        ValueError: If one has not the bytes that its shape and dtype say: MindSpore copies them unchecked.
    """
    found = {}
    records = Checkpoint.FromString(content[:-17] if content[-17:-10] == b"crc_num" else content).value
    for name, parts in itertools.groupby(records, key=lambda record: record.tag):  # a large tensor is in parts
        parts = list(parts)
        tensor, count = parts[-1].tensor, sum(len(part.tensor.tensor_content) for part in parts)
        dims = [] if tensor.dims == [0] else tensor.dims
        wanted = math.prod(dims) * max(1, int(re.sub(r"\D", "", tensor.tensor_type) or 8) // 8)
        fits = (count == wanted and min(dims, default=0) >= 0) or tensor.tensor_type in ("", "str")
        if not fits or len({part.HasField("tensor") for part in parts}) > 1:
            raise ValueError(f"{count} bytes for '{name}', {tensor.tensor_type} of shape {tuple(dims)}")
        dtype = tensor_to_ms_type.get(tensor.tensor_type, ms.string)
        if found is not None and dtype != ms.string:
            whole = b"".join(part.tensor.tensor_content for part in parts)
            found[name] = Tensor(Tensor.convert_bytes_to_tensor(whole, tuple(dims), dtype))
        else:
            found = None
    return found or None


def damaged(owner: str, path: Path, error: Exception) -> ValueError:
    """What to raise where another package could not read a file: each has its own kind of error."""
    return ValueError(
        f"For '{owner}', '{path}' must be a whole checkpoint, but got {type(error).__name__}: "
        f"{str(error).strip().partition(chr(10))[0]}"
    )
