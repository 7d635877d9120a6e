"""The suite catches what is wrong: every mutant dies, and one that is not wrong lives."""

import pytest

from parity.mutants import MUTANTS, Mutant, breed
from parity.problems import synthetic
from parity.suite import hunt

PROBLEM = synthetic()


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_is_caught(mutant):
    """Some case of the optimizer fails."""
    (fate,) = hunt([mutant], PROBLEM)
    assert fate.caught


def test_a_rule_that_is_only_spelled_differently_lives():
    """The hunt does not call everything a mutant."""
    (fate,) = hunt([Mutant("SGD", "nothing", "return param - lr * grad", "return param + -lr * grad")], PROBLEM)
    assert not fate.caught


def test_an_edit_that_edits_nothing_is_an_error(tmp_path):
    """A mutant that the source has outgrown must not count as one that was caught, nor live unnoticed."""
    with pytest.raises(ValueError, match="'right' must occur once"):
        breed(Mutant("SGD", "gone", "no such text", "anything"), tmp_path)
