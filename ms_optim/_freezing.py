"""Which parameters move: a Parameter that compiled steps read, and `requires_grad`, which the host is asked for."""

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

import numpy as np
from mindspore import Parameter, Tensor, log

from ms_optim._values import write
from ms_optim.arguments import NamePatterns, Predicate, refuse_idle_patterns

# What changes whenever `requires_grad` of a Parameter is set, and takes a tenth of the time.
FLAG = attrgetter("_requires_grad")


class Freezing:
    """Letting parameters stand still and move again, between steps."""

    parameters: Sequence[Parameter]
    trainable: Parameter
    requires_grad_seen: list[bool]
    flags_seen: list[bool] | None = None

    def freeze(self, which: str | Sequence[str] | Callable[[Parameter], bool]) -> None:
        """Let parameters stand still from the next step on, with their state and step counts.

        Nothing compiles again: a step that has compiled, of a training cell too, reads which parameters move. Their
        `requires_grad` becomes False. In GRAPH_MODE their gradients are computed all the same. (In an `EMA` a float64
        parameter is rounded where MindSpore's operators compute, as its Note has it.)

        Args:
            which (Union[str, list[str], Callable]): fnmatch patterns on the names of the parameters, or a function
                from a Parameter to bool.

        Raises:
            TypeError: If `which` is neither.
            ValueError: If a pattern matches no parameter.
        """
        self._set_chosen("freeze", which, False)

    def unfreeze(self, which: str | Sequence[str] | Callable[[Parameter], bool]) -> None:
        """Let frozen parameters move from the next step on. They must be among those that the optimizer was given.

        Args:
            which (Union[str, list[str], Callable]): As for `freeze`.

        Raises:
            TypeError, ValueError: As for `freeze`.
        """
        self._set_chosen("unfreeze", which, True)

    def _set_chosen(self, method, which, moves):
        chosen = Predicate().check(method, "which", which)
        if isinstance(chosen, NamePatterns):
            refuse_idle_patterns(method, "which", chosen, self.parameters)
        self.follow_requires_grad()
        picked = [Predicate().decided(method, "which", chosen, param) for param in self.parameters]
        now = self.trainable.asnumpy().tolist()
        self.set_trainable([moves if here else old for here, old in zip(picked, now)])

    def set_trainable(self, moves: Iterable[bool]) -> None:
        """Say of each parameter whether it moves; `requires_grad` follows."""
        moves = [bool(item) for item in moves]
        for param, item in zip(self.parameters, moves):
            param.requires_grad = item
        self.requires_grad_seen = moves
        write(self.trainable, Tensor(np.array(moves)))

    def follow_requires_grad(self, flags: list[bool] | None = None) -> None:
        """Take over a `requires_grad` that was set by hand since this was asked last: that parameter is frozen, or not.

        A direct call, `step` of a scheduler and `ms_optim.save` ask. A training cell that has compiled does not.

        Args:
            flags: The FLAG of each parameter, if it is known.
        """
        flags = list(map(FLAG, self.parameters)) if flags is None else flags
        if flags == self.flags_seen:
            return
        self.flags_seen = flags
        now = [param.requires_grad for param in self.parameters]
        if now != self.requires_grad_seen:
            moves = self.trainable.asnumpy().tolist()
            changed = [new if new != old else kept for new, old, kept in zip(now, self.requires_grad_seen, moves)]
            self.set_trainable(changed)

    def take_over(self, moves: Sequence[bool]) -> None:
        """Say of each parameter whether it moves, as was saved; a warning names what was frozen."""
        freed = [param.name for param, item in zip(self.parameters, moves) if item and not param.requires_grad]
        if freed:
            log.warning(f"For '{type(self).__name__}', {freed} move again, as they did in the state.")
        self.set_trainable(moves)

    def restored(self) -> None:
        """Let `requires_grad` follow what a checkpoint says of frozen parameters."""
        self.take_over(self.trainable.asnumpy().tolist())


def warn_unseen(optimizer: Freezing) -> None:
    """Name the parameters whose `requires_grad` was set by hand and not seen since, which no graph sees either."""
    pairs = zip(optimizer.parameters, optimizer.requires_grad_seen)
    changed = [param.name for param, seen in pairs if param.requires_grad != seen]
    if changed:
        log.warning(
            f"For '{type(optimizer).__name__}', 'requires_grad' of {changed} was set by hand, which no graph "
            "sees: call 'freeze' or 'unfreeze', or 'follow_requires_grad'."
        )
