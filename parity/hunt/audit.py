"""Audits what MindSpore ships: each optimizer against its counterpart in PyTorch, and what it does where they part."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory

import mindspore as ms
import numpy as np

from parity.cases.problems import Problem, synthetic
from parity.cases.stock import Stock
from parity.hunt.diagnosis import Suspects
from parity.hunt.search import Diagnosis
from parity.runs.problems import run_of
from parity.sides import mindspore as mindspore_side
from parity.sides.trace import PARAMETER, Trace

STEPS = 20
# What a tensor may be off, of its largest magnitude, for a run to have gone on where it was stopped.
ROUNDED = 1e-6
# Matrices under gradients of two kinds, and vectors, of which MindSpore leaves some out of the decay by their names.
TENSORS = ("fc.weight", "twin.weight", "ema.gain", "flip.beta", "offset")


@dataclass(frozen=True)
class Audited:
    """What one optimizer does with one set of numbers.

    Attributes:
        stock (Stock): Which.
        numbers (dict): In torch's words.
        says (dict[str, str]): By mode, "right", the mistakes that it follows, or why it does not run.
        survives (bool): Whether it goes on from a checkpoint of it as if it had not been stopped, but for rounding;
            None if it does not run.
    """

    stock: Stock
    numbers: dict
    says: dict[str, str]
    survives: bool | None


@dataclass(frozen=True)
class Audit:
    """The audit of one optimizer, which a process runs."""

    stock: Stock
    modes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Which."""
        return f"mindspore.{self.stock.place}"

    def run(self, keep: bool = False) -> list[Audited]:
        """What it does with each of its settings."""
        return [audit(self.stock, *setting, self.modes) for setting in self.stock.settings]


def told(findings: list[Audited]) -> dict[str, str]:
    """What was found of one optimizer, in words: of all its settings, or of each where they differ."""
    stock = findings[0].stock
    said: dict[str, list[str]] = {}
    for found in findings:
        numbers = ", ".join(f"{key}={value}" for key, value in found.numbers.items() if key != "lr")
        said.setdefault(_in_modes(found), []).append(numbers or "defaults")
    says = "; ".join(f"{words} ({', or '.join(numbers)})" for words, numbers in said.items())
    says = next(iter(said)) if len(said) == 1 else says
    known = [found.survives for found in findings if found.survives is not None]
    return {
        "optimizer": stock.place,
        "torch.optim": stock.counterpart,
        "says": says,
        "resumes": "no" if False in known else "yes" if known else "-",
    }


def _in_modes(found):
    if len({*found.says.values()}) == 1:
        return next(iter(found.says.values()))
    return ", ".join(f"{mode}: {words}" for mode, words in found.says.items())


def audit(stock: Stock, numbers: dict, own: dict, modes: tuple[str, ...]) -> Audited:
    """Run an optimizer with some numbers in each mode, say what it follows, and whether it can be stopped."""
    problem = synthetic(STEPS, absent=False).part(TENSORS)
    run = run_of(stock.counterpart, [{"params": [*problem.initial], **numbers}], problem)
    says, traces, survives, suspects = {}, {}, None, Suspects(run)

    def make(params):
        return reduce(getattr, stock.place.split("."), ms)(params, **own)

    for mode in modes:
        try:
            traces[mode] = mindspore_side.run(make, problem, mode, slots=stock.state)
        except Exception as error:  # whatever MindSpore raises is what is to be told
            words = " ".join(str(error).replace("-", " ").split())
            says[mode] = f"does not run: {words.partition('. ')[0].partition(', Please')[0]}"
            continue
        same = next((one for one in says if one in traces and _same(traces[one], traces[mode])), None)
        if _stands_still(traces[mode], problem):
            says[mode] = "nothing moves"
        elif same is None:
            says[mode] = _said(suspects.diagnosis(traces[mode]))
        else:
            says[mode] = says[same]
        survives = _survives(make, problem, mode) and survives is not False
    return Audited(stock, numbers, says, survives)


def _stands_still(trace: Trace, problem: Problem) -> bool:
    return all(np.array_equal(trace[PARAMETER, name][-1], value) for name, value in problem.initial.items())


def _said(found: Diagnosis) -> str:
    if found.is_right:
        return "right"
    if found.fits:
        return found.fits[0][0]
    near = f", nearest: {found.nearest[0]} (ratio {found.nearest[1]:.3g})" if found.nearest else ""
    return f"none of the known mistakes{near}"


def _survives(make: Callable, problem: Problem, mode: str) -> bool:
    """Whether half a run, saved and loaded into a new optimizer, ends as a whole one does, but for rounding.

    Some of MindSpore's kernels round otherwise where a tensor lies elsewhere in memory.
    """
    begun, rest = problem.gradients[: STEPS // 2], problem.gradients[STEPS // 2 :]
    with TemporaryDirectory() as folder:
        file = str(Path(folder, "optimizer.ckpt"))
        whole, other = (mindspore_side.Session(make, problem.initial, mode) for _ in range(2))
        whole.steps(begun)
        ms.save_checkpoint(whole.optimizer, file)
        ms.load_param_into_net(other.optimizer, ms.load_checkpoint(file))
    for session in (whole, other):
        session.steps(rest)
    return all(
        np.allclose(value, other.values[name], 0, ROUNDED * np.abs(value).max(), equal_nan=True)
        for name, value in whole.values.items()
    )


def _same(one: Trace, other: Trace) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(a, b, equal_nan=True) for key in one for a, b in zip(one[key], other[key])
    )
