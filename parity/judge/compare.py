"""Judges a run by two others: the reference in the same precision, and the reference in float64, which is the truth."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from parity.cases.formats import FORMATS, ulp
from parity.sides.trace import PARAMETER, Trace

# A run may be this many times as far from the truth as the reference is. Correct rules score about 1, up to 2; rules
# that are wrong in meaning score 50 and more.
RATIO = 3.0
# Two trainings part exponentially: one may be this many times as far from the truth.
FREE_RATIO = 10.0
# Two ways to compute the same in float64 may differ by this much of the largest magnitude.
RELATIVE = 1e-12

Initial = Mapping[str, np.ndarray]
# One array for each step, or one array of them all.
Steps = list[np.ndarray] | np.ndarray
# (kind, parameter name) -> the distance of each element from the truth, in ulps; the first axis is that of the steps.
Errors = dict[tuple[str, str], np.ndarray]


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
        return (
            f"step {self.step}, {self.kind} of {self.parameter!r}, element {list(self.element)}: "
            f"{self.ours!r} where the reference has {self.reference!r} ({self.ulps:.3g} ulps{self._relative})"
        )

    @property
    def _relative(self):
        off = abs(self.ours - self.reference) / abs(self.reference) if self.reference else np.nan
        return f", {off:.2g} of it" if np.isfinite(off) else ""


@dataclass(frozen=True)
class Score:
    """How far the tensors of one kind are from the truth, at most; the ratio is to each tensor's own budget."""

    ratio: float
    ulps: float
    bit_equal: float


@dataclass(frozen=True)
class Verdict:
    """The outcome of one comparison: a score for the parameters and for each kind of state, and what failed.

    `why` is what it follows instead, if that was asked for. `ours` and `reference` are what it was judged by: the
    distances from the truth of both, in ulps; `allowed` is what ours may be off, tensor by tensor.
    """

    scores: dict[str, Score] = field(default_factory=dict)
    divergence: Divergence | None = None
    problems: tuple[str, ...] = ()
    why: str = ""
    ours: Errors = field(default_factory=dict, repr=False)
    reference: Errors = field(default_factory=dict, repr=False)
    allowed: dict[tuple[str, str], float] = field(default_factory=dict, repr=False)

    @property
    def passed(self) -> bool:
        """Whether nothing is missing and nothing is further off than RATIO allows."""
        return not self.problems and self.divergence is None

    @property
    def brief(self) -> "Verdict":
        """The same without the distances."""
        return replace(self, ours={}, reference={}, allowed={})

    def __str__(self) -> str:
        if self.problems:
            return "failed: " + "; ".join(self.problems)
        if self.divergence:
            why = f"\n{self.why}" if self.why else ""
            return f"failed: first leaves the reference at {self.divergence}{why}"
        return "passed: " + ", ".join(f"{kind} {score.ratio:.2f}" for kind, score in self.scores.items())


def errors(run: Steps, truth: Steps, dtype: str, first: float = 0.0) -> np.ndarray:
    """For each step and element the distance from the truth, in ulps of the largest magnitude the tensor has had.

    `first` is the largest that it had before the steps.
    """
    truth = stacked(truth)
    return _distances(stacked(run), truth, _units(truth, dtype, first))


def _units(truth, dtype, first):
    """One ulp of the largest magnitude that a tensor has had, for each step."""
    sizes = np.abs(truth, where=np.isfinite(truth), out=np.zeros(truth.shape)).reshape(len(truth), -1)
    largest = np.maximum.accumulate(sizes.max(1, initial=first))
    return ulp(largest, dtype).reshape(-1, *[1] * (truth.ndim - 1))


def _distances(run, truth, units):
    """How far each element is from the truth, in units."""
    with np.errstate(all="ignore"):
        distance = np.abs(np.subtract(run, truth, dtype=np.float64)) / units
    distance[np.isnan(distance)] = np.inf
    distance[_same(run, truth)] = 0.0
    return distance


def stacked(steps: Steps) -> np.ndarray:
    """What a tensor was at each step, in one array: what is done to it takes as long as for one step of a small one."""
    return steps if isinstance(steps, np.ndarray) else np.array(steps)


def _same(one, other):
    return (one == other) | (np.isnan(one) & np.isnan(other))


def structure(ours: Trace, reference: Trace, dtypes: bool = True) -> list[str]:
    """What makes two traces impossible to compare: keys, lengths, shapes or dtypes that differ, or nothing at all."""
    found = [] if reference else ["there is nothing to compare"]
    found += [f"{kind} of {name!r} is missing" for kind, name in reference if (kind, name) not in ours]
    found += [f"{kind} of {name!r} is not in the reference" for kind, name in ours if (kind, name) not in reference]
    for kind, name in reference:
        one, other = ours.get((kind, name), []), reference[kind, name]
        if one and len(one) != len(other):
            found.append(f"{kind} of {name!r} has {len(one)} steps for {len(other)}")
        shapes = {(a.shape, b.shape) for a, b in zip(one, other) if a.shape != b.shape}
        found += [f"{kind} of {name!r} has shape {a} for {b}" for a, b in sorted(shapes)]
        types = {(str(a.dtype), str(b.dtype)) for a, b in zip(one, other) if dtypes and a.ndim and a.dtype != b.dtype}
        found += [f"{kind} of {name!r} has dtype {a} for {b}" for a, b in sorted(types)]
    return found


def of_kinds(ours: Trace, *references: Trace) -> list[Trace]:
    """What a run can be judged by: all of the references, or their parameters if it tells no state."""
    if any(kind != PARAMETER for kind, _ in ours):
        return [*references]
    return [{key: steps for key, steps in reference.items() if key[0] == PARAMETER} for reference in references]


def of_what_is_told(ours: Trace, *references: Trace) -> list[Trace]:
    """What a run can be judged by that tells some of its state: what it tells."""
    return [{key: steps for key, steps in reference.items() if key in ours} for reference in references]


def compare(
    ours: Trace,
    single: Trace,
    double: Trace,
    ratio: float = RATIO,
    noise: float = 0.0,
    initial: Initial = MappingProxyType({}),
    dtype: str = "float32",
) -> Verdict:
    """Judge a run by the reference's own error.

    Args:
        ours: The run to judge.
        single: The reference in the same precision. Its worst error in a tensor, at least one ulp, is what ours is
            measured by in this tensor, and in no other.
        double: The reference in float64.
        ratio: How many times that error is still correct.
        noise: What a rule that rounds on its own may do to the parameters, relative to the largest magnitude.
        initial: The parameters before the first step, by name; they count among their magnitudes.
        dtype: That of both, whose ulps are meant.
    """
    return Standard(single, double, noise, initial, dtype).judge(ours, ratio)


class Standard:
    """What any number of runs are judged by: the reference, and its own error, which is measured once.

    The arguments are those of `compare`.
    """

    def __init__(
        self,
        single: Trace,
        double: Trace,
        noise: float = 0.0,
        initial: Initial = MappingProxyType({}),
        dtype: str = "float32",
    ):
        self._single, self._double, self._dtype, self._start = single, double, dtype, _sizes(initial)
        self._least = {PARAMETER: max(1.0, noise / FORMATS[dtype].eps)}
        self._known: dict[tuple[str, str], tuple[np.ndarray, np.ndarray, float, np.ndarray]] = {}

    def judge(self, ours: Trace, ratio: float = RATIO, told: bool = False) -> Verdict:
        """The verdict on a run; if `told`, on what it tells of its state, which may be some of it or none."""
        single, double = of_what_is_told(ours, self._single, self._double) if told else (self._single, self._double)
        problems = [*structure(ours, single), *structure(double, single, dtypes=False)]
        if problems:
            return Verdict(problems=tuple(problems))
        truth, reference, budget, units = ({key: self._measured(key)[i] for key in single} for i in range(4))
        problems = [
            f"{kind} of {name!r}: the reference is finite in {self._dtype} and not in float64"
            for (kind, name), allowed in budget.items()
            if not np.isfinite(allowed)
        ]
        if problems:
            return Verdict(problems=tuple(problems))
        off = {key: _distances(stacked(ours[key]), truth[key], units[key]) for key in single}
        return _judge(ours, single, off, reference, budget, ratio)

    def _measured(self, key):
        """The truth of a tensor, how far the reference is from it, what a run may be off, and what an ulp is."""
        if key not in self._known:
            truth = truth_of({key: self._single[key]}, self._double)[key]
            units = _units(truth, self._dtype, self._start.get(key, 0.0))
            off = _distances(stacked(self._single[key]), truth, units)
            self._known[key] = truth, off, max(self._least.get(key[0], 1.0), _worst(off)), units
        return self._known[key]


def compare_exactly(
    ours: Trace, reference: Trace, noise: float = 0.0, initial: Initial = MappingProxyType({})
) -> Verdict:
    """Judge a float64 run by another: equal to RELATIVE of the largest magnitude that a tensor has had.

    Where that is more, the parameters of a rule that rounds on its own are equal to RATIO times `noise`.
    """
    problems = structure(ours, reference)
    if problems:
        return Verdict(problems=tuple(problems))
    start = _sizes(initial)
    off = {key: errors(ours[key], reference[key], "float64", start.get(key, 0.0)) for key in reference}
    budget = {
        key: (max(RELATIVE, RATIO * noise) if key[0] == PARAMETER else RELATIVE) / FORMATS["float64"].eps
        for key in reference
    }
    return _judge(ours, reference, off, {}, budget, 1.0)


def compare_bits(ours: Trace, reference: Trace) -> Verdict:
    """Judge a run that must be another bit for bit: what differs is off by infinitely many ulps."""
    problems = structure(ours, reference)
    if problems:
        return Verdict(problems=tuple(problems))
    off = {
        key: np.array([_unless_equal(a, b) for a, b in zip(steps, reference[key], strict=True)])
        for key, steps in ours.items()
    }
    return _judge(ours, reference, off, {}, dict.fromkeys(ours, 1.0), 1.0)


def _unless_equal(one, other):
    """Infinity where the bits of two arrays differ."""
    a, b = (
        np.ascontiguousarray(array).view(f"i{array.dtype.itemsize}").reshape(np.shape(array)) for array in (one, other)
    )
    return np.where(a == b, 0.0, np.inf)


def _judge(ours, reference, off, reference_off, budget, ratio):
    """Score each kind, and find the first step at which a tensor is off by more than `ratio` times its budget."""
    scores, divergences = {}, []
    for kind, keys in _by_kind(reference).items():
        worst = {key: _worst(off[key]) for key in keys}
        equal = [_same(np.array(ours[key]), np.array(reference[key])) for key in keys]
        share = sum(map(np.sum, equal)) / max(1, sum(map(np.size, equal)))
        scores[kind] = Score(max(worst[key] / budget[key] for key in keys), max(worst.values()), float(share))
        divergences += [
            first(key, off[key], ours[key], reference[key], ratio * budget[key])
            for key in keys
            if worst[key] > ratio * budget[key]
        ]
    earliest = min(divergences, key=lambda divergence: divergence.step, default=None)
    return Verdict(scores, earliest, (), "", off, reference_off, {key: ratio * budget[key] for key in off})


def _sizes(initial):
    return {(PARAMETER, name): float(np.abs(value).max(initial=0.0)) for name, value in initial.items()}


def _by_kind(trace):
    kinds = {}
    for key in trace:
        kinds.setdefault(key[0], []).append(key)
    return kinds


def _worst(steps):
    return float(np.max(steps, initial=0.0))


def truth_of(single: Trace, double: Trace) -> dict[tuple[str, str], np.ndarray]:
    """The float64 run, but the float32 one where that overflowed or is NaN: there a run must do the same."""
    found = {}
    for key, steps in single.items():
        one, two = np.array([stacked(steps), stacked(double[key])])  # which float64 holds, and which are as many
        found[key] = np.where(np.isfinite(one), two, one)
    return found


def first(key: tuple[str, str], off: Steps, ours: Steps, reference: Steps, limit: float) -> Divergence | None:
    """The first step at which a tensor is more than `limit` ulps off, and its worst element there."""
    for step, distance in enumerate(off):
        if distance.max(initial=0.0) > limit:
            element = np.unravel_index(int(distance.argmax()), distance.shape)
            kind, name = key
            return Divergence(
                step,
                name,
                kind,
                tuple(map(int, element)),
                float(ours[step][element]),
                float(reference[step][element]),
                float(distance[element]),
            )
    return None
