"""Judges an optimizer of a user's own by one of PyTorch."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from mindspore import nn

from parity.cases.problems import Problem, synthetic
from parity.hunt.diagnosis import diagnose, is_known
from parity.judge.compare import Verdict, compare, of_kinds, of_what_is_told
from parity.runs.problems import run_of
from parity.sides import mindspore as mindspore_side
from parity.sides import torch as torch_side


def _made(name, function, kind):
    """The function, whose result is known to be an optimizer."""

    def build(params):
        optimizer = function(params)
        if not isinstance(optimizer, kind):
            raise TypeError(
                f"For 'check', '{name}' must give a {kind.__module__.partition('.')[0]} optimizer, but gave "
                f"{optimizer!r}."
            )
        return optimizer

    return build


def check(
    optimizer: Callable,
    reference: Callable,
    problem: Problem | None = None,
    mode: str = "graph",
    state: Mapping[str, str] | None = None,
) -> Verdict:
    """Judge an optimizer of your own by a PyTorch optimizer, step by step, and say what it follows instead.

    Args:
        optimizer (Callable): A function from a list of MindSpore Parameters to a `mindspore.nn.Optimizer`. One with a
            `state` (as those of this library) is compared in its state too, any other in its parameters.
        reference (Callable): A function from a list of torch Parameters, each with its name, to a
            `torch.optim.Optimizer`.
        problem (Problem): What to optimize. Default: `synthetic(absent=False)`.
        mode (str): "graph" or "pynative".
        state (Mapping[str, str]): Of an optimizer without a `state`, what its tensors are called before the name of a
            parameter, and what torch calls them, as ``{"moment1": "exp_avg"}`` of `mindspore.nn.Adam`: these are
            compared too. Default: ``None`` .

    Returns:
        Verdict, whose `passed` is True if the optimizer is no further from torch in float64 than three times the error
        of torch in float32; printed, it names the first step, parameter and element that is, and the known mistakes
        of the PyTorch optimizer that it follows, if it is one of `torch.optim`.

    Raises:
        TypeError: If an optimizer is no function, or gives none, or `state` is no mapping.
        ValueError: If `state` names tensors that the optimizer has not, or there is no such mode.
    """
    for name, function in (("optimizer", optimizer), ("reference", reference)):
        if not callable(function):
            raise TypeError(f"For 'check', '{name}' must be a function of the parameters, but got {function!r}.")
    if mode not in mindspore_side.MODES:
        raise ValueError(f"For 'check', 'mode' must be one of {[*mindspore_side.MODES]}, but got {mode!r}.")
    if state is not None and not isinstance(state, Mapping):
        raise TypeError(f"For 'check', 'state' must map names to names, but got {state!r}.")
    problem = problem or synthetic(absent=False)
    reference = _made("reference", reference, torch.optim.Optimizer)
    optimizer = _made("optimizer", optimizer, nn.Optimizer)
    ours = mindspore_side.run(optimizer, problem, mode, slots=state)
    unknown = sorted({*(state or {}).values()} - {kind for kind, _ in ours})
    if unknown:
        raise ValueError(
            f"For 'check', 'state' must name tensors that the optimizer has, but got {state} and found no {unknown}."
        )
    judged = (torch_side.run(reference, problem, dtype) for dtype in ("float32", "float64"))
    judged_by = of_kinds if state is None else of_what_is_told
    verdict = compare(ours, *judged_by(ours, *judged), initial=problem.initial)
    if verdict.divergence is None:
        return verdict
    name, groups = torch_side.told(reference, problem)
    if not is_known(name):
        return verdict
    return replace(verdict, why=str(diagnose(run_of(name, groups, problem), ours, parts=verdict.divergence.parameter)))
