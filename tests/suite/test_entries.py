"""Every optimizer has an entry with all that proves it, and what is missing fails by the name of the optimizer."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import UNGROUPED
from mindspore import nn
from mindspore.experimental import optim as experimental

import ms_optim
from ms_optim._native import kernels_for
from ms_optim.arguments import COMMON, Choice, Whole
from parity import cases
from parity.cases import ENTRIES, Case, Entry, networks, optimizers
from parity.hunt.kernels import rule_of

each = pytest.mark.parametrize("name", ENTRIES)


def place(path):
    """What a dotted path leads to; None if it is not there."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name, None)


@pytest.mark.parametrize("name", ms_optim.OPTIMIZERS)
def test_every_optimizer_has_an_entry(name):
    """An optimizer without one would be claimed and not proven."""
    room = getattr(ms_optim, name).__module__.split(".")[1]
    assert name in ENTRIES, f"{name} has no parity/cases/optimizers/{room}.py"


@each
def test_an_entry_is_of_a_class_of_its_name(name):
    """In the module that the file of the entry is named after, or in a package of that name."""
    room = getattr(ms_optim, name).__module__.split(".")[1]
    assert importlib.import_module(f"{optimizers.__name__}.{room}").ENTRY is ENTRIES[name]


@each
def test_an_entry_has_what_proves_it(name):
    """Cases, mutants of different mistakes, what memory and operators are measured by, a reference that exists."""
    entry = ENTRIES[name]
    needed = {"cases", "mutants", "memory"} | ({"kernels"} if not entry.closure else set())
    missing = sorted(field for field in needed if not getattr(entry, field))
    assert not missing, f"the entry of {name} has no {', '.join(missing)}"
    assert len({mutant.mistake for mutant in entry.mutants}) == len(entry.mutants)
    for case in (*entry.cases, *filter(None, [entry.training])):
        found = place(case.reference)
        assert inspect.isclass(found), (
            f"{name} has no class {case.reference}: 'reference=' of its grid says where it is"
        )
    assert entry.state or getattr(ms_optim, name).slots


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.kernels])
def test_operators_are_counted_in_every_way(name):
    """With the defaults, by each choice that a step is compiled for, with and without each slot that may be there."""
    cls, ways = getattr(ms_optim, name), [arguments for arguments, *_ in ENTRIES[name].kernels]
    assert ways[0] == {}
    defaults = {key: parameter.default for key, parameter in inspect.signature(cls).parameters.items()}
    used = {key: {way.get(key, default) for way in ways} for key, default in defaults.items() if key not in UNGROUPED}
    for key, values in used.items():
        kind = cls.arguments.get(key) or COMMON.get(key)
        if isinstance(kind, Choice) and key != "buffer_update":
            assert values == {*kind.choices}, key
        assert not isinstance(kind, Whole) or len(values) > 1, key
    for slot in getattr(cls, "slots", ()):
        assert slot.when is None or {*map(bool, used[slot.when])} == {False, True}, slot


@pytest.mark.parametrize("rule", sorted(kernels_for("the tests")))
def test_every_kernel_has_a_mutant(rule):
    """In the entry of the optimizer that it is the rule of."""
    assert any(entry.kernel_mutants for name, entry in ENTRIES.items() if rule_of(name) == rule)


@each
def test_what_it_is_timed_against_exists(name):
    """And takes what it is given."""
    entry = ENTRIES[name]
    assert not entry.nn or issubclass(getattr(nn, entry.nn), nn.Optimizer)
    assert not entry.experimental or hasattr(experimental, entry.experimental)
    assert entry.yardstick is None or callable(place(entry.yardstick[1]))
    inspect.signature(getattr(ms_optim, name)).bind(None, **entry.timed)
    assert entry.training is None or entry.network in networks.MODELS


@each
def test_what_the_fuzzer_is_told_is_about_arguments(name):
    """A span of an argument that is gone would say nothing, and nobody would notice."""
    entry = ENTRIES[name]
    assert {*entry.spans, *entry.within, *entry.ungrouped} <= inspect.signature(
        getattr(ms_optim, name)
    ).parameters.keys()


@each
def test_every_argument_is_once_off_its_default(name):
    """A grid is loud: no argument of the constructor is left at its default in all cases."""
    entry = ENTRIES[name]
    used = {
        key
        for case in entry.cases
        for options in (case.kwargs, *(overrides for _, overrides in case.groups))
        for key in options
    }
    # What a case cannot hold: parameters, how or where a step computes and not what; buffers have tests of their own.
    quiet = {"params", "optimizer", *UNGROUPED, "buffers", "buffer_update", "unit_group", "matrix_group"}
    assert inspect.signature(getattr(ms_optim, name)).parameters.keys() - quiet <= used


def test_cases_and_judges_import_no_framework():
    """Entries are imported by their names, which a test over import statements does not see."""
    program = (
        "import importlib, pkgutil, sys, parity.cases, parity.judge\n"
        "for package in (parity.cases, parity.judge):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "print(sorted({'mindspore', 'ms_optim', 'torch'} & sys.modules.keys()), "
        "'parity.judge.conditioning' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(cases.__file__).parents[2]
    )
    assert (done.stdout.strip(), done.returncode) == ("[] True", 0), done.stderr


@pytest.mark.parametrize(
    ("module", "name", "optimizer"), [("sgd", "SGD", "Adam"), ("sgd", "Adam", "Adam"), ("ema", "SGD", "SGD")]
)
def test_an_entry_in_the_wrong_place_is_an_error(module, name, optimizer, monkeypatch):
    """The cases of another, or another's name."""
    entry = Entry(name, (Case(optimizer, f"torch.optim.{optimizer}", {}),), (), ())
    monkeypatch.setattr(importlib.import_module(f"{optimizers.__name__}.{module}"), "ENTRY", entry)
    with pytest.raises(ValueError, match=re.escape(f"'parity.cases.optimizers.{module}'")):
        cases._collected()
