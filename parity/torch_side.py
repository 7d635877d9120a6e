"""Runs an optimizer of PyTorch on a problem."""

import contextlib
import importlib
from collections.abc import Callable, Iterator

import torch

from parity.cases import Case
from parity.problems import Problem
from parity.trace import Recorder, Trace

DTYPES = {"float32": torch.float32, "float64": torch.float64}


FUSED = (torch.optim.Adagrad, torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


def factory(case: Case, fused: bool = False) -> Callable[[list], torch.optim.Optimizer]:
    """A function from named parameters to the reference optimizer of a case, if `fused` in torch's fused form."""
    module, name = case.reference.rsplit(".", 1)
    reference = getattr(importlib.import_module(module), name)
    kwargs = {**case.kwargs, "fused": True} if fused and reference in FUSED else case.kwargs

    def build(named):
        params = dict(named)
        if case.inner:
            return _Averaged(factory(case.inner, fused)(named), reference(params.values(), **case.kwargs))
        groups = case.split(params)
        if "fused" in kwargs:  # torch's fused SGD fails on a group where one parameter's first gradient comes later
            groups = [([name], overrides) for names, overrides in groups for name in names]
        return reference([{"params": [(name, params[name]) for name in names], **overrides}
                          for names, overrides in groups], **kwargs)

    return build


class _Averaged:
    """An optimizer and the average that is updated after each of its steps, as one optimizer whose state has both."""

    def __init__(self, optimizer, average):
        self._optimizer, self._average = optimizer, average
        self.zero_grad = optimizer.zero_grad

    def step(self):
        self._optimizer.step()
        self._average.update()

    @property
    def state(self):
        averages = zip(self._average.params, self._average.average)
        return {param: {**self._optimizer.state.get(param, {}), "ema": average} for param, average in averages}


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype):
    """Make new tensors of this dtype: scalar state is made so, and stays float32 in a float64 run otherwise."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread.

    The gradient of a convolution depends on how many share its sums, and small products of bfloat16 take a hundred
    times as long where threads wait for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run(build: Callable[[list], torch.optim.Optimizer], problem: Problem, dtype: str) -> Trace:
    """The trace of the optimizer that `build` makes of named parameters, fed the problem's gradients in `dtype`."""
    with default_dtype(DTYPES[dtype]), one_thread():
        named = [(name, torch.nn.Parameter(torch.tensor(value, dtype=DTYPES[dtype])))
                 for name, value in problem.initial.items()]
        optimizer = build(named)
        recorder = Recorder()
        for gradients in problem.gradients:
            for name, param in named:
                grad = gradients[name]
                param.grad = None if grad is None else torch.tensor(grad, dtype=DTYPES[dtype])
            optimizer.step()
            recorder.add({name: param.detach().numpy() for name, param in named}, _state(optimizer, named))
        return recorder.trace()


def _state(optimizer, named):
    return {name: {slot: value.detach().numpy() for slot, value in optimizer.state[param].items()
                   if value is not None} for name, param in named if param in optimizer.state}
