"""Hunts wrong versions of the native kernels: libraries of edited sources, which are run as the right one is."""

import re
import subprocess
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from unittest import mock

import ms_optim
from ms_optim import _native
from parity.cases import ENTRIES, Mutant
from parity.cases.problems import Problem
from parity.hunt.mutants import Fate, spaced
from parity.judge.compare import compare, compare_bits
from parity.sides import mindspore as mindspore_side
from parity.sides import torch as torch_side

SOURCES = Path(ms_optim.__file__).parent / "kernels"
# Without optimization, which changes no bit here and takes most of the time; and for the instruction set of this
# machine alone, which rounds as each that the library would choose here.
COMPILER = ("g++", "-std=c++17", "-O0", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC", "-pthread")
COMPILER += ("-DMS_OPTIM_PLAIN", "-march=native")


def build(mutants: Iterable[Mutant], folder: Path) -> Path:
    """A library with several mistakes, at most one for each rule.

    Raises:
        ValueError: If the source of a rule, or all of it, does not have what is right once.
    """
    copytree(SOURCES, folder, dirs_exist_ok=True)
    rules = folder / "rules.h"
    text = rules.read_text()
    for mutant in mutants:
        text = edited(text, mutant)
    rules.write_text(text)
    library = folder / "mutants.so"
    subprocess.run([*COMPILER, folder / "kernels.cpp", "-o", library], check=True)
    return library


def edited(text: str, mutant: Mutant) -> str:
    """The source of the rules with one mistake."""
    rule = rule_of(mutant.optimizer)
    own = re.search(rf"^struct {rule} : Declaration \{{$.*?^\}};$", text, re.MULTILINE | re.DOTALL)
    begin, end = own.span()
    if not re.search(spaced(mutant.right), text[begin:end]):  # it may be in what rules share
        begin, end = 0, len(text)
    found = re.findall(spaced(mutant.right), text[begin:end])
    if len(found) != 1:
        raise ValueError(
            f"For '{mutant}', 'right' must occur once in the rule {rule!r}, or in all of them, but got {len(found)} "
            f"occurrences of {mutant.right!r}."
        )
    return text[:begin] + text[begin:end].replace(found[0], mutant.wrong) + text[end:]


def rule_of(optimizer: str) -> str | None:
    """The name of the rule of an optimizer, if it is one rule."""
    if ENTRIES[optimizer].averages:
        return "average"
    update = getattr(getattr(ms_optim, optimizer), "update", None)
    return update and update.__name__


def hunt(names: Iterable[str], problem: Problem) -> Iterator[Fate]:
    """Run the cases of each optimizer by direct calls on libraries with a mistake in its rule, until one fails.

    Each library has one mistake of every optimizer. The leg "kernel" judges numbers, as the suite does; the leg "bits",
    of optimizers that torch has fused kernels for, their bits by default.
    """
    entries = [ENTRIES[name] for name in names]
    for mutants in zip_longest(*(entry.kernel_mutants for entry in entries)):
        mutants = [mutant for mutant in mutants if mutant]
        with TemporaryDirectory() as folder:
            library = build(mutants, Path(folder))
            with mock.patch.object(_native, "library", lambda library=library: library):
                for mutant in mutants:
                    yield judged(mutant, problem)


def judged(mutant: Mutant, problem: Problem) -> Fate:
    """What becomes of a mutant on the library that there is."""
    cases = ENTRIES[mutant.optimizer].cases
    for case in cases[:1] if mutant.leg == "bits" else cases[::-1]:
        build, fitting = torch_side.factory(case, True), problem.fitting(case)
        # Anew, because an optimizer that was made before has the kernel of another library.
        ours = mindspore_side.factory(case, fused=True)
        session = mindspore_side.Session(ours, fitting.initial, "graph", anew=True, compiled=False)
        ours = session.steps(fitting.gradients)
        single = torch_side.run(build, fitting, "float32")
        if mutant.leg == "bits":
            verdict = compare_bits(*(_tensors(run, mutant.optimizer) for run in (ours, single)))
        else:
            double = torch_side.run(torch_side.factory(case), fitting, "float64")
            verdict = compare(ours, single, double, noise=case.noise, initial=fitting.initial)
        if not verdict.passed:
            return Fate(mutant, case, verdict, mutant.leg)
    return Fate(mutant)


def _tensors(run, optimizer):
    """A trace without the numbers, which torch has in float32."""
    numbers = {slot.name for slot in getattr(ms_optim, optimizer).slots if slot.scalar}
    return {key: steps for key, steps in run.items() if key[0] not in numbers}
