"""Seeded inputs, and arguments for any optimizer."""

import functools
import inspect

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from ms_optim import OPTIMIZERS, _native
from ms_optim.arguments import Flag, Number, Numbers, Rate, Whole
from parity.cases import CASES

# The optimizers whose steps take a dense gradient for each parameter.
DENSE = {name: cls for name, cls in OPTIMIZERS.items() if name in CASES and not CASES[name][0].sparse}

# Five that span the kinds: no step count and a slot that may be missing, flags, a number for each parameter, patterns,
# and tensors of other shapes without a kernel. What no rule could get wrong is tested on these.
SPAN = ("SGD", "AdamW", "NAdam", "MomentumAGC", "Adafactor")
# Those of them that are trained in cells of their own, each of which compiles a network too: a number for each step and
# flags, patterns, and no kernel.
CELLS = ("AdamW", "MomentumAGC", "Adafactor")
# The one of them that has a kernel on which that is tested without, and in PYNATIVE where a cell compiles.
COMPOSED = ("AdamW",)
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
FEW = ("a.weight", "b.gamma", "scale", "conv.weight")
# The same for an optimizer that takes matrices only: wide, tall, and with axes of size 1.
MATRICES = dict(zip(SHAPES, [(3, 4), (3, 4), (1, 1), (2, 1), (6, 9), (5, 2), (40, 28)]))
# Two values of an argument, far from its default and from each other, so that a mistake in one shows; of an argument
# that is not here, or of which the class takes others, two that its kind allows.
LOUD = {
    "Adafactor.eps": ((1e-3, 1e-1), (1e-2, 0.5)),
    "adjust_lr_fn": (None, "match_rms_adamw"),
    "alpha": (0.9, 0.5),
    "amsgrad": (True, True),
    "beta2_decay": (-0.5, -1.0),
    "betas": ((0.8, 0.95), (0.5, 0.9)),
    "centered": (True, False),
    "clip_eps": (1e-2, 0.5),
    "clipping": (0.1, 0.02),
    "d": (1.5, 4.0),
    "dampening": (0.1, 0.3),
    "decoupled_weight_decay": (False, True),
    "eps": (1e-3, 1e-1),
    "etas": ((0.3, 1.7), (0.9, 1.1)),
    "exempt": (("conv.*", "scale"), lambda param: param.name == "b.gamma"),
    "fused": (None, None),
    "initial_accumulator_value": (0.5, 0.1),
    "lambd": (0.2, 0.5),
    "loss_scale": (1.0, 1.0),
    "lr": (0.05, 0.3),
    "lr_decay": (0.2, 0.7),
    "master_weights": (False, False),
    "matrix_group": (None, "whole"),
    "maximize": (False, True),
    "momentum": (0.9, 0.5),
    "momentum_decay": (0.3, 0.05),
    "nesterov": (False, False),
    "ns_coefficients": ((2.0, -1.5, 0.5), (3.0, -3.0, 1.0)),
    "ns_steps": (2, 3),
    "rho": (0.5, 0.95),
    "state_dtype": (None, None),
    "step_sizes": ((1e-2, 2.0), (0.1, 0.5)),
    "t0": (2.0, 0.0),
    "unit": ("output", "squeezed"),
    "unit_group": (None, "whole"),
    "weight_decay": (0.3, 0.1),
}
# What belongs to the optimizer and not to its groups.
UNGROUPED = ("fused", "loss_scale", "state_dtype", "master_weights")


def arguments_of(cls):
    """The names of an optimizer's arguments."""
    return [name for name in inspect.signature(cls).parameters if name != "params"]


def loud(cls, which=0):
    """Arguments for an optimizer: the first or the second value of each."""
    return {name: _values(cls, name)[which] for name in arguments_of(cls)}


def _values(cls, name):
    kind = cls.kind_of(name)
    for key in (f"{cls.__name__}.{name}", name):
        if key in LOUD and all(_allows(kind, value) for value in LOUD[key]):
            return LOUD[key]
    return _two_of(kind)


def _allows(kind, value):
    """Whether a kind takes a value: a class may mean something else by a name."""
    try:
        kind.check("tests", "value", value)
    except (TypeError, ValueError):
        return False
    return True


def _two_of(kind):
    """Two values that a kind allows."""
    if isinstance(kind, Numbers):
        return tuple(zip(*map(_two_of, kind.parts.values())))
    if isinstance(kind, Whole):
        return kind.least + 1, kind.least + 2
    if isinstance(kind, (Number, Rate)):
        low, high = (kind.each if isinstance(kind, Rate) else kind).bounds
        base, width = (low, min(high - low, 1.0)) if low > -np.inf else (min(high, 0.0) - 1.0, 1.0)
        return base + 0.3 * width, base + 0.7 * width
    return kind.choices[-2:] if not isinstance(kind, Flag) else (False, True)


def numbers_of(cls, which=0):
    """Those of them that may change between steps."""
    fixed = ("exempt", "initial_accumulator_value", *UNGROUPED)
    return {
        name: value
        for name, value in loud(cls, which).items()
        if isinstance(value, (float, tuple)) and name not in fixed
    }


def shapes_of(name):
    """The shapes that an optimizer takes, by parameter name; without a kernel fewer: each has to be compiled."""
    shapes = MATRICES if CASES[name][0].rank == 2 else SHAPES
    return {key: shapes[key] for key in FEW} if _native.obstacle(name, OPTIMIZERS[name].update) else shapes


def make_params(name, dtype=ms.float32, prefix=""):
    """A Parameter for each shape that an optimizer takes, one of them all zero."""
    rng = np.random.default_rng(0)
    values = {key: rng.standard_normal(shape) * ("zero" not in key) for key, shape in shapes_of(name).items()}
    return [Parameter(Tensor(np.float16(value), dtype), name=prefix + key) for key, value in values.items()]


def make_grads(name, steps=6, seed=1):
    """For each step, a gradient for each shape that an optimizer takes: of all magnitudes, one of them zero."""
    return _drawn(tuple(shapes_of(name).values()), steps, seed)


@functools.cache
def _drawn(shapes, steps, seed):
    rng = np.random.default_rng(seed)
    draw = [
        [np.float32(rng.standard_normal(shape) * np.exp(rng.uniform(-9, 3, shape))) for shape in shapes]
        for _ in range(steps)
    ]
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


def assert_compiled(optimizer, times=1):
    """So many graphs of an optimizer's own were compiled; none if its steps are direct ones."""
    assert len(optimizer.compile_cache) == (times if optimizer.why_compiled else 0)


@functools.cache
def baseline(name, mode):
    """The outcome after each of six steps with loud arguments. `mode` is the one that is set."""
    optimizer = DENSE[name](make_params(name), **loud(DENSE[name]))
    outcomes = []
    for grads in make_grads(name):
        optimizer(grads)
        outcomes.append(outcome(optimizer))
    return outcomes
