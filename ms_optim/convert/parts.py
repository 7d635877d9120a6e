"""What a checkpoint of MindSpore holds besides weights: state of an optimizer, averages, numbers of a training."""

from collections.abc import Collection, Mapping
from typing import Any

from ms_optim import OPTIMIZERS
from ms_optim._plain_data import from_json, is_plain_data
from ms_optim._slices import SLICES
from ms_optim.checkpoint import WRITERS
from ms_optim.slot import MASTER

AVERAGE = "ema"
# What a cell calls the number of a ParameterEMA that it holds; elsewhere it is called after the first average.
DECAY = "_decay"
SLOTS = [MASTER, *(slot for cls in OPTIMIZERS.values() for slot in getattr(cls, "slots", ()))]
# What is put before the names of parameters by the optimizers of MindSpore and of its libraries, and here.
STATE = {
    "accum",
    "accum_update",
    "adam_m",
    "adam_v",
    "lamb_m",
    "lamb_v",
    "linear",
    "mean_grad",
    "mean_square",
    "moment",
    "moment1",
    "moment2",
    "moments",
    "momentum_buf",
    "stat",
    "vhat",
    *(slot.name for slot in SLOTS),
}
# Those that have shapes of their own.
OF_OTHER_SHAPES = {slot.name for slot in SLOTS if not slot.follows}
# Entries that are numbers of a training, and what begins the names of others.
NUMBERS = {"beta1_power", "beta2_power", "global_step", "learning_rate", "momentum", WRITERS}
BEGINNING = ("optimizer.", "learning_rate_group_")


def weights_of(
    entries: Mapping[str, Any], averaged: bool = False, known: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell the weights in a checkpoint from all else.

    State is what has the name of another entry behind the name of a kind of state, and its shape, if it is of a kind
    that has, or one value; but a file without the numbers of a training holds a network, whose layers may be called so.

    Args:
        entries (Mapping[str, Tensor]): What the file holds.
        averaged (bool): Take the averages that an EMA has in the place of the weights.
        known (Collection[str]): The names of the network's Parameters, which are weights however they are called.

    Returns:
        tuple[dict, dict], the weights by name, and what is left.

    Raises:
        ValueError: If there are no averages, or the tensors are slices.
    """
    if SLICES in entries:
        raise ValueError(
            "For 'convert', the file must hold whole tensors, but those of this one are slices: 'restore' merges them "
            "from the files of all devices."
        )
    left, averages, kinds = {}, {}, _kinds(entries, averaged)
    for name, value in entries.items():
        if name in known:
            continue
        kind, parameter = _split(name)
        own = (value.shape,) if kind in OF_OTHER_SHAPES else ((), (1,))
        of_another = parameter in entries and value.shape in (entries[parameter].shape, *own)
        if (
            name in NUMBERS
            or is_plain_data(name)
            or name.startswith(BEGINNING)
            or (of_another and kind in kinds)
            or (not value.shape and (name.rpartition(".")[2] == DECAY or (of_another and kind == "decay")))
        ):
            left[name] = value
        if of_another and kind == AVERAGE:
            averages[parameter] = value
    weights = {name: value for name, value in entries.items() if name not in left}
    if not averaged:
        return weights, left
    if not averages:
        raise ValueError("For 'convert', '--ema' must be given for a file that has averages, but it has none.")
    return weights | averages, {name: value for name, value in left.items() if _split(name)[0] != AVERAGE}


def _kinds(entries, averaged):
    """What begins the names of state in a file: that of the classes which wrote it, if it says so."""
    if WRITERS in entries:
        written = {*dict(from_json(entries[WRITERS])).values()}
        if written <= OPTIMIZERS.keys():
            own = {slot.name for name in written for slot in getattr(OPTIMIZERS[name], "slots", ())}
            return {AVERAGE, MASTER.name, *own}
    if any(name in NUMBERS or name.startswith(BEGINNING) for name in entries):
        return {AVERAGE, *STATE}
    behind = [parameter for kind, parameter in map(_split, entries) if kind == AVERAGE and parameter != DECAY]
    # A layer may be called so, but its tensors are not all called as others are.
    return {AVERAGE} if averaged or all(name in entries for name in behind) else set()


def _split(name):
    """The kind of state that a name begins with, and the parameter; averages may be those of a part of a cell."""
    before, found, parameter = name.rpartition(f"{AVERAGE}.")
    if found and (not before or before.endswith(".")):
        return AVERAGE, parameter
    kind, _, parameter = name.partition(".")
    return kind, parameter
