"""torch's Muon on matrices of which processes have rows, as DTensors: `PLACE GIVEN FILE`.

PLACE is where the processes meet; GIVEN has the weights, and their gradients in each step. The first process writes
into FILE what becomes of each matrix, and of the same where it is whole. Of the other rules that look at whole tensors
torch has none on parts: its Adafactor refuses DTensors.
"""

import sys

import numpy as np
import torch
from torch import distributed
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

COUNT = 2


def trained(shared, weights, gradients):
    """Weights after the steps of Muon."""
    params = [torch.nn.Parameter(shared(weight)) for weight in weights]
    groups = [{"params": params[:1], "adjust_lr_fn": "match_rms_adamw"}, {"params": params[1:]}]
    optimizer = torch.optim.Muon(groups, lr=0.1, ns_steps=2)
    for step in gradients:
        for param, grad in zip(params, step):
            param.grad = shared(grad)
        optimizer.step()
    return [param.detach() for param in params]


def main(rank, place, given, file):
    """Train the parts and the whole alike."""
    distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=COUNT)
    mesh = init_device_mesh("cpu", (COUNT,))
    with np.load(given) as arrays:
        count = len([name for name in arrays if name.startswith("weight")])
        weights = [arrays[f"weight{i}"] for i in range(count)]
        gradients = list(zip(*(arrays[f"gradients{i}"] for i in range(count))))
    parts = trained(lambda array: distribute_tensor(torch.tensor(array), mesh, [Shard(0)]), weights, gradients)
    parts = [part.full_tensor().numpy() for part in parts]
    if rank == 0:
        found = {"part": parts, "whole": [whole.numpy() for whole in trained(torch.tensor, weights, gradients)]}
        np.savez(file, **{f"{kind}{i}": one for kind, matrices in found.items() for i, one in enumerate(matrices)})
    distributed.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.start_processes(main, tuple(sys.argv[1:]), COUNT, start_method="fork")
