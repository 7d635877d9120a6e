"""Blocks in which torch computes otherwise."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype):
    """Make new tensors of this dtype: scalar state is made so, and stays float32 in a float64 run otherwise."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread.

    The gradient of a convolution depends on how many share its sums, and small products of bfloat16 take a hundred
    times as long where threads wait for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
