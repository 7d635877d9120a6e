"""The native kernels of kernels/: which rules have one, and the primitive that takes a step over all parameters."""

import ctypes
import functools
from collections.abc import Callable, Iterable
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from ms_optim._arguments import RANGES


@functools.cache
def library() -> Path | None:
    """The shared library that was built when the package was installed, if a compiler was there."""
    return next(iter(sorted(Path(__file__).parent.glob("_kernels*.so"))), None)


def obstacle(update: Callable, parameters: Iterable[Parameter]) -> str | None:
    """Why no kernel can run a rule on these parameters, or None if one can."""
    if update.__module__ != f"{__package__}.{update.__name__}":
        return f"the rule {update.__name__!r} of {update.__module__!r} is not one of the library's"
    return absence(update.__name__, parameters)


def absence(name: str, parameters: Iterable[Parameter]) -> str | None:
    """Why there is no kernel of this name for these parameters, or None if there is one."""
    if library() is None:
        return "the library was installed without a C++ compiler"
    if not hasattr(ctypes.CDLL(str(library())), name):
        return f"the rule {name!r} has no kernel"
    if ms.get_context("device_target") != "CPU":
        return f"the device is {ms.get_context('device_target')} and not CPU"
    odd = [param.name for param in parameters if param.dtype == ms.bfloat16]
    return f"{odd} are bfloat16" if odd else None


def primitive(name: str) -> ops.Custom:
    """The operator that calls a function of the library, which writes into its inputs."""
    custom = ops.Custom(f"{library()}:{name}", (1,), ms.float32, "aot")
    custom.add_prim_attr("side_effect_mem", True)
    return custom


def layout(slot_table: tuple, flag_names: tuple[str, ...], flags: tuple[tuple, ...]) -> Tensor:
    """For each parameter which slots it has, then its flags as numbers: the place of a choice among the choices."""
    def number(name, flag):
        return RANGES[name].index(flag) if isinstance(flag, str) else bool(flag)

    rows = [[*(slot is not None for slot in slots), *map(number, flag_names, row)]
            for slots, row in zip(slot_table, flags)]
    return Tensor(np.array(rows, np.int32))
