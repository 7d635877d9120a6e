"""Compares two recorded runs of anything: at which step they part, and whose it is.

Two trainings in float32 part slowly by themselves. So what is looked at is where one step goes another way than its
causes say: numbers of the groups, the loss, the gradients, and what the optimizer made of them, in this order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from parity.hunt.causes import (
    ROUNDED,
    SAME,
    SAME_STEP,
    Finding,
    averages_apart,
    classes_apart,
    in_words,
    jumped,
    numbers_apart,
    state_apart,
    steps_apart,
    weights_apart,
)
from parity.hunt.diagnosis import diagnose, is_known
from parity.hunt.gradients import AMPLIFIED, NOISE, Seen, gradients_apart, loss_apart
from parity.hunt.noted import noted
from parity.judge.compare import FREE_RATIO, Verdict, compare
from parity.judge.norms import Difference, differences
from parity.runs.files import Mapped, Run
from parity.runs.follow import Unjudged
from parity.sides.trace import PARAMETER


@dataclass(frozen=True)
class Comparison:
    """What was found of two runs; `drift` is how far apart their weights are before each step, at most and relatively.

    It leaves out `noise`: parameters of which gradients are not alike, but noise beside all others, and how far apart
    they end. `allowed` is how far apart losses and gradients might be at each step, and `at_first` the gradient that
    was furthest at the first. `chosen` are steps at which rounding let something choose otherwise, each with the tensor
    of the network that shows it. `unjudged` is why the rule of an optimizer could not be followed, if it could not.
    `verdict` is that of the second by the first and a float64 run, if there is one. `noted` is what was noted otherwise
    in one than in the other of the step at which they part. `every` is from how many steps one was recorded.
    """

    steps: int
    finding: Finding | None
    drift: tuple[float, ...] = field(default=(), repr=False)
    verdict: Verdict | None = None
    noted: tuple[str, ...] = ()
    every: int = 1
    noise: Mapping[str, float] = field(default_factory=dict)
    unjudged: str = ""
    allowed: tuple[float, ...] = field(default=(), repr=False)
    at_first: Difference | None = None
    chosen: Mapping[int, str] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Whether they part in nothing that rounding does not explain."""
        found = self.finding
        if found is None or (self.verdict and found.whose in OF_ROUNDING and not found.by_rule):
            return self.verdict is None or self.verdict.passed
        return False

    def __str__(self) -> str:
        said = [f"first part {self.finding}"] if self.finding else []
        said += [f"noted: {'; '.join(self.noted)}"] if self.noted else []
        if self.verdict:
            said.append(f"parameters, by {FREE_RATIO:g} times the error of the first in float32: {self.verdict}")
        if not self.finding:
            if self.verdict and not self.verdict.passed:
                said.append("what parts them is in no single step:")
            said.append(
                f"no step of {self.steps} parts them: numbers, losses, gradients and steps are as near as the weights. "
                f"These drift apart, at most {self.drift[1]:.1g} of a tensor after the first step and "
                f"{self.drift[-1]:.1g} after the last"
            )
            if self.at_first:
                said.append(
                    f"at the first step, from the same weights, gradients are at most {self.at_first.relative:.1g} of "
                    f"a tensor apart, {self.at_first.ulps:,.0f} ulps, in {self.at_first.name!r}; {SAME:g} is allowed"
                )
            if self.chosen:
                step, name = next(iter(self.chosen.items()))
                said.append(
                    f"gradients of few units differ at {len(self.chosen)} of the steps, the first {step * self.every} "
                    f"in {name!r}: rounding lets a ReLU or a maximum choose otherwise"
                )
            if self.noise:
                most = max(self.noise.values())
                said.append(
                    f"but for {', '.join([*self.noise][:5])}{' and more' if len(self.noise) > 5 else ''}, which end "
                    f"{most:.1g} apart: gradients that are not alike, but no more than {NOISE:g} of all, are taken for "
                    "noise"
                )
            if self.unjudged:
                said.append(f"steps were compared with each other alone, and not by a rule: {self.unjudged}")
            far = [i for i, allowed in enumerate(self.allowed) if allowed >= FAR]
            if far:
                step = far[0] * self.every
                said.append(
                    f"from step {step} on they are so far apart, {self.drift[far[0]]:.1g}, that losses and gradients "
                    "are compared loosely, or not at all: to tell what they are there, begin both runs at the weights "
                    "of one of them"
                )
        return "\n".join(said)


# What rounding may part, so that float64 has the last word.
OF_ROUNDING = ("weights", "loss", "gradient", "optimizer")
# How far apart losses and gradients may be for anything to be told by them.
FAR = 0.1


class Incomparable(ValueError):
    """Why two runs have nothing to compare."""


def compare_runs(
    first: Run, second: Run, truth: Run | None = None, names: Mapping[str, str] | None = None
) -> Comparison:
    """Find where the second run leaves the first, and whose it is.

    Args:
        first (Run): One run.
        second (Run): The other, of the same network.
        truth (Run): The first in float64. Then they are equal if the second is no further from it than ten times the
            first is, and they have the same steps, numbers, parameters and state at first. What None is in float32 it
            is to be given as, for it is another number in float64. Default: ``None`` .
        names (Mapping[str, str]): What parameters of the second are called in the first, if not the same.
            Default: ``None`` .

    Raises:
        Incomparable: If they have no steps, or no parameters in common, or not the same steps or elements, or
            parameters of 16 bits; or if the truth is not in float64, or has other weights at first or other numbers
            than the first run.
    """
    halves = sorted({*first.halves, *second.halves})
    if halves:
        raise Incomparable(f"For 'compare', the parameters must be float32 or float64, but not so {halves}.")
    pairs = _paired(first, second, names or {})
    for key, what in (("every", "of how many steps one is there"), ("sample", "which elements are there")):
        told = [_how(run.header.get(key)) for run in (first, second, truth) if run]
        if any(one != told[0] for one in told):
            raise Incomparable(f"For 'compare', the runs must say alike {what}, as {key!r}, but got {told}.")
    steps = min(len(first.steps), len(second.steps))
    if not steps:
        raise Incomparable("For 'compare', the runs must have steps, but got none.")
    found = _found(first, second, pairs, steps)
    finding = found.finding
    notes = noted(first, second, pairs, finding.step) if finding and finding.step >= 0 else ()
    if finding and finding.step > 0:  # of those that were recorded
        finding = replace(finding, step=finding.step * first.header.get("every", 1))
    verdict = None if truth is None else _judged(first, second, truth, pairs, steps)
    return replace(found, finding=finding, verdict=verdict, noted=notes)


def _how(told):
    """What a run says of how it was recorded, but for the shapes that tensors had."""
    return {key: value for key, value in told.items() if key != "shapes"} if isinstance(told, dict) else told


def _paired(first, second, given):
    """The name of each parameter in both runs, in the order of the first."""
    unknown = sorted({*given} - {*second.initial})
    if unknown:
        raise Incomparable(f"For 'compare', 'names' must be of {[*second.initial]}, but got {unknown}.")
    goals = [*given.values()]
    odd = sorted({name for name in goals if name not in first.initial or goals.count(name) > 1})
    if odd:
        raise Incomparable(f"For 'compare', 'names' must go to {[*first.initial]}, each once, but got {odd}.")
    others = {name: name for name in second.initial if name not in given}
    others |= {called: name for name, called in given.items()}
    pairs = {name: others[name] for name in first.initial if name in others}
    if not pairs:
        raise Incomparable(
            f"For 'compare', the runs must have parameters in common, but got {[*first.initial][:5]} and "
            f"{[*second.initial][:5]}."
        )
    return pairs


def _found(first, second, pairs, steps):
    """What there is to say of the steps, up to the first finding."""
    every, drift, budgets, seen = first.header.get("every", 1), [], [], Seen()
    mine = {name: first.initial[name] for name in pairs}
    others = {name: second.initial[called] for name, called in pairs.items()}
    finding = _begun(first, second, pairs, mine, others)
    if finding:
        return Comparison(steps, finding, every=every)
    by_rule, wrong, unjudged = _optimizers(first, _filled(second, first, pairs))
    for i in range(steps):
        one, other = first.steps[i], second.steps[i]
        last = mine, others
        mine = mine | {name: one.before[name] for name in pairs if name in one.before}
        others = others | {name: other.before[called] for name, called in pairs.items() if called in other.before}
        changed = None
        if every != 1:
            allowed = every * AMPLIFIED * max(ROUNDED, _drift(*last, seen.noise))
            changed = jumped(_quiet(mine, others, seen.noise), i, pairs, allowed)
        elif one.before or other.before:
            allowed = max(ROUNDED, AMPLIFIED * _drift(*last, seen.noise))
            changed = weights_apart(last, (mine, others), i, pairs, allowed)
        drift.append(_drift(mine, others, seen.noise))
        finding = numbers_apart(first, second, pairs, i) or changed or loss_apart(one, other, pairs, i, drift[-1], seen)
        budgets.append(seen.allowed(drift[-1]))
        finding = finding or gradients_apart(one, other, pairs, i, drift[-1], seen)
        if finding is None and wrong and wrong.step <= i:
            finding = wrong
        before = mine, others
        mine = {name: one.parameters[name] for name in pairs}
        others = {name: other.parameters[called] for name, called in pairs.items()}
        if finding is None and not by_rule:
            loose = seen.noise | dict.fromkeys(seen.chosen, np.array(True))
            moved = (_quiet(*weights, loose) for weights in (before, (mine, others)))
            finding = steps_apart(*moved, i, max(SAME_STEP, AMPLIFIED * budgets[-1]))
        if finding:
            break
    else:
        drift.append(_drift(mine, others, seen.noise))
        lengths = len(first.steps), len(second.steps)
        if lengths[0] != lengths[1]:
            finding = Finding(steps, "steps", f"the first has {lengths[0]} steps and the second {lengths[1]}")
    ends = {tensor.name: tensor.relative for tensor in differences(mine, others) if tensor.name in seen.noise}
    return Comparison(
        steps,
        finding,
        tuple(drift),
        every=every,
        noise={name: end for name, end in ends.items() if end > drift[-1]},
        unjudged=unjudged,
        allowed=tuple(budgets),
        at_first=seen.at_first,
        chosen=seen.switched,
    )


def _quiet(mine, others, noise):
    """Weights without what follows nothing but noise: there the second has those of the first."""
    return mine, {
        name: np.where(noise[name], mine[name], other) if name in noise else other for name, other in others.items()
    }


def _drift(mine, others, noise):
    """How far apart the weights are, but for noise."""
    return max((tensor.relative for tensor in differences(*_quiet(mine, others, noise))), default=0.0)


def _begun(first, second, pairs, mine, others):
    """What differs before the first step."""
    left = [name for name in first.initial if name not in pairs]
    missing = [name for name in second.initial if name not in pairs.values()]
    if left or missing:
        return Finding(-1, "names", f"only in the first {left or 'none'}, only in the second {missing or 'none'}")
    shapes = [f"{name} {mine[name].shape} and {others[name].shape}" for name in pairs if not _fit(name, mine, others)]
    if shapes:
        return Finding(-1, "names", f"shapes differ: {', '.join(shapes)}")
    apart = tuple(tensor for tensor in differences(mine, others) if not tensor.relative <= ROUNDED)
    if apart:
        return Finding(-1, "weights", in_words(apart, pairs), apart)
    return averages_apart(first, second) or state_apart(first, second, pairs)


def _fit(name, mine, others):
    return mine[name].shape == others[name].shape


def _filled(run, other, pairs):
    """The run with the numbers of another where its optimizer, which has one group, does not tell its own."""
    if len(run.header["groups"]) != 1 or set(pairs.values()) != {*run.initial}:
        return run
    groups = [
        {**group, **run.header["groups"][0], "params": [pairs[name] for name in group["params"]]}
        for group in other.header["groups"]
    ]

    def filled(i, step):
        return replace(step, groups=[{**group, **step.groups[0]} for group in other.steps[i].groups])

    steps = Mapped(run.steps, filled, min(len(run.steps), len(other.steps)))
    return Run({**run.header, "groups": groups}, run.initial, run.initial_state, steps)


def _optimizers(first, second):
    """Whether both follow rules that are known, the finding where one follows another than it should, or why not."""
    found, names = [], [run.header["optimizer"] for run in (first, second)]
    known = next(filter(is_known, names), names[0])
    for run, name in zip((first, second), names):
        try:
            found.append(diagnose(run, optimizer=name if is_known(name) else known))
        except Unjudged as error:  # no such rule, or the run does not say its numbers
            return False, None, str(error)
    followed = [_follows(diagnosis) for diagnosis in found]
    if followed[0] == followed[1]:  # or none that is known, and then their steps tell whether they do the same
        unjudged = f"of the first, {str(found[0]).splitlines()[0]}" if None in followed else ""
        return not unjudged, None, unjudged
    wrong = [(word, diagnosis) for word, diagnosis in zip(("first", "second"), found) if not diagnosis.is_right]
    if not wrong:
        return True, Finding(0, "optimizer", classes_apart(first, second), by_rule=True), ""
    step = min(diagnosis.divergence.step if diagnosis.divergence else 0 for _, diagnosis in wrong)
    text = "; ".join(f"of the {word}, {diagnosis}" for word, diagnosis in wrong)
    return True, Finding(step, "optimizer", text, by_rule=True), ""


def _follows(diagnosis):
    """What a run follows, to be told from another; None if it is nothing known."""
    if diagnosis.is_right:
        return diagnosis.optimizer
    return (diagnosis.optimizer, *(words for words, _ in diagnosis.fits)) if diagnosis.fits else None


def _judged(first, second, truth, pairs, steps):
    """The verdict on the parameters of the second by the first and its run in float64."""
    traces, same = [], {name: name for name in pairs}
    for run, names in ((second, pairs), (first, same), (truth, same)):
        missing = [name for name in names.values() if name not in run.initial]
        if missing or len(run.steps) < steps:
            lacks = f"lacks {missing}" if missing else f"has {len(run.steps)}"
            raise Incomparable(f"For 'compare', 'truth' must have {steps} steps of {[*pairs]}, but {lacks}.")
        traces.append(
            {
                (PARAMETER, name): [run.steps[i].parameters[called] for i in range(steps)]
                for name, called in names.items()
            }
        )
    dtypes = sorted({*truth.header["dtypes"].values()})
    if dtypes != ["float64"]:
        raise Incomparable(f"For 'compare', 'truth' must be in float64, but got {dtypes}.")
    initial = {name: first.initial[name] for name in pairs}
    apart = tuple(tensor for tensor in differences(initial, truth.initial) if not tensor.relative <= ROUNDED)
    if apart:
        raise Incomparable(
            f"For 'compare', 'truth' must begin with the weights of the first, but {in_words(apart, pairs)}."
        )
    others = next(filter(None, (numbers_apart(first, truth, same, i) for i in range(steps))), None)
    if others:
        raise Incomparable(f"For 'compare', 'truth' must have the numbers of the first, but {others}.")
    return compare(*traces, FREE_RATIO, initial=initial)
