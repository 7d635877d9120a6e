"""Hunts wrong versions of rules: each runs the cases of its optimizer, judged as the right one is, until one fails."""

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from parity.cases import ENTRIES, Mutant
from parity.cases.losses import MINIMIZING_STEPS, losses
from parity.cases.problems import Problem
from parity.hunt.mutants import Fate, breed
from parity.judge.compare import FREE_RATIO, compare
from parity.sides import mindspore as mindspore_side
from parity.sides import rules
from parity.sides import torch as torch_side


def hunt(mutants: Iterable[Mutant], problem: Problem, compiled: bool = False) -> Iterator[Fate]:
    """Run the cases of each mutant's optimizer until one fails, each judged by the oracle, as a right rule is.

    A grid begins with the defaults, which are the quietest, so it is run backwards.
    First the leg "rule", which compiles nothing: `scalars` in float64 and `update` in float32, on arrays. It
    sees what an edit of the rule or of the declared state does to numbers. Then the leg "graph", compiled by
    MindSpore, for what the first has not caught: it sees an edit of `construct` too, and is the only one of an
    optimizer whose step takes a closure, which is run on losses.

    Args:
        mutants: What to hunt.
        problem: What the cases are run on.
        compiled: Whether what is caught by its rule must be caught compiled as well, beginning with the same case.
    """

    @functools.cache
    def references(case):
        build, fitting = torch_side.factory(case), problem.fitting(case)
        return torch_side.run(build, fitting, "float32"), torch_side.run(build, fitting, "float64")

    @functools.cache
    def minima(case, loss):
        return tuple(
            torch_side.minimize(torch_side.factory(case), loss, MINIMIZING_STEPS, dtype)
            for dtype in ("float32", "float64")
        )

    def judge_steps(case, wrong, leg):
        build, fitting = mindspore_side.factory(case, wrong), problem.fitting(case)
        ours = rules.run(build, fitting, "float32") if leg == "rule" else mindspore_side.run(build, fitting, leg, True)
        yield compare(ours, *references(case), noise=case.noise, initial=fitting.initial)

    order = list(losses())

    def judge_minima(case, wrong, leg):
        for loss in [*order]:
            ours = mindspore_side.minimize(mindspore_side.factory(case, wrong), loss, MINIMIZING_STEPS, leg)
            verdict = compare(ours, *minima(case, loss), FREE_RATIO)
            if not verdict.passed:  # what one mistake shows on, the next may
                order.remove(loss)
                order.insert(0, loss)
            yield verdict

    with TemporaryDirectory() as folder:
        for mutant in mutants:
            wrong, entry = breed(Path(folder), mutant), ENTRIES[mutant.optimizer]
            cases, fate = entry.cases[::-1], Fate(mutant)
            if not entry.closure:
                fate = _hunt_one(mutant, wrong, cases, "rule", judge_steps)
            if compiled or not fate.caught:
                cases = sorted(cases, key=lambda case: case is not fate.case)
                fate = _hunt_one(mutant, wrong, cases, "graph", judge_minima if entry.closure else judge_steps)
            yield fate


def _hunt_one(mutant, wrong, cases, leg, judge):
    """One leg, over the cases in order."""
    for case in cases:
        for verdict in judge(case, wrong, leg):
            if not verdict.passed:
                return Fate(mutant, case, verdict, leg)
    return Fate(mutant)
