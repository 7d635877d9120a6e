"""The arguments of a group, readable and writable between steps."""

from collections.abc import Iterator, Mapping

from mindspore import Parameter, Tensor, nn, ops

from ms_optim._learning_rate import Constant
from ms_optim._values import as_number, plain
from ms_optim.arguments import NOTES, check, members_of, number_of


class ParamGroup(Mapping):
    """The arguments of one group as they are now. A number that is set takes effect at the next step.

    A scheduler may also leave there what torch's leave, such as "initial_lr".
    What decides which state there is (flags, and whether a momentum is zero) is fixed at construction.
    """

    def __init__(self, optimizer: nn.Optimizer, index: int):
        self._optimizer, self._index = optimizer, index

    @property
    def _options(self):
        return self._optimizer.options[self._index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)

    def __getitem__(self, name: str):
        if name not in self.settable or (name == "lr" and self.scheduled):
            return self._options[name]
        numbers = [float(parameter.asnumpy()[at]) for parameter, at in self._places(name)]
        return tuple(numbers) if isinstance(self._options[name], tuple) else numbers[0]

    def __setitem__(self, name: str, value):
        value = self.check(name, value)
        if name in NOTES:
            self._options[name] = value
            return
        options = {**self._options, name: value}
        for (parameter, at), member in zip(self._places(name), members_of(options, name)):
            values = parameter.asnumpy().copy()
            values[at] = number_of(options, member)
            ops.assign(parameter, Tensor(values))

    def check(self, name: str, value):
        """The value as it would be set; raise if it may not be.

        Raises:
            KeyError: If the argument is no number that may change.
            TypeError, ValueError: If the value is out of range, or the group cannot have it.
        """
        owner = type(self._optimizer).__name__
        what = f"For '{owner}', '{name}'"
        if name in NOTES:
            return as_number(value, what)
        if name not in self.settable:
            raise KeyError(f"For '{owner}', what can be set in a group must be in {self.settable}, but got {name!r}.")
        if name == "lr" and self.scheduled:
            raise ValueError(f"For '{owner}', 'lr' of a group on a schedule must not be set, but got {value}.")
        value = check(owner, name, plain(value, what))
        if any(slot.when == name and bool(value) != bool(self[name]) for slot in self._optimizer.slots):
            raise ValueError(
                f"For '{owner}', '{name}' must stay zero or stay nonzero, because it decides which state "
                f"there is, but got {value} after {self[name]}."
            )
        if name == "dampening" and value and self["nesterov"]:
            raise ValueError(f"For '{owner}', 'dampening' must be 0 with 'nesterov', but got {value}.")
        return value

    def current(self, name: str):
        """The argument as it is now, of a learning rate on a schedule this step's."""
        if name != "lr" or not self.scheduled:
            return self[name]
        optimizer = self._optimizer
        return float(optimizer.group_learning_rates[self._index](optimizer.global_step).asnumpy().item())

    @property
    def settable(self) -> list[str]:
        """The numbers that a step reads and that may change."""
        read = ("lr", *self._optimizer.hyperparameter_names)
        return [name for name in self if name not in NOTES and set(members_of(self._options, name)) <= set(read)]

    @property
    def scheduled(self) -> bool:
        """Whether the learning rate follows a schedule in the graph."""
        return not isinstance(self._optimizer.group_learning_rates[self._index], (Parameter, Constant))

    def _places(self, name):
        """Where each number of an argument is kept: a Parameter and the index in it."""
        if name == "lr":
            source = self._optimizer.group_learning_rates[self._index]
            return [(source.learning_rate if isinstance(source, Constant) else source, ())]
        optimizer = self._optimizer
        kept = dict(zip(optimizer.hyperparameter_names, optimizer.hyperparameters))
        return [(kept[member], self._index) for member in members_of(self._options, name)]
