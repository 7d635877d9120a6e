"""State on several processes as trainers do it by hand.

The parameters of an optimizer give way to clones of them, of which each process keeps its rows, and so it does of every
tensor of state, which it finds as ParameterTuples; gradients are averaged and cut, and after a step the rows gathered.
It prints, as JSON, how far weights and state are from those of one process, relative to their largest elements.
"""

import json

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_optim import EMA, SGD, AdamW

STEPS = 5
OPTIMIZERS = {
    "SGD": lambda params: SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda params: AdamW(params, lr=0.1, amsgrad=True),
    "EMA": lambda params: EMA(AdamW(params, lr=0.1), 0.9),
}


class Net(nn.Cell):
    """A weight whose rows are cut, and a bias that is not."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.weight = Parameter(Tensor(rng.standard_normal((4, 6)), ms.float32), name="weight")
        self.bias = Parameter(Tensor(rng.standard_normal(3), ms.float32), name="bias")

    def construct(self, x):
        """A loss."""
        return ((x @ self.weight.T).square().mean() + self.bias.square()).sum()


class Sharded(nn.Cell):
    """A training step with the rows of this process."""

    def __init__(self, net, optimizer, rank, count):
        super().__init__()
        self.optimizer, self.whole = optimizer, optimizer.parameters
        self.cut = tuple(param.shape[0] % count == 0 for param in self.whole)
        self.differentiate = ms.grad(net, None, self.whole)
        self.rank, self.count = rank, count
        self.split, self.reduce, self.gather = ops.Split(0, count), ops.AllReduce(), ops.AllGather()
        optimizer.parameters = optimizer._parameters = optimizer.parameters.clone(prefix="rows", init="same")
        state = [kept for kept in vars(optimizer).values() if isinstance(kept, ParameterTuple)]
        for column in {id(kept): kept for kept in [optimizer.parameters, *state] if kept is not self.whole}.values():
            for i, kept in enumerate(column):
                if self.cut[i]:
                    rows = kept.shape[0] // count
                    kept.assign_value(Tensor(kept.asnumpy()[rank * rows :][:rows]))

    def construct(self, x):
        """Average, cut, step, gather."""
        gradients = ()
        for grad, cut in zip(self.differentiate(x), self.cut):
            grad = self.reduce(grad) / self.count
            gradients = (*gradients, self.split(grad)[self.rank] if cut else grad)
        done = self.optimizer(gradients)
        for i in range(len(self.whole)):
            rows = ops.depend(self.optimizer.parameters[i], done)
            ops.assign(self.whole[i], self.gather(rows) if self.cut[i] else rows)
        return True


def state_of(optimizer):
    """The tensors of state, and of the averages if there are any."""
    columns = [
        kept for name, kept in vars(optimizer).items() if isinstance(kept, ParameterTuple) and "param" not in name
    ]
    return [kept for column in [*columns, getattr(optimizer, "parameter_averages", ())] for kept in column]


def main(rank, count):
    """Train with each, on rows and whole."""
    rng = np.random.default_rng(1)
    batches = [Tensor(rng.standard_normal((8, 6)), ms.float32) for _ in range(STEPS)]
    size = 8 // count
    for name in OPTIMIZERS:
        one, many = Net(), Net()
        alone = OPTIMIZERS[name](one.trainable_params())
        step = Sharded(many, OPTIMIZERS[name](many.trainable_params()), rank, count)
        differentiate = ms.grad(one, None, one.trainable_params())
        for x in batches:
            alone(differentiate(x))
            step(x[rank * size :][:size])
        pairs = list(zip(many.get_parameters(), one.get_parameters(), strict=True))
        pairs += zip(state_of(step.optimizer), state_of(alone), strict=True)
        far = []
        for mine, whole in pairs:
            expected = whole.asnumpy() if mine.shape == whole.shape else whole.asnumpy()[rank * 2 :][: mine.shape[0]]
            far.append(float(abs(mine.asnumpy() - expected).max() / abs(expected).max()))
        cut = sum(mine.shape != whole.shape for mine, whole in pairs)
        print("ZERO " + json.dumps({"rank": rank, "name": name, "far": max(far), "cut": cut}), flush=True)
