"""Runs the rules themselves on torch tensors: their mathematics, with none of MindSpore's arithmetic."""

import torch
from mindspore import Parameter, Tensor

from ms_optim._math import decide, is_near, lerp, way_of
from parity.cases.problems import Problem, Rows
from parity.sides.torch import DTYPES
from parity.sides.torch_settings import default_dtype, one_thread
from parity.sides.trace import Recorder, Trace


def run(build, problem: Problem, dtype: str = "float64") -> Trace:
    """The trace of the functions of the optimizer that `build` makes, applied to torch tensors.

    Numbers are float64 whatever the tensors are, and cast once, as in a compiled step.
    """
    optimizer = build([Parameter(Tensor(value), name=name) for name, value in problem.initial.items()])
    with default_dtype(torch.float64), one_thread():
        rule = (_Average if hasattr(optimizer, "averages") else _Rule)(optimizer, problem, DTYPES[dtype])
        recorder = Recorder()
        for gradients in problem.gradients:
            rule.step(gradients)
            recorder.add(rule.params, rule.state)
        return recorder.trace()


class _Rule:
    """`scalars` and `update` of an optimizer, over every parameter."""

    def __init__(self, optimizer, problem, dtype):
        self.optimizer, self.dtype = optimizer, dtype
        self.names = [param.name for param in optimizer.parameters]
        self.params = {name: torch.tensor(problem.initial[name], dtype=dtype) for name in self.names}
        self.slots = {
            name: tuple(None if kept is None else torch.tensor(kept.asnumpy(), dtype=dtype) for kept in row)
            for name, row in zip(self.names, optimizer.slot_table)
        }
        self.numbers = {name: torch.zeros(len(self.names)) for name in optimizer.state.vectors if name != "step"}
        self.hyper = [torch.tensor(values.asnumpy()[optimizer.group_of]) for values in optimizer.numbers]
        self.rates = torch.tensor([optimizer.param_groups[i]["lr"] for i in optimizer.group_of])
        self.steps = torch.zeros(len(self.names))
        weights = optimizer.lerp_weights  # of the numbers, and of the loss scale, which is none here
        self.weights = None if weights is None else torch.tensor(weights.asnumpy())

    def step(self, gradients):
        present = torch.tensor([gradients[name] is not None for name in self.names])
        self.steps = self.steps + present
        numbers = self.optimizer.scalars(self.steps, *self.numbers.values(), self.rates, *self.hyper)
        self.numbers = {name: new.where(present, old) for (name, old), new in zip(self.numbers.items(), numbers)}
        rows = torch.stack(numbers[len(self.numbers) :], 1).to(self.dtype)
        rows, conditions = decide(rows, self.optimizer.conditions_read, self.weights)
        for i, (name, row, flags) in enumerate(zip(self.names, rows, self.optimizer.flags)):
            if gradients[name] is not None:
                rows, grad = _summed(gradients[name], self.dtype)
                kept = [slot if slot is None or rows is None else slot[rows] for slot in self.slots[name]]
                chosen = [condition[i] for condition in conditions]
                param = self.params[name] if rows is None else self.params[name][rows]
                param, kept = self.optimizer.update(param, grad, tuple(kept), *row, *chosen, *flags)
                if rows is not None:
                    param, *kept = (
                        old.index_put((rows,), new)
                        for old, new in zip((self.params[name], *self.slots[name]), (param, *kept))
                    )
                self.params[name], self.slots[name] = param, tuple(kept)

    @property
    def state(self):
        numbers = {"step": self.steps, **self.numbers}
        return {
            name: {slot: kept for slot, kept in zip(self.optimizer.state.slots, self.slots[name]) if kept is not None}
            | {number: numbers[number][i] for number in self.optimizer.state.vectors}
            for i, name in enumerate(self.names)
        }


def _summed(drawn, dtype):
    """The rows that a gradient touches, or None for all, and the gradient of each."""
    if not isinstance(drawn, Rows):
        return None, torch.tensor(drawn, dtype=dtype)
    rows, places = torch.tensor(drawn.indices).unique(return_inverse=True)
    values = torch.tensor(drawn.values, dtype=dtype)
    return rows, values.new_zeros((len(rows), *values.shape[1:])).index_add(0, places, values)


class _Average:
    """The weight of an average and its interpolation, after the rule of the optimizer inside."""

    def __init__(self, ema, problem, dtype):
        self.ema, self.inner = ema, _Rule(ema.optimizer, problem, dtype)
        self.decay = torch.tensor(ema.decay.asnumpy())
        self.warmup = [torch.tensor(number.asnumpy()) for number in ema.warmup]
        self.averages, self.steps = dict(self.params), torch.tensor(0.0)

    @property
    def params(self):
        return self.inner.params

    def step(self, gradients):
        self.inner.step(gradients)
        self.steps = self.steps + 1
        weight, due = self.ema.ema_weight(
            self.steps, self.decay, self.warmup, self.ema.schedule, self.ema.update_after_step, self.ema.update_every
        )
        weight = weight.to(self.inner.dtype)
        self.averages = {
            name: lerp(average, self.params[name], way_of(weight), is_near(weight)).where(due, average)
            for name, average in self.averages.items()
        }

    @property
    def state(self):
        return {name: slots | {"ema": self.averages[name]} for name, slots in self.inner.state.items()}
