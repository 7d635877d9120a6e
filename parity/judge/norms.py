"""How far tensors are apart as wholes, by their norms, where nothing says what rounding may do."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from parity.cases.formats import ulp


@dataclass(frozen=True)
class Difference:
    """That of one tensor in two runs: its norms, how far apart it is relative to the larger, and the worst element.

    `off` is the norm of the difference, in which the same NaN or infinity in both is none, and `size` the larger norm,
    of what is finite.
    """

    name: str
    first: float
    second: float
    relative: float
    ulps: float
    off: float = 0.0
    size: float = 0.0


def differences(mine: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> list[Difference]:
    """That of each tensor, by its name in one of them."""
    return [_tensor(name, mine[name], others[name]) for name in mine]


def _tensor(name, one, other):
    if one.shape != other.shape:
        return Difference(name, float("nan"), float("nan"), float("inf"), float("inf"), float("inf"))
    with np.errstate(all="ignore"):
        one, other = np.asarray(one, float), np.asarray(other, float)
        both = (one == other) | (np.isnan(one) & np.isnan(other))
        off = np.where(both, 0.0, one - other)
        norms = [float(np.linalg.norm(side.ravel())) for side in (one, other)]
        size = max(float(np.linalg.norm(side[np.isfinite(side)])) for side in (one, other))
        length = float(np.nan_to_num(np.linalg.norm(off.ravel()), nan=np.inf))
        relative = 0.0 if length == 0 else length / size if size else float("inf")
        largest = max(np.abs(side[np.isfinite(side)]).max(initial=0.0) for side in (one, other))
        ulps = np.abs(off).max(initial=0.0) / ulp(largest, "float32")
        return Difference(name, *norms, relative, float(ulps), length, size)


def distance(one: float, other: float) -> float:
    """How far apart two numbers are, relative to the larger; NaN is nothing but NaN."""
    if one == other or (np.isnan(one) and np.isnan(other)):
        return 0.0
    off = abs(one - other) / max(abs(one), abs(other))
    return float("inf") if np.isnan(off) else off
