"""Compiled calls, one at a time, because MindSpore's executor takes no two; and what code asks that is compiled."""

import contextlib
import functools
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn
from mindspore.ops.primitive import constexpr

from ms_optim import _host

_lock = threading.RLock()
_calls = threading.local()


def _renew_lock():
    """A fork may find the lock taken by a thread that it does not have."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def call(cell: nn.Cell, *args: Any) -> Any:
    """Compile a Cell, if it has not been, and run it, in either mode; `@jit` would cost four times as much in PYNATIVE.

    Two compiled calls in two threads hang, and one Cell in two threads crashes.
    """
    with _own_call():
        return cell.compile_and_run(*args)


@contextlib.contextmanager
def _own_call():
    """Let no other thread compile or run, and what is compiled know that it is the library's own."""
    with _lock:
        outer = is_calling()
        _calls.made = True
        try:
            yield
        finally:
            _calls.made = outer


def is_calling() -> bool:
    """Whether this thread is in a compiled call of the library's own."""
    return getattr(_calls, "made", False)


def step(optimizer: Any, gradients: Sequence[Any], pieces: Callable | None = None) -> Any:
    """Take one compiled step; each pattern of absent gradients compiles once, for which are present is a constant.

    Args:
        optimizer: Whose `construct` is a step.
        gradients: One for each parameter, a Tensor or a pair of indices and values, or None.
        pieces: What takes the step instead, in several graphs.
    """
    present = tuple(grad is not None for grad in gradients)
    absent = Tensor(0.0, ms.float32)
    gradients = tuple(grad if here else absent for grad, here in zip(gradients, present))
    if pieces or not optimizer.fused:  # a kernel sets apart what lies in what it writes itself
        gradients = _apart(gradients, optimizer.written)
    if pieces is None:
        return call(optimizer, ms.mutable(gradients), present)
    with _own_call():
        return pieces(gradients, present)


def _apart(gradients, written):
    """The gradients, pairs among them, without any that lies in what is written."""
    flat = [tensor for grad in gradients for tensor in (grad if isinstance(grad, tuple) else (grad,))]
    apart = iter(_host.apart(flat, written))
    return tuple(
        tuple(itertools.islice(apart, len(grad))) if isinstance(grad, tuple) else next(apart) for grad in gradients
    )


@constexpr(check=False)
def _is_none(function):
    return function is None


def _function():
    return True


def in_graph():
    """Whether this is compiled code: a graph hands no Python function to a constant expression."""
    return _is_none(_function)


class Check(int):
    """A function that a graph calls, by `check_again`, whenever it is compiled; a graph takes the number of it.

    A constant expression for each function would hold what that holds until garbage is collected.
    """

    _numbers = itertools.count()
    _known: "weakref.WeakValueDictionary[int, Callable]" = weakref.WeakValueDictionary()
    function: Callable[..., object]

    def __new__(cls, function: Callable[..., object]) -> "Check":
        """Keep the function as long as there is a check."""
        made = super().__new__(cls, next(cls._numbers))
        made.function = cls._known[int(made)] = function
        return made


def check_of(owner: Any, function: Callable[..., object]) -> Check:
    """A check that calls a function of an object, and does not hold it: what held itself would stay until a collection.

    Of an optimizer all state would stay with it.
    """
    held = weakref.ref(owner)

    def check(*found):
        kept = held()
        if kept is not None:
            function(kept, *found)

    return Check(check)


def checked(check: Callable, *args: Any) -> Check:
    """Call a check now; a `construct` calls it again by `check_again`, when it is compiled.

    Between the two, dtypes and shapes may have been changed; afterwards the graph keeps the tensors that it has.
    """
    made = Check(functools.partial(check, *args))
    made.function()
    return made


def run_check(number: int, *found: Any) -> None:
    """Call the function of a check, with what else it takes."""
    Check._known[number](*found)


@constexpr
def check_again(number, *found):
    """Call the function of a check, with what a graph finds that is constant."""
    run_check(number, *found)
    return True
