"""Direct calls on CPU: numbers from the host, then the kernel on the tensors' own memory. No graph is compiled or run.

MindSpore's queue is empty before memory is touched: what was computed before is there, what reads the old values has
read them. What follows in Python finds the new ones.
"""

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor
from mindspore.common.api import _pynative_executor

from ms_optim import _host, _native
from ms_optim._host import Vector, memory, vector

# Set to 0 it lets direct calls compile, as steps in graphs do.
SWITCH = "MS_OPTIM_DIRECT"

# What stands for a gradient that is absent, which no kernel reads.
_NOTHING = Tensor(0.0, ms.float32)

_launches: "weakref.WeakSet[Launch]" = weakref.WeakSet()


def _renew_locks():
    """A fork may find a lock taken by a thread that it does not have."""
    for launch in _launches:
        launch.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def obstacle() -> str | None:
    """Why direct calls compile although there is a kernel, or None."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    return None if _host.all_there else "this version of MindSpore does not tell where tensors lie"


class Read(NamedTuple):
    """Tensors that a kernel only reads, and where they lie."""

    tensors: list[Tensor]
    places: list[int]


class Launch:
    """Calls of one kernel on tensors, one at a time.

    Args:
        kernel: Which.
        check: What raises if the tensors that it writes into are not such as it takes.
        layout: What it is given about them that never changes, after what does.
        first: The tensors that it writes into and is given before those that it only reads.
        last: Those that it writes into and is given after them.
    """

    def __init__(
        self,
        kernel: _native.Kernel,
        check: Callable[[], object],
        layout: np.ndarray,
        first: Sequence[Parameter],
        last: Sequence[Parameter] = (),
    ):
        self.lock = threading.RLock()
        _launches.add(self)
        self._run, self._check, self._layout = kernel.function(), check, layout
        self._first, self._written = len(first), (*first, *last)
        self._places: list[int] = []
        self._sizes: list[int] = []
        self._described: tuple | None = None
        self._output = np.zeros(1, np.float32)

    def find(self) -> bool:
        """Find where the written tensors lie; whether all of them have memory, contiguous and no other's.

        Raises:
            TypeError, ValueError: If they are such as the kernel does not take.
        """
        places, sizes = (list(map(of, self._written)) for of in (_host.address, _host.nbytes_of))
        if 0 in places:
            for tensor in self._written:
                tensor.init_data()
            places = list(map(_host.address, self._written))
        if places == self._places and sizes == self._sizes:
            return True
        self._places, self._described = [], None
        self._check()
        starts, ends = _spans(places, sizes)
        order = np.argsort(starts)
        self._starts, self._ends = starts[order], ends[order]
        if (
            0 in places
            or not all(map(_host.is_contiguous, self._written))
            or (self._starts[1:] < self._ends[:-1]).any()
        ):
            return False
        self._places, self._sizes = places, sizes
        return True

    def readable(self, tensors: Sequence[Tensor]) -> Read | None:
        """The tensors, or copies of those that are not contiguous, or lie in what is written; None if one lies nowhere.

        What `find` has found is what is written.
        """
        contiguous = map(_host.is_contiguous, tensors)
        found = [tensor if fits else tensor.contiguous() for tensor, fits in zip(tensors, contiguous)]
        places = list(map(_host.address, found))
        if 0 in places:
            return None
        starts, ends = _spans(places, map(_host.nbytes_of, found))
        before = np.searchsorted(self._starts, ends)  # how many written ones begin before the end
        shared = (before > 0) & (self._ends[np.maximum(before, 1) - 1] > starts)
        for i in np.flatnonzero(shared):
            found[i] = Tensor(found[i].asnumpy().copy(), found[i].dtype)
            places[i] = _host.address(found[i])
        return Read(found, places)

    def __call__(self, arrays: Sequence[np.ndarray], read: Read) -> None:
        """Run the kernel on arrays and tensors that `find` and `readable` have seen just now.

        Raises:
            RuntimeError: If the kernel refuses them.
        """
        arrays = (*arrays, self._layout)
        tensors, places = read
        described = (
            [array.shape for array in arrays],
            *(list(map(of, tensors)) for of in (_host.shape_of, _host.dtype_of)),
        )
        if described != self._described:
            tensors = [*self._written[: self._first], *tensors, *self._written[self._first :]]
            shapes = [array.shape for array in arrays] + [tensor.shape for tensor in tensors]
            dtypes = [array.dtype.name for array in arrays] + [str(tensor.dtype) for tensor in tensors]
            self._inputs = _native.Inputs([*shapes, (1,)], [*dtypes, "float32"])
            self._described = described
        self._inputs.places[:] = [
            *(array.ctypes.data for array in arrays),
            *self._places[: self._first],
            *places,
            *self._places[self._first :],
            self._output.ctypes.data,
        ]
        _pynative_executor.sync()
        self._run(self._inputs)


def _spans(places, sizes):
    """Where tensors begin and end."""
    starts = np.array(places, np.uint64)
    return starts, starts + np.array(list(sizes), np.uint64)


def average(launch: Launch, values: Sequence[Tensor], weight: Callable[[], tuple[Vector, Vector]]) -> bool:
    """Take a step of averages, which the launch writes, and say whether it was.

    Args:
        launch: Of the kernel of an average.
        values: What each average is of.
        weight: What gives the weight of the values, and whether they are averaged at all.
    """
    with launch.lock:
        read = launch.readable(values) if launch.find() else None
        if read is not None:
            with np.errstate(all="ignore"):
                launch(weight(), read)
    return read is not None


def step(optimizer, gradients: Sequence[Tensor | None]) -> bool:
    """Take a step of an `Optimizer` that has a kernel, and say whether it was; one that cannot be is not begun."""
    launch = optimizer.launch
    with launch.lock:
        if not launch.find():
            return False
        present = np.array([grad is not None for grad in gradients])
        read = launch.readable([_NOTHING if grad is None else grad for grad in gradients])
        if read is None:
            return False
        counts, kept = memory(optimizer.step_counts), [memory(vector) for vector in optimizer.scalar_state]
        moves = present & memory(optimizer.trainable)
        group_of = memory(optimizer.group_index)
        steps = counts + moves
        with np.errstate(all="ignore"):
            numbers = type(optimizer).scalars(
                vector(steps),
                *map(vector, kept),
                vector(optimizer.rates.on_host()[group_of]),
                *(vector(memory(column)[group_of]) for column in optimizer.numbers),
            )
        rows = np.empty((len(moves), len(numbers) - len(kept) + 1))
        for column, values in enumerate(numbers[len(kept) :]):
            rows[:, column] = values
        rows[:, -1] = 1 / optimizer.loss_scale
        launch((rows, moves), read)
        for old, new in zip(kept, numbers):
            np.copyto(old, new, where=moves)
        counts[:] = steps
        memory(optimizer.global_step)[:] += 1
    return True
