"""The tables of the READMEs: of optimizers, from what the classes declare and the cases cover; of MindSpore's own.

`python -m parity.report.tables` writes them there. What `python -m parity audit --json FILE` has found of MindSpore's
is beside this module.
"""

import importlib
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mindspore as ms
from mindspore import Parameter, nn
from mindspore.common.initializer import initializer
from mindspore.nn.utils import no_init_parameters

import ms_optim
from parity.cases import ENTRIES, Entry
from parity.cases.losses import losses

READMES = tuple(
    Path(__file__).parents[2] / name for name in ("README.md", "README_CN.md", "ms_optim/README.md", "parity/README.md")
)
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


def scale() -> str:
    """One row for each size of a network: the memory of each device where the state is sliced over several."""
    devices = (8, 64, 512)
    widened = partial(ms_optim.AdamW, state_dtype=ms.float32, master_weights=True)
    made = {
        "AdamW, float32": (ms_optim.AdamW, False),
        "MomentumAGC with EMA, float32": (lambda params: ms_optim.EMA(ms_optim.MomentumAGC(params)), False),
        "AdamW, 16 bits with float32 state and copies": (widened, True),
    }
    rows = [("parameters", "optimizer", "1 device", *(f"{count} devices" for count in devices)), ("---",) * 6]
    for parameters in (1, 7, 70):
        for name, (make, half) in made.items():
            costs = (per_parameter(make, half, count) for count in (1, *devices))
            rows.append((f"{parameters} B", name, *(f"{parameters * cost:,.1f} GB" for cost in costs)))
    return _table(rows)


def per_parameter(make: Callable[[list[Parameter]], nn.Optimizer], half: bool, devices: int) -> float:
    """The bytes that a device has for each parameter: of the weight and its gradient all, of the state a part.

    Args:
        make: Makes the optimizer.
        half: Whether weights and gradients have 16 bits.
        devices: How many the state is sliced over.
    """
    values = initializer("zeros", (1000, 1000), ms.float16 if half else ms.float32)
    with no_init_parameters():
        param = Parameter(values, name="weight")
    # A few float64 numbers for each tensor are next to nothing.
    state = round(make([param]).state_bytes / param.size, 2)
    return 2 * param.itemsize + state / devices


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
    """How many operators a step is where no native kernel runs, the least and the most."""
    if not entry.kernels:
        return "not counted"
    _, each, step, _ = zip(*entry.kernels)
    return f"{_span(each)} a parameter, {_span(step)} a step"


def memory(entry: Entry) -> str:
    """What the state costs, the least and the most."""
    told = _span([cost for _, cost in entry.memory])
    return f"{told} more" if entry.averages else told


def _span(numbers):
    return "-".join(f"{number:g}" for number in sorted({min(numbers), max(numbers)}))


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


TABLES = {"<!-- optimizers -->\n": optimizers, "<!-- stock -->\n": stock, "<!-- scale -->\n": scale}


def fill(text: str) -> str:
    """A README with those tables made anew that it has."""
    for begin, make in TABLES.items():
        if begin not in text:
            continue
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(END)
        text = before + begin + make() + END + after
    return text


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(f"python -m parity.report.tables takes no arguments, but got {sys.argv[1:]}.")
    for path in READMES:
        path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")
