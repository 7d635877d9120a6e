"""Measures the diagnosis: whether each mutant is named where it shows."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from parity.cases import ENTRIES
from parity.cases.problems import Problem
from parity.hunt.mutants import breed
from parity.hunt.search import PRECISIONS, Search
from parity.runs.follow import begun, by_the_rule, counterpart
from parity.runs.problems import run_of_case

# Of the synthetic problem, what each kind of mistake shows on.
TENSORS = ("fc.weight", "twin.weight", "conv.weight", "ema.gain", "flip.beta", "offset")


@dataclass(frozen=True)
class Named:
    """How the mutants of one optimizer are diagnosed, each where it shows first, with roundings of its own.

    Attributes:
        optimizer (str): Whose.
        alone (int): How many are named, and nothing else.
        among (int): How many are named beside others.
        wrongly (tuple[str, ...]): Those of which something else is named, or nothing.
        hidden (int): How many show in no case.
    """

    optimizer: str
    alone: int
    among: int
    wrongly: tuple[str, ...]
    hidden: int


def measured(optimizer: str, problem: Problem) -> Named:
    """Diagnose each mutant of an optimizer on the first case that shows it, beginning with the loudest.

    It computes in float64 and keeps float32, so that it rounds otherwise than what it is compared with. A case in which
    rounding alone makes NaN of numbers, as in the root of a difference of equals, tells nothing and is passed over.
    """
    left = [mutant for mutant in ENTRIES[optimizer].mutants if mutant.leg == "rule"]
    alone, among, wrongly = 0, 0, []
    for case in ENTRIES[optimizer].cases[::-1]:
        if not left:
            break
        run = run_of_case(case, problem.part(TENSORS))
        with TemporaryDirectory() as folder:
            search = Search(run, optimizer, Path(folder))
            for mistake, _ in search.shown:
                if mistake.mutants and mistake.mutants[0] in left:
                    cls = breed(Path(folder), *mistake.mutants)
                    single, ours = by_the_rule(run, begun(run, counterpart(run, cls)), PRECISIONS, _stored)
                    ours = {key: [step.astype(np.float32) for step in steps] for key, steps in ours.items()}
                    if not _are_alike(single, ours):
                        continue
                    left.remove(mistake.mutants[0])
                    fits = [words for words, _ in search.diagnosis(ours, 1).fits]
                    alone += fits == [str(mistake)]
                    among += str(mistake) in fits and len(fits) > 1
                    if str(mistake) not in fits:
                        wrongly.append(f"{mistake}: {', '.join(fits) or 'nothing'}")
    return Named(optimizer, alone, among, tuple(wrongly), len(left))


def _are_alike(one, other):
    """Whether two trajectories are finite in the same places."""
    return all(
        np.array_equal(np.isfinite(mine), np.isfinite(its))
        for key, steps in one.items()
        for mine, its in zip(steps, other[key])
    )


def _stored(rule, i, drawn):
    """What lets a rule go on from float32 numbers."""
    rule.store("float32")
    return drawn
