"""The native kernels: their bits against torch's, at every size, instruction set, dtype and number of threads."""

import ctypes
import inspect
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import kernels
import mindspore as ms
import numpy as np
import pytest
import torch
from helpers import loud
from mindspore import Parameter, Tensor

from ms_optim import EMA, OPTIMIZERS, SGD, Adam, AdamW, MomentumAGC, _fused
from parity import mindspore_side, torch_side
from parity.cases import CASES
from parity.compare import RATIO, errors
from parity.mindspore_side import set_mode
from parity.references import SGDAGC

pytestmark = pytest.mark.skipif(_fused.library() is None, reason="the library was installed without a C++ compiler")
NATIVE = [name for name in OPTIMIZERS if name not in ("Adafactor", "EMA", "Muon")]
DTYPES = [np.float32, np.float64]
# Everything about a vector of 4, 8 or 16 elements, and about torch's loops over several; then odd ones.
SIZES = (*range(1, 71), 127, 1001, 4099)
CHUNK = 16384


class Native:
    """An optimizer's kernel, called without MindSpore, on parameters that are numpy arrays."""

    def __init__(self, cls, params, library=None, **kwargs):
        self.optimizer = cls([Parameter(Tensor(param.astype(np.float32)), name=f"p{i}")
                              for i, param in enumerate(params)], **kwargs, fused=True)
        self.library, self.params = library or _fused.library(), [param.copy() for param in params]
        self.slots = [[None if kept is None else kept.asnumpy().astype(param.dtype) for kept in row]
                      for param, row in zip(params, self.optimizer.slot_table)]
        self.scalar_state = [torch.zeros(len(params), dtype=torch.float64) for _ in self.optimizer.scalar_state]
        self.hyper = [torch.tensor(vector.asnumpy()[self.optimizer.group_of])
                      for vector in self.optimizer.hyperparameters]
        self.lr = torch.tensor([self.optimizer.param_groups[i]["lr"] for i in self.optimizer.group_of],
                               dtype=torch.float64)
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
        rows = torch.stack([*numbers[len(self.scalar_state):], torch.ones(len(grads), dtype=torch.float64)], 1).numpy()
        return [rows, present, self.optimizer.layout.asnumpy(), *self.params,
                *(np.zeros(1, np.float32) if grad is None else grad for grad in grads),
                *(kept for row in self.slots for kept in row if kept is not None)]

    def step(self, grads):
        """Take a step in place."""
        assert kernels.call(self.library, self.rule, self.inputs(grads)) == 0

    def outcome(self):
        """Parameters and slots by name, each kind in one array."""
        columns = {slot.name: [row[i] for row in self.slots if row[i] is not None]
                   for i, slot in enumerate(self.optimizer.tensor_slots)}
        return {name: np.concatenate([part.ravel() for part in column])
                for name, column in {"parameter": self.params, **columns}.items() if column}


class Torch:
    """The optimizer of the same name of torch."""

    def __init__(self, cls, params, fused, **kwargs):
        self.params = [torch.nn.Parameter(torch.tensor(param)) for param in params]
        self.optimizer = getattr(torch.optim, cls.__name__)(
            [{"params": [param]} for param in self.params], **kwargs, **{"fused" if fused else "foreach": fused})

    def step(self, grads):
        """Take a step."""
        for param, grad in zip(self.params, grads):
            param.grad = None if grad is None else torch.tensor(grad)
        self.optimizer.step()

    def outcome(self):
        """Parameters and slots by name, each kind in one array."""
        states = [self.optimizer.state[param] for param in self.params]
        names = [name for name, value in states[0].items() if value is not None and value.shape == (1,)]
        columns = {"parameter": self.params, **{name: [state[name] for state in states] for name in names}}
        return {name: torch.cat([part.detach().flatten() for part in column]).numpy()
                for name, column in columns.items()}


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
        np.testing.assert_array_equal(np.signbit(got[name][~np.isnan(value)]), np.signbit(value[~np.isnan(value)]),
                                      err_msg=f"sign of {name} {message}")


@pytest.fixture
def exact_roots(monkeypatch):
    """Round the square roots of torch's tensors correctly: its own, of vectors, sometimes are an ulp off."""
    def root(x):
        return torch.from_numpy(np.sqrt(x.detach().numpy()))

    monkeypatch.setattr(torch.Tensor, "sqrt", root)
    monkeypatch.setattr(torch.Tensor, "sqrt_", lambda x: x.copy_(root(x)))


# What torch has a fused form of, its every branch; betas on both sides of lerp's middle.
ADAM = (
    {},
    {"lr": 0.05, "betas": (0.8, 0.99999), "eps": 1e-3},
    {"lr": 0.01, "betas": (0.0, 0.5), "eps": 1e-6, "weight_decay": 0.7},
    {"lr": 0.1, "betas": (0.999, 0.9), "eps": 1e-12, "weight_decay": 0.3, "maximize": True},
    {"lr": 0.02, "betas": (0.45, 0.3), "eps": 1e-4, "weight_decay": 0.5, "amsgrad": True},
)
FUSED = {
    "SGD": tuple(case.kwargs for case in CASES["SGD"] if not case.groups),
    "Adam": (*ADAM, {"lr": 0.03, "weight_decay": 0.6, "decoupled_weight_decay": True}),
    "AdamW": ADAM,
    # 1 + step * lr_decay is exact, for torch's compiler fuses it: that shows in float64.
    "Adagrad": ({}, {"lr": 0.1, "lr_decay": 0.25, "initial_accumulator_value": 0.5, "eps": 1e-3, "weight_decay": 0.3},
                {"lr": 0.5, "lr_decay": 2.0**-7, "eps": 1e-2, "weight_decay": 0.1, "maximize": True}),
}


def assert_steps_equal(cls, kwargs, dtype, fused, steps):
    """The kernel and torch, from the same parameters on the same gradients."""
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(size).astype(dtype) for size in SIZES]
    native, reference = Native(cls, params, **kwargs), Torch(cls, params, fused, **kwargs)
    for step in range(steps):
        grads = draw(rng, step, dtype)
        native.step(grads)
        reference.step(grads)
        if step < 10 or step % 10 == 9:
            assert_bits(native.outcome(), reference.outcome(), f"at step {step}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "kwargs"), [(name, kwargs) for name, grid in FUSED.items() for kwargs in grid])
def test_the_bits_are_those_of_torch_fused(name, kwargs, dtype, exact_roots):
    """Of parameters and slots, in a hundred steps."""
    assert_steps_equal(OPTIMIZERS[name], kwargs, dtype, True, 100)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "kwargs"), [
    (name, case.kwargs) for name in NATIVE if name not in (*FUSED, "MomentumAGC") for case in CASES[name]])
def test_the_bits_are_those_of_torch_but_for_its_roots(name, kwargs, dtype, exact_roots):
    """Of the optimizers without a fused form; torch keeps mu_product, eta and mu in float32 unless told otherwise."""
    with torch_side.default_dtype(torch.float64):
        assert_steps_equal(OPTIMIZERS[name], kwargs, dtype, False, 30)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight", [0.0, 1e-5, 0.1, 0.49999, 0.5, 0.7, 1.0])
def test_an_average_has_the_bits_of_lerp(weight, dtype):
    """On both sides of the middle, and through infinities."""
    rng = np.random.default_rng(0)
    means = [rng.standard_normal(size).astype(dtype) for size in SIZES]
    expected = [torch.tensor(mean) for mean in means]
    for step in range(20):
        values = draw(rng, step, dtype)
        values[-1][3], values[-2][5], values[30][7] = np.inf, np.nan, -0.0
        kernels.call(_fused.library(), "average", [np.array(weight), np.array(True), np.zeros(len(SIZES), np.int32),
                                                   *means, *values])
        torch._foreach_lerp_(expected, [torch.tensor(value) for value in values], weight)
        assert_bits({"mean": np.concatenate(means)}, {"mean": torch.cat(expected).numpy()})
