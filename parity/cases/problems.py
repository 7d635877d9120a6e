"""What optimizers are compared on: initial weights and a gradient for each parameter at each step, in numpy."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from parity.cases import Case

STEPS = 30
# A part of the synthetic problem: matrices, a vector, and what patterns are about.
PART = ("fc.weight", "twin.weight", "ema.gain", "flip.beta")


@dataclass(frozen=True)
class Rows:
    """A sparse gradient: rows of the parameter, of which one may occur more than once, and a value for each."""

    indices: np.ndarray
    values: np.ndarray


Gradient = np.ndarray | Rows | None


@dataclass(frozen=True)
class Problem:
    """Weights by name, and for each step the gradients by name; None is a gradient that is absent.

    `dtype` is what the arrays stand for, if NumPy has no such floats.
    """

    name: str
    initial: dict[str, np.ndarray]
    gradients: list[dict[str, Gradient]]
    dtype: str | None = None

    def part(self, names: Iterable[str]) -> "Problem":
        """The same of some of the parameters."""
        names = list(names)
        gradients = [{name: drawn[name] for name in names} for drawn in self.gradients]
        return replace(self, initial={name: self.initial[name] for name in names}, gradients=gradients)

    def fitting(self, case: Case) -> "Problem":
        """The part of the problem that the optimizer of a case takes: parameters of its rank, rows if it is sparse."""
        fits = self.part(
            name
            for name, value in self.initial.items()
            if case.rank in (None, value.ndim) and (value.ndim or not case.sparse)
        )
        if not case.sparse:
            return fits
        rng = np.random.default_rng(0)
        rows = [{name: _rows(rng, grad) for name, grad in drawn.items()} for drawn in fits.gradients]
        return replace(fits, gradients=rows)


def _rows(rng, grad):
    """About half of the rows, drawn with replacement."""
    if grad is None:
        return None
    indices = rng.integers(0, len(grad), max(1, len(grad) // 2))
    return Rows(indices, grad[indices])


def _normal(rng, shape, step):
    return rng.standard_normal(shape)


def _tiny(rng, shape, step):
    return rng.standard_normal(shape) * 1e-12


def _huge(rng, shape, step):
    return rng.standard_normal(shape) * 1e9


def _log_uniform(rng, shape, step):
    return rng.choice([-1.0, 1.0], shape) * 10.0 ** rng.uniform(-8, 2, shape)


def _sign_flipping(rng, shape, step):
    return np.full(shape, (-1.0) ** step) * (1 + 0.1 * rng.random(shape))


def _zero(rng, shape, step):
    return np.zeros(shape)


def _breaking(rng, shape, step):
    """One infinite element after a while, then a NaN in another unit."""
    grad = rng.standard_normal(shape)
    grad[1, 2] = np.inf if step == 20 else grad[1, 2]
    grad[0, 1] = np.nan if step == 24 else grad[0, 1]
    return grad


def _late(rng, shape, step):
    """Absent from the first step and again later."""
    return None if step in (0, 7) else rng.standard_normal(shape)


# Each parameter: its shape, the scale of its weights and the regime of its gradients. Names hold what MindSpore filters
# by name, and "ema.", on purpose.
SYNTHETIC: dict[str, tuple[tuple[int, ...], float, Callable]] = {
    "fc.weight": ((24, 50), 1.0, _normal),
    "twin.weight": ((24, 50), 1.0, _log_uniform),
    "tiny.weight": ((40, 30), 1.0, _tiny),
    "huge.gamma": ((1100,), 1.0, _huge),
    "flip.beta": ((1100,), 1.0, _sign_flipping),
    "conv.weight": ((4, 3, 3, 3), 0.1, _normal),
    "conv1d.weight": ((4, 6, 5), 0.1, _log_uniform),
    "ema.gain": ((4, 1, 1, 1), 1.0, _normal),
    "temperature": ((), 1.0, _normal),
    "offset": ((1,), 1e-4, _normal),
    "zero.weight": ((5, 7), 0.0, _normal),
    "idle.weight": ((3, 3), 1.0, _zero),
    "breaking.weight": ((3, 4), 1.0, _breaking),
    "late.bias": ((6,), 1.0, _late),
}


def synthetic(steps: int = STEPS, seed: int = 0, absent: bool = True) -> Problem:
    """Parameters from 0-d to 4-d, each under one regime of gradients, which may be absent at some steps."""
    plan = {name: row for name, row in SYNTHETIC.items() if absent or row[2] is not _late}
    rng = np.random.default_rng(seed)
    initial = {
        name: np.asarray(scale * rng.standard_normal(shape), np.float32) for name, (shape, scale, _) in plan.items()
    }
    gradients = []
    for step in range(steps):
        drawn = {name: regime(rng, shape, step) for name, (shape, _, regime) in plan.items()}
        gradients.append({name: None if grad is None else np.asarray(grad, np.float32) for name, grad in drawn.items()})
    return Problem("synthetic", initial, gradients)
