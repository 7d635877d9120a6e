"""Evaluation on averages: in the place of the parameters for a while, or in a copy."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, log, nn, ops

from ms_optim._state import Swappable
from ms_optim._values import as_it_is, copy_of, settle, write
from ms_optim.arguments import COMMON, FLOATS

# Of so many weights it is looked whether a step has changed them.
LOOKED_AT = 8


def put(params: Sequence[Parameter], values: Sequence[Tensor]) -> None:
    """Write values, in the dtypes of the Parameters."""
    for param, value in zip(params, map(as_it_is, values)):
        if value.has_init:
            settle([value])
        write(param, value if value.dtype == param.dtype else value.astype(param.dtype))


class Averaged(Swappable):
    """What has averages of Parameters: they can take the place of these, for an evaluation or for good."""

    tracked: Sequence[Parameter]
    averages: Sequence[Parameter]
    _decay: Parameter
    _block: Any = None
    # The dtype and shape of each value when an average of them was compiled.
    _compiled_for: Any = None

    @property
    def _weights(self) -> Sequence[Parameter]:
        return self.tracked

    @contextlib.contextmanager
    def _compiled_call(self) -> Iterator[None]:
        """Around a step that compiles or has compiled, which goes on reading the values as they were then.

        Raises:
            TypeError: If one was cast since, or has another shape.
        """
        before = self._compiled_for
        if before is not None:
            pairs = zip(self.tracked, before, self._kinds())
            other = [param.name for param, kind, now in pairs if kind != now]
            if other:
                raise TypeError(
                    f"For '{type(self).__name__}', the parameters must have the dtypes and shapes that they had when "
                    f"a step was compiled, but {other} have others: an average must be made anew."
                )
        yield
        if before is None:  # MindSpore may have sliced them
            self._hold("_compiled_for", self._kinds())

    def _kinds(self):
        return [(param.dtype, param.shape) for param in self.tracked]

    @property
    def decay(self) -> Parameter:
        """A float64 Parameter, to which a number may be assigned."""
        return self._decay

    @decay.setter
    def decay(self, value: float) -> None:
        """Check a number and write it into the Parameter: compiled steps read it."""
        number = COMMON["decay"].check(type(self).__name__, "decay", value)
        ops.assign(self._decay, Tensor(number, self._decay.dtype))

    @contextlib.contextmanager
    def average_parameters(self) -> Iterator[None]:
        """Put the averages into the network, graphs that are already compiled included, until the block is left.

        A checkpoint of the network that is saved inside holds the averages as the parameters. At the end, also by an
        exception, the parameters are what they were before; this takes one copy of them. If they were changed inside, a
        warning says so.

        Raises:
            RuntimeError: If a block is inside another.
        """
        with self._replacing(self.tracked):
            settle(self.tracked)
            kept = [copy_of(param) for param in self.tracked]
            try:
                put(self.tracked, self.averages)
                yield
                changed = self._changed_since()
            finally:
                put(self.tracked, kept)
        if changed:
            log.warning(
                f"For '{type(self).__name__}', {changed} were changed inside 'average_parameters', as by a training "
                "step: they are what they were before it, but what else that has changed is not."
            )

    def _changed_since(self):
        """Of the smallest weights those that are no longer the averages: a step that has compiled changes all."""
        pairs = [pair for pair in zip(self.tracked, self.averages) if pair[0].requires_grad]
        few = sorted(pairs, key=lambda pair: pair[0].size)[:LOOKED_AT]
        return [
            param.name
            for param, average in few
            if not np.array_equal(param.asnumpy(), as_it_is(average).astype(param.dtype).asnumpy(), equal_nan=True)
        ]

    def swap_before_eval(self) -> None:
        """Enter `average_parameters`, as trainers of MindSpore's libraries do before an evaluation.

        Raises:
            RuntimeError: If it has been entered.
        """
        block = self.average_parameters()
        block.__enter__()
        self._hold("_block", block)

    def swap_after_eval(self) -> None:
        """Leave `average_parameters`.

        Raises:
            RuntimeError: If `swap_before_eval` was not called before, or another block was entered since.
        """
        block = self._block
        if block is None:
            raise RuntimeError(
                f"For '{type(self).__name__}', 'swap_before_eval' must be called before 'swap_after_eval', but was not."
            )
        self._refuse_crossing()
        self._hold("_block", None)
        block.__exit__(None, None, None)

    def copy_to(self) -> None:
        """Write the averages into the network for good."""
        self.refuse_inside("'copy_to' has no effect")
        put(self.tracked, self.averages)

    def averaged_copy(self, network: nn.Cell) -> nn.Cell:
        """Copy a network, and give the copy the averages: to deploy it while the training goes on.

        What of the network is not averaged, as statistics of batch norms that are not in `buffers`, is copied as it is
        now, and named in a warning.

        Args:
            network (nn.Cell): What is trained, or a part of it, by the names that its Parameters have.

        Returns:
            nn.Cell, the copy.

        Raises:
            TypeError: If `network` is not a Cell.
            ValueError: If nothing in it is averaged.
        """
        owner = type(self).__name__
        if not isinstance(network, nn.Cell):
            raise TypeError(f"For '{owner}', 'network' must be a Cell, but got {type(network).__name__}.")
        by_name = {param.name: average for param, average in zip(self.tracked, self.averages)}
        warn_of_buffers(owner, network, self.tracked)
        settle(network.get_parameters())
        made = copy.deepcopy(network)
        inside = [param for param in made.get_parameters() if param.name in by_name]
        if not inside:
            raise ValueError(
                f"For '{owner}', 'network' must have Parameters that are averaged, but got "
                f"{[param.name for param in made.get_parameters()]}."
            )
        put(inside, [by_name[param.name] for param in inside])
        return made


def warn_of_buffers(owner: str, network: nn.Cell, params: Sequence[Parameter]) -> None:
    """Name what a network has beside its averages that is not averaged with them, as statistics of batch norms."""
    known = {param.name for param in params}
    for _, part in network.cells_and_names():
        if isinstance(part, Averaged):  # an average is none of them, nor what counts it
            known |= {kept.name for kept in [part._decay, *part.averages]}
    left = [
        param.name
        for param in network.get_parameters()
        if not param.requires_grad and param.dtype in FLOATS and param.name not in known
    ]
    if left:
        log.warning(
            f"For '{owner}', {left} are not averaged: the averages are evaluated with what the training has now. "
            "'buffers' of the EMA takes them."
        )
