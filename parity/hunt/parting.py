"""Compares two recorded runs of anything: at which step they part, and whose it is.

Two trainings in float32 part slowly by themselves. So what is looked at is where one step goes another way than its
causes say: numbers of the groups, the loss, the gradients, and what the optimizer made of them, in this order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ms_optim._groups import HOW, NOTES
from parity.hunt.diagnosis import diagnose, is_known
from parity.judge.compare import FREE_RATIO, Verdict, compare
from parity.judge.norms import Difference, differences, distance
from parity.runs.files import Run
from parity.sides.trace import PARAMETER

# How far apart a loss or a gradient may be, relative to its size, where the weights are the same; and how many times
# further apart than the weights are, where they are not.
SAME, AMPLIFIED = 1e-4, 100.0
# The same of what an optimizer whose rule is not known makes of gradients.
SAME_STEP = 1e-2
# Weights before the first step, and numbers of groups, which may have been rounded to float32.
ROUNDED = 1e-6
# A gradient this small beside all others is noise, as that of a bias before a normalization.
NOISE = 1e-6


@dataclass(frozen=True)
class Finding:
    """Where two runs part.

    Attributes:
        step (int): At which step, from 0; -1 is before the first.
        whose (str): "names", "weights", "numbers", "loss", "gradient", "optimizer" or "steps".
        text (str): What was found.
        tensors (tuple[Difference, ...]): What differs, in the order of the network.
    """

    step: int
    whose: str
    text: str
    tensors: tuple[Difference, ...] = ()

    def __str__(self) -> str:
        when = "before the first step" if self.step < 0 else f"at step {self.step}"
        return f"{when}, {self.whose}: {self.text}"


@dataclass(frozen=True)
class Comparison:
    """What was found of two runs; `drift` is how far apart their weights are before each step, at most and relatively.

    `verdict` is that of the second by the first and a float64 run, if there is one.
    """

    steps: int
    finding: Finding | None
    drift: tuple[float, ...] = field(default=(), repr=False)
    verdict: Verdict | None = None

    @property
    def equal(self) -> bool:
        """Whether they part in nothing that rounding does not explain."""
        return self.verdict.passed if self.verdict else self.finding is None

    def __str__(self) -> str:
        said = [f"first part {self.finding}"] if self.finding else []
        if self.verdict:
            said.append(f"parameters, by {FREE_RATIO:g} times the error of the first in float32: {self.verdict}")
        if not self.finding:
            said.append(
                f"no step of {self.steps} parts them: numbers, losses, gradients and steps are as near as the weights. "
                f"These drift apart by rounding, at most {self.drift[1]:.1g} of a tensor after the first step and "
                f"{self.drift[-1]:.1g} after the last"
            )
        return "\n".join(said)


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
            first is. Default: ``None`` .
        names (Mapping[str, str]): What parameters of the second are called in the first, if not the same.
            Default: ``None`` .

    Raises:
        Incomparable: If they have no steps, or no parameters in common, or not the same steps or elements, or
            parameters of 16 bits.
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
    finding, drift = _found(first, second, pairs, steps)
    if finding and finding.step > 0:  # of those that were recorded
        finding = replace(finding, step=finding.step * first.header.get("every", 1))
    verdict = None if truth is None else _judged(first, second, truth, pairs, steps)
    return Comparison(steps, finding, tuple(drift), verdict)


def _how(told):
    """What a run says of how it was recorded, but for the shapes that tensors had."""
    return {key: value for key, value in told.items() if key != "shapes"} if isinstance(told, dict) else told


def _paired(first, second, given):
    """The name of each parameter in both runs, in the order of the first."""
    unknown = sorted({*given} - {*second.initial})
    if unknown:
        raise Incomparable(f"For 'compare', 'names' must be of {[*second.initial]}, but got {unknown}.")
    others = {name: name for name in second.initial} | {called: name for name, called in given.items()}
    pairs = {name: others[name] for name in first.initial if name in others}
    if not pairs:
        raise Incomparable(
            f"For 'compare', the runs must have parameters in common, but got {[*first.initial][:5]} and "
            f"{[*second.initial][:5]}."
        )
    return pairs


def _found(first, second, pairs, steps):
    """The first finding, or None, and how far apart the weights are before each step."""
    drift = []
    mine = {name: first.initial[name] for name in pairs}
    others = {name: second.initial[called] for name, called in pairs.items()}
    finding = _begun(first, second, pairs, mine, others)
    if finding:
        return finding, drift
    by_rule, wrong = _optimizers(first, _filled(second, first, pairs))
    for i in range(steps):
        one, other = first.steps[i], second.steps[i]
        mine |= {name: one.before[name] for name in pairs if name in one.before}
        others |= {name: other.before[called] for name, called in pairs.items() if called in other.before}
        drift.append(max(tensor.relative for tensor in differences(mine, others)))
        allowed = max(SAME, AMPLIFIED * drift[-1])
        finding = (
            _numbers(first, second, pairs, i)
            or _loss(one, other, i, allowed)
            or _gradients(one, other, pairs, i, allowed)
            or (wrong if wrong and wrong.step <= i else None)
        )
        before = mine, others
        mine = {name: one.parameters[name] for name in pairs}
        others = {name: other.parameters[called] for name, called in pairs.items()}
        if finding is None and not by_rule:
            finding = _steps_taken(before, (mine, others), i, max(SAME_STEP, AMPLIFIED * allowed))
        if finding:
            return finding, drift
    drift.append(max(tensor.relative for tensor in differences(mine, others)))
    lengths = len(first.steps), len(second.steps)
    if lengths[0] != lengths[1]:
        return Finding(steps, "steps", f"the first has {lengths[0]} steps and the second {lengths[1]}"), drift
    return None, drift


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
    return Finding(-1, "weights", _said(apart, pairs), apart) if apart else None


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

    class Filled(Sequence):
        """Steps that are read when they are asked for."""

        def __len__(self):
            return min(len(run.steps), len(other.steps))

        def __getitem__(self, i):
            step = run.steps[i]
            return replace(step, groups=[{**group, **step.groups[0]} for group in other.steps[i].groups])

    return Run({**run.header, "groups": groups}, run.initial, run.initial_state, Filled())


def _optimizers(first, second):
    """Whether both follow rules that are known, and the finding where one follows another than it should."""
    found = []
    for run, name in ((first, first.header["optimizer"]), (second, second.header["optimizer"])):
        name = name if is_known(name) else first.header["optimizer"]
        try:
            found.append(diagnose(run, optimizer=name))
        except (TypeError, ValueError):  # no such rule, or the run does not say its numbers
            return False, None
    names = [run.header["optimizer"] for run in (first, second)]
    followed = [_follows(diagnosis) for diagnosis in found]
    if followed[0] == followed[1] and None not in followed:
        return True, None
    wrong = [(word, diagnosis) for word, diagnosis in zip(("first", "second"), found) if not diagnosis.is_right]
    if not wrong:
        return True, Finding(0, "optimizer", f"the first is {names[0]}, the second {names[1]}")
    step = min(diagnosis.divergence.step if diagnosis.divergence else 0 for _, diagnosis in wrong)
    text = "; ".join(f"of the {word}, {diagnosis}" for word, diagnosis in wrong)
    return True, Finding(step, "optimizer", text)


def _follows(diagnosis):
    """What a run follows, to be told from another; None if it is nothing known."""
    if diagnosis.is_right:
        return diagnosis.optimizer
    return (diagnosis.optimizer, *(words for words, _ in diagnosis.fits)) if diagnosis.fits else None


def _numbers(first, second, pairs, i):
    """The numbers of groups that differ, parameter by parameter."""
    one, other = (_by_parameter(run, i) for run in (first, second))
    differing: dict[tuple[str, str], list[str]] = {}
    for name, called in pairs.items():
        for key in one[name].keys() & other[called].keys() - {*HOW, *NOTES, "params"}:
            mine, its = one[name][key], other[called][key]
            if not _same_number(mine, its):
                differing.setdefault((key, f"{_told(mine)} and {_told(its)}"), []).append(name)
    if not differing:
        return None
    said = [f"{key} is {values} for {_some(names, len(pairs))}" for (key, values), names in sorted(differing.items())]
    return Finding(i, "numbers", "; ".join(said) + _shifted(first, second, [key for key, _ in differing]))


def _by_parameter(run, i):
    groups = run.steps[i].groups
    return {name: group for members, group in zip(run.header["groups"], groups) for name in members["params"]}


def _told(value):
    """A number as it is read, without the digits that it has by computation."""
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(_told, value))})"
    return f"{value:.8g}" if isinstance(value, float) else str(value)


def _same_number(one, other):
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same_number, one, other))
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return bool(np.isclose(one, other, rtol=ROUNDED, atol=0.0))
    return one == other


def _shifted(first, second, keys):
    """Whether one has what the other had a step before, as where a schedule steps at another place."""
    steps = min(len(first.steps), len(second.steps))
    if steps < 3 or [*{*keys}] != ["lr"]:
        return ""
    one, other = ([run.steps[i].groups[0].get("lr") for i in range(steps)] for run in (first, second))
    for word, early, late in (("second", one, other), ("first", other, one)):
        if len({*early}) > 1 and all(map(_same_number, early[:-1], late[1:])):
            return f": the {word} has the learning rates of one step before"
    return ""


def _loss(one, other, i, allowed):
    if one.loss is None or other.loss is None:
        return None
    off = distance(one.loss, other.loss)
    if off <= allowed:
        return None
    text = f"{one.loss:.8g} and {other.loss:.8g}, {off:.2g} apart where the weights are the same to {allowed:.2g}"
    return Finding(i, "loss", f"{text}: other data, or another network or loss")


def _gradients(one, other, pairs, i, allowed):
    """The gradients that differ, in the order of the network; all by one factor is said as such."""
    present = [
        (name, name in one.gradients, called in other.gradients)
        for name, called in pairs.items()
        if (name in one.gradients) != (called in other.gradients)
    ]
    if present:
        said = ", ".join(f"{name} in the {'first' if here else 'second'} alone" for name, here, _ in present)
        return Finding(i, "gradient", f"there is one of {said}")
    mine = {name: _dense(one, name) for name in pairs if name in one.gradients}
    others = {name: _dense(other, pairs[name]) for name in mine}
    tensors = differences(mine, others)
    whole = np.sqrt(sum(tensor.first**2 for tensor in tensors if np.isfinite(tensor.first)))
    apart = tuple(
        tensor
        for tensor in tensors
        if not tensor.relative * max(tensor.first, tensor.second) <= allowed * max(tensor.first, NOISE * whole)
    )
    if not apart:
        return None
    factor = _factor(mine, others, allowed)
    if factor is not None and len(apart) == len(tensors):
        norms = [
            float(np.sqrt(sum(np.square(grad, dtype=float).sum() for grad in side.values()))) for side in (mine, others)
        ]
        text = (
            f"all of the second are those of the first times {factor:.7g}, of norms {norms[0]:.5g} and {norms[1]:.5g}: "
            "a mean for a sum, a loss scale, a number of devices, or clipping in one of them"
        )
        return Finding(i, "gradient", text, apart)
    return Finding(i, "gradient", _said(apart, pairs), apart)


def _dense(step, name):
    """A gradient, with the rows of a sparse one in order."""
    grad = step.gradients[name]
    if not isinstance(grad, tuple):
        return grad
    rows, values = grad
    order = np.argsort(rows, kind="stable")
    return np.concatenate([rows[order].reshape(-1, 1).astype(float), values[order].reshape(len(rows), -1)], 1)


def _factor(mine, others, allowed):
    """By what all of the second are the first, or None."""
    product = sum(float((mine[name] * np.asarray(others[name], float)).sum()) for name in mine)
    square = sum(float(np.square(grad, dtype=float).sum()) for grad in mine.values())
    if not (np.isfinite(product) and square > 0 and product > 0):
        return None
    factor = product / square
    scaled = {name: grad * factor for name, grad in mine.items()}
    return factor if all(tensor.relative <= 10 * allowed for tensor in differences(scaled, others)) else None


def _steps_taken(before, after, i, allowed):
    """Where the same gradients led elsewhere."""
    moved = [{name: np.subtract(new[name], old[name], dtype=float) for name in new} for old, new in zip(before, after)]
    apart = tuple(tensor for tensor in differences(*moved) if not tensor.relative <= allowed)
    if not apart:
        return None
    return Finding(
        i, "optimizer", f"the same gradients go in, and other steps come out: {_said(apart, moved[0])}", apart
    )


def _said(apart, everything):
    """The tensors that differ, in words: how many, the last, which is nearest to the loss, and the furthest."""
    worst, last = max(apart, key=lambda tensor: tensor.relative), apart[-1]
    broken = [tensor.name for tensor in apart if np.isnan(tensor.first) != np.isnan(tensor.second)]
    text = f"{len(apart)} of {len(everything)} differ, the last of the network {last.name!r} by {last.relative:.2g}"
    text += "" if worst is last else f", the most {worst.name!r} by {worst.relative:.2g}"
    return text + (f"; NaN in one alone: {_some(broken, len(everything))}" if broken else "")


def _some(names, of):
    if len(names) == of:
        return "all"
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _judged(first, second, truth, pairs, steps):
    """The verdict on the parameters of the second by the first and its run in float64."""
    traces = []
    for run, names in (
        (second, pairs),
        (first, {name: name for name in pairs}),
        (truth, {name: name for name in pairs}),
    ):
        missing = [name for name in names.values() if name not in run.initial]
        if missing or len(run.steps) < steps:
            raise Incomparable(f"For 'compare', 'truth' must have {steps} steps of {[*pairs]}, but lacks {missing}.")
        traces.append(
            {
                (PARAMETER, name): [run.steps[i].parameters[called] for i in range(steps)]
                for name, called in names.items()
            }
        )
    return compare(*traces, FREE_RATIO, initial={name: first.initial[name] for name in pairs})
