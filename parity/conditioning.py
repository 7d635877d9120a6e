"""A judge that knows how far rounding alone may carry a run: hyperparameters at random are often ill-conditioned."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

import ms_optim
from parity import maths, mindspore_side, torch_side
from parity.cases import Case
from parity.compare import RATIO, RELATIVE, Score, Verdict, compare, compare_exactly, errors, first, structure
from parity.draws import Draw
from parity.problems import Problem
from parity.suite import Outcome
from parity.trace import PARAMETER, Trace

# How many times torch is run again on inputs that differ in their last bit.
TRIALS = 8
# Where that moves a tensor by more than this of its largest magnitude, nothing can be told of it from there on.
CHAOS = {"float16": 2.0**-5, "float32": 2.0**-11, "float64": 1e-6}


@dataclass(frozen=True)
class Judged(Outcome):
    """The outcome of a draw, and whether some tensor was off by no more than rounding alone may carry torch."""

    undecided: bool = False


def verify(draw: Draw) -> Judged:
    """Run the legs on a draw: the mathematics in float64, and the arithmetic in its dtype and mode.

    First each leg is judged as in the suite, by the error of one run of torch. That is unfair where the rule itself
    magnifies rounding, for torch's own error is luck there: a centered RMSprop takes the root of a difference of two
    numbers that may be equal, and is NaN or not as the last bit falls; NAdam with a tiny eps multiplies a change of
    1e-15 by 500; Rprop reads signs, and Muon rounds to bfloat16. So what fails is judged again, by how far torch goes
    when every weight and gradient moves by one unit in the last place of the arithmetic, and every hyperparameter by
    one in float64, at random, TRIALS times, and once with denormal numbers flushed to zero, as compiled graphs flush
    them. The budget of a tensor at a step is the worst that any of these runs had of it so far: a tensor that becomes
    chaotic is still judged until it does, and never excuses another. Where the budget is beyond CHAOS, a tensor that is
    off by as much is undecided, and so is the draw: it counts neither as equal nor as wrong.

    float16 parameters are computed in float32 and rounded on store, so they are judged by torch in float32 and in
    float64 with parameters and state rounded to float16 after each step, in ulps of float16. (torch in float16 rounds
    after each operation: it is further off, and NaN where eps has rounded to zero.)
    """
    case, problem, build = draw.case, draw.problem, mindspore_side.factory(draw.case)
    wide = _cast(problem, np.float64)
    exact, exact_undecided = _judge_exactly(maths.run(build, wide), case, wide)
    ours = mindspore_side.run(build, problem, draw.mode)
    verdict, undecided = (_judge_exactly if draw.dtype == "float64" else _judge)(ours, case, problem)
    return Judged(case, problem.name, exact, {draw.mode: verdict}, undecided or exact_undecided)


def _judge_exactly(ours, case, problem):
    """The verdict on a float64 run, and whether it is undecided."""
    double = torch_side.run(torch_side.factory(case), problem, "float64")
    verdict = compare_exactly(ours, double, case.noise)
    if verdict.passed or verdict.problems:
        return verdict, False
    unit = RELATIVE / np.finfo(np.float64).eps
    others = [{key: errors(other[key], double[key], np.float64) for key in double}
              for other in _trials(case, problem, "float64")]
    budgets = {key: unit * np.maximum(1.0, budget) for key, budget in _worst_so_far(others).items()}
    return _rejudge(ours, double, double, budgets, "float64", 1.0, case.noise)


def _judge(ours, case, problem):
    """The verdict on a float32 or float16 run, and whether it is undecided."""
    dtype = str(next(iter(problem.initial.values())).dtype)
    case = _explicit(case, dtype)
    single, double = (_run(case, problem, precision, dtype) for precision in ("float32", "float64"))
    if dtype == "float32":
        verdict = compare(ours, single, double, noise=case.noise)
        limit = RATIO * max(CHAOS[dtype], case.noise) / np.finfo(dtype).eps
        if verdict.passed and all(score.ulps <= limit for score in verdict.scores.values()):
            return verdict, False
    problems = structure(ours, single)
    if problems:
        return Verdict(problems=tuple(problems)), False
    truth = {key: [np.where(np.isfinite(one), two, one.astype(np.float64)) for one, two in zip(steps, double[key])]
             for key, steps in single.items()}
    others = [{key: errors(other[key], truth[key], np.dtype(dtype)) for key in truth}
              for other in (single, *_trials(case, problem, dtype))]
    budgets = {key: np.maximum(1.0, budget) for key, budget in _worst_so_far(others).items()}
    return _rejudge(ours, single, truth, budgets, dtype, RATIO, case.noise)


def _worst_so_far(runs):
    """For each tensor the largest error of any run up to each step."""
    return {key: np.maximum.accumulate(np.max([[step.max(initial=0.0) for step in run[key]] for run in runs], axis=0))
            for key in runs[0]}


def _rejudge(ours, reference, truth, budgets, dtype, ratio, noise):
    """The verdict on each tensor at each step by a budget of its own, and whether something is undecided."""
    ulp = np.finfo(dtype).eps
    divergences, ratios, ulps, equal, undecided = [], {}, {}, {}, False
    for key, budget in budgets.items():
        kind = key[0]
        if kind == PARAMETER:
            budget = np.maximum(budget, noise / ulp)
        off = errors(ours[key], truth[key], np.dtype(dtype))
        worst = np.array([step.max(initial=0.0) for step in off])
        wrong = np.flatnonzero(worst > ratio * budget)
        if wrong.size:
            step = int(wrong[0])
            found = first(key, off[step:], ours[key][step:], reference[key][step:], ratio * float(budget[step]))
            divergences.append(replace(found, step=step))
        judged = budget <= max(CHAOS[dtype], noise) / ulp
        undecided |= bool((worst[~judged] > ratio * max(CHAOS[dtype], noise) / ulp).any())
        ratios.setdefault(kind, []).append((worst / budget)[judged].max(initial=0.0))
        ulps.setdefault(kind, []).append(worst.max())
        equal.setdefault(kind, []).append(np.mean([step == 0 for step in off], dtype=float) if off else 1.0)
    scores = {kind: Score(float(max(ratios[kind])), float(max(ulps[kind])), float(np.mean(equal[kind])))
              for kind in ratios}
    earliest = min(divergences, key=lambda divergence: divergence.step, default=None)
    return Verdict(scores, earliest), undecided and earliest is None


def _run(case: Case, problem: Problem, precision: str, dtype: str) -> Trace:
    """The trace of torch, which computes in `precision` and stores in `dtype`."""
    build = torch_side.factory(case)
    if dtype != "float16":
        return torch_side.run(build, problem, precision)
    numbers = {slot.name for slot in getattr(ms_optim, case.optimizer).slots if slot.scalar}
    trace = torch_side.run(lambda named: _Stored(build(named), numbers), problem, precision)
    return trace if precision == "float64" else {
        key: steps if key[0] in numbers else [step.astype(dtype) for step in steps] for key, steps in trace.items()}


class _Stored:
    """An optimizer of torch whose parameters and state are rounded to float16 after each step."""

    def __init__(self, optimizer, numbers):
        self._optimizer, self._numbers = optimizer, numbers
        self.state = optimizer.state
        self._round()

    def step(self):
        """Step in full precision, then round."""
        self._optimizer.step()
        self._round()

    @torch.no_grad()
    def _round(self):
        kept = [value for slots in self.state.values() for slot, value in slots.items()
                if slot not in self._numbers and value is not None]
        for tensor in [*kept, *(param for group in self._optimizer.param_groups for param in group["params"])]:
            tensor.copy_(tensor.half())


def _trials(case: Case, problem: Problem, dtype: str) -> Iterator[Trace]:
    """What torch does with inputs that differ in the last bit, and with denormal numbers flushed."""
    precision = "float64" if dtype == "float64" else "float32"
    for seed in range(TRIALS):
        rng = np.random.default_rng(seed)
        yield _run(_moved_case(case, rng), _moved_problem(problem, np.dtype(precision), rng), precision, dtype)
    torch.set_flush_denormal(True)
    try:
        yield _run(case, problem, precision, dtype)
    finally:
        torch.set_flush_denormal(False)


def _moved_problem(problem, dtype, rng):
    def moved(value):
        with np.errstate(all="ignore"):
            factor = 1 + np.finfo(dtype).eps * rng.choice([-1.0, 1.0], value.shape)
            return np.asarray(value.astype(np.float64) * factor, dtype)

    return Problem(problem.name, {name: moved(value) for name, value in problem.initial.items()},
                   [{name: None if grad is None else moved(grad) for name, grad in gradients.items()}
                    for gradients in problem.gradients])


def _moved_case(case, rng):
    def moved(value):
        if isinstance(value, tuple) and not any(isinstance(item, str) for item in value):
            return tuple(map(moved, value))
        if not isinstance(value, float) or value in (0.0, 1.0):  # the ends of ranges stay
            return value
        return float(np.nextafter(value, 0.0)) if rng.random() < 0.5 else value

    def all_moved(options):
        return {key: moved(value) for key, value in options.items()}

    return replace(case, kwargs=all_moved(case.kwargs),
                   groups=tuple((pattern, all_moved(overrides)) for pattern, overrides in case.groups))


def _explicit(case, dtype):
    """The case with the eps of Adafactor that None means in this dtype, which torch reads off the one that it runs."""
    if case.optimizer != "Adafactor":
        return case
    eps = float(np.finfo(dtype).eps)

    def told(options):
        return {key: (eps if key == "eps" and value[0] is None else value[0], value[1]) if key == "eps" else value
                for key, value in options.items()}

    return replace(case, kwargs=told({"eps": (None, 1e-3), **case.kwargs}),
                   groups=tuple((pattern, told(overrides)) for pattern, overrides in case.groups))


def _cast(problem, dtype):
    return Problem(problem.name, {name: value.astype(dtype) for name, value in problem.initial.items()},
                   [{name: None if grad is None else grad.astype(dtype) for name, grad in gradients.items()}
                    for gradients in problem.gradients])
