"""Training networks in torch, in float32 or, as the oracle, in float64."""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from parity.cases.networks import MODELS, Run, accuracy, batches, digits, initial_weights
from parity.sides.torch import DTYPES
from parity.sides.torch_settings import default_dtype, one_thread


def parameters(name: str, dtype: str = "float32") -> dict[str, torch.nn.Parameter]:
    """The weights of a network, as drawn."""
    return {
        key: torch.nn.Parameter(torch.tensor(value).to(DTYPES[dtype])) for key, value in initial_weights(name).items()
    }


def train(
    name: str,
    make_optimizer: Callable[[list], torch.optim.Optimizer],
    steps: int,
    callback: Callable[[int, dict, dict], None] | None = None,
    *,
    dtype: str = "float32",
    batch_size: int = 64,
    rank: int | None = None,
) -> Run:
    """Train a network from its initial weights.

    Args:
        name: A key of `MODELS`.
        make_optimizer: Makes the optimizer of a list of (name, parameter), such as every torch optimizer takes.
        steps: The number of steps.
        callback: Called after each step with its number from 0, the new weights and the gradients that led to them.
        dtype: "float32" or "float64".
        batch_size: The images in a batch.
        rank: How many axes the weights have that are trained; None is all.
    """
    forward = MODELS[name].forward
    with default_dtype(DTYPES[dtype]), one_thread():
        weights = parameters(name, dtype)
        optimizer = make_optimizer([(key, weight) for key, weight in weights.items() if rank in (None, weight.ndim)])
        losses = []
        for step, (x, y) in enumerate(batches(steps, batch_size)):
            for weight in weights.values():
                weight.grad = None
            loss = cross_entropy(forward(weights, torch.tensor(x).to(DTYPES[dtype]), torch), torch.tensor(y).long())
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if callback is not None:
                callback(step, _numpy(weights), _numpy({key: weight.grad for key, weight in weights.items()}))
        _, (x, _) = digits()
        with torch.no_grad():
            logits = forward(weights, torch.tensor(x).to(DTYPES[dtype]), torch)
        return Run(_numpy(weights), losses, accuracy(logits.numpy()))


def record(
    name: str,
    make_optimizer: Callable[[list], torch.optim.Optimizer],
    steps: int,
    dtype: str = "float32",
    rank: int | None = None,
) -> tuple[list[dict[str, np.ndarray]], Run]:
    """Train, and give the gradients of every step by name, and the run."""
    gradients = []
    run = train(
        name, make_optimizer, steps, lambda step, weights, grads: gradients.append(grads), dtype=dtype, rank=rank
    )
    return gradients, run


def _numpy(tensors):
    return {key: tensor.detach().numpy().copy() for key, tensor in tensors.items()}
