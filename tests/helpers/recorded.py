"""Trainings in PyTorch that are recorded."""

import torch
from safetensors import safe_open
from safetensors.numpy import load_file

import parity

STEPS = 6


def network():
    """Two layers, whose parameters are matrices, vectors and a scalar."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    net.register_parameter("scale", torch.nn.Parameter(torch.tensor(1.5)))
    return net


def trained(optimizer, net, folder, steps=STEPS, between=lambda step: None, dtype=torch.float32, **kwargs):
    """Record a training on numbers that are drawn; `between` is called before each step."""
    rng = torch.Generator().manual_seed(1)
    with parity.record(optimizer, folder, model=net, **kwargs) as run:
        for step in range(steps):
            optimizer.zero_grad()
            loss = (net(torch.randn(8, 4, generator=rng).to(dtype)) * net.scale).square().mean()
            loss.backward()
            run.loss(loss)
            between(step)
            optimizer.step()
    return run


def opened(file):
    """The tensors and the metadata of a step, to be written back."""
    with safe_open(file, "np") as found:
        return load_file(file), found.metadata()
