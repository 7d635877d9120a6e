"""A judge that knows how far rounding alone may carry a run: hyperparameters at random are often ill-conditioned."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from parity.cases.formats import FORMATS
from parity.judge.compare import RATIO, RELATIVE, Score, Verdict, errors, first
from parity.sides.trace import PARAMETER, Trace

# How many times the reference is run again with other roundings, and how many before a run is called wrong.
TRIALS, MANY_TRIALS = 8, 72
# Where that moves a tensor by more than this of its largest magnitude, nothing can be told of it from there on.
CHAOS = {"bfloat16": 2.0**-3, "float16": 2.0**-5, "float32": 2.0**-11, "float64": 1e-6}


def limit_of_chaos(dtype: str, noise: float) -> float:
    """What a tensor may be off, in ulps, for anything to be told of it."""
    return max(CHAOS[dtype], 60 * noise) / FORMATS[dtype].eps


def judge_conditioned(
    ours: Trace,
    reference: Trace,
    truths: tuple[Trace, ...],
    shaken: Callable[[range], Iterable[Trace]],
    dtype: str,
    noise: float,
) -> tuple[Verdict, bool]:
    """The verdict by a budget for each tensor and step, and whether it is undecided.

    The budget is first the reference's own error, and where that is too little the worst that it has with other
    roundings, of which there are more before a run is called wrong.

    Args:
        ours: The run to judge.
        reference: The reference in the same precision.
        truths: A run may agree with any of them, element by element. Errors of the reference are those from the first,
            and the last is the reference in float64.
        shaken: The runs of the reference with other roundings, for a range of seeds.
        dtype: What parameters are stored in.
        noise: What a rule that rounds on its own may do to the parameters, relative to the largest magnitude.
    """

    def distances(run, truth):
        return {key: errors(run[key], steps, dtype) for key, steps in truth.items()}

    each = [distances(ours, truth) for truth in truths]
    off = {key: [np.min(steps, axis=0) for steps in zip(*(one[key] for one in each))] for key in ours}
    own, gone = _worst_so_far([distances(reference, truths[0])]), _overflown(truths[-1], dtype)
    budgets = {key: np.where(gone[key[1]], np.inf, budget) for key, budget in own.items()}
    verdict, undecided = _weigh(ours, reference, off, budgets, dtype, noise)
    limit = RATIO * limit_of_chaos(dtype, noise)
    if verdict.passed and all(score.ulps <= limit for score in verdict.scores.values()):
        return verdict, False
    for trials in (range(TRIALS), range(TRIALS, MANY_TRIALS)):
        worst = _worst_so_far([distances(run, truths[0]) for run in shaken(trials)])
        budgets = {key: np.maximum(budget, worst[key]) for key, budget in budgets.items()}
        verdict, undecided = _weigh(ours, reference, off, budgets, dtype, noise)
        if verdict.passed:
            break
    return verdict, undecided


def _worst_so_far(runs):
    """For each tensor the largest error of any run up to each step."""
    return {
        key: np.maximum.accumulate(np.max([[step.max(initial=0.0) for step in run[key]] for run in runs], axis=0))
        for key in runs[0]
    }


def _overflown(double, dtype):
    """For each parameter, at which steps it or its state has been beyond the largest number of the dtype."""
    largest, result = FORMATS[dtype].largest, {}
    for (_, name), steps in double.items():
        with np.errstate(invalid="ignore"):
            beyond = [bool((np.isfinite(step) & (np.abs(step) > largest)).any()) for step in steps]
        result[name] = np.logical_or.accumulate(beyond) | result.get(name, False)
    return result


def _weigh(ours, reference, off, budgets, dtype, noise):
    """The verdict on how far each tensor is off at each step, and whether something is undecided."""
    unit, chaos = FORMATS[dtype].eps, limit_of_chaos(dtype, noise)
    divergences, ratios, ulps, equal, undecided = [], {}, {}, {}, False
    for key, response in budgets.items():
        kind = key[0]
        budget = np.maximum(1.0, response) * (RELATIVE / unit if dtype == "float64" else RATIO)
        if kind == PARAMETER and noise:
            budget = np.maximum(noise / unit, response) * RATIO
        worst = np.array([step.max(initial=0.0) for step in off[key]])
        wrong = np.flatnonzero(worst > budget)
        if wrong.size:
            step = int(wrong[0])
            found = first(key, off[key][step:], ours[key][step:], reference[key][step:], float(budget[step]))
            divergences.append(replace(found, step=step))
        judged = budget <= RATIO * chaos
        undecided |= bool((worst[~judged] > RATIO * chaos).any())
        ratio = (worst[judged] / budget[judged]).max(initial=0.0) * (1.0 if dtype == "float64" else RATIO)
        ratios.setdefault(kind, []).append(ratio)
        ulps.setdefault(kind, []).append(worst.max())
        equal.setdefault(kind, []).append(np.mean([np.mean(step == 0) for step in off[key]]))
    scores = {
        kind: Score(float(max(ratios[kind])), float(max(ulps[kind])), float(np.mean(equal[kind]))) for kind in ratios
    }
    earliest = min(divergences, key=lambda divergence: divergence.step, default=None)
    return Verdict(scores, earliest), undecided
