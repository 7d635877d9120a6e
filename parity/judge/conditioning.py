"""A judge that knows how far rounding alone may carry a run: hyperparameters at random are often ill-conditioned."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ms_optim
from parity.cases import Case
from parity.cases.draws import Draw
from parity.cases.problems import Problem
from parity.judge.compare import RATIO, RELATIVE, Score, Verdict, compare, compare_exactly, errors, first, structure
from parity.sides import mindspore as mindspore_side
from parity.sides import rules
from parity.sides import torch as torch_side
from parity.sides.trace import PARAMETER, Trace
from parity.suite import Outcome

# How many times torch is run again with other roundings, and how many before a draw is called wrong.
TRIALS, MANY_TRIALS = 8, 72
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
    1e-15 by 500; Rprop reads signs; Muon rounds to bfloat16. So what fails is judged again, by how far torch goes when
    every operand of every operation of its rule moves by a unit in the last place, and every hyperparameter by one in
    float64, at random, TRIALS times, and once with denormal numbers flushed to zero, as compiled graphs flush them. The
    budget of a tensor at a step is the worst that any of these runs had of it so far: a tensor that becomes chaotic is
    still judged until it does, and never excuses another. Where the budget is beyond CHAOS, a tensor that is off by as
    much is undecided, and so is the draw: it counts neither as equal nor as wrong.

    A run that is within its budget of torch in float32 itself is right too: there both may have overflowed on the way.
    So is one that is within it of float64 where only torch overflowed, as norms that are summed in float64 are. Once
    torch in float64 has left the range of the dtype, the tensor is undecided if it is off.

    float16 parameters are computed in float32 and rounded on store, so they are judged by torch in float32 and in
    float64 with parameters and state rounded to float16 after each step, in ulps of float16. (torch in float16 rounds
    after each operation: it is further off, and NaN where eps has rounded to zero.)
    """
    case, problem = draw.case, draw.problem
    build = mindspore_side.factory(case, fused=False if draw.path == "composed" else None)
    wide = _cast(problem, np.float64)
    exact, exact_undecided = _judge_exactly(rules.run(build, wide), case, wide)
    ours = mindspore_side.run(build, problem, draw.mode)
    verdict, undecided = (_judge_exactly if draw.dtype == "float64" else _judge)(ours, case, problem)
    passed = exact.passed and verdict.passed
    undecided = passed and (undecided or exact_undecided)
    return Judged(case, problem.name, exact, {f"{draw.mode} {draw.path}": verdict}, undecided)


def _judge_exactly(ours, case, problem):
    """The verdict on a float64 run, and whether it is undecided."""
    double = torch_side.run(torch_side.factory(case), problem, "float64")
    verdict = compare_exactly(ours, double, case.noise, problem.initial)
    if verdict.passed or verdict.problems:
        return verdict, False
    return _rejudge(ours, double, (double,), case, problem, "float64")


def _judge(ours, case, problem):
    """The verdict on a float32 or float16 run, and whether it is undecided."""
    dtype = str(next(iter(problem.initial.values())).dtype)
    case = _explicit(case, dtype)
    single, double = (_run(case, problem, precision, dtype) for precision in ("float32", "float64"))
    if dtype == "float32":
        verdict = compare(ours, single, double, noise=case.noise, initial=problem.initial)
        limit = RATIO * _chaos(case, dtype) / np.finfo(dtype).eps
        if verdict.passed and all(score.ulps <= limit for score in verdict.scores.values()):
            return verdict, False
    problems = structure(ours, single)
    if problems:
        return Verdict(problems=tuple(problems)), False
    truth = {
        key: [np.where(np.isfinite(one), two, one.astype(np.float64)) for one, two in zip(steps, double[key])]
        for key, steps in single.items()
    }
    return _rejudge(ours, single, (truth, single, double), case, problem, dtype)


def _chaos(case, dtype):
    return max(CHAOS[dtype], 60 * case.noise)


def _rejudge(ours, reference, truths, case, problem, dtype):
    """The verdict by a budget for each tensor and step.

    A run may agree with any of the truths, element by element; errors of torch are those from the first, and the last
    is torch in float64.
    """

    def distances(run):
        return {key: errors(run[key], steps, np.dtype(dtype)) for key, steps in truths[0].items()}

    off = {
        key: [np.min(each, axis=0) for each in zip(*(errors(steps, truth[key], np.dtype(dtype)) for truth in truths))]
        for key, steps in ours.items()
    }
    budgets, gone = _worst_so_far([distances(reference)]), _overflown(truths[-1], dtype)
    for trials in (range(TRIALS), range(TRIALS, MANY_TRIALS)):
        runs = [distances(run) for run in _trials(case, problem, dtype, trials)]
        budgets = {
            key: np.where(gone[key[1]], np.inf, np.maximum(budget, budgets[key]))
            for key, budget in _worst_so_far(runs).items()
        }
        verdict, undecided = _weigh(ours, reference, off, budgets, case, dtype)
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
    largest, result = np.finfo(dtype).max, {}
    for (_, name), steps in double.items():
        with np.errstate(invalid="ignore"):
            beyond = [bool((np.isfinite(step) & (np.abs(step) > largest)).any()) for step in steps]
        result[name] = np.logical_or.accumulate(beyond) | result.get(name, False)
    return result


def _weigh(ours, reference, off, budgets, case, dtype):
    """The verdict on how far each tensor is off at each step, and whether something is undecided."""
    unit = np.finfo(dtype).eps
    chaos = _chaos(case, dtype) / unit
    divergences, ratios, ulps, equal, undecided = [], {}, {}, {}, False
    for key, response in budgets.items():
        kind = key[0]
        budget = np.maximum(1.0, response) * (RELATIVE / unit if dtype == "float64" else RATIO)
        if kind == PARAMETER and case.noise:
            budget = np.maximum(case.noise / unit, response) * RATIO
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


def _run(case: Case, problem: Problem, precision: str, dtype: str, seed: int | None = None) -> Trace:
    """The trace of torch, which computes in `precision` and stores in `dtype`, with other roundings for each seed."""
    numbers = {slot.name for slot in getattr(ms_optim, case.optimizer).slots if slot.scalar}

    def build(named):
        optimizer = torch_side.factory(case)(named)
        optimizer = optimizer if seed is None else _Shaken(optimizer, numbers, seed)
        return _Stored(optimizer, numbers) if dtype == "float16" else optimizer

    trace = torch_side.run(build, problem, precision)
    return (
        trace
        if (dtype, precision) != ("float16", "float32")
        else {
            key: steps if key[0] in numbers else [step.astype(dtype) for step in steps] for key, steps in trace.items()
        }
    )


class _Stored:
    """An optimizer of torch whose parameters and state are rounded to float16 after each step."""

    def __init__(self, optimizer, numbers):
        self._optimizer, self._numbers = optimizer, numbers
        self.state, self.param_groups = optimizer.state, optimizer.param_groups
        self._round()

    def step(self):
        """Step in full precision, then round."""
        self._optimizer.step()
        self._round()

    @torch.no_grad()
    def _round(self):
        kept = [
            value
            for slots in self.state.values()
            for slot, value in slots.items()
            if slot not in self._numbers and value is not None
        ]
        for tensor in [*kept, *(param for group in self.param_groups for param in group["params"])]:
            tensor.copy_(tensor.half())


class _Shaken:
    """An optimizer of torch each of whose operations rounds otherwise."""

    def __init__(self, optimizer, numbers, seed):
        self._optimizer, self._numbers = optimizer, numbers
        self._roundings = _Roundings(seed)
        self.state, self.param_groups = optimizer.state, optimizer.param_groups

    def step(self):
        """Step, with exact step counts."""
        self._roundings.exact = {
            id(value) for slots in self.state.values() for slot, value in slots.items() if slot in self._numbers
        }
        with self._roundings:
            self._optimizer.step()


class _Roundings(TorchDispatchMode):
    """What an operation reads is off by a unit in the last place at random: Monte Carlo arithmetic (Parker 1997).

    So are what it has rounded before and, of a fused one, what it rounds on the way or, on another processor, does not.
    """

    operations = frozenset(
        [
            "add",
            "addcdiv",
            "addcmul",
            "addmm",
            "div",
            "lerp",
            "linalg_vector_norm",
            "mean",
            "mm",
            "mul",
            "norm",
            "pow",
            "reciprocal",
            "rsub",
            "sqrt",
            "square",
            "sub",
            "sum",
        ]
    )

    def __init__(self, seed):
        super().__init__()
        self.random, self.exact = torch.Generator().manual_seed(seed), set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        """Move the operands, the one that is written in place too, and do the operation."""
        name = operation.overloadpacket.__name__
        if name.rstrip("_") in self.operations:
            first, *others = args
            if name.endswith("_") and self._moves(first):
                first.copy_(self._moved(first))
            elif self._moves(first):
                first = self._moved(first)
            args = (first, *(self._moved(other) if self._moves(other) else other for other in others))
        return operation(*args, **(kwargs or {}))

    def _moves(self, value):
        return isinstance(value, torch.Tensor) and value.is_floating_point() and id(value) not in self.exact

    def _moved(self, value):
        units = torch.randint(-1, 2, value.shape, generator=self.random)
        return value * (1 + units.to(value.dtype) * torch.finfo(value.dtype).eps)


def _trials(case: Case, problem: Problem, dtype: str, seeds: range) -> Iterator[Trace]:
    """What torch does with other roundings, and with denormal numbers flushed."""
    precision = "float64" if dtype == "float64" else "float32"
    for seed in seeds:
        yield _run(_moved_case(case, np.random.default_rng(seed)), problem, precision, dtype, seed)
    torch.set_flush_denormal(True)
    try:
        yield _run(case, problem, precision, dtype)
    finally:
        torch.set_flush_denormal(False)


def _moved_case(case, rng):
    def moved(value):
        if isinstance(value, tuple) and not any(isinstance(item, str) for item in value):
            return tuple(map(moved, value))
        if not isinstance(value, float) or value in (0.0, 1.0, np.inf):  # the ends of ranges stay
            return value
        return float(np.nextafter(value, 0.0)) if rng.random() < 0.5 else value

    def all_moved(options):
        return {key: moved(value) for key, value in options.items()}

    return replace(
        case,
        kwargs=all_moved(case.kwargs),
        groups=tuple((pattern, all_moved(overrides)) for pattern, overrides in case.groups),
    )


def _explicit(case, dtype):
    """The case with the eps of Adafactor that None means in this dtype, which torch reads off the one that it runs."""
    if case.optimizer != "Adafactor":
        return case
    eps = float(np.finfo(dtype).eps)

    def told(options):
        return {
            key: (eps if key == "eps" and value[0] is None else value[0], value[1]) if key == "eps" else value
            for key, value in options.items()
        }

    return replace(
        case,
        kwargs=told({"eps": (None, 1e-3), **case.kwargs}),
        groups=tuple((pattern, told(overrides)) for pattern, overrides in case.groups),
    )


def _cast(problem, dtype):
    return Problem(
        problem.name,
        {name: value.astype(dtype) for name, value in problem.initial.items()},
        [
            {name: None if grad is None else grad.astype(dtype) for name, grad in gradients.items()}
            for gradients in problem.gradients
        ],
    )
