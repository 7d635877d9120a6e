"""Checkpoints where MindSpore slices tensors over devices: a file for each of them, or slices of a whole one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindspore import Parameter, Tensor, nn
from mindspore.parallel._tensor import _load_tensor_by_layout
from mindspore.parallel._utils import _get_device_num, _get_global_rank

from ms_optim._beside import as_json, from_json
from ms_optim._shards import slicing_mode

# The entry of a file that says, as JSON in bytes, of which device it is, and what of it is sliced.
SLICES = "ms_optim.slices"


def own_file(path: Path) -> Path:
    """Where a device has its own part of a checkpoint: the path itself unless tensors are sliced over several."""
    if not slicing_mode() or _get_device_num() == 1:
        return path
    return path.with_name(f"{path.stem}.rank_{_get_global_rank()}{path.suffix}")


def about(params: Mapping[str, Parameter]) -> dict[str, Tensor]:
    """The entry of a file of Parameters by name, if any is sliced."""
    sliced = [name for name, param in params.items() if param.sliced]
    if not sliced:
        return {}
    told = {"rank": _get_global_rank(), "devices": _get_device_num(), "sliced": sliced}
    return {SLICES: as_json(told)}


def fitting(
    cell: nn.Cell, params: Mapping[str, Parameter], saved: Mapping[str, Any], entry: Tensor | None
) -> dict[str, Tensor]:
    """What of a file is whole, and sliced here, cut to the slices that this device has.

    Raises:
        ValueError: If the file, by its entry, is that of another device, or has slices of what is not sliced here yet.
    """
    if entry is not None:
        _refuse_others(params, from_json(entry))
        return {}
    layouts: dict[str, tuple] = {}
    for _, part in cell.cells_and_names():
        layouts |= part.parameter_layout_dict
    return {
        name: _load_tensor_by_layout(saved[name], layouts[param.name], _get_global_rank())
        for name, param in params.items()
        if param.sliced and param.name in layouts and isinstance(saved.get(name), Tensor)
    }


def _refuse_others(params, told):
    """Raise unless slices are those of this device, and the Parameters are sliced."""
    here = {"rank": _get_global_rank(), "devices": _get_device_num()}
    if any(told[key] != here[key] for key in here):
        raise ValueError(
            f"For 'restore', 'parameters' must be of rank {here['rank']} of {here['devices']}, or whole, but got those "
            f"of rank {told['rank']} of {told['devices']}."
        )
    early = [name for name in told["sliced"] if name in params and not params[name].sliced]
    if early:
        raise ValueError(
            "For 'restore', 'cell' must have been compiled before it takes slices, as by Model.build or a first step, "
            f"but got slices of {early}, which are whole."
        )
