"""Runs on the gradients of a problem, which no optimizer has taken yet."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ms_optim import OPTIMIZERS
from parity.cases import Case
from parity.cases.problems import Problem, Rows
from parity.runs.files import Run, Step

# The arguments of an optimizer that no group has.
OF_ALL = ("fused", "loss_scale", "state_dtype", "master_weights")


def run_of(optimizer: str, groups: Sequence[Mapping[str, Any]], problem: Problem) -> Run:
    """A run of an optimizer of ours with the numbers of each group; what it does is not known."""
    cls = OPTIMIZERS[optimizer]
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is not parameter.empty and key not in OF_ALL
    }
    groups = [{**defaults, **group} for group in groups]
    numbers = [{key: value for key, value in group.items() if key != "params"} for group in groups]
    steps = [
        Step(
            numbers,
            {
                name: (grad.indices, grad.values) if isinstance(grad, Rows) else grad
                for name, grad in drawn.items()
                if grad is not None
            },
            {},
            {},
        )
        for drawn in problem.gradients
    ]
    dtypes = {name: str(value.dtype) for name, value in problem.initial.items()}
    return Run({"optimizer": optimizer, "groups": groups, "dtypes": dtypes}, problem.initial, {}, steps)


def run_of_case(case: Case, problem: Problem) -> Run:
    """The same of a case, on what it takes of the problem; of an average, of the optimizer inside."""
    problem, stepped = problem.fitting(case), case.inner or case
    groups = [{"params": names, **stepped.kwargs, **overrides} for names, overrides in stepped.split(problem.initial)]
    run = run_of(stepped.optimizer, groups, problem)
    return replace(run, header={**run.header, "average": case.kwargs}) if case.inner else run
