"""The normalizer-free network of the suite, of one block, trained by as many processes as there are.

Each takes its part of every batch and writes the weights and their averages. Run as a program, `FILE COUNT PLACE`, it
imports torch, then trains in COUNT processes that it forks, which meet at the file PLACE.
"""

import multiprocessing
import sys

import numpy as np

from parity.cases import networks

STEPS, BATCH = 8, 64
AGC = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "clipping": 0.05, "exempt": ("head.weight",)}
DECAY = 0.9


def parts(rank, count):
    """What one of several processes has of each batch."""
    size = BATCH // count
    return [(x[rank * size :][:size], y[rank * size :][:size]) for x, y in networks.batches(STEPS, BATCH)]


def in_mindspore(file, rank, count, *ways):
    """Train by Model.train or by a compiled function, in the mode and the context that are set."""
    import mindspore as ms
    from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
    from mindspore.train import Model

    from ms_optim import EMA, MomentumAGC

    class Loss(nn.Cell):
        def __init__(self):
            super().__init__()
            drawn = networks.initial_weights("nfnet")
            self.weights = {key: Parameter(Tensor(value), name=key) for key, value in drawn.items()}
            self.kept = ParameterTuple(tuple(self.weights.values()))

        def construct(self, x, y):
            return ops.cross_entropy(networks.nfnet(self.weights, x, ops), y)

    def by_model(loss, optimizer):
        data = ms.dataset.GeneratorDataset(parts(rank, count), ["x", "y"], shuffle=False)
        Model(loss, optimizer=optimizer).train(1, data, dataset_sink_mode=False)

    def by_jit(loss, optimizer):
        reduce = nn.DistributedGradReducer(optimizer.parameters)
        differentiate = ms.value_and_grad(loss, None, optimizer.parameters)

        @ms.jit
        def step(x, y):
            value, grads = differentiate(x, y)
            optimizer(reduce(grads))
            return value

        for x, y in parts(rank, count):
            step(Tensor(x), Tensor(y))

    for way in ways:
        loss = Loss()
        optimizer = EMA(MomentumAGC(loss.kept, **AGC), DECAY)
        (by_jit if way == "jit" else by_model)(loss, optimizer)
        averages = dict(zip(loss.weights, optimizer.averages))
        write(f"{file}.{way}.{rank}", loss.weights, averages, lambda tensor: tensor.asnumpy())


def in_torch(file, rank, count, place):
    """Train by DistributedDataParallel, which averages gradients."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from parity.references import EMA, SGDAGC

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=count)

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.names = list(networks.initial_weights("nfnet"))
            self.weights = torch.nn.ParameterList(map(torch.tensor, networks.initial_weights("nfnet").values()))

        def forward(self, x, y):
            logits = networks.nfnet(dict(zip(self.names, self.weights)), x, torch)
            return torch.nn.functional.cross_entropy(logits, y)

    loss = Loss()
    parallel = DistributedDataParallel(loss)
    optimizer, average = SGDAGC(list(zip(loss.names, loss.weights)), **AGC), EMA(loss.weights, DECAY)
    for x, y in parts(rank, count):
        optimizer.zero_grad()
        parallel(torch.tensor(x), torch.tensor(y).long()).backward()
        optimizer.step()
        average.update()
    weights, averages = (dict(zip(loss.names, tensors)) for tensors in (loss.weights, average.average))
    write(f"{file}.{rank}", weights, averages, lambda tensor: tensor.detach().numpy())
    torch.distributed.destroy_process_group()


def write(file, weights, averages, array):
    """The tensors by name, those of averages with a prefix."""
    tensors = {**weights, **{f"ema.{name}": average for name, average in averages.items()}}
    np.savez(file, **{name: array(tensor) for name, tensor in tensors.items()})


if __name__ == "__main__":
    import torch.nn.parallel  # noqa: F401

    networks.BLOCKS = networks.BLOCKS[:1]
    networks.digits()
    forked, count = multiprocessing.get_context("fork"), int(sys.argv[2])
    children = [forked.Process(target=in_torch, args=(sys.argv[1], rank, count, sys.argv[3])) for rank in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    sys.exit(any(child.exitcode for child in children))
