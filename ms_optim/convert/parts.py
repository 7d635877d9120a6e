"""What a checkpoint of MindSpore holds besides weights: state of an optimizer, averages, numbers of a training."""

from collections.abc import Mapping
from typing import Any

from ms_optim import OPTIMIZERS
from ms_optim._plain_data import is_plain_data
from ms_optim._slices import SLICES
from ms_optim.checkpoint import WRITERS
from ms_optim.slot import MASTER

AVERAGE = "ema"
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


def weights_of(entries: Mapping[str, Any], averaged: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell the weights in a checkpoint from all else.

    State is what has the name of another entry behind the name of a kind of state, and its shape, if it is of a kind
    that has, or one value.

    Args:
        entries (Mapping[str, Tensor]): What the file holds.
        averaged (bool): Take the averages that an EMA has in the place of the weights.

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
    left, averages = {}, {}
    for name, value in entries.items():
        kind, _, parameter = name.partition(".")
        own = (value.shape,) if kind in OF_OTHER_SHAPES else ((), (1,))
        of_another = parameter in entries and value.shape in (entries[parameter].shape, *own)
        if (
            name in NUMBERS
            or is_plain_data(name)
            or name.startswith(BEGINNING)
            or (of_another and kind in {*STATE, AVERAGE})
            or (of_another and kind == "decay" and not value.shape)  # of a ParameterEMA
        ):
            left[name] = value
        if of_another and kind == AVERAGE:
            averages[parameter] = value
    weights = {name: value for name, value in entries.items() if name not in left}
    if not averaged:
        return weights, left
    if not averages:
        raise ValueError("For 'convert', '--ema' must be given for a file that has averages, but it has none.")
    return weights | averages, {name: value for name, value in left.items() if name.partition(".")[0] != AVERAGE}
