"""Runs the rules themselves on torch float64 tensors: their mathematics, with none of MindSpore's arithmetic."""

import torch
from mindspore import Parameter, Tensor

from ms_optim._optimizer import Optimizer
from parity.problems import Problem
from parity.torch_side import default_dtype
from parity.trace import Recorder, Trace


def run(build, problem: Problem) -> Trace:
    """The trace of `scalars` and `update` of the optimizer that `build` makes, applied to torch float64 tensors."""
    optimizer: Optimizer = build([Parameter(Tensor(value), name=name) for name, value in problem.initial.items()])
    names = [param.name for param in optimizer.parameters]
    with default_dtype(torch.float64):
        params = {name: torch.tensor(problem.initial[name], dtype=torch.float64) for name in names}
        slots = {name: tuple(None if kept is None else torch.zeros(kept.shape) for kept in row)
                 for name, row in zip(names, optimizer.slot_table)}
        per_parameter = [torch.tensor(values.asnumpy()[optimizer.group_of]) for values in optimizer.hyperparameters]
        rates = torch.tensor([float(optimizer.param_groups[i]["lr"]) for i in optimizer.group_of])
        step = torch.zeros(len(names))
        recorder = Recorder()
        for gradients in problem.gradients:
            step = step + torch.tensor([float(gradients[name] is not None) for name in names])
            numbers = torch.stack(optimizer.scalars(step, rates, *per_parameter), 1)
            for i, name in enumerate(names):
                if gradients[name] is not None:
                    grad = torch.tensor(gradients[name], dtype=torch.float64)
                    params[name], slots[name] = optimizer.update(params[name], grad, slots[name], *numbers[i],
                                                                 *optimizer.flags[i])
            recorder.add({name: params[name].numpy() for name in names}, _state(optimizer, names, slots, step))
        return recorder.trace()


def _state(optimizer, names, slots, step):
    state = {}
    for i, name in enumerate(names):
        kept = {slot.name: tensor.numpy() for slot, tensor in zip(optimizer.tensor_slots, slots[name])
                if tensor is not None}
        state[name] = kept | {slot.name: step[i].numpy() for slot in optimizer.slots if slot.scalar}
    return state
