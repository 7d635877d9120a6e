"""Judges a whole run by the rule of an optimizer: every parameter at every step, one step in memory at a time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from mindspore import nn

from ms_optim import OPTIMIZERS
from parity.cases import ENTRIES
from parity.cases.formats import FORMATS
from parity.hunt.mistakes import norm_of
from parity.judge.compare import RATIO, Divergence, errors
from parity.runs.files import Mapped, Run, Sample, Step
from parity.runs.follow import Unjudged, begun, counterpart, stepped
from parity.sides.rules import rule_of, shaken_of
from parity.sides.trace import PARAMETER, Trace

# Of a larger tensor so many elements are looked at, where a rule goes by elements.
ELEMENTS = 4096
# A ratio up to this is judged again by what rounding may do otherwise, which is tried so many times.
NEAR, TRIALS = 10 * RATIO, 4
DTYPE = "float32"


@dataclass(frozen=True)
class Followed:
    """How far a run is from a rule, in errors of the rule in float32, and where it leaves it first."""

    ratio: float
    divergence: Divergence | None = None


@dataclass
class _Gauge:
    """What is measured of one tensor: its distance from the truth at each step, and the worst of the rule itself."""

    largest: float
    told: bool = False
    own: float = 0.0
    off: list[Divergence] = field(default_factory=list)


class Whole:
    """A run, to be judged by rules.

    Args:
        run: Which. Where the rule goes by elements, some of each large tensor are drawn.
        name: Whose rule.

    Attributes:
        run: What is looked at of it.
        norms: Those of all gradients of each step, once it has been judged.
    """

    def __init__(self, run: Run, name: str):
        self.name, self._sample = name, Sample(ELEMENTS)
        self._sizes = {key: value.size for key, value in run.initial.items()}
        large = max(self._sizes.values(), default=0) > ELEMENTS
        sparse = any(isinstance(grad, tuple) for step in run.steps[:1] for grad in step.gradients.values())
        self._draws = OPTIMIZERS[name].elementwise and not sparse and "sample" not in run.header and large
        self._least = max(1.0, ENTRIES[name].cases[0].noise / FORMATS[DTYPE].eps)
        self.norms: list[float] = []
        self._outline: list[Step] = []
        self.run = self._drawn(run) if self._draws else run

    @property
    def outline(self) -> Run:
        """The run with the numbers of its steps, and the names of their gradients, alone."""
        return replace(self.run, steps=self._outline)

    def of(self, trace: Trace) -> Trace:
        """What is looked at of a trajectory."""
        if not self._draws:
            return trace
        return {key: [self._part(key[1], value) for value in steps] for key, steps in trace.items()}

    def follow(
        self,
        ours: Trace | None = None,
        cls: type[nn.Optimizer] | None = None,
        alter: Callable[[Run], Run] | None = None,
        prepare: Callable | None = None,
    ) -> Followed:
        """How far a trajectory, or that of the run itself, is from a rule.

        Args:
            ours: The trajectory, as `of` gives it.
            cls: A class with the functions of another rule.
            alter: What makes of the run one of other numbers.
            prepare: As `by_the_rule` takes it.
        """
        found = self._follow(ours, cls, alter, prepare, 0)
        if RATIO < found.ratio <= NEAR:  # the rule may have been lucky
            found = self._follow(ours, cls, alter, prepare, TRIALS)
        return found

    def _follow(self, ours, cls, alter, prepare, trials):
        cls = cls or OPTIMIZERS[self.name]
        run = alter(self.run) if alter else self.run
        optimizer = begun(run, counterpart(run, cls))
        single, double = (rule_of(optimizer, dtype, cls) for dtype in ("float32", "float64"))
        others = [shaken_of(optimizer, seed, cls) for seed in range(trials)]
        gauges = {
            (PARAMETER, name): _Gauge(float(np.abs(value).max(initial=0.0))) for name, value in run.initial.items()
        }
        moved, outline = {*run.initial_state}, []
        strange: set[tuple[str, str]] = set()
        for i, step in stepped(run, optimizer, (single, double, *others), prepare):
            moved |= step.gradients.keys()
            if not self._outline:
                outline.append(Step(step.groups, dict.fromkeys(step.gradients), {}, {}))
                if not self._draws:
                    self.norms.append(norm_of(step.gradients))
            told = (
                _values(step.parameters, step.state) if ours is None else {key: some[i] for key, some in ours.items()}
            )
            truths, *known = (_values(rule.params, rule.state) for rule in (double, single, *others))
            strange |= told.keys() - truths.keys()
            for key, truth in truths.items():
                self._measure(
                    gauges.setdefault(key, _Gauge(0.0)), i, key, told.get(key), truth, [one[key] for one in known]
                )
        self._outline = self._outline or outline
        gauges = {key: gauge for key, gauge in gauges.items() if key[0] == PARAMETER or key[1] in moved}
        return Followed(np.inf) if strange else self._judged(gauges)

    def _measure(self, gauge, i, key, value, truth, known):
        """Measure one tensor at one step; state that is not there was zero, if it comes later."""
        (kind, name), single = key, known[0]
        truth = np.where(np.isfinite(single), truth, single)
        gauge.told |= value is not None
        value = np.zeros_like(single) if value is None else as_precise(np.asarray(value), single.dtype)
        if value.shape != truth.shape:
            gauge.off.append(Divergence(i, name, kind, (), np.nan, np.nan, np.inf))
            return
        off, *own = (errors([one], [truth], DTYPE, gauge.largest)[0] for one in (value, *known))
        place = tuple(map(int, np.unravel_index(int(off.argmax()), off.shape)))
        gauge.off.append(Divergence(i, name, kind, place, float(value[place]), float(single[place]), float(off[place])))
        gauge.own = max(gauge.own, *(float(one.max()) for one in own))
        gauge.largest = max(gauge.largest, float(np.abs(truth[np.isfinite(truth)]).max(initial=0.0)))

    def _judged(self, gauges):
        """The worst ratio of what was told, and the first step that is too far."""
        ratio, parted = 0.0, []
        for (kind, _), gauge in gauges.items():
            if not gauge.told:
                continue
            budget = max(self._least if kind == PARAMETER else 1.0, gauge.own)
            if not np.isfinite(budget):
                return Followed(np.inf)
            ratio = max(ratio, *(one.ulps / budget for one in gauge.off))
            parted += [one for one in gauge.off if one.ulps > RATIO * budget][:1]
        return Followed(ratio, min(parted, key=lambda one: one.step, default=None))

    def _drawn(self, run):
        """The run with the drawn elements alone."""
        shapes = {name: value.shape for name, value in run.initial.items()}
        header = {**run.header, "sample": {"elements": ELEMENTS, "seed": 0, "shapes": shapes}}
        return Run(header, self._of(run.initial), self._of_state(run.initial_state), Mapped(run.steps, self._step))

    def _step(self, i, step):
        if len(self.norms) == i:
            self.norms.append(norm_of(step.gradients))
        return replace(
            step,
            gradients=self._of(step.gradients),
            parameters=self._of(step.parameters),
            state=self._of_state(step.state),
            double_parameters={},
            double_state={},
            before=self._of(step.before),
        )

    def _of(self, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
        sparse = [name for name, value in arrays.items() if isinstance(value, tuple)]
        if sparse:
            raise Unjudged(f"For 'diagnose', the gradients of {sparse} must be sparse in all steps, or in none.")
        return {name: self._part(name, value) for name, value in arrays.items()}

    def _of_state(self, state):
        return {name: {slot: self._part(name, value) for slot, value in slots.items()} for name, slots in state.items()}

    def _part(self, name, value):
        return self._sample.of(name, value, self._sizes[name])


def as_precise(value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A tensor of a run in float64 as one of what it is judged by: what float32 does not hold is infinite."""
    with np.errstate(over="ignore"):
        return value.astype(dtype) if value.dtype == np.float64 else value


def _values(params, state):
    """Parameters and state by kind and name."""
    found = {(PARAMETER, name): value for name, value in params.items()}
    return found | {(slot, name): value for name, slots in state.items() for slot, value in slots.items()}
