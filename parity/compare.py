"""Judges a run by two others: the reference in the same precision, and the reference in float64, which is the truth."""

from dataclasses import dataclass, field

import numpy as np

from parity.trace import PARAMETER, Trace

# A run may be this many times as far from the truth as the reference is. Correct rules score about 1, up to 2; rules
# that are wrong in meaning score 50 and more.
RATIO = 3.0


@dataclass(frozen=True)
class Divergence:
    """Where a run first leaves the reference: the element that is furthest off at the first step that is too far."""

    step: int
    parameter: str
    kind: str
    element: tuple[int, ...]
    ours: float
    reference: float
    ulps: float

    def __str__(self) -> str:
        return (f"step {self.step}, {self.kind} of {self.parameter!r}, element {list(self.element)}: "
                f"{self.ours!r} where the reference has {self.reference!r} ({self.ulps:.3g} ulps)")


@dataclass(frozen=True)
class Score:
    """How far the tensors of one kind are from the truth."""

    ratio: float
    ulps: float
    bit_equal: float


@dataclass(frozen=True)
class Verdict:
    """The outcome of one comparison: a score for the parameters and for each kind of state, and what failed."""

    scores: dict[str, Score] = field(default_factory=dict)
    divergence: Divergence | None = None
    problems: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing is missing and nothing is further off than RATIO allows."""
        return not self.problems and self.divergence is None

    def __str__(self) -> str:
        if self.problems:
            return "failed: " + "; ".join(self.problems)
        if self.divergence:
            return f"failed: first leaves the reference at {self.divergence}"
        return "passed: " + ", ".join(f"{kind} {score.ratio:.2f}" for kind, score in self.scores.items())


def ulp(magnitude: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The gap between neighbours of a float type; below the normal numbers, which compilers flush, the smallest."""
    info = np.finfo(dtype)
    return np.maximum(np.spacing(np.asarray(magnitude, dtype)).astype(np.float64), float(info.tiny))


def errors(run: list[np.ndarray], truth: list[np.ndarray], dtype: np.dtype) -> list[np.ndarray]:
    """For each step and element the distance from the truth, in ulps of the largest magnitude the tensor has had."""
    largest = 0.0
    result = []
    for value, true in zip(run, truth, strict=True):
        finite = np.abs(true[np.isfinite(true)])
        largest = max(largest, float(finite.max(initial=0.0)))
        with np.errstate(all="ignore"):
            distance = np.abs(value.astype(np.float64) - true.astype(np.float64)) / ulp(largest, dtype)
            result.append(np.where(_same(value, true), 0.0, np.where(np.isnan(distance), np.inf, distance)))
    return result


def _same(one, other):
    return (one == other) | (np.isnan(one) & np.isnan(other))


def structure(ours: Trace, reference: Trace) -> list[str]:
    """What makes two traces impossible to compare: keys, lengths, shapes or dtypes that differ."""
    found = [f"{kind} of {name!r} is missing" for kind, name in reference if (kind, name) not in ours]
    found += [f"{kind} of {name!r} is not in the reference" for kind, name in ours if (kind, name) not in reference]
    for kind, name in reference:
        one, other = ours.get((kind, name), []), reference[kind, name]
        if one and len(one) != len(other):
            found.append(f"{kind} of {name!r} has {len(one)} steps for {len(other)}")
        shapes = {(a.shape, b.shape) for a, b in zip(one, other) if a.shape != b.shape}
        found += [f"{kind} of {name!r} has shape {a} for {b}" for a, b in sorted(shapes)]
        types = {(str(a.dtype), str(b.dtype)) for a, b in zip(one, other) if a.dtype != b.dtype and a.ndim}
        found += [f"{kind} of {name!r} has dtype {a} for {b}" for a, b in sorted(types)]
    return found


def compare(ours: Trace, single: Trace, double: Trace, ratio: float = RATIO) -> Verdict:
    """Judge a run by the reference's own error.

    Args:
        ours: The run to judge.
        single: The reference in the same precision; the worst error of its tensors of a kind, at least one ulp, is what
            ours is measured by.
        double: The reference in float64.
        ratio: How many times that error is still correct.
    """
    problems = structure(ours, single)
    if problems:
        return Verdict(problems=tuple(problems))
    if not ours:
        return Verdict(problems=("there is nothing to compare",))
    scores, divergences = {}, []
    for kind in dict.fromkeys(kind for kind, _ in single):
        keys = [key for key in single if key[0] == kind]
        off = {key: errors(ours[key], truth_of(single[key], double[key]), np.float32) for key in keys}
        reference = max(float(step.max(initial=0.0)) for key in keys
                        for step in errors(single[key], truth_of(single[key], double[key]), np.float32))
        budget = max(1.0, reference)
        worst = max(float(step.max(initial=0.0)) for key in keys for step in off[key])
        equal = sum(int(_same(a, b).sum()) for key in keys for a, b in zip(ours[key], single[key]))
        total = sum(a.size for key in keys for a in ours[key])
        scores[kind] = Score(worst / budget, worst, equal / total if total else 1.0)
        divergences += [first(key, off[key], ours[key], single[key], ratio * budget) for key in keys]
    found = [divergence for divergence in divergences if divergence is not None]
    return Verdict(scores, min(found, key=lambda divergence: divergence.step, default=None))


def truth_of(single: list[np.ndarray], double: list[np.ndarray]) -> list[np.ndarray]:
    """The float64 run, but the float32 one where that overflowed or is NaN: there a run must do the same."""
    return [np.where(np.isfinite(one), two, one.astype(np.float64)) for one, two in zip(single, double, strict=True)]


def first(key: tuple[str, str], off: list[np.ndarray], ours: list[np.ndarray], reference: list[np.ndarray],
          limit: float) -> Divergence | None:
    """The first step at which a tensor is more than `limit` ulps off, and its worst element there."""
    for step, distance in enumerate(off):
        if distance.max(initial=0.0) > limit:
            element = np.unravel_index(int(distance.argmax()), distance.shape)
            kind, name = key
            return Divergence(step, name, kind, tuple(map(int, element)), float(ours[step][element]),
                              float(reference[step][element]), float(distance[element]))
    return None
