"""Seeded inputs, and arguments for any optimizer."""

import functools
import inspect

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from ms_optim import OPTIMIZERS

# Equal shapes, all ranks that clipping tells apart, and parts of names that look like those of norms and averages.
SHAPES = {
    "a.weight": (3, 4),
    "b.gamma": (3, 4),
    "scale": (),
    "ema.one": (1,),
    "conv.weight": (2, 3, 3, 3),
    "zero.beta": (5,),
    "long.weight": (1100,),
}
# Two values of each argument, far from its default and from each other, so that a mistake in one shows.
LOUD = {
    "amsgrad": (True, True),
    "betas": ((0.8, 0.95), (0.5, 0.9)),
    "clip_eps": (1e-2, 0.5),
    "clipping": (0.1, 0.02),
    "dampening": (0.1, 0.3),
    "decoupled_weight_decay": (False, True),
    "eps": (1e-3, 1e-1),
    "exempt": (("conv.*", "scale"), lambda param: param.name == "b.gamma"),
    "fused": (None, None),
    "loss_scale": (1.0, 1.0),
    "lr": (0.05, 0.3),
    "maximize": (False, True),
    "momentum": (0.9, 0.5),
    "nesterov": (False, False),
    "unit": ("output", "squeezed"),
    "weight_decay": (0.3, 0.1),
}
# What belongs to the optimizer and not to its groups.
UNGROUPED = ("fused", "loss_scale")


def arguments_of(cls):
    """The names of an optimizer's arguments."""
    return [name for name in inspect.signature(cls).parameters if name != "params"]


def loud(cls, which=0):
    """Arguments for an optimizer: the first or the second value of each."""
    return {name: LOUD[name][which] for name in arguments_of(cls)}


def make_params(dtype=ms.float32, prefix=""):
    """A Parameter for each shape, one of them all zero."""
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(shape) * ("zero" not in name) for name, shape in SHAPES.items()}
    return [Parameter(Tensor(np.float16(value), dtype), name=prefix + name) for name, value in values.items()]


def make_grads(steps, seed=1):
    """For each step, a gradient for each shape: of all magnitudes, one of them zero."""
    rng = np.random.default_rng(seed)
    draw = [[np.float32(rng.standard_normal(shape) * np.exp(rng.uniform(-9, 3, shape))) for shape in SHAPES.values()]
            for _ in range(steps)]
    draw[0][0] *= 0
    return [tuple(Tensor(grad) for grad in grads) for grads in draw]


def everything(optimizer):
    """A copy of every Parameter that a checkpoint of the optimizer holds, by name."""
    return {param.name: param.asnumpy().copy() for param in optimizer.get_parameters()}


def outcome(*optimizers):
    """A copy of each parameter and of its state, by name, however the parameters are grouped."""
    found = {}
    for optimizer in optimizers:
        for param in optimizer.parameters:
            found[param.name] = param.asnumpy().copy()
            for slot, value in optimizer.state[param.name].items():
                found[f"{slot} of {param.name}"] = value.asnumpy().copy()
    return found


def assert_same(got, expected):
    """The same names with the same dtypes, shapes and bits."""
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name, strict=True)


GRADS = make_grads(6)


@functools.cache
def baseline(name, mode):
    """The outcome after each of six steps with loud arguments. `mode` is the one that is set."""
    optimizer = OPTIMIZERS[name](make_params(), **loud(OPTIMIZERS[name]))
    outcomes = []
    for grads in GRADS:
        optimizer(grads)
        outcomes.append(outcome(optimizer))
    return outcomes
