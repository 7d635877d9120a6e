"""`python -m parity.benchmark`: time one step of each optimizer, ours against PyTorch's, MindSpore's and the memory.

Each contender has a process of its own, because the threads of two frameworks fight for the same cores. In each round
each takes its turn, and all others are stopped meanwhile. The figure is the median of its rounds, each the median of
its calls. A call of MindSpore's ends when the last parameter has been read, unless nothing is queued when it returns.
"""

import argparse
import contextlib
import importlib
import inspect
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from parity.cases import ENTRIES
from parity.command_line import check_target, write_json

WARM_UP, MORE = 10, 4
INSIDE, FLOOR = "native in a graph", "memory floor"
TIMED = [name for name, entry in ENTRIES.items() if not entry.sparse and not entry.closure]
COLUMNS = {
    "ms": ("ms", "{:.3g}"),
    "of_torch": ("/ torch", "{:.2f}"),
    "of_floor": ("/ floor", "{:.2f}"),
    "first_s": ("first call, s", "{:.2f}"),
    "no_data_ms": ("ms without data", "{:.3g}"),
    "extra_mb": ("extra MB", "{:.0f}"),
}
COLORS = {"native": "tab:blue", "composed": "tab:cyan", "mindspore": "tab:olive", "memory": "tab:gray"}


def resnet50() -> list[tuple[int, ...]]:
    """The shapes of ResNet-50's parameters."""
    shapes = [(64, 3, 7, 7), (64,), (64,)]
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            kernels = [(width, channels, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            kernels += [(4 * width, channels, 1, 1)] * (block == 0)
            shapes += [shape for kernel in kernels for shape in (kernel, kernel[:1], kernel[:1])]
            channels = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def gpt2() -> list[tuple[int, ...]]:
    """The shapes of the parameters of GPT-2 small."""
    width = 768
    layer = [
        (width,),
        (width,),
        (width, 3 * width),
        (3 * width,),
        (width, width),
        (width,),
        (width,),
        (width,),
        (width, 4 * width),
        (4 * width,),
        (4 * width, width),
        (width,),
    ]
    return [(50257, width), (1024, width), *layer * 12, (width,), (width,)]


def mlp(tensors: int, parameters: int) -> list[tuple[int, ...]]:
    """Square matrices, each with its bias, of about so many parameters."""
    width = max(1, round(math.sqrt(parameters / max(1, tensors // 2))))
    return [(width, width), (width,)] * (tensors // 2) + [(width,)] * (tensors % 2)


def fit(shapes: list[tuple[int, ...]], name: str) -> list[tuple[int, ...]]:
    """The shapes, or for an optimizer that takes matrices only, the matrices among them."""
    if ENTRIES[name].rank is None:
        return shapes
    return [(shape[0], math.prod(shape[1:])) for shape in shapes if len(shape) > 1]


def state_size(name: str, shapes: list[tuple[int, ...]]) -> int:
    """The elements of all slots, from what the class declares."""
    import ms_optim

    if ENTRIES[name].averages:
        return sum(map(math.prod, shapes))
    cls = getattr(ms_optim, name)
    options = {key: value.default for key, value in inspect.signature(cls).parameters.items()} | ENTRIES[name].timed
    slots = [slot for slot in cls.slots if not slot.scalar and (slot.when is None or options[slot.when])]
    return sum(math.prod(slot.shape(shape) or (0,)) for slot in slots for shape in shapes)


def contenders(name: str) -> list[str]:
    """What an optimizer is measured against, itself first."""
    import torch

    from parity.sides.torch import forms

    entry = ENTRIES[name]
    names = [INSIDE, *(f"{path} {mode}" for path in ("native", "composed") for mode in ("graph", "pynative"))]
    if entry.yardstick:
        names.append(entry.yardstick[0])
    else:
        names += ["torch", *(f"torch {form}" for form in forms(getattr(torch.optim, name)))]
    names += ["mindspore.nn graph"] * bool(entry.nn) + ["mindspore.experimental pynative"] * bool(entry.experimental)
    return [*names, FLOOR]


def _tensors(shapes):
    """A value and a gradient for each shape; of the gradients some exceed what clipping leaves and some do not."""
    rng = np.random.default_rng(0)
    for shape in shapes:
        value = rng.standard_normal(shape, np.float32)
        yield value, value * np.float32(10 ** rng.uniform(-4, 0))


def mindspore_calls(contender: str, name: str, shapes: list[tuple[int, ...]]) -> list[Callable[[], None]]:
    """A step of MindSpore; or, inside a graph that also makes the gradients, one step and MORE more."""
    import mindspore as ms
    from mindspore import Parameter, Tensor, nn
    from mindspore.experimental import optim as experimental

    import ms_optim

    mode = ms.PYNATIVE_MODE if contender.endswith("pynative") else ms.GRAPH_MODE
    ms.set_context(mode=mode, jit_syntax_level=ms.STRICT if contender.startswith(("native", "composed")) else ms.LAX)
    drawn = [(Parameter(Tensor(value), name=f"p{i}"), Tensor(grad)) for i, (value, grad) in enumerate(_tensors(shapes))]
    params, grads = zip(*drawn)

    class Still(nn.Optimizer):
        """Leaves the parameters alone, so that an average around it is all that is timed."""

        def construct(self, gradients):
            return True

    class Training(nn.Cell):
        """A graph that makes gradients and takes some steps on them."""

        def __init__(self, optimizer, steps):
            super().__init__()
            self.optimizer, self.steps = optimizer, steps
            self.params = ms.ParameterTuple(params)

        def construct(self):
            gradients = ()
            for param in self.params:
                gradients = (*gradients, param * 0.05)
            for _ in range(self.steps):
                self.optimizer(gradients)
            return True

    entry, inputs = ENTRIES[name], (grads,)
    ours, kwargs = getattr(ms_optim, name), dict(entry.timed)
    if contender.startswith("mindspore.nn"):
        optimizer = getattr(nn, entry.nn)(list(params), learning_rate=kwargs.pop("lr"), **kwargs)
    elif contender.startswith("mindspore"):
        optimizer = getattr(experimental, entry.experimental)(list(params), **kwargs)
    elif entry.averages and contender.startswith("native") and contender != INSIDE:
        # An optimizer of MindSpore around which an average is has no direct call; the averages alone have one.
        averages = [Parameter(param.copy(), name=f"average.{param.name}") for param in params]
        optimizer, inputs = ms_optim.ParameterEMA(list(params), averages, 0.999), ()
    elif entry.averages:
        inner = Still(0.0, list(params))
        inner.fused = contender == INSIDE
        optimizer = ours(inner, **kwargs)
    else:
        optimizer = ours(list(params), fused=contender.startswith("native"), **kwargs)
    last = optimizer.averages[-1] if entry.averages else params[-1]
    # A call that compiles nothing is done when it returns.
    waits = contender == INSIDE or getattr(optimizer, "why_compiled", "it is not ours")

    def call(function, *inputs):
        function(*inputs)
        if waits:
            last.asnumpy()

    if contender == INSIDE:
        graphs = Training(optimizer, 1), Training(optimizer, 1 + MORE)
        return [lambda graph=graph: call(graph) for graph in graphs]
    return [lambda: call(optimizer, *inputs)]


def torch_calls(contender: str, name: str, shapes: list[tuple[int, ...]]) -> list[Callable[[], None]]:
    """A step of torch."""
    import torch

    from parity.sides.torch import forms

    params = []
    for value, grad in _tensors(shapes):
        params.append(torch.nn.Parameter(torch.tensor(value)))
        params[-1].grad = torch.tensor(grad)
    entry = ENTRIES[name]
    if entry.yardstick:
        module, function = entry.yardstick[1].rsplit(".", 1)
        return [getattr(importlib.import_module(module), function)(params, **entry.timed)]
    reference = getattr(torch.optim, name)
    asked = contender.removeprefix("torch").strip()
    form = {asked: True} if asked == "fused" else {"foreach": bool(asked)} if "foreach" in forms(reference) else {}
    return [reference(params, **entry.timed, **form).step]


def floor_calls(bytes_moved: int) -> list[Callable[[], None]]:
    """Moving these bytes and little else: a += b reads two vectors and writes one."""
    import torch

    a, b = (torch.ones(bytes_moved // 12) for _ in range(2))
    return [lambda: a.add_(b, alpha=1e-9)]


def serve(spec: dict, answer: Callable[[dict], None]):
    """Be a contender: for each line of the input time some calls and answer."""
    contender, name, shapes = spec["contender"], spec["optimizer"], [tuple(shape) for shape in spec["shapes"]]
    if contender == FLOOR:
        calls = floor_calls(spec["bytes_moved"])
    else:
        build = torch_calls if "torch" in contender else mindspore_calls
        calls = build(contender, name, shapes)
    first = _seconds(calls[0])
    for _ in range(WARM_UP):
        warm = [_seconds(call) for call in calls]
    repeats = min(50, max(5, round(spec["seconds"] / sum(warm))))
    for _ in sys.stdin:
        times = [median(column) for column in zip(*([_seconds(call) for call in calls] for _ in range(repeats)))]
        step = times[0] if len(times) == 1 else (times[1] - times[0]) / MORE
        answer({"ms": 1e3 * step, "first_s": first, "peak_bytes": _peak_bytes()})


def _peak_bytes():
    # Not getrusage, where a process starts with what its parent had.
    return 1024 * int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])


def _seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Contender:
    """A process that times one contender, stopped but for its turns."""

    def __init__(self, spec: dict):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "parity.benchmark", "--serve"],
            text=True,
            bufsize=1,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # As it was given to this process: MindSpore, once imported, sets OMP_NUM_THREADS to half of the cores.
            env={**os.environ},
        )
        self._process.stdin.write(json.dumps(spec) + "\n")

    def turn(self) -> dict:
        """One round's figures, or why there are none."""
        self._process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
        line = self._process.stdout.readline()
        if not line:
            return {"error": f"its process ended with {self._process.wait()}"}
        self._process.send_signal(signal.SIGSTOP)
        return json.loads(line)

    def close(self):
        """End it, once or more often."""
        self._process.kill()
        self._process.wait()


def measure(name: str, shapes: list[tuple[int, ...]], options: argparse.Namespace) -> list[dict]:
    """A row for each contender of one optimizer."""
    shapes = fit(shapes, name)
    count, state = sum(map(math.prod, shapes)), state_size(name, shapes)
    kept = 4 * (2 * count + state)
    spec = {
        "optimizer": name,
        "shapes": shapes,
        "seconds": options.seconds,
        "bytes_moved": 4 * (3 * count + (0 if ENTRIES[name].averages else 2 * state)),
    }
    names = [which for which in contenders(name) if which in (options.contender or (which,))]
    together = kept * len(names) < os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    rows = []
    for which, turns in _rounds(names, spec, options.repeats, together).items():
        rows.append({"optimizer": name, "contender": which, "tensors": len(shapes), "parameters": count})
        if "error" in turns[-1]:
            rows[-1] |= turns[-1]
            continue
        figures = [turn["ms"] for turn in turns]
        rows[-1] |= {"rounds_ms": figures, "ms": median(figures), "first_s": median(turn["first_s"] for turn in turns)}
        if options.memory and which != FLOOR:
            small = spec | {"shapes": [[1] * len(shape) for shape in shapes]}
            (least,) = _rounds([which], small, 1, together)[which]
            rows[-1]["no_data_ms"] = least.get("ms", math.nan)
            if which != INSIDE:  # where the graph holds its gradients too
                rows[-1]["extra_mb"] = (turns[0]["peak_bytes"] - least.get("peak_bytes", math.nan) - kept) / 1e6
    _add_ratios({row["contender"]: row for row in rows if "ms" in row})
    return rows


def _rounds(names, spec, repeats, together):
    """What each contender said in its turns; unless they fit into memory together, each turn has a new process."""
    turns, running = {which: [] for which in names}, {}
    try:
        for _ in range(repeats):
            for which in names:
                if turns[which] and "error" in turns[which][-1]:
                    continue
                if which not in running:
                    running[which] = Contender(spec | {"contender": which})
                turns[which].append(running[which].turn())
                if not together:
                    running.pop(which).close()
    finally:
        for process in running.values():
            process.close()
    return turns


def _add_ratios(rows):
    """Relative to torch's fused form, or else to the faster of its others; and to the floor."""
    theirs = [which for which in rows if "torch" in which]
    theirs = [which for which in theirs if which == "torch fused"] or theirs
    for row in rows.values():
        if theirs:
            row["of_torch"] = row["ms"] / min(rows[which]["ms"] for which in theirs)
        if FLOOR in rows:
            row["of_floor"] = row["ms"] / rows[FLOOR]["ms"]


def timing_table(rows: list[dict], title: str) -> Table:
    """One row for each contender."""
    result = Table("optimizer", "contender", title=title, title_justify="left")
    columns = [key for key in COLUMNS if any(key in row for row in rows)]
    for key in columns:
        result.add_column(COLUMNS[key][0], justify="right")
    before = None
    for row in rows:
        cells = [COLUMNS[key][1].format(row[key]) if key in row else "" for key in columns]
        result.add_row(row["optimizer"] if row["optimizer"] != before else "", row["contender"], *cells)
        before = row["optimizer"]
    return result


def plot(rows: list[dict], title: str, path: Path):
    """Draw a bar for each contender, one panel for each optimizer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(row["optimizer"] for row in rows))
    across = min(3, len(names))
    down = -(-len(names) // across)
    figure, panels = plt.subplots(down, across, figsize=(7 * across, 3.2 * down), layout="constrained", squeeze=False)
    figure.suptitle(title, fontsize=9)
    for panel in panels.flat[len(names) :]:
        panel.remove()
    for name, panel in zip(names, panels.flat):
        timed = [row for row in rows if row["optimizer"] == name and "ms" in row][::-1]
        colors = [COLORS.get(re.split("[ .]", row["contender"])[0], "tab:orange") for row in timed]
        bars = panel.barh([row["contender"] for row in timed], [row["ms"] for row in timed], color=colors)
        panel.bar_label(bars, fmt="%.3g", padding=2, fontsize=7)
        panel.set(title=name, xlabel="ms for one step", xscale="log")
        panel.margins(x=0.15)
        panel.tick_params(axis="y", labelsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, with names and numbers checked."""
    parser = argparse.ArgumentParser(prog="python -m parity.benchmark", description=__doc__)
    parser.add_argument("--model", choices=("resnet50", "gpt2", "mlp"), default="resnet50", help="whose shapes")
    parser.add_argument("--optimizer", nargs="+", metavar="NAME", choices=TIMED, default=TIMED, help="default: all")
    parser.add_argument("--contender", nargs="+", metavar="NAME", help="these alone, such as 'native graph'")
    parser.add_argument("--tensors", nargs="+", type=int, default=[32, 161, 500], metavar="N", help="of the mlp")
    parser.add_argument("--parameters", nargs="+", type=float, default=[25e6], metavar="N", help="of the mlp")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds (default: 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn, 5 to 50 calls (default: 1)")
    parser.add_argument(
        "--memory",
        action="store_true",
        help="also run each with tensors of one element, for what a "
        "call takes without data, and memory above parameters, gradients and state",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures, those of each round too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw bars")
    options = parser.parse_args(argv)
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, but got {options.repeats}")
    for name, values in (("parameters", options.parameters), ("seconds", [options.seconds])):
        if not all(math.isfinite(value) and value > 0 for value in values):
            parser.error(f"--{name} must be positive numbers, but got {' '.join(map(str, values))}")
    check_target(parser, "--json", options.json)
    check_target(parser, "--plot", options.plot)
    if min(options.tensors) < 2:
        parser.error(f"--tensors must be at least 2, but got {min(options.tensors)}")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run what the command line asks for; 1 if nothing could be timed."""
    options = arguments(argv)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    chosen = {"resnet50": resnet50(), "gpt2": gpt2()}
    chosen = (
        {options.model: chosen[options.model]}
        if options.model in chosen
        else {
            f"mlp {tensors} x {parameters / 1e6:g} M": mlp(tensors, parameters)
            for tensors in options.tensors
            for parameters in options.parameters
        }
    )
    machine = {
        "machine": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        **{package: version(package) for package in ("mindspore", "torch")},
    }
    everything = []
    for model, shapes in chosen.items():
        rows = []
        for name in options.optimizer:
            console.print(f"{model}: {name}", style="dim", highlight=False)
            rows += [{"model": model, **row} for row in measure(name, shapes, options)]
        title = (
            f"{model}: one step, medians of {options.repeats} rounds, {machine['cores']} cores, "
            f"MindSpore {machine['mindspore']}, torch {machine['torch']}"
        )
        console.print(timing_table(rows, title))
        for row in rows:
            if "error" in row:
                console.print(
                    f"{row['optimizer']}, {row['contender']}: {row['error']}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
        everything += rows
        if options.json:
            write_json(options.json, {**machine, "rows": everything})
        if options.plot and rows:
            figure = options.plot
            if len(chosen) > 1:
                figure = figure.with_stem(f"{figure.stem}-{len(shapes)}-{sum(map(math.prod, shapes))}")
            plot(rows, title, figure)
    if not everything:
        console.print(f"there is no contender {' or '.join(map(repr, options.contender or []))}", style="red")
        return 2
    return 0 if any("ms" in row for row in everything) else 1


def _serve():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a framework prints is no answer
    try:
        serve(json.loads(sys.stdin.readline()), lambda answer: answers.write(json.dumps(answer) + "\n"))
    except Exception as error:
        answers.write(json.dumps({"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}) + "\n")


if __name__ == "__main__":
    sys.exit(_serve() if sys.argv[1:] == ["--serve"] else main())
