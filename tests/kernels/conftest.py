"""Fixtures of the tests of kernels."""

import ctypes

import numpy as np
import pytest
import torch
from helpers.native import CHUNK, Native

from ms_optim import SGD, _native


@pytest.fixture
def exact_roots(monkeypatch):
    """Round the square roots of torch's tensors correctly: its own, of vectors, sometimes are an ulp off."""

    def root(x):
        return torch.from_numpy(np.sqrt(x.detach().numpy()))

    monkeypatch.setattr(torch.Tensor, "sqrt", root)
    monkeypatch.setattr(torch.Tensor, "sqrt_", lambda x: x.copy_(root(x)))


@pytest.fixture
def copy_of_library(tmp_path, monkeypatch):
    """A function that loads the library once more, which reads its environment at its first step, for some threads."""

    def load(threads=0, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.so"
        path.write_bytes(_native.library().read_bytes())
        ctypes.CDLL(str(path)).ms_optim_use_threads(threads)
        Native(SGD, [np.ones(2 * CHUNK, np.float32)], path).step([np.ones(2 * CHUNK, np.float32)])
        return path

    return load
