"""The verbs of `python -m parity` that are about runs of one's own; each exits with 0, 1 or 2."""

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.cases import ENTRIES
from parity.cases.networks import MODELS
from parity.cases.stock import STOCK
from parity.command_line import MODES, check_target, write_json
from parity.runs.reading import Unreadable, read

# Of a paragraph of help.
WIDTH = 100


def record(argv: list[str]) -> int:
    """Record a training of a small network on handwritten digits in PyTorch, for those who want to try."""
    parser = _parser("record", record, "record --optimizer AdamW --model transformer --steps 50 run")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write the run into")
    trained = {name: entry.training for name, entry in ENTRIES.items() if entry.training}
    named = [name for name, case in trained.items() if case.reference == f"torch.optim.{name}"]
    parser.add_argument("--optimizer", choices=named, default="AdamW", metavar="NAME", help=f"of {', '.join(named)}")
    parser.add_argument("--model", choices=MODELS, help="the network (default: the one of the optimizer's own case)")
    parser.add_argument("--steps", type=int, default=50, help="how many (default: 50)")
    options = parser.parse_args(argv)
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, but got {options.steps}")
    from parity import record as recorded
    from parity.sides import torch, torch_networks  # torch is not needed for the other verbs

    case, model = ENTRIES[options.optimizer].training, options.model or ENTRIES[options.optimizer].network
    runs = []

    def build(params):
        optimizer = torch.factory(case)(params)
        runs.append(block.enter_context(recorded(optimizer, options.out)))
        return optimizer

    try:
        with ExitStack() as block:
            losses = torch_networks.train(model, build, options.steps, rank=case.rank).losses
    except OSError as error:
        return _refused(error)
    (run,) = runs
    Console().print(
        f"recorded {run.steps} steps of {case} on {model} into {options.out}, loss {losses[0]:.3g} to "
        f"{losses[-1]:.3g}; recording took {run.seconds:.1f} s\n"
        f"python -m parity replay {options.out}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def replay(argv: list[str]) -> int:
    """Drive an optimizer of MindSpore with a recorded run of PyTorch, which need not be installed here."""
    parser = _parser("replay", replay, "replay run --mode both")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the folder of the run, or several")
    parser.add_argument(
        "--optimizer",
        metavar="MODULE:FUNCTION",
        help="a function from a list of Parameters to the optimizer to judge (default: ours of the run's name)",
    )
    parser.add_argument("--mode", choices=MODES, default="graph", help="how MindSpore runs (default: graph)")
    parser.add_argument("--device", choices=("CPU", "Ascend", "GPU"), help="what MindSpore runs on")
    parser.add_argument("--jit-level", choices=("O0", "O1", "O2"), help="how far MindSpore fuses")
    options = parser.parse_args(argv)
    codes = [_replay(run, options) for run in options.runs]
    if len(codes) > 1:
        Console().print(f"{codes.count(0)} of {len(codes)} runs are followed on every path", highlight=False)
    return max(codes)


def _replay(folder, options):
    """Replay one run, and give the exit code."""
    try:
        run = read(folder)
    except (OSError, ValueError) as error:
        return _refused(error)
    from parity.runs import replay as replaying  # here, because it imports MindSpore
    from parity.sides.mindspore import set_mode

    console, passed, why = Console(), [], None
    what = run.header.get("case", run.header["optimizer"])
    said = f"{folder}: {what}, {len(run.steps)} steps, {len(run.initial)} parameters"
    dtypes = " and ".join(sorted({*run.header["dtypes"].values()}))
    console.print(f"{said}, judged by torch in {dtypes} and in float64 as recorded", highlight=False, soft_wrap=True)
    try:
        set_mode(MODES[options.mode][0], options.device, options.jit_level)
    except RuntimeError as error:  # in many lines of MindSpore's, of which the first says what
        return _refused(
            f"For 'replay', MindSpore must find the device {options.device!r}: {str(error).splitlines()[0]}"
        )
    try:
        build = replaying.named(options.optimizer) if options.optimizer else None
        for leg, verdict, ours in replaying.replay(run, build, MODES[options.mode]):
            console.print(f"{leg}: {verdict}", highlight=False, markup=False, soft_wrap=True)
            passed.append(verdict.passed)
            if why is None and verdict.divergence:
                why = leg, ours, verdict.divergence.parameter
        if why:
            _explain(run, *why)
    except (replaying.Unjudged, Unreadable) as error:
        return _refused(error)
    return 0 if all(passed) else 1


def diagnose(argv: list[str]) -> int:
    """Say what a recorded run follows: the rule of an optimizer, or which known mistake of it."""
    parser = _parser("diagnose", diagnose, "diagnose run --optimizer AdamW")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of the run")
    parser.add_argument(
        "--optimizer", metavar="NAME", help="whose rule it should follow (default: that of its own optimizer)"
    )
    options = parser.parse_args(argv)
    try:
        run = read(options.run)
        from parity.hunt.diagnosis import diagnose as diagnosed  # here, because it imports MindSpore

        found = diagnosed(run, optimizer=options.optimizer)
    except (OSError, ValueError) as error:
        return _refused(error)
    Console().print(str(found), highlight=False, markup=False, soft_wrap=True)
    return 0 if found.is_right else 1


def compare(argv: list[str]) -> int:
    """Find where two recorded runs part, and whose it is: data, the gradient of a layer, numbers, or the optimizer."""
    parser = _parser("compare", compare, "compare torch_run mindspore_run", budget())
    parser.add_argument("first", type=Path, metavar="RUN_A", help="the folder of a run, as of torch")
    parser.add_argument("second", type=Path, metavar="RUN_B", help="the folder of another of the same network")
    parser.add_argument("--truth", type=Path, metavar="RUN", help="the first in float64, to judge by")
    parser.add_argument(
        "--names", type=Path, metavar="JSON", help="a file with what parameters of RUN_B are called in RUN_A"
    )
    parser.add_argument("--tensors", type=int, default=10, metavar="N", help="how many to show (default: 10)")
    options = parser.parse_args(argv)
    if options.tensors < 0:
        parser.error(f"--tensors must be at least 0, but got {options.tensors}")
    try:
        names = None if options.names is None else _names(options.names)
        runs = [read(folder) for folder in (options.first, options.second)]
        truth = None if options.truth is None else read(options.truth)
        from parity.hunt.parting import compare_runs  # here, because it imports MindSpore

        found = compare_runs(*runs, truth, names)
    except (OSError, ValueError) as error:
        return _refused(error)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(str(found), highlight=False, markup=False, soft_wrap=True)
    if found.finding and found.finding.tensors and options.tensors:
        console.print(_tensor_table(found.finding.tensors, options.tensors))
    return 0 if found.equal else 1


def budget() -> str:
    """What `compare` allows two runs in float32, in words."""
    from parity.hunt.causes import ROUNDED, SAME, SAME_STEP  # here, because they import MindSpore
    from parity.hunt.gradients import AMPLIFIED, FEW, GROWTH
    from parity.judge.compare import RATIO

    return (
        "Without --truth, what differs by no more than a part of the larger, by norms, is rounding: "
        f"{ROUNDED:g} of weights before the first step and of numbers of groups; of a loss or a gradient {SAME:g}, or "
        f"{AMPLIFIED:g} times as much as the weights differ by then, or, in relation to them, {GROWTH:g} times as much "
        f"as ever before, or {ROUNDED:g} of the largest that there was. After the first step, what differs in up to "
        f"{FEW:.0%} of the units of a layer, and before it, is said and no finding: rounding may have switched a ReLU. "
        f"A step of an optimizer whose rule is known is judged by the rule, within {RATIO:g} times its error in "
        f"float32; of any other it may differ by {SAME_STEP:g}, or by {AMPLIFIED:g} times as much as gradients may, if "
        "that is more."
    )


def _names(file):
    """What a file has of names."""
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"For 'compare', 'names' must be a file of JSON, but got '{file}': {error}.") from None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"For 'compare', 'names' must be a JSON object of names, but got '{file}'.")
    return names


def audit(argv: list[str]) -> int:
    """Judge each optimizer that MindSpore ships by its counterpart in PyTorch, and say what it does instead."""
    parser = _parser("audit", audit, "audit nn.Adam nn.Momentum")
    parser.add_argument("names", nargs="*", metavar="NAME", help="places in mindspore, as nn.Adam (default: all)")
    parser.add_argument("--mode", choices=MODES, default="both", help="how MindSpore runs (default: both)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what is found into this file")
    options = parser.parse_args(argv)
    if options.workers < 1:
        parser.error(f"--workers must be at least 1, but got {options.workers}")
    check_target(parser, "--json", options.json)
    known = {stock.place: stock for stock in STOCK}
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"NAME must be one of {', '.join(known)}, but got {', '.join(unknown)}")
    from parity import jobs  # here, because it imports MindSpore
    from parity.hunt.audit import Audit, told

    console = Console(width=None if sys.stdout.isatty() else 160)
    todo, found = [Audit(known[name], MODES[options.mode]) for name in options.names or known], {}
    with jobs.pool(min(options.workers, len(todo))) as run_all:
        for i, findings in run_all(todo, False):
            found[i] = told(findings)
            console.print(f"{todo[i].name}: {found[i]['says']}", highlight=False, markup=False, soft_wrap=True)
    rows = [found[i] for i in sorted(found)]
    table = Table(title="what MindSpore ships, judged by PyTorch's rules")
    for heading in rows[0]:
        table.add_column(heading)
    for row in rows:
        table.add_row(*map(Text, row.values()))
    console.print(table)
    if options.json:
        write_json(options.json, rows)
    return 0 if all(row["says"] == "right" for row in rows) else 1


def _tensor_table(tensors, most):
    """The first of some tensors, in the order of the network."""
    table = Table(title=f"the first {most} of {len(tensors)} that differ" if len(tensors) > most else "what differs")
    for heading in ("tensor", "norm in RUN_A", "norm in RUN_B", "apart, of the larger", "float32 ulps, at most"):
        table.add_column(heading, justify="left" if heading == "tensor" else "right")
    for tensor in tensors[:most]:
        numbers = tensor.first, tensor.second, tensor.relative, tensor.ulps
        table.add_row(Text(tensor.name), *(f"{number:.4g}" for number in numbers))
    return table


VERBS: dict[str, Callable[[list[str]], int]] = {
    verb.__name__: verb for verb in (record, replay, compare, diagnose, audit)
}


def _explain(run, leg, ours, parts):
    """Say what a leg follows, and if it is the right rule, what the recorded run does."""
    from parity.hunt.diagnosis import Suspects, is_known

    if run.halves or not is_known(run.header["optimizer"]):
        return
    suspects = Suspects(run, parts=parts)
    found = suspects.diagnosis(ours)
    said = [f"{leg}: {found}"] + ([f"the recorded run: {suspects.diagnosis()}"] if found.is_right else [])
    Console().print("\n".join(said), highlight=False, markup=False, soft_wrap=True)


def _refused(error):
    """Say why there is no answer."""
    Console(stderr=True).print(str(error), style="red", highlight=False, markup=False, soft_wrap=True)
    return 2


def _parser(verb, function, example, more=""):
    paragraphs = [
        function.__doc__,
        *filter(None, [textwrap.fill(more, WIDTH)]),
        f"For example: python -m parity {example}",
    ]
    return argparse.ArgumentParser(
        prog=f"python -m parity {verb}",
        description="\n\n".join(paragraphs),
        epilog="It exits with 0 if all is equal, with 1 if something parts, and with 2 if it cannot be judged.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
