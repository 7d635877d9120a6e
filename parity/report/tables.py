"""The README's tables: of optimizers, from what the classes declare and the cases cover; of MindSpore's, as audited.

`python -m parity.report.tables` writes them into the README. What `python -m parity audit --json FILE` has found of
MindSpore's is beside this module.
"""

import importlib
import json
import sys
from pathlib import Path

import ms_optim
from parity.cases import ENTRIES, Entry
from parity.cases.losses import losses

README = Path(__file__).parents[2] / "README.md"
END = "<!-- end -->\n"
AUDITED = Path(__file__).with_name("audit.json")


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
    return _table(rows)


def stock() -> str:
    """One row for each optimizer that MindSpore ships: what it should be, what it does, and whether it resumes."""
    found = json.loads(AUDITED.read_text(encoding="utf-8"))
    rows = [("`mindspore`", "`torch.optim`", "what it follows", "goes on from a checkpoint"), ("---",) * 4]
    rows += [(f"`{row['optimizer']}`", f"`{row['torch.optim']}`", row["says"], row["resumes"]) for row in found]
    return _table(rows)


def _table(rows):
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


TABLES = {"<!-- optimizers -->\n": optimizers, "<!-- stock -->\n": stock}


def fill(text: str) -> str:
    """A README with its tables made anew."""
    for begin, make in TABLES.items():
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(END)
        text = before + begin + make() + END + after
    return text


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(f"python -m parity.report.tables takes no arguments, but got {sys.argv[1:]}.")
    README.write_text(fill(README.read_text(encoding="utf-8")), encoding="utf-8")
