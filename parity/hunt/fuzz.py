"""`python -m parity.hunt.fuzz`: draw cases at random, compare each with PyTorch, and shrink what parts from it."""

import argparse
import contextlib
import math
import multiprocessing
import random
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import ms_optim
from parity.cases import ENTRIES
from parity.cases.draws import DTYPES, PATHS, REGIMES, Draw
from parity.command_line import parse_names
from parity.hunt.drawn import Judged, compare_draw
from parity.hunt.strategies import PATTERN, arguments_of, values
from parity.report import failures
from parity.suite import paths
from parity.workers import start_worker

NAMES = tuple(name for name, entry in ENTRIES.items() if not entry.closure)
DENSE = tuple(name for name, entry in ENTRIES.items() if entry.dense)
# A structure costs a compilation or two, a draw of its numbers a tenth of one.
BATCH, STRUCTURES = 60, 5
SHRINK_SECONDS = 60.0
# Processes are started anew when each optimizer had this many seconds: what they have compiled they keep.
TURN = 45.0
LAYOUTS = (
    {"plain": (3, 2)},
    {"vector": (5,), "scalar": (), "one": (1,), "matrix": (4, 3)},
    {"matrix": (6, 5), "twin": (6, 5), "conv": (3, 2, 3, 3), "gain": (3, 1, 1, 1)},
    {"cube": (2, 3, 4), "long": (1100,), "matrix": (24, 50)},
)
MATRICES = (
    {"plain": (3, 2)},
    {"wide": (3, 7), "tall": (7, 3), "row": (1, 5), "column": (5, 1), "one": (1, 1)},
    {"large": (24, 50), "square": (6, 6)},
)


@dataclass(frozen=True)
class Structure:
    """All of a draw that a compiled step depends on; `switches` says of numbers whether they are zero.

    `options` are flags, of the optimizer and of each group in `groups`, which are patterns. Where the optimizer wraps
    another they are those of the other, `inner`, and `outer` are its own.
    """

    shapes: dict[str, tuple[int, ...]]
    options: tuple[dict, ...]
    switches: tuple[dict[str, bool], ...]
    groups: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    dtype: str = "float32"
    mode: str = "graph"
    path: str = "native"
    inner: str = ""
    outer: dict = field(default_factory=dict)


def structures(name: str, rng: random.Random, count: int = STRUCTURES) -> list[Structure]:
    """Some structures for an optimizer; the first is plain, for failures to shrink to."""
    plain = _plain_structure(name, rng)
    found = [plain, replace(plain, mode="pynative"), replace(plain, path="composed")]
    return found + [_any_structure(name, rng) for _ in range(count - len(found))]


def _plain_structure(name, rng):
    """One parameter, all numbers, no flags."""
    inner = rng.choice(DENSE) if ENTRIES[name].averages else ""
    return Structure(_layouts(inner or name)[0], ({},), (dict.fromkeys(_switches(inner or name), True),), inner=inner)


def _any_structure(name, rng):
    """One of any kind."""
    inner = rng.choice(DENSE) if ENTRIES[name].averages else ""
    shapes, flags = rng.choice(_layouts(inner or name)), arguments_of(inner or name)[1]

    def some(flags):
        chosen = {flag: choices for flag, choices in flags.items() if rng.random() < 0.5}
        return {
            flag: (rng.choice(list(shapes)),) if choices is PATTERN else rng.choice(choices)
            for flag, choices in chosen.items()
        }

    groups = tuple(rng.sample(list(shapes), rng.choice((0, 0, 1, 2)) if len(shapes) > 2 else 0))
    # A pattern must match a parameter of its own group, so no other group than the first has one.
    everywhere = {flag: choices for flag, choices in flags.items() if choices is not PATTERN}
    path = rng.choice(PATHS)
    return Structure(
        shapes,
        (some(flags), *(some(everywhere) for _ in groups)),
        tuple({number: rng.random() < 0.7 for number in _switches(inner or name)} for _ in range(1 + len(groups))),
        groups,
        rng.choice(((), (rng.choice(list(shapes)),), tuple(shapes))),
        rng.choice(_dtypes(name, path)),
        rng.choice(("graph", "pynative")),
        path,
        inner,
        some(arguments_of(name)[1]) if inner else {},
    )


def _layouts(name):
    return MATRICES if ENTRIES[name].rank == 2 else LAYOUTS


def _switches(name):
    """The numbers that decide on state by whether they are zero."""
    deciding = {slot.when for slot in getattr(ms_optim, name).slots}
    return [number for number in arguments_of(name)[0] if number in deciding]


def _dtypes(name, path):
    """Those that a path takes: averages are float32, and MindSpore's operators have no bfloat16 on CPU."""
    if ENTRIES[name].averages:
        return ("float32",)
    kernel = path != "composed" and "native" in paths(ENTRIES[name].cases[0])
    return ("float32", *(dtype for dtype in DTYPES if kernel or dtype != "bfloat16"))


@st.composite
def draws(draw, name: str, pool: list[Structure]) -> Draw:
    """A draw of an optimizer, its structure being one of the pool."""
    structure = draw(st.sampled_from(pool))
    steps = draw(st.integers(2, 30))
    ruled = structure.inner or name
    base = _numbers(draw, ruled, structure.options[0], structure.switches[0])
    groups = tuple(
        (pattern, _numbers(draw, ruled, flags, switches, base))
        for pattern, flags, switches in zip(structure.groups, structure.options[1:], structure.switches[1:])
    )
    regimes = st.sampled_from([key for key in REGIMES if (structure.dtype, key) != ("float16", "huge")])
    scales = st.sampled_from((1.0, 0.0, 1e-4, 30.0))
    parameters = {key: (shape, draw(scales), draw(regimes)) for key, shape in structure.shapes.items()}
    away = tuple(sorted(draw(st.sets(st.integers(0, steps - 2), max_size=4)))) if structure.absent else ()
    found = Draw(
        name,
        parameters,
        steps,
        base,
        groups,
        dict.fromkeys(structure.absent, away) if away else {},
        draw(st.integers(0, 999)),
        structure.dtype,
        structure.mode,
        structure.path,
    )
    if not structure.inner:
        return found
    return replace(found, kwargs=_numbers(draw, name, structure.outer, {}), inner=ruled, inner_kwargs=base)


def _numbers(draw, name, flags, switches, base=None):
    """Flags and the numbers that are not left at their defaults; `base` is what a group overrides."""
    options = dict(flags)
    numbers, _ = arguments_of(name)
    for number in numbers:
        if number in switches:
            options[number] = draw(values(name, number).filter(bool)) if switches[number] else 0.0
        elif (base is None or number not in ENTRIES[name].ungrouped) and draw(st.booleans()):
            options[number] = draw(values(name, number))
    return options | ENTRIES[name].mend({**(base or {}), **options})


@dataclass
class Tally:
    """What came of the draws of one optimizer; `failure` is the command line of one that failed, and why it did."""

    optimizer: str
    draws: int = 0
    undecided: int = 0
    seconds: float = 0.0
    ratios: dict[str, float] = field(default_factory=dict)
    failure: tuple[str, str] | None = None

    def add(self, judged: Judged):
        """Count a draw."""
        self.draws += 1
        self.undecided += judged.undecided
        for leg, verdict in judged.verdicts.items():
            if judged.passed and not judged.undecided:
                worst = max((score.ratio for score in verdict.scores.values()), default=0.0)
                self.ratios[leg] = max(self.ratios.get(leg, 0.0), worst)

    def join(self, other: "Tally"):
        """Take in the draws of another."""
        self.draws += other.draws
        self.undecided += other.undecided
        self.seconds += other.seconds
        self.ratios = {
            leg: max(self.ratios.get(leg, 0.0), other.ratios.get(leg, 0.0)) for leg in (*self.ratios, *other.ratios)
        }
        self.failure = self.failure or other.failure


def judge(draw: Draw) -> tuple[Judged | None, str]:
    """The outcome of a draw and why it failed: nothing if it did not."""
    try:
        judged = compare_draw(draw)
    except Exception:
        return None, traceback.format_exc()
    return judged, "\n".join(failures([judged]))


def fuzz(name: str, seconds: float, start: int) -> Tally:
    """Draw cases of an optimizer until the time is over or one fails, which is shrunk."""
    began = time.monotonic()
    tally, rng = Tally(name), random.Random(f"{name} {start}")
    while tally.failure is None and time.monotonic() - began < seconds:
        found = _batch(name, structures(name, rng), rng.randrange(2**32), began + seconds, tally)
        if found is not None:
            least = simplest(found)
            tally.failure = least.command, judge(least)[1]
    tally.seconds = time.monotonic() - began
    return tally


def _batch(name, pool, start, end, tally):
    """The failing draw that hypothesis has shrunk, if any fails of a batch."""
    failed, last, shrink_end = {}, [], []

    @seed(start)
    @settings(
        max_examples=BATCH,
        deadline=None,
        database=None,
        verbosity=Verbosity.quiet,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(draws(name, pool))
    def run(draw):
        text = str(draw)
        if text not in failed:
            if time.monotonic() > (shrink_end[0] if failed else end):
                return
            judged, why = judge(draw)
            if judged is not None and not failed:
                tally.add(judged)
            if not why:
                return
            failed[text] = why
            shrink_end.append(time.monotonic() + SHRINK_SECONDS)
        last[:] = [draw]
        raise AssertionError(failed[text])

    with contextlib.suppress(AssertionError):
        run()
    return last[0] if last else None


def simplest(draw: Draw) -> Draw:
    """A draw that fails still when whatever can be left out of it is left out."""
    end = time.monotonic() + SHRINK_SECONDS
    while time.monotonic() < end:
        smaller = next((less for less in _simpler(draw) if judge(less)[1]), None)
        if smaller is None:
            break
        draw = smaller
    return draw


def _simpler(draw: Draw) -> Iterator[Draw]:
    """Draws without one of the groups, parameters, arguments or absences, or with fewer steps."""
    if len(draw.parameters) > 1:
        for name in draw.parameters:
            yield replace(
                draw,
                parameters={key: value for key, value in draw.parameters.items() if key != name},
                absent={key: value for key, value in draw.absent.items() if key != name},
                groups=tuple(group for group in draw.groups if group[0] != name),
            )
    for group in draw.groups:
        yield replace(draw, groups=tuple(other for other in draw.groups if other is not group))
    for name in draw.absent:
        yield replace(draw, absent={key: value for key, value in draw.absent.items() if key != name})
    for role in ("kwargs", "inner_kwargs"):
        given = getattr(draw, role)
        for key in given:
            yield replace(draw, **{role: {other: value for other, value in given.items() if other != key}})
    for i, (pattern, overrides) in enumerate(draw.groups):
        for key in overrides:
            less = {other: value for other, value in overrides.items() if other != key}
            yield replace(draw, groups=(*draw.groups[:i], (pattern, less), *draw.groups[i + 1 :]))
    for steps in {1, draw.steps // 2, draw.steps - 1}:
        if max((0, *(step for away in draw.absent.values() for step in away))) < steps < draw.steps:
            yield replace(draw, steps=steps)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, with names and numbers checked."""
    parser = argparse.ArgumentParser(prog="python -m parity.hunt.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, metavar="N", help="how long to draw (default: 5)")
    parser.add_argument("--seed", type=int, help="where the draws start (default: the clock)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default: 2)")
    options = parse_names(parser, NAMES, argv)
    if not 0 < options.minutes < float("inf"):
        parser.error(f"--minutes must be more than 0, but got {options.minutes:g}")
    if options.workers < 1:
        parser.error(f"--workers must be at least 1, but got {options.workers}")
    options.seed = int(time.time()) if options.seed is None else options.seed
    return options


def main(argv: list[str] | None = None) -> int:
    """Fuzz until the time is over; 0 if nothing parts from PyTorch."""
    options = arguments(argv)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    tallies = {name: Tally(name) for name in options.names}
    share = 60 * options.minutes * options.workers / len(tallies)
    turns = math.ceil(share / TURN)
    context = multiprocessing.get_context("spawn")
    began = time.monotonic()
    with Progress(console=console) as progress:
        task = progress.add_task(f"seed {options.seed}", total=len(tallies) * turns)
        for turn in range(turns):
            with ProcessPoolExecutor(options.workers, context, start_worker) as pool:
                jobs = [
                    pool.submit(fuzz, name, share / turns, options.seed + turn)
                    for name, tally in tallies.items()
                    if not tally.failure
                ]
                for job in as_completed(jobs):
                    tally = job.result()
                    tallies[tally.optimizer].join(tally)
                    progress.advance(task)
    found = list(tallies.values())
    console.print(tally_table(found))
    for tally in found:
        if tally.failure:
            command, why = tally.failure
            console.print(
                f"{why}\nReproduce it with\n{command}", style="red", highlight=False, markup=False, soft_wrap=True
            )
    count, undecided = (sum(getattr(tally, key) for tally in found) for key in ("draws", "undecided"))
    failed = sum(tally.failure is not None for tally in found)
    console.print(
        f"{count} draws, {len(found)} optimizers, {failed or 'no'} failure{'s' * (failed > 1)}; "
        f"{undecided} draws undecided ({undecided / max(1, count):.1%}); "
        f"{(time.monotonic() - began) / 60:.1f} minutes, seed {options.seed}",
        highlight=False,
    )
    return 1 if failed or not count else 0


def tally_table(tallies: list[Tally]) -> Table:
    """One row for each optimizer: how many draws, and the worst of those that were decided."""
    result = Table(title="draws, and the worst oracle ratio of those that were decided", title_justify="left")
    result.add_column("optimizer", no_wrap=True)
    legs = ("maths", *(f"{mode} {path}" for mode in ("graph", "pynative") for path in PATHS))
    for heading in ("draws", "undecided", "draws a minute", *legs, "verdict"):
        result.add_column(heading, justify="right", no_wrap=True)
    for tally in tallies:
        ratios = [f"{tally.ratios[leg]:.3g}" if leg in tally.ratios else "-" for leg in legs]
        result.add_row(
            tally.optimizer,
            str(tally.draws),
            f"{tally.undecided / max(1, tally.draws):.1%}",
            f"{60 * tally.draws / max(tally.seconds, 1e-9):.0f}",
            *ratios,
            "[red]FAILED[/]" if tally.failure else "[green]passed[/]",
        )
    return result


if __name__ == "__main__":
    sys.exit(main())
