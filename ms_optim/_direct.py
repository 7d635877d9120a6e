"""Direct calls on CPU: numbers from the host, then the kernel on the tensors' own memory. No graph is compiled or run.

MindSpore's queue is empty before memory is touched: what was computed before is there, what reads the old values has
read them. What follows in Python finds the new ones.
"""

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from ms_optim import _host, _native
from ms_optim._freezing import FLAG
from ms_optim._host import Vector
from ms_optim._values import held

# What stands for a gradient that is absent, which no kernel reads.
_NOTHING = Tensor(0.0, ms.float32)

_launches: "weakref.WeakSet[Launch]" = weakref.WeakSet()


def _renew_locks():
    """A fork may find a lock taken by a thread that it does not have."""
    for launch in _launches:
        launch.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def changed(cls: type, base: type, *names: str) -> str | None:
    """What a class does in another way than the one that it derives from, as a reason not to go past it; or None."""
    own = [name for name in names if getattr(cls, name) is not getattr(base, name)]
    return f"the class has a {own[0]!r} of its own" if own else None


class Launch:
    """Calls of one kernel on tensors, one at a time: `find`, then `read`, then the call itself.

    Args:
        kernel: Which.
        check: What raises if the tensors that it writes into are not such as it takes.
        arrays: What it is given before the tensors, to be written into before a call.
        first: The tensors that it writes into and is given before those that it only reads.
        last: Those that it writes into and is given after them.
        watch: What else `find` asks of each of the first.
        keeps: Whether what it reads are the same Parameters in every call, which need not be checked where they lie
            where they lay.

    Attributes:
        watched: For each function of `watch`, what it gave for each of the first.
    """

    def __init__(
        self,
        kernel: _native.Kernel,
        check: Callable[[], object],
        arrays: Sequence[np.ndarray],
        first: Sequence[Parameter],
        last: Sequence[Parameter] = (),
        *,
        watch: Sequence[Callable[[Tensor], Any]] = (),
        keeps: bool = False,
    ):
        self.lock = threading.RLock()
        _launches.add(self)
        self._run, self._check = kernel.function(), check
        self.arrays, self._output = tuple(arrays), np.zeros(1, np.float32)
        self._first, self._last = tuple(first), tuple(last)
        self._chunks = _host.chunks(self._first), _host.chunks(self._last)
        self._places: list[int] = []
        self._watch = tuple(watch)
        self.watched: list[list] = []
        self._keeps = keeps
        self._sources: list[int] = []
        self._known: list = []

    def begin(self) -> None:
        """Have no call that has run."""
        self._output[0] = 0

    @property
    def has_run(self) -> bool:
        """Whether the call has run since `begin`; if it was interrupted, too, which Python notices when it is over."""
        return bool(self._output[0])

    def find(self) -> bool:
        """Begin, and find where the written tensors lie; whether all of them have memory that is no other's.

        Raises:
            TypeError, ValueError: If they are such as the kernel does not take.
        """
        self.begin()
        inquired = _host.address, _host.is_contiguous, *self._watch
        places, contiguous, *self.watched = _host.look(self._chunks[0], *inquired)
        rest = _host.look(self._chunks[1], _host.address, _host.is_contiguous)
        places, contiguous = places + rest[0], contiguous + rest[1]
        if places == self._places and all(contiguous):  # a view of a tensor may have taken its place
            return True
        self._places, self._known, self._sources = [], [], []
        tensors = *self._first, *self._last
        for tensor in tensors:
            tensor.init_data()
            if not _host.is_contiguous(tensor):  # what no operator of MindSpore's writes into either
                tensor.set_data(tensor.contiguous())
            _host.populate(tensor)
        self._check()
        places = list(map(_host.address, tensors))
        starts = np.array(places, np.uint64)
        order = np.argsort(starts)
        ends = starts + np.array(list(map(_host.nbytes_of, tensors)), np.uint64)
        overlap = (starts[order][1:] < ends[order][:-1]).any()
        if overlap or not starts.all():
            return False
        # Memory that is held is given to no other tensor: what lies at these places is what was checked here.
        self._held = [tensor.untyped_storage() for tensor in tensors]
        self._places = places
        return True

    def read(
        self, tensors: Sequence[Tensor | None], check: Callable[[], object] | None = None, absent: Sequence[int] = ()
    ) -> Sequence[Tensor] | None:
        """The tensors to be read, to be kept until the kernel has run; None if one of them has no memory.

        What is not contiguous is copied here, what lies in what is written by the kernel.

        Args:
            tensors: Which.
            check: What raises if they are such as the kernel does not take, if that of what is written does not; it is
                called unless they are as those before them.
            absent: The places of those that are None, of which the kernel is told not to read them.
        """
        if absent:
            tensors = [_NOTHING if tensor is None else tensor for tensor in tensors]
        if self._keeps:
            places, contiguous = _host.look(_host.chunks(tensors), _host.address, _host.is_contiguous)
            if places == self._sources and all(contiguous):
                return tensors
            self._sources = []
        check = check or self._check
        # What is no Tensor is not to be asked what it holds; each Parameter is of a class made for it.
        if not all(issubclass(kind, Tensor) for kind in {*map(type, tensors)}):
            check()
        inquired = _host.is_contiguous, _host.address, _host.shape_of, _host.dtype_of
        contiguous, places, *known = _host.look(_host.chunks(tensors), *inquired)
        if [absent, *known] != self._known:
            check()
            self._know(tensors, [absent, *known])
        if not all(contiguous):
            tensors = list(map(Tensor.contiguous, tensors))
            places = list(map(_host.address, tensors))
        starts = np.array(places, np.uint64)
        if not starts.all():
            return None
        begin = len(self.arrays) + len(self._first)
        self._inputs.places[begin : begin + len(tensors)] = starts
        if self._keeps and all(contiguous):
            self._sources, self._held_sources = places, list(map(Tensor.untyped_storage, tensors))
        return tensors

    def _know(self, tensors, known):
        """Lay out what the kernel is told, for these tensors and all that are described as they are."""
        order = [*self._first, *tensors, *self._last]
        shapes = [array.shape for array in self.arrays] + [tensor.shape for tensor in order]
        dtypes = [array.dtype.name for array in self.arrays] + [str(tensor.dtype) for tensor in order]
        self._inputs = _native.Inputs([*shapes, (1,)], [*dtypes, "float32"])
        written = iter(self._places)
        self._inputs.places[:] = [
            *(array.ctypes.data for array in self.arrays),
            *(next(written) for _ in self._first),
            *(0 for _ in tensors),
            *written,
            self._output.ctypes.data,
        ]
        self._known = known

    def __call__(self) -> None:
        """Run the kernel on what the arrays hold now, and on the tensors that `find` and `read` have found.

        Raises:
            RuntimeError: If the kernel refuses them.
        """
        _host.wait()
        self._run(self._inputs)


def average(
    launch: Launch,
    values: Sequence[Tensor],
    weight: tuple[Vector | float, Vector | bool],
    read: Sequence[Tensor] | None = None,
) -> bool:
    """Take a step of averages, which the launch writes, and say whether it was.

    Args:
        launch: Of the kernel of an average.
        values: What each average is of.
        weight: That of the values, and whether they are averaged at all.
        read: What the launch has read of the values before: if it needed no copies, they lie where they lay.
    """
    with launch.lock:
        if read is not values:
            read = launch.read(values) if launch.find() else None
        if read is not None:
            launch.arrays[0][:], launch.arrays[1][:] = weight
            launch()
    return read is not None


def average_launch(
    kernel: _native.Kernel, check: Callable, averages: Sequence[Parameter], copied: Sequence[bool]
) -> Launch:
    """That of an average, whose values are copied here and there."""
    arrays = np.zeros(1), np.zeros(1, bool), np.array(copied, np.int32)
    return Launch(kernel, check, arrays, averages, keeps=True)


class Stepper:
    """Takes the direct steps of an `Optimizer` that has a kernel.

    It does not keep the optimizer, which keeps it: each would hold the other until garbage is collected.

    Args:
        optimizer: Whose.
        kernel: Of its rule.
    """

    def __init__(self, optimizer: Any, kernel: _native.Kernel):
        count = len(optimizer.parameters)
        self._rows, self._moves = np.zeros((count, len(kernel.numbers) + 1)), np.zeros(count, bool)
        self._rows[:, -1] = 1 / optimizer.loss_scale
        _, layout, slots = optimizer.laid_out
        arrays = self._rows, self._moves, layout.asnumpy().copy()
        checks = optimizer.check_state, optimizer.refuse_parts

        def check():
            """Raise where a compiled step would."""
            for one in checks:
                one.function()

        self.launch = Launch(kernel, check, arrays, optimizer.parameters, slots, watch=[FLAG])
        self._group_of = np.array(optimizer.group_of)
        own = optimizer.trainable, optimizer.step_counts, optimizer.global_step
        self._memory = _host.Memory((*own, *optimizer.scalar_state, *optimizer.numbers))

    def __call__(self, optimizer: Any, owner: str, gradients: Sequence[Tensor | None]) -> bool:
        """Take a step, and say whether it was taken; one that cannot be is not begun.

        Raises:
            TypeError, ValueError: If the gradients do not fit, in the name of `owner`.
        """

        def check():
            """Raise, if there is a reason to."""
            optimizer.checked(owner, gradients)

        if not isinstance(gradients, (tuple, list)) or len(gradients) != len(self._moves):
            check()
        absent = [i for i, grad in enumerate(gradients) if grad is None]
        with self.launch.lock:
            read = self.launch.read(gradients, check, absent) if self.launch.find() else None
            if read is None:
                return False
            optimizer.follow_requires_grad(*self.launch.watched)
            self._launch(optimizer, absent)
        return True

    def _launch(self, optimizer, absent):
        """Compute the numbers, run the kernel, and write the numbers that are state."""
        trainable, counts, place, *vectors = self._memory.arrays()
        kept, columns = vectors[: len(optimizer.scalar_state)], vectors[len(optimizer.scalar_state) :]
        columns = [column if column.ndim == 1 else held(column, place.item()) for column in columns]
        self._moves[:] = trainable
        self._moves[absent] = False
        steps = counts + self._moves
        given = [*kept, optimizer.rates.on_host()[self._group_of], *(column[self._group_of] for column in columns)]
        with np.errstate(all="ignore"):
            numbers = type(optimizer).scalars(*(array.view(Vector) for array in (steps, *given)))
        for column, values in enumerate(numbers[len(kept) :]):
            self._rows[:, column] = values
        try:
            self.launch()
        finally:
            if self.launch.has_run:
                for old, new in zip(kept, numbers):
                    np.copyto(old, new, where=self._moves)
                counts[:] = steps
                place += 1
