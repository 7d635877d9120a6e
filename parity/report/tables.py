"""The README's table of optimizers, made from what the classes declare and the cases cover.

`python -m parity.report.tables` writes it into the README.
"""

import importlib
import inspect
import math
import sys
from collections.abc import Iterable
from pathlib import Path

import ms_optim
from ms_optim.lbfgs import optimizer as lbfgs
from ms_optim.optimizer import Slot
from parity.cases import CASES, MINIMIZERS
from parity.cases.losses import losses
from parity.hunt.mutants import MUTANTS

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- optimizers -->\n", "<!-- end -->\n"


def optimizers() -> str:
    """One row for each optimizer: paper, state, memory in multiples of the parameters, proof."""
    rows = [("optimizer", "paper", "state", "memory", "parity"), ("---",) * 5]
    for name, optimizer in ms_optim.OPTIMIZERS.items():
        if name in MINIMIZERS:
            continue
        slots = [slot for slot in optimizer.slots if not slot.scalar]
        state = ", ".join(f"`{slot.name}`" + (f" ({slot.when})" if slot.when else "") for slot in slots)
        rows.append((f"`{name}`", paper(optimizer), state, memory(slots), proof(name)))
    vectors = ", ".join(f"`{name}`" for name in (*lbfgs.VECTORS, *lbfgs.HISTORY))
    history = inspect.signature(ms_optim.LBFGS).parameters["history_size"].default
    most = len(lbfgs.VECTORS) + len(lbfgs.HISTORY) * history
    rows.append(("`LBFGS`", paper(ms_optim.LBFGS), vectors, f"{len(lbfgs.VECTORS)}-{most}", proof("LBFGS")))
    rows.append(("`EMA`", paper(ms_optim.EMA), "`ema`", "1 more", proof("EMA")))
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def memory(slots: Iterable[Slot]) -> str:
    """What the slots cost, the least and the most, in multiples of a matrix of 1000 x 1000."""
    costs = [(slot.when, math.prod(slot.shape((1000, 1000)) or (0,)) / 1000**2) for slot in slots]
    least, most = sum(cost for when, cost in costs if when is None), sum(cost for _, cost in costs)
    return f"{least:g}" if least == most else f"{least:g}-{most:g}"


def paper(optimizer: type) -> str:
    """What the first line of the optimizer's module, or package, has in parentheses: authors, year and title."""
    place = ".".join(optimizer.__module__.split(".")[:2])
    line = importlib.import_module(place).__doc__.partition("\n")[0]
    return line[line.index("(") + 1 : line.rindex(")")]


def proof(name: str) -> str:
    """How many cases equal torch, and how many wrong versions of the rule are caught."""
    if name in MINIMIZERS:
        return f"{len(MINIMIZERS[name])} cases x {len(losses())} losses x 2 modes"
    wrong = sum(mutant.optimizer == name for mutant in MUTANTS)
    return f"{len(CASES[name])} cases x 2 modes, {wrong} mutants caught"


def fill(text: str) -> str:
    """A README with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + optimizers() + END + after


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(f"python -m parity.report.tables takes no arguments, but got {sys.argv[1:]}.")
    README.write_text(fill(README.read_text(encoding="utf-8")), encoding="utf-8")
