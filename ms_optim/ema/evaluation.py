"""Evaluation on averages: in the place of the parameters for a while, or in a copy."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

from mindspore import Parameter, Tensor, log, nn

from ms_optim._values import write
from ms_optim.arguments import FLOATS


def put(params: Sequence[Parameter], values: Sequence[Tensor]) -> None:
    """Write values, in the dtypes of the Parameters."""
    for param, value in zip(params, values):
        write(param, value if value.dtype == param.dtype else value.astype(param.dtype))


@contextlib.contextmanager
def in_place(params: Sequence[Parameter], values: Sequence[Parameter]) -> Iterator[None]:
    """Let Parameters have other values until the block is left, also by an exception; this takes one copy of them."""
    kept = [param.copy() for param in params]
    try:
        put(params, values)
        yield
    finally:
        for param, value in zip(params, kept):
            write(param, value)


class Swapping:
    """Two calls in the place of a block, as trainers of MindSpore's libraries make them around an evaluation."""

    tracked: Sequence[Parameter]
    _block: Any = None

    def average_parameters(self) -> contextlib.AbstractContextManager[None]:
        """Put the averages into the network until the block is left."""
        raise NotImplementedError

    def swap_before_eval(self) -> None:
        """Enter `average_parameters`.

        Raises:
            RuntimeError: If it has been entered.
        """
        block = self.average_parameters()
        block.__enter__()
        object.__setattr__(self, "_block", block)

    def swap_after_eval(self) -> None:
        """Leave `average_parameters`.

        Raises:
            RuntimeError: If `swap_before_eval` was not called before.
        """
        block = self._block
        if block is None:
            raise RuntimeError(
                f"For '{type(self).__name__}', 'swap_before_eval' must be called before 'swap_after_eval', but was not."
            )
        object.__setattr__(self, "_block", None)
        block.__exit__(None, None, None)


def averaged_copy(owner: str, network: nn.Cell, params: Sequence[Parameter], averages: Sequence[Parameter]) -> nn.Cell:
    """A copy of a network with the averages of those Parameters that it has, which are told by their names."""
    if not isinstance(network, nn.Cell):
        raise TypeError(f"For '{owner}', 'network' must be a Cell, but got {type(network).__name__}.")
    by_name = {param.name: average for param, average in zip(params, averages)}
    warn_of_buffers(owner, network, params)
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
