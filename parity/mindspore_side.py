"""Runs an optimizer of MindSpore on a problem."""

from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

import ms_optim
from parity.cases import Case
from parity.problems import Problem
from parity.trace import Recorder, Trace

MODES = {"graph": ms.GRAPH_MODE, "pynative": ms.PYNATIVE_MODE}


def factory(case: Case, ours: type[nn.Optimizer] | None = None) -> Callable[[list[Parameter]], nn.Optimizer]:
    """A function from parameters to our optimizer of a case, or to another class with its arguments."""
    ours = ours or getattr(ms_optim, case.optimizer)

    def build(params):
        if case.inner:
            return ours(factory(case.inner)(params), **case.kwargs)
        by_name = {param.name: param for param in params}
        if not case.groups:
            return ours(params, **case.kwargs)
        groups = [{"params": [by_name[name] for name in names], **overrides}
                  for names, overrides in case.split(by_name)]
        return ours([*groups, {"order_params": params}], **case.kwargs)

    return build


def set_mode(mode: str):
    """Compile or not, with the strict syntax: what the compiler cannot lift is an error and never runs in Python."""
    ms.set_context(mode=MODES[mode], jit_syntax_level=ms.STRICT)


def run(build: Callable[[list[Parameter]], nn.Optimizer], problem: Problem, mode: str) -> Trace:
    """The trace of the optimizer that `build` makes of parameters, fed the problem's gradients in float32."""
    set_mode(mode)
    params = [Parameter(Tensor(value), name=name) for name, value in problem.initial.items()]
    optimizer = build(params)
    recorder = Recorder()
    for gradients in problem.gradients:
        drawn = [gradients[param.name] for param in optimizer.parameters]
        optimizer(tuple(None if grad is None else Tensor(grad) for grad in drawn))
        recorder.add({param.name: param.asnumpy() for param in params}, _state(optimizer))
    return recorder.trace()


def _state(optimizer):
    """State by parameter and slot, of an optimizer that tells it; any other is compared by its parameters alone."""
    state = getattr(optimizer, "state", {})
    return {name: {slot: np.asarray(value.asnumpy()) for slot, value in slots.items()} for name, slots in state.items()}
