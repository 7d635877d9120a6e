"""The README's table of optimizers, made from what the classes declare and the cases cover.

`python -m parity.report.tables` writes it into the README.
"""

import importlib
import sys
from pathlib import Path

import ms_optim
from parity.cases import ENTRIES, Entry
from parity.cases.losses import losses

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- optimizers -->\n", "<!-- end -->\n"


def optimizers() -> str:
    """One row for each optimizer: paper, state, memory in multiples of the parameters, proof."""
    rows = [("optimizer", "paper", "state", "memory", "parity", "on devices"), ("---",) * 6]
    rows += [
        (
            f"`{entry.name}`",
            paper(getattr(ms_optim, entry.name)),
            state(entry),
            memory(entry),
            proof(entry),
            on_devices(entry),
        )
        for entry in ENTRIES.values()
    ]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def state(entry: Entry) -> str:
    """The names of the tensors that an optimizer keeps, each with the argument that it depends on."""
    slots = [slot for slot in getattr(getattr(ms_optim, entry.name), "slots", ()) if not slot.scalar]
    conditions = {slot.name: f" ({slot.when})" if slot.when else "" for slot in slots}
    return ", ".join(
        f"`{name}`{condition}" for name, condition in (conditions or dict.fromkeys(entry.state, "")).items()
    )


def on_devices(entry: Entry) -> str:
    """How many operators a step is where no native kernel runs."""
    return "{} a parameter, {} a step".format(*entry.kernels) if entry.kernels else "not counted"


def memory(entry: Entry) -> str:
    """What the state costs, the least and the most."""
    costs = [cost for _, cost in entry.memory]
    told = "-".join(f"{cost:g}" for cost in sorted({min(costs), max(costs)}))
    return f"{told} more" if entry.averages else told


def paper(optimizer: type) -> str:
    """What the first line of the optimizer's module, or package, has in parentheses: authors, year and title."""
    place = ".".join(optimizer.__module__.split(".")[:2])
    line = importlib.import_module(place).__doc__.partition("\n")[0]
    return line[line.index("(") + 1 : line.rindex(")")]


def proof(entry: Entry) -> str:
    """How many cases equal torch, and how many wrong versions are caught."""
    problems = f" x {len(losses())} losses" if entry.closure else ""
    return (
        f"{len(entry.cases)} cases{problems} x 2 modes, {len(entry.mutants) + len(entry.kernel_mutants)} mutants caught"
    )


def fill(text: str) -> str:
    """A README with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + optimizers() + END + after


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(f"python -m parity.report.tables takes no arguments, but got {sys.argv[1:]}.")
    README.write_text(fill(README.read_text(encoding="utf-8")), encoding="utf-8")
