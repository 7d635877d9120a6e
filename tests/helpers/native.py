"""A kernel's optimizer beside torch's: without MindSpore, on arrays, step by step and bit for bit."""

import functools
import inspect
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mindspore import Parameter, Tensor

from helpers import arguments_of, kernels, loud
from ms_optim import OPTIMIZERS, _native

CPU = Path("/proc/cpuinfo")
FUSES = CPU.exists() and "avx2" in CPU.read_text()
fuses = pytest.mark.skipif(not FUSES, reason="torch's bits are known where it has AVX2")
needs_library = pytest.mark.skipif(_native.library() is None, reason="the library was installed without a C++ compiler")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
RULES = {} if _native.library() is None else _native.kernels(_native.library())
NATIVE = [name for name, cls in OPTIMIZERS.items() if getattr(getattr(cls, "update", None), "__name__", None) in RULES]
# Those that torch has too, and those of which it has a fused form.
OF_TORCH = [name for name in NATIVE if hasattr(torch.optim, name)]
FUSED = [name for name in OF_TORCH if "fused" in inspect.signature(getattr(torch.optim, name)).parameters]
DTYPES = [np.float32, np.float64]
# All that is left over of vectors of 4, 8 or 16 elements, without one before it and after one; the ends of several, as
# torch's loops take them; then odd ones.
SIZES = (*range(1, 34), 47, 48, 49, 63, 64, 65, 70, 127, 1001, 4099)
CHUNK = 16384
# Of vectors: without a register of any instruction set, with one and what is left over, and around the ends of chunks.
VECTORS = (0, 1, 15, 16, 17, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5)
# A unit of every kind: of one element, shorter than a vector, of a thread, of several, and every so-many-th element.
UNITS = [
    (),
    (1,),
    (5,),
    (70000,),
    (3, 4),
    (300, 3),
    (3, 1),
    (1, 40000),
    (2, 32769),
    (2, 2 * CHUNK),
    (3, 5, 7),
    (2, 9000, 5),
    (1, 6, 1),
    (4, 3, 1),
    (4, 3, 3, 3),
    (4, 1, 1, 1),
    (1, 2, 150, 150),
    (2, 3, 1, 2, 2),
]


@functools.cache
def _declared(cls, shapes, kwargs):
    """An optimizer with these arguments, which takes no step: what kernels are told of it is read."""
    params = [Parameter(Tensor(np.zeros(shape, np.float32)), name=f"p{i}") for i, shape in enumerate(shapes)]
    return cls(params, **{**dict(kwargs), "fused": True})


class Native:
    """An optimizer's kernel, called without MindSpore, on parameters that are numpy arrays."""

    def __init__(self, cls, params, library=None, **kwargs):
        shapes = tuple(param.shape for param in params)
        self.optimizer = _declared(cls, shapes, tuple(kwargs.items()))
        self.library, self.params = library or _native.library(), [param.copy() for param in params]
        self.slots = [
            [None if kept is None else kept.asnumpy().astype(param.dtype) for kept in row]
            for param, row in zip(params, self.optimizer.slot_table)
        ]
        self.scalar_state = [torch.zeros(len(params), dtype=torch.float64) for _ in self.optimizer.scalar_state]
        self.hyper = [torch.tensor(vector.asnumpy()[self.optimizer.group_of]) for vector in self.optimizer.numbers]
        self.lr = torch.tensor(
            [self.optimizer.param_groups[i]["lr"] for i in self.optimizer.group_of], dtype=torch.float64
        )
        self.steps = torch.zeros(len(params), dtype=torch.float64)
        self.rule = self.optimizer.update.__name__

    def inputs(self, grads):
        """What the kernel is given for the next step."""
        present = np.array([grad is not None for grad in grads])
        self.steps = self.steps + torch.tensor(present)
        columns = (self.steps, *self.scalar_state, self.lr, *self.hyper)
        # Powers of few elements are those of the C library, as in torch's optimizers; of many they are not.
        few = [self.optimizer.scalars(*(column[at] for column in columns)) for at in torch.arange(len(grads)).split(7)]
        numbers = [torch.cat(column) for column in zip(*few)]
        self.scalar_state = [new.where(torch.tensor(present), old) for new, old in zip(numbers, self.scalar_state)]
        rows = torch.stack([*numbers[len(self.scalar_state) :], torch.ones(len(grads), dtype=torch.float64)], 1).numpy()
        return [
            rows,
            present,
            self.optimizer.layout.asnumpy(),
            *self.params,
            *(np.zeros(1, np.float32) if grad is None else grad for grad in grads),
            *(kept for row in self.slots for kept in row if kept is not None),
        ]

    def step(self, grads):
        """Take a step in place."""
        assert kernels.call(self.library, self.rule, self.inputs(grads)) == 0

    def outcome(self):
        """Parameters and slots by name, each kind in one array."""
        columns = {
            slot: [row[i] for row in self.slots if row[i] is not None]
            for i, slot in enumerate(self.optimizer.state.slots)
        }
        return {
            name: np.concatenate([part.ravel() for part in column])
            for name, column in {"parameter": self.params, **columns}.items()
            if column
        }


class Torch:
    """The optimizer of the same name of torch."""

    def __init__(self, cls, params, fused, **kwargs):
        self.params = [torch.nn.Parameter(torch.tensor(param)) for param in params]
        self.optimizer = getattr(torch.optim, cls.__name__)(
            [{"params": [param]} for param in self.params], **kwargs, **{"fused" if fused else "foreach": fused}
        )

    def step(self, grads):
        """Take a step."""
        for param, grad in zip(self.params, grads):
            param.grad = None if grad is None else torch.tensor(grad)
        self.optimizer.step()

    def outcome(self):
        """Parameters and slots by name, each kind in one array."""
        states = [self.optimizer.state[param] for param in self.params]
        names = [
            name
            for name, value in states[0].items()
            if name != "step" and value is not None and value.shape == self.params[0].shape
        ]
        columns = {"parameter": self.params, **{name: [state[name] for state in states] for name in names}}
        return {
            name: torch.cat([part.detach().flatten() for part in column]).numpy() for name, column in columns.items()
        }


def draw(rng, step, dtype, sizes=SIZES):
    """A gradient for each size, of a magnitude that changes, and for a while of all magnitudes."""
    size = np.array([1.0, 1e-12, 1e6, np.nan][step // 6 % 4])
    total = sum(sizes)
    grads = rng.standard_normal(total) * (10.0 ** rng.uniform(-8, 2, total) if np.isnan(size) else size)
    return np.split(grads.astype(dtype), np.cumsum(sizes)[:-1])


def assert_bits(got, expected, message=""):
    """The same names, and the same bits but for which NaN it is."""
    assert got.keys() == expected.keys(), message
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=f"{name} {message}", strict=True)
        np.testing.assert_array_equal(
            np.signbit(got[name][~np.isnan(value)]),
            np.signbit(value[~np.isnan(value)]),
            err_msg=f"sign of {name} {message}",
        )


def run(cls, library, params, steps=4, **kwargs):
    """What the kernel of a library makes of parameters."""
    rng = np.random.default_rng(1)
    native = Native(cls, params, library, **kwargs)
    for step in range(steps):
        drawn = draw(rng, 3 * step, np.float64, [param.size for param in params])
        with np.errstate(over="ignore"):
            native.step([grad.astype(param.dtype).reshape(param.shape) for grad, param in zip(drawn, params)])
    return native.outcome()


def arguments(name):
    """Arguments that all show, and for no parameter in particular."""
    return {key: value for key, value in loud(OPTIMIZERS[name]).items() if key != "exempt"}


def those_of(cls, **kwargs):
    """The arguments among these that an optimizer has."""
    return {name: value for name, value in kwargs.items() if name in arguments_of(cls)}


def some_params():
    """Parameters of all kinds: of shapes that clipping tells apart, of each type, and for more than one thread."""
    rng = np.random.default_rng(0)
    return [
        rng.standard_normal(shape).astype(dtype)
        for dtype in (np.float32, np.float64, np.float16)
        for shape in [(), (17,), (6, 5, 3), (5, 3, 3, 3), (2, CHUNK + 5), (2 * CHUNK + 999,)]
    ]
