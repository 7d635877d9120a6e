"""`python -m parity`: verify optimizers against PyTorch and exit with 1 if one parts from it."""

import argparse
import difflib
import gc
import sys
from collections.abc import Collection
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from parity.cases import CASES, RECIPES
from parity.draws import Draw
from parity.problems import STEPS, synthetic

FREE_STEPS = 200
MODES = {"graph": ("graph",), "pynative": ("pynative",), "both": ("graph", "pynative")}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, with names and numbers checked."""
    parser = argparse.ArgumentParser(prog="python -m parity", description=__doc__)
    parser.add_argument("--mode", choices=MODES, default="both", help="how MindSpore runs (default: both)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of each case (default: {STEPS})")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write JSON and plots into this folder")
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    parser.add_argument("--mutants", action="store_true", help="hunt wrong rules instead, and count the caught")
    parser.add_argument("--case", metavar="JSON", help="run one case that `python -m parity.fuzz` has found, and stop")
    options = parse_names(parser, CASES, argv)
    if options.case is not None:
        try:
            options.case = Draw.parse(options.case)
        except (ValueError, TypeError) as error:
            parser.error(f"--case: {error}")
    if options.steps < 2:  # a gradient is absent from the first step, and without one torch makes no state
        parser.error(f"--steps must be at least 2, but got {options.steps}")
    if options.report and options.report.exists() and not options.report.is_dir():
        parser.error(f"--report must be a folder, but {str(options.report)!r} is a file")
    return options


def parse_names(parser: argparse.ArgumentParser, known: Collection[str], argv: list[str] | None) -> argparse.Namespace:
    """Parse a command line that may also name some of the known optimizers; all of them if it names none."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="optimizers; all if none is given")
    options = parser.parse_args(argv)
    for name in options.names:
        if name not in known:
            near = difflib.get_close_matches(name.lower(), [other.lower() for other in known], 1, 0.0)
            nearest = next(other for other in known if other.lower() == near[0])
            parser.error(f"unknown optimizer {name!r}; did you mean {nearest!r}? There are {', '.join(known)}.")
    options.names = options.names or list(known)
    return options


def main(argv: list[str] | None = None) -> int:
    """Run what the command line asks for; 0 if all is well."""
    options = arguments(argv)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    if options.list:
        for name in options.names:
            for case in CASES[name]:
                console.print(str(case), highlight=False, markup=False, soft_wrap=True)
        return 0
    if options.case is not None:
        return _case(options.case, console)
    return _mutants(options, console) if options.mutants else _verify(options, console)


def _case(draw, console):
    from parity import report
    from parity.conditioning import verify

    outcome = verify(draw)
    console.print(report.table([outcome]))
    for failure in report.failures([outcome]):
        console.print(failure, style="red", highlight=False, markup=False, soft_wrap=True)
    if outcome.undecided:
        console.print("undecided: it is off by no more than rounding alone may carry torch")
    return 0 if outcome.passed else 1


def _verify(options, console):
    from parity import report, suite  # here, because they import both frameworks, and --list and --help need neither

    gc.freeze()  # MindSpore collects garbage whenever it compiles; what is loaded by now need not be looked through
    modes = MODES[options.mode]
    problem = synthetic(options.steps)
    recipes = [(network, case) for network, case in RECIPES if case.optimizer in options.names]
    runs = [(str(case), partial(suite.verify, case, problem, modes)) for name in options.names for case in CASES[name]]
    runs += [(f"{name}, resumed", partial(suite.resumed, CASES[name][-1], problem, modes)) for name in options.names]
    runs += [(f"{case.optimizer}, gradients of {network}",
              partial(suite.teacher_forced, case, network, options.steps, modes)) for network, case in recipes]
    runs += [(f"{case.optimizer} trains {network}", partial(suite.free_run, case, network, FREE_STEPS, modes))
             for network, case in recipes]
    outcomes = []
    with Progress(console=console) as progress:
        task = progress.add_task("parity", total=len(runs))
        for description, run in runs:
            progress.update(task, description=description[:60])
            outcomes.append(run())
            progress.advance(task)
    free = [outcome for outcome in outcomes if isinstance(outcome, suite.FreeRun)]
    console.print(report.table(outcome for outcome in outcomes if outcome not in free))
    console.print(report.free_table(free))
    for failure in report.failures(outcomes):
        console.print(failure, style="red", highlight=False, markup=False, soft_wrap=True)
    if options.report:
        written = report.write(outcomes, options.report)
        console.print(f"wrote {len(written)} files into {options.report}")
    passed = sum(outcome.passed for outcome in outcomes)
    console.print(f"{passed} of {len(outcomes)} comparisons equal PyTorch, mode {options.mode}, {options.steps} steps, "
                  f"{FREE_STEPS} where a network trains freely")
    return 0 if passed == len(outcomes) else 1


def _mutants(options, console):
    from parity import report, suite
    from parity.mutants import MUTANTS

    gc.freeze()
    mutants = [mutant for mutant in MUTANTS if mutant.optimizer in options.names]
    with Progress(console=console) as progress:
        hunted = suite.hunt(mutants, synthetic(options.steps))
        fates = list(progress.track(hunted, total=len(mutants), description="mutants"))
    console.print(report.mutant_table(fates))
    caught = sum(fate.caught for fate in fates)
    console.print(f"{caught} of {len(fates)} mutants caught")
    return 0 if caught == len(fates) else 1


if __name__ == "__main__":
    sys.exit(main())
