"""Checkpoints where MindSpore slices tensors over devices: a file for each, merged or cut for another layout."""

import glob
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore.communication import management
from mindspore.parallel._utils import _get_device_num, _get_global_rank
from mindspore.parallel.auto_parallel import AutoParallel

from ms_optim._plain_data import as_json, from_json
from ms_optim._shards import cut_since, devices, listed, slicing_mode
from ms_optim._values import LIST, copy_of, keep_values

# The entry of a file that says, as JSON in bytes, of which device it is, what of it is sliced, and where that is; or
# which parameters trainers have cut by hand, and only they know where.
SLICES = "ms_optim.slices"


class Place(NamedTuple):
    """Where in the whole a slice is.

    Args:
        own: The shape of the whole.
        shape: That in which it is cut.
        parts: Into how many parts each axis is cut.
        at: Which of them it is, along each axis.
        pieces: Into how many pieces, one after the other in memory, that part is cut (ZeRO).
        piece: Which of them it is.
    """

    own: tuple[int, ...]
    shape: tuple[int, ...]
    parts: tuple[int, ...]
    at: tuple[int, ...]
    pieces: int
    piece: int

    @property
    def part(self) -> tuple[slice, ...]:
        """What of the whole the part is."""
        sizes = [size // count for size, count in zip(self.shape, self.parts)]
        return tuple(slice(i * size, (i + 1) * size) for i, size in zip(self.at, sizes))

    def of(self, whole: np.ndarray) -> np.ndarray:
        """The elements that are here, in order."""
        return np.split(whole.reshape(self.shape)[self.part].reshape(-1), self.pieces)[self.piece]


def place_in(layout: tuple, rank: int, own: tuple[int, ...] = ()) -> Place | None:
    """Where the slice of a device is, by what MindSpore says of a Parameter; None if it is whole or not cut evenly.

    A layout begins with how the devices are arranged, which of these axes cut each axis of the tensor, counted from the
    last, the shape of a part, something of embeddings, whether the cut is even, the group of the devices that have the
    pieces of a part, and the shape in which the whole is cut, which may be another than its own.
    """
    devices, axes, size, _, even, group, shape = layout[:7]
    if not axes or not even:
        return None
    coordinates = np.unravel_index(rank % math.prod(devices), devices)
    parts, index = [], []
    for named in axes:
        cutting = [-1 - axis for axis in (named if isinstance(named, LIST) else [named]) if axis != -1]
        counts = [devices[axis] for axis in cutting]
        parts.append(math.prod(counts))
        index.append(int(np.ravel_multi_index([coordinates[axis] for axis in cutting], counts)) if counts else 0)
    shape = tuple(shape or [one * count for one, count in zip(size, parts)])
    own = own if math.prod(own) == math.prod(shape) else shape
    pieces, piece = (management.get_group_size(group), management.get_rank(group)) if group else (1, 0)
    return Place(own, shape, tuple(parts), tuple(index), pieces, piece)


def device_of(cell: nn.Cell) -> tuple[int, int]:
    """The rank of this device, and over how many devices tensors of a cell are sliced: 1 where they are not."""
    if slicing_mode():
        return _get_global_rank(), _get_device_num()
    # An `AutoParallel` sets the mode while it compiles and no longer.
    around = any(isinstance(part, AutoParallel) for _, part in cell.cells_and_names())
    if around or cut_by_hand(cell) or any(param.sliced for param in cell.get_parameters()):
        return management.get_rank(), devices()
    return 0, 1


def cut_by_hand(cell: nn.Cell) -> list[str]:
    """The names of the parameters of optimizers in a cell that have been cut since these were made."""
    parts = [part for _, part in cell.cells_and_names() if hasattr(part, "refuse_parts")]
    return [] if slicing_mode() else [name for part in parts for name in cut_since(part)]


def own_file(path: Path, cell: nn.Cell) -> Path:
    """Where a device has its own part of a checkpoint: the path itself unless tensors are sliced over several."""
    rank, devices = device_of(cell)
    return path if devices == 1 else path.with_name(f"{path.stem}.rank_{rank}{path.suffix}")


def files_beside(path: Path) -> dict[int, Path]:
    """The files of devices that go by a path, or are beside that of one, by rank in order."""
    stem, suffix = re.sub(r"\.rank_\d+$", "", path.stem), path.suffix
    found = {
        int(match[1]): file
        for file in path.parent.glob(f"{glob.escape(stem)}.rank_*{suffix}")
        if (match := re.fullmatch(r".*\.rank_(\d+)", file.stem))
    }
    return dict(sorted(found.items()))


def places(cell: nn.Cell, params: Mapping[str, Parameter]) -> dict[str, Place | None]:
    """Where the slices of this device are, by name, as far as cells say it, which those that have compiled do.

    It is None of what is a slice by its shape, and where is not known. What is whole on each device has no entry.
    """
    layouts: dict[str, tuple] = {}
    for _, part in cell.cells_and_names():
        layouts |= part.parameter_layout_dict
    rank, _ = device_of(cell)
    found = {
        name: (
            place_in(layouts[param.name], rank, _first_shape(param))
            if param.name in layouts
            else getattr(param.init_data, "place", None)
        )
        for name, param in params.items()
        if param.sliced
    }
    return {
        name: place
        for name, place in found.items()
        if place is not None or params[name].shape != _first_shape(params[name])
    }


def _first_shape(param):
    """The shape that a Parameter was made with, if this MindSpore keeps it, or else that it has."""
    return tuple(getattr(param.param_info, "parameter_shape", param.shape))


def about(cell: nn.Cell, params: Mapping[str, Parameter]) -> dict[str, Tensor]:
    """The entry of a file of Parameters by name, if any is sliced."""
    sliced = [name for name, param in params.items() if param.sliced]
    by_hand = [] if sliced else cut_by_hand(cell)
    rank, devices = device_of(cell)
    if not sliced and (not by_hand or devices == 1):
        return {}
    told = {"rank": rank, "devices": devices, "sliced": sliced, "places": places(cell, params)}
    return {SLICES: as_json(told | ({"by_hand": by_hand} if by_hand else {}))}


def taken_early(
    cell: nn.Cell, params: Mapping[str, Parameter], saved: Mapping[str, Any], entry: Tensor | None
) -> dict[str, "Early"]:
    """What takes the slices of a file, which is of this device, where Parameters are whole until they are compiled."""
    told = {} if entry is None else from_json(entry).get("places", {})
    rank, _ = device_of(cell)
    return {
        name: Early(params[name], _place(place), rank)
        for name, place in told.items()
        if name in params and isinstance(saved.get(name), Tensor) and not params[name].sliced
    }


class Early:
    """A slice that a Parameter has before MindSpore cuts it.

    Of a Parameter that is marked as sliced MindSpore cuts no more; it compiles by the shape that it was made with, and
    does not compare what it has with the layout. But it asks for the data by `init_data`, with the layout: until it has
    asked, that is this.
    """

    def __init__(self, param: Parameter, place: Place, rank: int):
        self.param, self.place, self.rank = param, place, rank

    def fits(self, value: Tensor) -> bool:
        """Whether a slice is one of the Parameter."""
        size = math.prod(self.place.shape) // math.prod(self.place.parts) // self.place.pieces
        return (value.size, value.dtype) == (size, self.param.dtype)

    def take(self, value: Tensor) -> None:
        """Give it to the Parameter."""
        self.param.set_data(copy_of(value), True)
        keep_values(self.param)
        self.param.init_data = self

    def __call__(self, layout=None, set_sliced=False):
        """The Parameter, as of its own `init_data`, where the data is there; unless it is cut otherwise."""
        if layout is None:  # as when it is saved
            return self.param
        del self.param.init_data
        now = place_in(layout, self.rank, self.place.own)
        if now != self.place:
            raise ValueError(
                f"For 'restore', the slice of '{self.param.name}' must be the one that is compiled, {now}, but is "
                f"{self.place}: where the layout is another, restore when it has been compiled."
            )
        return self.param


def _can_be_early(param, place):
    """Whether a slice can be given to a Parameter that is whole."""
    return place and hasattr(param.param_info, "parameter_shape") and _place(place).own == param.shape


def fitting(
    cell: nn.Cell, params: Mapping[str, Parameter], saved: Mapping[str, Any], entry: Tensor | None
) -> dict[str, Tensor]:
    """What of a file is whole, and sliced here, cut to the slices that this device has.

    Raises:
        ValueError: If the file, by its entry, has other slices than those that this device has now.
    """
    if entry is not None:
        unfit = why_unfit(cell, params, from_json(entry))
        if unfit:
            raise ValueError(f"For 'restore', {unfit}.")
        return {}
    found = {}
    for name, place in places(cell, params).items():
        value = saved.get(name)
        if place and isinstance(value, Tensor) and value.size == math.prod(place.shape):
            found[name] = _tensor(place.of(value.asnumpy()).reshape(params[name].shape), value.dtype)
    return found


def why_unfit(cell: nn.Cell, params: Mapping[str, Parameter], told: Mapping[str, Any]) -> str | None:
    """What must be for Parameters to take the slices that an entry tells of, and is not; None if all is."""
    here = device_of(cell)
    if (told["rank"], told["devices"]) != here:
        return (
            f"'parameters' must be of rank {here[0]} of {here[1]}, or whole, but got those of rank {told['rank']} of "
            f"{told['devices']}"
        )
    then = told.get("places", dict.fromkeys(told["sliced"]))
    whole = [name for name in then if name in params and not params[name].sliced]
    early = [name for name in whole if not _can_be_early(params[name], then[name])]
    if early:
        return (
            "'cell' must have been compiled before it takes slices, as by Model.build or a first step, but got slices "
            f"of {listed(early)}, which are whole"
        )
    now = places(cell, params)
    moved = [name for name in now if now[name] and then.get(name) and _place(then[name]) != now[name]]
    if moved:
        return (
            "'parameters' must be of the layout that 'cell' has compiled, or whole, but got other slices of "
            f"{listed(moved)}"
        )
    return None


def merged(file: Path, entries: Mapping[str, Any], read: Callable[[Path], dict], unfit: str) -> dict[str, Any]:
    """What a file of slices has, with wholes in the place of the slices: from the files of all devices.

    Args:
        file: Of which device is of no account.
        entries: What it has.
        read: What reads another.
        unfit: What must be, and is not, where slices are missing.

    Raises:
        ValueError: If a whole has a part that no file has, or the files are of different steps.
    """
    told, files = from_json(entries[SLICES]), files_beside(file)
    if told.get("by_hand"):
        raise ValueError(
            f"For 'restore', {unfit}; and parts of {listed(told['by_hand'])}, which were cut by hand, cannot be "
            "merged, because where they are was not saved."
        )
    wholes: dict[str, _Whole] = {}
    result = {name: value for name, value in entries.items() if name != SLICES}
    unknown: set[str] = set()
    lost = [rank for rank in range(told["devices"]) if rank not in files]
    for rank, path in files.items():
        other = entries if path == file else read(path)
        about_it = from_json(other[SLICES]) if SLICES in other else {}
        if (about_it.get("rank"), about_it.get("devices")) != (rank, told["devices"]):
            lost += [rank] if rank < told["devices"] else []  # a file that another training has left
            continue
        for name in result:
            step = name.endswith("global_step") and name in other
            if step and not np.array_equal(other[name].asnumpy(), entries[name].asnumpy()):
                raise ValueError(f"For 'restore', the files beside '{file}' must be of one step, but '{path}' is not.")
        found = about_it.get("places", dict.fromkeys(about_it["sliced"]))
        for name in about_it["sliced"]:
            if name not in found:
                result[name] = other[name]  # all of it is on each device that has it
            elif found[name] is None:
                unknown.add(name)
            else:
                place = _place(found[name])
                wholes.setdefault(name, _Whole(place, other[name].dtype)).put(place, other[name].asnumpy())
    parted = sorted(unknown) or [name for name, whole in wholes.items() if not whole.is_full]
    if parted:
        reason = "where they are was not saved" if unknown else f"there are none of ranks {lost}"
        raise ValueError(f"For 'restore', {unfit}; and slices of {listed(parted)} cannot be merged, because {reason}.")
    return result | {name: whole.tensor() for name, whole in wholes.items()}


class _Whole:
    """A tensor that is put together of slices."""

    def __init__(self, place, dtype):
        self.place, self.dtype, self.slices = place, dtype, {}

    def put(self, place, array):
        """Keep a slice; of those that several devices have the first."""
        self.slices.setdefault((place.at, place.piece), (place, array))

    @property
    def is_full(self):
        """Whether no slice is missing."""
        return len(self.slices) == math.prod(self.place.parts) * self.place.pieces

    def tensor(self):
        """The whole."""
        first = next(iter(self.slices.values()))[1]
        whole = np.empty(self.place.shape, first.dtype)
        for place, _ in self.slices.values():
            if place.piece == 0:
                pieces = [self.slices[place.at, i][1].reshape(-1) for i in range(place.pieces)]
                whole[place.part] = np.concatenate(pieces).reshape(whole[place.part].shape)
        return _tensor(whole.reshape(self.place.own), self.dtype)


def _place(listed):
    """A Place that was written as JSON."""
    own, shape, parts, index, pieces, piece = listed
    return Place(tuple(own), tuple(shape), tuple(parts), tuple(index), pieces, piece)


def _tensor(array, dtype):
    """A Tensor of an array, which may be one of bfloat16."""
    return Tensor(array.astype(np.float32), ms.bfloat16) if dtype == ms.bfloat16 else Tensor(array, dtype)
