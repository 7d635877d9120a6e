"""Records what PyTorch does on the cases of the suite, to be replayed where it is not installed, as on Ascend."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from parity.cases import CASES, ENTRIES, Case
from parity.cases.problems import Problem
from parity.runs.files import Writer
from parity.runs.problems import run_of_case
from parity.sides import torch as torch_side
from parity.sides.trace import PARAMETER, Trace


def record_cases(names: Iterable[str], problem: Problem, folder: Path) -> Iterator[Path]:
    """Write a run for each case of some optimizers into a folder, "NAME-0" and so on, and give its place.

    Left out are those that `left_out` names.

    Raises:
        FileExistsError: If there is one already.
    """
    for name in names:
        for i, case in enumerate(CASES.get(name, ())):
            place = folder / f"{name}-{i}"
            _write(case, problem, place)
            yield place


def left_out(names: Iterable[str]) -> dict[str, str]:
    """Why some optimizers cannot be recorded, by name: those whose steps no gradients tell."""
    why = "its step evaluates a closure as often as it needs, and a recorded step has the gradients of one evaluation"
    return {name: why for name in names if ENTRIES[name].closure}


def _write(case: Case, problem: Problem, folder: Path) -> None:
    run, problem = run_of_case(case, problem), problem.fitting(case)
    build = torch_side.factory(case)
    single, double = (torch_side.run(build, problem, dtype) for dtype in ("float32", "float64"))
    notes = {"case": str(case), **{key: run.header[key] for key in ("average",) if key in run.header}}
    writer = Writer(folder, run.header["optimizer"], run.header["groups"], run.initial, notes=notes)
    for i, step in enumerate(run.steps):
        (params, state), (exact, exact_state) = (_at(trace, i) for trace in (single, double))
        writer.add(replace(step, parameters=params, state=state, double_parameters=exact, double_state=exact_state))


def _at(trace: Trace, step: int):
    """The parameters and the state after a step."""
    params = {name: steps[step] for (kind, name), steps in trace.items() if kind == PARAMETER}
    state: dict[str, dict] = {}
    for (kind, name), steps in trace.items():
        if kind != PARAMETER:
            state.setdefault(name, {})[kind] = steps[step]
    return params, state
