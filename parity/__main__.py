"""`python -m parity`: verify optimizers against PyTorch and exit with 1 if one parts from it."""

import argparse
import os
import sys
from pathlib import Path
from shutil import which

from rich.console import Console
from rich.progress import Progress

from parity.cases import ENTRIES, MUTANTS
from parity.cases.draws import Draw
from parity.cases.problems import STEPS, synthetic
from parity.names import parse_names

FREE_STEPS = 200
MODE_CHOICES = {"graph": ("graph",), "pynative": ("pynative",), "both": ("graph", "pynative")}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, with names and numbers checked."""
    parser = argparse.ArgumentParser(prog="python -m parity", description=__doc__)
    parser.add_argument("--mode", choices=MODE_CHOICES, default="both", help="how MindSpore runs (default: both)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of each case (default: {STEPS})")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write JSON and plots into this folder")
    parser.add_argument(
        "--workers",
        type=int,
        default=min(4, os.cpu_count() or 1),
        metavar="N",
        help="processes (default: one for each core, at most 4)",
    )
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    parser.add_argument("--mutants", action="store_true", help="hunt wrong rules instead, and count the caught")
    parser.add_argument(
        "--case", metavar="JSON", help="run one case that `python -m parity.hunt.fuzz` has found, and stop"
    )
    options = parse_names(parser, ENTRIES, argv)
    if options.case is not None:
        try:
            options.case = Draw.parse(options.case)
        except (ValueError, TypeError) as error:
            parser.error(f"--case: {error}")
    if options.steps < 2:  # a gradient is absent from the first step, and without one torch makes no state
        parser.error(f"--steps must be at least 2, but got {options.steps}")
    if options.workers < 1:
        parser.error(f"--workers must be at least 1, but got {options.workers}")
    if options.report and options.report.exists() and not options.report.is_dir():
        parser.error(f"--report must be a folder, but {str(options.report)!r} is a file")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run what the command line asks for; 0 if all is well."""
    options = arguments(argv)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    if options.list:
        for name in options.names:
            for case in ENTRIES[name].cases:
                console.print(str(case), highlight=False, markup=False, soft_wrap=True)
        return 0
    if options.case is not None:
        return _case(options.case, console)
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


def _verify(options, console):
    from parity import jobs, report, suite  # here, because they import both frameworks; --list and --help need neither

    todo = jobs.comparisons(options.names, MODE_CHOICES[options.mode], options.steps, FREE_STEPS)
    keep = [options.report is not None] * len(todo)
    with Progress(console=console) as progress, jobs.pool(min(options.workers, len(todo))) as run_all:
        # The trainings, which come last, take longest.
        done = progress.track(run_all(jobs.run_job, todo[::-1], keep), total=len(todo), description="parity")
        outcomes = [outcome for part in [*done][::-1] for outcome in part]
    outcomes.sort(key=lambda outcome: isinstance(outcome, suite.FreeRun))
    free = [outcome for outcome in outcomes if isinstance(outcome, suite.FreeRun)]
    console.print(report.case_table(outcomes[: len(outcomes) - len(free)]))
    console.print(report.free_table(free))
    for failure in report.failures(outcomes):
        console.print(failure, style="red", highlight=False, markup=False, soft_wrap=True)
    if options.report:
        written = report.write(outcomes, options.report)
        console.print(f"wrote {len(written)} files into {options.report}")
    passed = sum(outcome.passed for outcome in outcomes)
    console.print(
        f"{passed} of {len(outcomes)} comparisons equal PyTorch, mode {options.mode}, {options.steps} steps, "
        f"{FREE_STEPS} where a network trains freely"
    )
    return 0 if passed == len(outcomes) else 1


def _mutants(options, console):
    from parity import jobs, report
    from parity.hunt import kernels, rules

    jobs.start()
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
    caught = sum(fate.caught for fate in fates)
    console.print(f"{caught} of {len(fates)} mutants caught")
    return 0 if caught == len(fates) else 1


if __name__ == "__main__":
    sys.exit(main())
