"""Runs an optimizer of PyTorch with other roundings: how far rounding alone may carry it."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parity.cases import ENTRIES, Case
from parity.cases.formats import FORMATS
from parity.cases.problems import Problem
from parity.sides import torch as torch_side
from parity.sides.trace import Trace

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def run_stored(
    case: Case, problem: Problem, precision: str, dtype: str, numbers: frozenset[str], seed: int | None = None
) -> Trace:
    """The trace of torch, which computes in `precision` and stores in `dtype`, with other roundings for each seed.

    Args:
        case: Whose reference is run.
        problem: What it is run on.
        precision: "float32" or "float64".
        dtype: What parameters and state are rounded to after each step, if it is half a float.
        numbers: The slots that are numbers and not tensors, which are exact.
        seed: None rounds as torch does.
    """
    case = explicit(case, dtype)

    def build(named):
        optimizer = torch_side.factory(case)(named)
        optimizer = optimizer if seed is None else _Shaken(optimizer, numbers, seed)
        return _Stored(optimizer, numbers, HALVES[dtype]) if dtype in HALVES else optimizer

    trace = torch_side.run(build, problem, precision)
    if (dtype, precision) != ("float16", "float32"):
        return trace
    return {key: steps if key[0] in numbers else [step.astype(dtype) for step in steps] for key, steps in trace.items()}


def shaken_runs(case: Case, problem: Problem, dtype: str, numbers: frozenset[str], seeds: range) -> Iterator[Trace]:
    """What torch does when each operand of each operation moves, and once with denormal numbers flushed to zero."""
    precision = "float64" if dtype == "float64" else "float32"
    for seed in seeds:
        yield run_stored(_moved(case, np.random.default_rng(seed)), problem, precision, dtype, numbers, seed)
    torch.set_flush_denormal(True)
    try:
        yield run_stored(case, problem, precision, dtype, numbers)
    finally:
        torch.set_flush_denormal(False)


def explicit(case: Case, dtype: str) -> Case:
    """The case with what None means in this dtype, which torch reads off the one that it runs."""
    told = partial(ENTRIES[case.optimizer].explicit, eps=FORMATS[dtype].eps)
    groups = tuple((pattern, told(overrides, group=True)) for pattern, overrides in case.groups)
    return replace(case, kwargs=told(case.kwargs), groups=groups)


def _moved(case, rng):
    """The case with about half of its numbers one float64 less."""

    def moved(value):
        if isinstance(value, tuple) and not any(isinstance(item, str) for item in value):
            return tuple(map(moved, value))
        if not isinstance(value, float) or value in (0.0, 1.0, np.inf):  # the ends of ranges stay
            return value
        return float(np.nextafter(value, 0.0)) if rng.random() < 0.5 else value

    def all_moved(options):
        return {key: moved(value) for key, value in options.items()}

    return replace(
        case,
        kwargs=all_moved(case.kwargs),
        groups=tuple((pattern, all_moved(overrides)) for pattern, overrides in case.groups),
        inner=case.inner and _moved(case.inner, rng),
    )


class _Around:
    """An optimizer around another, which has what it has not."""

    def __init__(self, optimizer):
        self._optimizer = optimizer

    def __getattr__(self, name):
        return getattr(self._optimizer, name)


class _Stored(_Around):
    """An optimizer of torch whose parameters and state are rounded to half a float after each step."""

    def __init__(self, optimizer, numbers, dtype):
        super().__init__(optimizer)
        self._numbers, self._dtype = numbers, dtype
        self._round()

    def step(self):
        """Step in full precision, then round."""
        self._optimizer.step()
        self._round()

    @torch.no_grad()
    def _round(self):
        kept = [
            value
            for slots in self.state.values()
            for slot, value in slots.items()
            if slot not in self._numbers and value is not None
        ]
        for tensor in [*kept, *(param for group in self.param_groups for param in group["params"])]:
            tensor.copy_(tensor.to(self._dtype))


class _Shaken(_Around):
    """An optimizer of torch each of whose operations rounds otherwise."""

    def __init__(self, optimizer, numbers, seed):
        super().__init__(optimizer)
        self._numbers, self._roundings = numbers, _Roundings(seed)

    def step(self):
        """Step, with exact step counts."""
        self._roundings.exact = {
            id(value) for slots in self.state.values() for slot, value in slots.items() if slot in self._numbers
        }
        with self._roundings:
            self._optimizer.step()


class _Roundings(TorchDispatchMode):
    """What an operation reads is off by a unit in the last place at random: Monte Carlo arithmetic (Parker 1997).

    So are what it has rounded before and, of a fused one, what it rounds on the way or, on another processor, does not.
    """

    sums = frozenset(
        ("add", "addcdiv", "addcmul", "addmm", "linalg_vector_norm", "mean", "mm", "norm", "rsub", "sub", "sum")
    )
    operations = sums | {"div", "lerp", "mul", "pow", "reciprocal", "sqrt", "square"}

    def __init__(self, seed):
        super().__init__()
        self.random, self.exact = torch.Generator().manual_seed(seed), set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        """Move the operands, the one that is written in place too unless it is in a few rows, and do the operation."""
        name = operation.overloadpacket.__name__
        if name.rstrip("_") in self.operations:
            first, *others = args
            rows = any(isinstance(other, torch.Tensor) and other.is_sparse for other in others)
            if self._moves(first) and not rows:
                first = first.copy_(self._moved(first)) if name.endswith("_") else self._moved(first)
            args = (first, *(self._moved(other) if self._moves(other) else other for other in others))
        return operation(*args, **(kwargs or {}))

    def _moves(self, value):
        return (
            isinstance(value, torch.Tensor)
            and value.is_floating_point()
            and not value.is_sparse
            and id(value) not in self.exact
        )

    def _moved(self, value):
        units = torch.randint(-1, 2, value.shape, generator=self.random)
        return value * (1 + units.to(value.dtype) * torch.finfo(value.dtype).eps)
