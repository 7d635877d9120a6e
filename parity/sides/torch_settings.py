"""Blocks in which torch computes otherwise, and the numbers with which it computes the same in another precision."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

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


def numbers_for_double(group: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """What a group is in float64 besides its parameters, whose rule is that of parameters of a dtype.

    Where the eps of Adafactor is None, torch takes the gap after 1 of the dtype; numbers in float32 tensors would have
    what is computed of them in float32.
    """

    def explicit(key, value):
        if isinstance(value, (tuple, list)):
            return tuple(torch.finfo(dtype).eps if key == "eps" and one is None else _as_double(one) for one in value)
        return _as_double(value)

    return {key: explicit(key, value) for key, value in group.items() if key not in ("params", "param_names")}


def _as_double(value):
    is_real = torch.is_tensor(value) and value.is_floating_point()
    return value.to(torch.float64, copy=True) if is_real else value


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
