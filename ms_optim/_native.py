"""The native kernels of kernels/: which rules have one, and the primitive that takes a step over all parameters."""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, log, ops

from ms_optim.arguments import Kind


@functools.cache
def library() -> Path | None:
    """The shared library that was built when the package was installed, if a compiler was there; else warn, once."""
    found = next(iter(sorted(Path(__file__).parent.glob("_kernels*.so"))), None)
    if found is None:
        log.warning(
            "ms_optim was installed without a C++ compiler: on CPU it computes with MindSpore's operators, "
            "which takes many times as long. Install it anew with one to get the kernels."
        )
    return found


def obstacle(update: Callable) -> str | None:
    """Why no kernel can run a rule, or None if one can."""
    if update.__module__ != f"{__package__}.{update.__name__}":
        return f"the rule {update.__name__!r} of {update.__module__!r} is not one of the library's"
    return absence(update.__name__)


def absence(name: str) -> str | None:
    """Why there is no kernel of this name, or None if there is one."""
    if ms.get_context("device_target") != "CPU":
        return f"the device is {ms.get_context('device_target')} and not CPU"
    if library() is None:
        return "the library was installed without a C++ compiler"
    return None if hasattr(ctypes.CDLL(str(library())), name) else f"the rule {name!r} has no kernel"


def primitive(name: str) -> ops.Custom:
    """The operator that calls a function of the library, which writes into its inputs."""
    custom = ops.Custom(f"{library()}:{name}", (1,), ms.float32, "aot")
    custom.add_prim_attr("side_effect_mem", True)
    return custom


def layout(slot_table: tuple, flag_names: tuple[str, ...], flags: tuple[tuple, ...], kinds: dict[str, Kind]) -> Tensor:
    """For each parameter which slots it has, then its flags as numbers: the place of a choice among the choices."""

    def number(name, flag):
        return kinds[name].choices.index(flag) if isinstance(flag, str) else bool(flag)

    rows = [
        [*(slot is not None for slot in slots), *map(number, flag_names, row)] for slots, row in zip(slot_table, flags)
    ]
    return Tensor(np.array(rows, np.int32))
