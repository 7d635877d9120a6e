"""Training networks in MindSpore.

GRAPH mode compiles the whole step; PYNATIVE calls two compiled functions, the gradients and the optimizer.
"""

from collections.abc import Callable

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from parity.cases.networks import MODELS, Run, accuracy, batches, digits, initial_weights


class Network(nn.Cell):
    """A network and its weights.

    Args:
        name: A key of `MODELS`.
    """

    def __init__(self, name: str):
        super().__init__()
        self.forward = MODELS[name].forward
        self.weights = {key: Parameter(Tensor(value), name=key) for key, value in initial_weights(name).items()}

    def construct(self, x):
        """The logits of a batch."""
        return self.forward(self.weights, x, ops)


class TrainStep(nn.Cell):
    """A step of training, whose outputs are the loss and the gradients in the order of `optimizer.parameters`.

    A Cell and not one function under `@ms.jit`, which is several times as slow once it writes Parameters.

    Args:
        network: The network.
        optimizer: Its optimizer.
    """

    def __init__(self, network: Network, optimizer: nn.Optimizer):
        super().__init__(auto_prefix=False)
        self.network = network
        self.optimizer = optimizer
        self.differentiate = ms.jit(ms.value_and_grad(self.loss, None, optimizer.parameters))

    def loss(self, x, y):
        """The mean cross-entropy of a batch."""
        return ops.cross_entropy(self.network(x), y)

    def construct(self, x, y):
        """Differentiate, then step."""
        loss, grads = self.differentiate(x, y)
        self.optimizer(grads)
        return loss, grads


def train(
    name: str,
    make_optimizer: Callable[[list[Parameter]], nn.Optimizer],
    steps: int,
    callback: Callable[[int, dict, dict], None] | None = None,
    *,
    batch_size: int = 64,
    rank: int | None = None,
) -> Run:
    """Train a network from its initial weights, in float32 and the mode of the context.

    Args:
        name: A key of `MODELS`.
        make_optimizer: Makes the optimizer of a list of Parameters.
        steps: The number of steps.
        callback: Called after each step with its number from 0, the new weights and the gradients that led to them.
        batch_size: The images in a batch.
        rank: How many axes the weights have that are trained; None is all.
    """
    network = Network(name)
    optimizer = make_optimizer([weight for weight in network.weights.values() if rank in (None, weight.ndim)])
    train_step = TrainStep(network, optimizer)
    losses = []
    for step, (x, y) in enumerate(batches(steps, batch_size)):
        loss, grads = train_step(Tensor(x), Tensor(y))
        losses.append(float(loss))
        if callback is not None:
            by_name = {param.name: grad for param, grad in zip(optimizer.parameters, grads, strict=True)}
            ordered = {key: by_name[key] for key in network.weights if key in by_name}
            callback(step, _numpy(network.weights), _numpy(ordered))
    _, (x, _) = digits()
    return Run(_numpy(network.weights), losses, accuracy(network(Tensor(x)).asnumpy()))


def _numpy(tensors):
    return {key: tensor.asnumpy().copy() for key, tensor in tensors.items()}
