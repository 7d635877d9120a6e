"""The cases: one file for each optimizer in `parity.cases.optimizers`, all of which are collected here.

An optimizer is added by a file there with an `ENTRY`. None of this imports a framework.
"""

import importlib
import pkgutil

from parity import require
from parity.cases import optimizers
from parity.cases.case import Case, Entry, Mutant

__all__ = ["CASES", "ENTRIES", "MINIMIZERS", "MUTANTS", "RECIPES", "Case", "Entry", "Mutant"]


require()


def _collected() -> dict[str, Entry]:
    """The entry of each module, by the name of its optimizer.

    Raises:
        ValueError: If two modules name one optimizer, or an entry holds what is another's.
    """
    found = {}
    for module in sorted(module.name for module in pkgutil.iter_modules(optimizers.__path__)):
        entry = importlib.import_module(f"{optimizers.__name__}.{module}").ENTRY
        named = {part.optimizer for part in (*entry.cases, *entry.mutants, *filter(None, [entry.training]))}
        if entry.name in found or named - {entry.name} or module.replace("_", "") != entry.name.lower():
            raise ValueError(
                f"For 'parity.cases.optimizers.{module}', 'ENTRY' must be the one of a class of this name, but got "
                f"{entry.name!r} with cases and mutants of {sorted(named)}."
            )
        found[entry.name] = entry
    return dict(sorted(found.items()))


ENTRIES = _collected()
# Those that take gradients, and those whose step takes a closure.
CASES: dict[str, tuple[Case, ...]] = {name: entry.cases for name, entry in ENTRIES.items() if not entry.closure}
MINIMIZERS: dict[str, tuple[Case, ...]] = {name: entry.cases for name, entry in ENTRIES.items() if entry.closure}
# How each optimizer trains a real network: the network in `parity.cases.networks` and the case.
RECIPES: tuple[tuple[str, Case], ...] = tuple(
    (entry.network, entry.training) for entry in ENTRIES.values() if entry.training
)
MUTANTS: tuple[Mutant, ...] = tuple(mutant for entry in ENTRIES.values() for mutant in entry.mutants)
