"""`python -m parity`: verify optimizers against PyTorch, in a minute or in full; exit with 1 if one parts from it.

For example: `python -m parity`, `python -m parity AdamW EMA --full --report out`, `python -m parity SGD --mutants`.
With runs of yours: `python -m parity record --help`, and the same of `replay`, `compare` and `diagnose`.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from shutil import which

from rich.console import Console
from rich.progress import Progress

from parity.cases import ENTRIES, MUTANTS
from parity.cases.draws import Draw
from parity.cases.problems import STEPS, synthetic
from parity.command_line import MODES, check_target, parse_names
from parity.verbs import VERBS

# How many steps tell mutants apart.
NAMING_STEPS = 20
# What is done instead of a comparison, and the options that it goes by, of those that say how to compare.
INSTEAD = {"list": ("full",), "case": (), "record": ("steps",), "mutants": ("steps",)}
# Of a training in full, and of the one before the first answer.
FREE_STEPS, FIRST_FREE_STEPS = 200, 20


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, with names and numbers checked."""
    parser = argparse.ArgumentParser(
        prog="python -m parity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="every case, on both paths, taken up again from a checkpoint, and a network trained by each optimizer: "
        "half an hour on two cores, and a minute without",
    )
    parser.add_argument("--mode", choices=MODES, help="how MindSpore runs (default: graph, and both if it is --full)")
    parser.add_argument("--steps", type=int, help=f"steps of each case (default: {STEPS}), and of a training at most")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write a page and JSON into this folder")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit's XML, a test case for each comparison")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes (default: one for each core, at most 4)",
    )
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    parser.add_argument(
        "--record",
        type=Path,
        metavar="DIR",
        help="record what PyTorch does on each case into this folder and stop; `replay DIR/*` runs them elsewhere",
    )
    parser.add_argument("--mutants", action="store_true", help="hunt wrong rules instead, and count the caught")
    parser.add_argument(
        "--case", metavar="JSON", help="run one case that `python -m parity.hunt.fuzz` has found, and stop"
    )
    options = parse_names(parser, ENTRIES, argv)
    if options.case is not None:
        from parity.hunt.strategies import check_arguments  # here, because it imports MindSpore

        try:
            options.case = Draw.parse(options.case)
            check_arguments(options.case)
        except (ValueError, TypeError) as error:
            parser.error(f"--case: {error}")
    if options.workers is not None and options.workers < 1:
        parser.error(f"--workers must be at least 1, but got {options.workers}")
    of_comparisons = "full", "mode", "steps", "report", "junit", "workers"
    given = [name for name in (*INSTEAD, *of_comparisons) if getattr(options, name)]
    chosen = next((name for name in given if name in INSTEAD), None)
    for name in given if chosen else ():
        if name not in (chosen, *INSTEAD[chosen]):
            parser.error(f"--{chosen} must be without --{name}, which it does nothing with")
    if chosen == "case" and options.names != [*ENTRIES]:
        parser.error(f"--case must be without names, because it has its own, but got {options.names}")
    options.mode = options.mode or ("both" if options.full else "graph")
    options.free_steps = FREE_STEPS if options.full else FIRST_FREE_STEPS
    if options.steps is not None:
        options.free_steps = min(options.steps, options.free_steps)
    options.steps = STEPS if options.steps is None else options.steps
    if options.steps < 2:  # a gradient is absent from the first step, and without one torch makes no state
        parser.error(f"--steps must be at least 2, but got {options.steps}")
    options.workers = options.workers or min(4, os.cpu_count() or 1)
    check_target(parser, "--report", options.report, is_folder=True)
    check_target(parser, "--junit", options.junit)
    return options


def main(argv: list[str] | None = None) -> int:
    """Run what the command line asks for; 0 if all is well."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in VERBS:
        return VERBS[argv[0]](argv[1:])
    options = arguments(argv)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    if options.list:
        for name in options.names:
            cases = ENTRIES[name].cases
            for case in cases if options.full else dict.fromkeys((cases[0], cases[-1])):
                console.print(str(case), highlight=False, markup=False, soft_wrap=True)
        return 0
    if options.case is not None:
        return _case(options.case, console)
    if options.record is not None:
        return _record(options, console)
    return _mutants(options, console) if options.mutants else _verify(options, console)


def _case(draw, console):
    from parity import report
    from parity.hunt.drawn import compare_draw

    outcome = compare_draw(draw)
    console.print(report.case_table([outcome]))
    for failure in report.failures([outcome]):
        console.print(failure, style="red", highlight=False, markup=False, soft_wrap=True)
    if outcome.undecided:
        console.print("undecided: it is off by no more than rounding alone may carry torch")
    return 0 if outcome.passed else 1


def _record(options, console):
    from parity.runs.cases import left_out, record_cases  # here, because it imports torch

    for name, why in left_out(options.names).items():
        console.print(f"{name} cannot be recorded: {why}", highlight=False, markup=False, soft_wrap=True)
    try:
        made = list(record_cases(options.names, synthetic(options.steps), options.record))
    except OSError as error:
        console.print(str(error), style="red", highlight=False, markup=False, soft_wrap=True)
        return 2
    if not made:
        return 2
    console.print(
        f"recorded {len(made)} cases into {options.record}\npython -m parity replay {options.record}/*",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _verify(options, console):
    from parity import jobs, report, suite  # here, because they import both frameworks; --list and --help need neither

    asked = options.names, MODES[options.mode], options.steps, options.free_steps
    todo = jobs.comparisons(*asked) if options.full else jobs.first_answer(*asked)
    done, began = {}, time.monotonic()
    try:
        with jobs.pool(min(options.workers, len(todo))) as run_all:
            for i, found in run_all(todo, options.report is not None):
                done[todo[i].name] = found
                line = report.job_line(todo[i].name, found, len(done), len(todo), time.monotonic() - began)
                console.print(line, highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        console.print(f"stopped after {len(done)} of {len(todo)} parts")
    made = sorted(
        (job.name for job in todo if job.name in done),
        key=lambda name: any(isinstance(outcome, suite.FreeRun) for outcome in done[name]),
    )
    done = {name: done[name] for name in made}
    outcomes = [outcome for found in done.values() for outcome in found]
    plain = [outcome for outcome in outcomes if not isinstance(outcome, suite.FreeRun)]
    free = [outcome for outcome in outcomes if isinstance(outcome, suite.FreeRun)]
    outcomes = plain + free
    if options.full:
        console.print(report.case_table(plain))
        console.print(report.free_table(free))
    else:
        console.print(report.summary_table(done))
    for failure in report.failures(outcomes):
        console.print(failure, style="red", highlight=False, markup=False, soft_wrap=True)
    console.print(report.WORDS if options.full else report.first_words(bool(free)), highlight=False)
    if options.report or options.junit:
        from parity.report import files

        threads = jobs.threads(min(options.workers, len(todo)))
        written = files.write(outcomes, options.report, threads) if options.report else []
        if options.junit:
            files.write_junit(outcomes, options.junit, threads)
            written.append(options.junit)
        console.print(f"wrote {', '.join(map(str, written))}", highlight=False, soft_wrap=True)
    passed = sum(outcome.passed for outcome in outcomes)
    console.print(
        f"{passed} of {len(outcomes)} comparisons are as near to the truth as PyTorch: mode {options.mode}, "
        f"{options.steps} steps, {options.free_steps} where a network trains freely, "
        f"{time.monotonic() - began:.0f} s"
    )
    if not options.full:
        console.print("More: --full compares every case on both paths in both modes; --list lists what is run; --help.")
    if len(done) < len(todo):
        return 130
    return 0 if passed == len(outcomes) else 1


def _mutants(options, console):
    from parity import report
    from parity.hunt import kernels, rules
    from parity.workers import start

    start()
    mutants = [mutant for mutant in MUTANTS if mutant.optimizer in options.names]
    with Progress(console=console) as progress:
        hunted = rules.hunt(mutants, synthetic(options.steps))
        fates = list(progress.track(hunted, total=len(mutants), description="mutants"))
        if kernels.SOURCES.is_dir() and which(kernels.COMPILER[0]):
            hunted = kernels.hunt(options.names, synthetic(options.steps))
            total = sum(len(ENTRIES[name].kernel_mutants) for name in options.names)
            fates += progress.track(hunted, total=total, description="mutants of kernels")
        else:
            console.print("Without a compiler and the sources of the kernels, no mutants of kernels are hunted.")
    console.print(report.mutant_table(fates))
    from parity.hunt.diagnosis import is_known
    from parity.hunt.naming import measured

    known = [name for name in options.names if is_known(name)]
    with Progress(console=console) as progress:
        problem = synthetic(min(options.steps, NAMING_STEPS), absent=False)
        told = [measured(name, problem) for name in progress.track(known, description="diagnosed")]
    console.print(report.named_table(told))
    caught = sum(fate.caught for fate in fates)
    console.print(f"{caught} of {len(fates)} mutants caught")
    return 0 if caught == len(fates) else 1


if __name__ == "__main__":
    sys.exit(main())
