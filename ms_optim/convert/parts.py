"""What a checkpoint of MindSpore holds besides weights: state of an optimizer, averages, numbers of a training."""

from collections.abc import Mapping
from typing import Any

from ms_optim import OPTIMIZERS
from ms_optim._beside import is_beside
from ms_optim.checkpoint import WRITERS

AVERAGE = "ema"
# What is put before the names of parameters, here and by the optimizers of MindSpore and of its libraries.
STATE = {slot.name for cls in OPTIMIZERS.values() for slot in getattr(cls, "slots", ())} | {
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
    "prev",
    "stat",
    "step_size",
    "vhat",
}
# Entries that are numbers of a training, and what begins the names of others.
NUMBERS, BEGINNING = {"beta1_power", "beta2_power", "global_step", "learning_rate", "momentum", WRITERS}, "optimizer."


def weights_of(entries: Mapping[str, Any], averaged: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell the weights in a checkpoint from all else.

    State is what has the name of another entry behind the name of a kind of state, and its shape or one value.

    Args:
        entries (Mapping[str, Tensor]): What the file holds.
        averaged (bool): Take the averages that an EMA has in the place of the weights.

    Returns:
        tuple[dict, dict], the weights by name, and what is left.

    Raises:
        ValueError: If there are no averages.
    """
    left, averages = {}, {}
    for name, value in entries.items():
        kind, _, parameter = name.partition(".")
        of_another = parameter in entries and value.shape in (entries[parameter].shape, (), (1,))
        if (
            name in NUMBERS
            or is_beside(name)
            or name.startswith(BEGINNING)
            or (of_another and kind in {*STATE, AVERAGE})
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
