"""Taking up a training: what `save` wrote of a cell, and what it wrote besides."""

import os
import random
from collections.abc import Mapping
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from ms_optim._plain_data import Saved, decoded
from ms_optim.checkpoint import read_for, restore


class RandomState:
    """The state of the generators of random numbers of this process, as one thing to save and to resume.

    It is that of Python's `random`, of NumPy's functions, and of `mindspore.get_rng_state`, which the operators of
    `mindspore.mint` follow on devices. Operators that draw from MindSpore's seeds, as `nn.Dropout`, have no state that
    could be told: where a run is to be repeated, call `mindspore.set_seed` with another number at each epoch.
    """

    def state_dict(self) -> dict[str, Any]:
        """What the generators are at."""
        return {"python": random.getstate(), "numpy": np.random.get_state(), "mindspore": ms.get_rng_state()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Let them go on from there.

        Raises:
            TypeError, ValueError: If it is not what `state_dict` gave.
        """
        if not isinstance(state_dict, Mapping) or state_dict.keys() != {"python", "numpy", "mindspore"}:
            got = sorted(map(str, state_dict)) if isinstance(state_dict, Mapping) else type(state_dict).__name__
            raise ValueError(
                f"For 'RandomState', 'state_dict' must have 'python', 'numpy' and 'mindspore', but got {got}."
            )
        random.setstate(state_dict["python"])
        np.random.set_state(state_dict["numpy"])
        ms.set_rng_state(state_dict["mindspore"])


def resume(cell: nn.Cell, file: str | os.PathLike, also: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Take up a training where `save` left it: `restore`, and what was saved besides.

    Args:
        cell (Cell): As for `restore`.
        file (Union[str, PathLike]): What `save` wrote.
        also (Mapping[str, Any]): What has a state dict, by the names that it was saved under: each gets its state.
            Default: ``None`` .

    Returns:
        dict[str, Any], what else was saved, by name: plain data, and the state dicts of what is not in `also`.

    Raises:
        TypeError: If `cell` is not a Cell, or something in `also` has no `load_state_dict`.
        ValueError: If there is no state of what is in `also`, or it does not fit, or as `restore` raises. Nothing is
            changed then.
        RuntimeError, OSError: As `restore`.

    Examples:
        >>> import tempfile
        >>> import ms_optim
        >>> from mindspore import nn
        >>> from ms_optim import RandomState
        >>> from ms_optim.lr_scheduler import StepLR
        >>> net = nn.Dense(2, 3)
        >>> optimizer = ms_optim.Adam(net.trainable_params())
        >>> also = {"scheduler": StepLR(optimizer, 30), "random": RandomState()}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ms_optim.save(optimizer, folder + "/last.safetensors", {**also, "epoch": 3, "best": 0.9})
        ...     ms_optim.resume(optimizer, folder + "/last.safetensors", also)
        {'epoch': 3, 'best': 0.9}
    """
    also = {} if also is None else also
    if not isinstance(also, Mapping):
        raise TypeError(f"For 'resume', 'also' must map names to what has a state dict, but got {also!r}.")
    odd = {name: type(part).__name__ for name, part in also.items() if not hasattr(part, "load_state_dict")}
    if odd:
        raise TypeError(f"For 'resume', what is in 'also' must have 'load_state_dict', but got {odd}.")
    if not isinstance(cell, nn.Cell):
        raise TypeError(f"For 'resume', 'cell' must be a Cell, but got {type(cell).__name__}.")
    entries = read_for("resume", cell, file)
    found = decoded(entries)
    missing = [name for name in also if not isinstance(found.get(name), Saved)]
    if missing:
        raise ValueError(
            f"For 'resume', '{file}' must have a state for each in 'also', but has none for {missing}, and {[*found]}."
        )
    before = {name: part.state_dict() for name, part in also.items()}
    try:
        for name, part in also.items():
            part.load_state_dict(dict(found[name]))
        restore(cell, entries)
    except Exception:
        for name, part in also.items():
            part.load_state_dict(before[name])
        raise
    return {
        name: dict(value) if isinstance(value, Saved) else value for name, value in found.items() if name not in also
    }
