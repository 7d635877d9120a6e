"""The suite catches what is wrong: every mutant dies, and one that is not wrong lives."""

import inspect
from pathlib import Path

import pytest
from helpers import SPAN
from helpers.native import needs_compiler

from parity.cases import CASES, ENTRIES, Mutant
from parity.cases.problems import PART, synthetic
from parity.hunt import kernels
from parity.hunt.mutants import breed
from parity.hunt.rules import hunt
from parity.judge.compare import compare, compare_bits
from parity.sides import mindspore as mindspore_side
from parity.sides import rules
from parity.sides import torch as torch_side

# One pattern of gradients, and so one compilation; the first steps show every mistake.
PROBLEM = synthetic(12, absent=False)
# Each parameter costs as much to compile.
SMALL = PROBLEM.part(PART)
# Floors show where weights or gradients are 0, and means of more axes than two.
FEW = PROBLEM.part((*PART, "conv1d.weight", "zero.weight", "idle.weight"))
# Where only a compiled step can tell, any parameter of those that have gradients does.
TWO = PROBLEM.part(("twin.weight", "flip.beta"))


@pytest.mark.parametrize("optimizer", ENTRIES)
def test_every_mutant_is_caught(optimizer):
    """By some case of the optimizer, and by the rule alone unless the edit is of what runs it.

    What is caught on some of the parameters is caught on all: each is judged by itself.
    """
    mutants, fates = ENTRIES[optimizer].mutants, []
    for leg, problem in (("rule", FEW), ("graph", TWO)):
        fates += hunt([mutant for mutant in mutants if mutant.leg == leg], problem)
    caught = {str(fate.mutant): fate.leg for fate in fates if fate.caught}
    assert caught == {str(mutant): mutant.leg for mutant in mutants}


@pytest.mark.parametrize("optimizer", [name for name in CASES if name in (*SPAN, "SparseAdam", "EMA")])
def test_a_mutant_is_caught_in_a_compiled_step(optimizer):
    """Where MindSpore has run it, and not by its rule alone: one of each kind of step."""
    (fate,) = hunt(ENTRIES[optimizer].mutants[:1], SMALL, compiled=True)
    assert fate.caught and fate.leg == "graph"


@pytest.mark.parametrize("optimizer", CASES)
def test_the_right_rules_pass_where_mutants_are_caught(optimizer, monkeypatch):
    """On float32 arrays of NumPy; compiled, they pass in the test of parity. Each parameter alone has the same bits."""
    for case in CASES[optimizer]:
        problem, build = FEW.fitting(case), torch_side.factory(case)
        single, double = (torch_side.run(build, problem, dtype) for dtype in ("float32", "float64"))
        ours = rules.run(mindspore_side.factory(case), problem, "float32")
        verdict = compare(ours, single, double, noise=case.noise, initial=problem.initial)
        assert verdict.passed, f"{case}: {verdict}"
    monkeypatch.setattr(rules, "SMALL", -1)
    assert compare_bits(rules.run(mindspore_side.factory(case), problem, "float32"), ours).passed


@needs_compiler
def test_every_mutant_of_a_kernel_is_caught():
    """By direct calls on a library that is built of the edited source."""
    names = [name for name, entry in ENTRIES.items() if entry.kernel_mutants]
    fates = list(kernels.hunt(names, PROBLEM))
    assert [str(fate.mutant) for fate in fates if not fate.caught] == []
    assert len(fates) == sum(len(ENTRIES[name].kernel_mutants) for name in names)


def test_the_right_kernels_pass_where_bits_are_judged():
    """They have those of torch's fused kernels; their numbers are judged in the test of parity."""
    judged = [mutant for entry in ENTRIES.values() for mutant in entry.kernel_mutants if mutant.leg == "bits"]
    assert judged
    for mutant in judged:
        assert not kernels.judged(mutant, PROBLEM).caught, str(mutant)


def test_an_edit_of_a_kernel_that_edits_nothing_is_an_error():
    """As of a rule."""
    with pytest.raises(ValueError, match="'right' must occur once in the rule 'adam', or in all of them, but got 0"):
        kernels.edited((kernels.SOURCES / "rules.h").read_text(), Mutant("Adam", "gone", "no such text", "anything"))


def test_a_rule_that_is_only_spelled_differently_lives():
    """The hunt does not call everything a mutant, neither by its rule nor compiled."""
    spelled = Mutant("Rprop", "nothing", "param - grad.sign() * step_size,", "param + -step_size * grad.sign(),")
    (fate,) = hunt([spelled], TWO)
    assert not fate.caught and fate.leg is None


def test_an_edit_that_edits_nothing_is_an_error(tmp_path):
    """A mutant that the source has outgrown must not count as one that was caught, nor live unnoticed."""
    with pytest.raises(ValueError, match="'right' must occur once"):
        breed(tmp_path, Mutant("SGD", "gone", "no such text", "anything"))


def test_a_package_is_bred_anew_each_time(tmp_path):
    """Its modules are those of the folder that it is bred in: the compiler reads their sources there."""
    mutant = next(mutant for entry in ENTRIES.values() if entry.averages for mutant in entry.mutants)
    for folder in (tmp_path / "one", tmp_path / "other"):
        folder.mkdir()
        assert folder in Path(inspect.getsourcefile(breed(folder, mutant))).parents
