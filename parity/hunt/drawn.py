"""Compares what the fuzzer has drawn with PyTorch."""

from dataclasses import dataclass
from functools import partial

import numpy as np

import ms_optim
from parity.cases.draws import Draw
from parity.cases.problems import Problem, Rows
from parity.judge.compare import RATIO, Verdict, compare, compare_exactly, structure, truth_of
from parity.judge.conditioning import judge_conditioned, limit_of_chaos
from parity.sides import mindspore as mindspore_side
from parity.sides import rules
from parity.sides import torch as torch_side
from parity.sides.roundings import run_stored, shaken_runs
from parity.suite import Outcome


@dataclass(frozen=True)
class Judged(Outcome):
    """The outcome of a draw, and whether some tensor was off by no more than rounding alone may carry torch."""

    undecided: bool = False


def compare_draw(draw: Draw) -> Judged:
    """Run the legs on a draw: the mathematics in float64, and the arithmetic in its dtype and mode.

    First each leg is judged as in the suite, by the error of one run of torch. That is unfair where the rule itself
    magnifies rounding, for torch's own error is luck there: a centered RMSprop takes the root of a difference of two
    numbers that may be equal, and is NaN or not as the last bit falls; NAdam with a tiny eps multiplies a change of
    1e-15 by 500; Rprop reads signs; Muon rounds to bfloat16. So what fails is judged again, by how far torch goes when
    every operand of every operation of its rule moves by a unit in the last place, and every hyperparameter by one in
    float64, at random, and once with denormal numbers flushed to zero, as compiled graphs flush them. The budget of a
    tensor at a step is the worst that any of these runs had of it so far: a tensor that becomes chaotic is still judged
    until it does, and never excuses another. Where the budget is beyond the limit of chaos, a tensor that is off by as
    much is undecided, and so is the draw: it counts neither as equal nor as wrong.

    A run that is within its budget of torch in float32 itself is right too: there both may have overflowed on the way.
    So is one that is within it of float64 where only torch overflowed, as norms that are summed in float64 are. Once
    torch in float64 has left the range of the dtype, the tensor is undecided if it is off.

    float16 and bfloat16 parameters are computed in float32 and rounded on store, so they are judged by torch in float32
    and in float64 with parameters and state rounded after each step, in ulps of that format. (torch in half a float
    rounds after each operation: it is further off, and NaN where eps has rounded to zero.)
    """
    case, problem = draw.case, draw.problem
    build = mindspore_side.factory(case, fused=False if draw.path == "composed" else None)
    wide = _cast(problem, np.float64)
    exact, exact_undecided = _judge_exactly(rules.run(build, wide), case, wide)
    ours = mindspore_side.run(build, problem, draw.mode, compiled=draw.path != "direct")
    judge = _judge_exactly if draw.dtype == "float64" else partial(_judge, dtype=draw.dtype)
    verdict, undecided = judge(ours, case, problem)
    passed = exact.passed and verdict.passed
    undecided = passed and (undecided or exact_undecided)
    return Judged(case, problem.name, exact, {f"{draw.mode} {draw.path}": verdict}, undecided)


def _judge_exactly(ours, case, problem):
    """The verdict on a float64 run, and whether it is undecided."""
    double = torch_side.run(torch_side.factory(case), problem, "float64")
    verdict = compare_exactly(ours, double, case.noise, problem.initial)
    if verdict.passed or verdict.problems:
        return verdict, False
    return _judge_again(ours, double, (double,), case, problem, "float64")


def _judge(ours, case, problem, dtype):
    """The verdict on a run in less than float64, and whether it is undecided."""
    single, double = (
        run_stored(case, problem, precision, dtype, _numbers(case)) for precision in ("float32", "float64")
    )
    if dtype == "float32":
        verdict = compare(ours, single, double, noise=case.noise, initial=problem.initial)
        limit = RATIO * limit_of_chaos(dtype, case.noise)
        if verdict.passed and all(score.ulps <= limit for score in verdict.scores.values()):
            return verdict, False
    problems = structure(ours, single)
    if problems:
        return Verdict(problems=tuple(problems)), False
    return _judge_again(ours, single, (truth_of(single, double), single, double), case, problem, dtype)


def _judge_again(ours, reference, truths, case, problem, dtype):
    """The verdict of the judge that knows how far rounding carries torch."""
    shaken = partial(shaken_runs, case, problem, dtype, _numbers(case))
    return judge_conditioned(ours, reference, truths, shaken, dtype, case.noise)


def _numbers(case):
    """The state that is a number for each parameter."""
    return frozenset(slot.name for slot in getattr(ms_optim, (case.inner or case).optimizer).slots if slot.scalar)


def _cast(problem, dtype):
    """The problem in another dtype."""

    def cast(grad):
        if isinstance(grad, Rows):
            return Rows(grad.indices, grad.values.astype(dtype))
        return None if grad is None else grad.astype(dtype)

    return Problem(
        problem.name,
        {name: value.astype(dtype) for name, value in problem.initial.items()},
        [{name: cast(grad) for name, grad in gradients.items()} for gradients in problem.gradients],
    )
