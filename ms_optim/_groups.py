"""Groups of parameters: parsed and checked, and readable and writable between steps."""

import difflib
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from mindspore import Parameter, Tensor, nn

from ms_optim._values import as_number, held, plain, repeated, write
from ms_optim.arguments import COMMON, FLOATS, Kind

# The numbers that schedulers leave in a group, as torch's do.
NOTES = ("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr")
# What torch's groups also say: how it computes, and not what.
HOW = ("capturable", "differentiable", "foreach", "fused")
# What a group is of: its Parameters, and the names that were given with them.
MEMBERS = ("params", "param_names")
# What mindspore.nn and others call an argument, or have as one.
ELSEWHERE = ("beta1", "beta2", "epsilon", "grad_centralization", "learning_rate", "use_nesterov", "wd")


def own_key(name: Any, arguments: Iterable[str]) -> bool:
    """Whether a key of a group means an argument, or means to: anything else is the user's own, and kept."""
    arguments = [*arguments, "params"]
    if name in (*arguments, *MEMBERS, *COMMON, *HOW, *ELSEWHERE):
        return True
    if not isinstance(name, str) or name in NOTES:
        return False
    near = ((arguments, 0.85), ((*MEMBERS, *ELSEWHERE), 0.9))  # of which "beta" is none of "beta1"
    return any(difflib.get_close_matches(_letters(name), map(_letters, known), 1, cutoff) for known, cutoff in near)


def _letters(name):
    """A name however it is written: Weight-Decay is weight_decay."""
    return re.sub(r"[\W_]", "", name).lower()


class Members(list):
    """The Parameters of a group, which stay as they are: a step would not see what is put into a list of them.

    Args:
        owner: What errors name.
        params: Which.
    """

    def __init__(self, owner: str, params: Iterable[Parameter]):
        super().__init__(params)
        self._owner = owner

    def _refuse(self, *args, **kwargs):
        """Raise, and say what to do."""
        raise TypeError(
            f"For '{self._owner}', 'params' of a group must stay as they are, because no step sees what is changed "
            "there: an optimizer takes parameters when it is made, and by 'add_param_group' if it has that."
        )

    append = clear = extend = insert = pop = remove = reverse = sort = _refuse
    __delitem__ = __iadd__ = __imul__ = __setitem__ = _refuse

    def __reduce__(self):
        return type(self), (self._owner, list(self))


class Groups(list):
    """The groups of an optimizer, as dicts with every argument.

    Attributes:
        parameters: All parameters, in the order of the gradients.
        group_of: The group of each.
        own_rates: Which groups were given a learning rate of their own.
    """

    def __init__(self, owner: str, params: Any, defaults: Mapping[str, Any], kinds: Mapping[str, Kind]):
        """Parse what an optimizer is made of; `defaults` are checked.

        Raises:
            TypeError, ValueError: As `Optimizer` says, naming the argument.
        """
        dicts, order = _dicts(owner, params)
        super().__init__(_group(owner, item, defaults, kinds) for item in dicts)
        named = [i for i, group in enumerate(self) if "param_names" in group]
        if named and len(named) < len(self):
            raise ValueError(
                f"For '{owner}', 'params' must be with names in all groups or in none, but got some in {named} of "
                f"{len(self)} groups."
            )
        self.own_rates = ["lr" in item for item in dicts]
        self.parameters = [param for group in self for param in group["params"]]
        if not self.parameters:
            raise ValueError(f"For '{owner}', 'params' must not be empty.")
        twice = repeated(param.name for param in self.parameters)
        if twice:
            raise ValueError(
                f"For '{owner}', 'params' must hold each parameter, and each name, once, but got {twice} more "
                f"than once."
            )
        group_of = {id(param): i for i, group in enumerate(self) for param in group["params"]}
        if order:
            self.parameters = _ordered(owner, order, self.parameters)
        self.group_of = [group_of[id(param)] for param in self.parameters]


def _dicts(owner, params):
    """The groups as they are given, and what gives the order."""
    kind = "a list of Parameters or of dicts"
    if isinstance(params, (Parameter, Mapping, str, set, frozenset)) or not isinstance(params, Iterable):
        raise TypeError(f"For '{owner}', 'params' must be {kind}, but got {type(params).__name__}.")
    params = list(params)
    if all(isinstance(item, Parameter) or _is_named(item) for item in params):
        params = [{"params": params}]
    if not all(isinstance(item, (dict, ParamGroup)) for item in params):
        odd = next(item for item in params if not isinstance(item, (dict, ParamGroup)))
        raise TypeError(f"For '{owner}', 'params' must be {kind}, but got an element of {type(odd).__name__}.")
    order = [item for item in params if "order_params" in item]
    return [item for item in params if "order_params" not in item], order


def _is_named(item):
    """Whether it is a pair of a name and a Parameter, as `named_parameters` gives them in torch."""
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], Parameter)


def _without_names(params):
    return [item[1] if _is_named(item) else item for item in params]


def _names_of(owner, params, given):
    """The names that came with the members of a group, or beside them; None if there were none."""
    names = [item[0] for item in params if _is_named(item)] or given.get("param_names")
    if names is None:
        return None
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"For '{owner}', 'param_names' of a group must be a list of names, but got {names!r}.")
    if len(names) != len(params):
        raise ValueError(
            f"For '{owner}', 'param_names' must be one for each of the {len(params)} parameters of a group, but got "
            f"{[*names]}."
        )
    return list(names)


def _group(owner, given, defaults, kinds):
    """One group with every argument, and the keys that are the user's own."""
    if "params" not in given:
        raise ValueError(f"For '{owner}', each group must have the key 'params', but got {sorted(given, key=str)}.")
    extra = [key for key in given if key not in MEMBERS and key not in defaults]
    unknown = sorted(key for key in extra if own_key(key, defaults))
    if unknown:
        hint = "; 'ms_optim.adapters' takes those of mindspore.nn" if {*unknown} & {*ELSEWHERE} else ""
        raise ValueError(
            f"For '{owner}', the keys of a group must be in {['params', *defaults]}, but got {unknown}{hint}."
        )
    params = given["params"]
    params = [params] if isinstance(params, Parameter) else params
    if isinstance(params, (str, set, frozenset)) or not isinstance(params, Iterable):
        raise TypeError(f"For '{owner}', 'params' of a group must be a list of Parameters, but got {params!r}.")
    params = list(params)
    names = _names_of(owner, params, given)
    params = _without_names(params)
    for param in params:
        _check_parameter(owner, param)
    group = {"params": Members(owner, params)} | ({} if names is None else {"param_names": names})
    for name, default in defaults.items():
        group[name] = kinds[name].check(owner, name, given[name]) if name in given else default
    return group | {key: given[key] for key in extra}


def _check_parameter(owner, param):
    if not isinstance(param, Parameter):
        raise TypeError(
            f"For '{owner}', 'params' of a group must be a list of Parameters, but got an element of "
            f"{type(param).__name__}."
        )
    if 0 in param.shape:
        raise ValueError(
            f"For '{owner}', 'params' must hold no empty parameter, but got '{param.name}' of shape {param.shape}."
        )
    if param.dtype not in FLOATS:
        raise TypeError(f"For '{owner}', the dtype of '{param.name}' must be in {FLOATS}, but got {param.dtype}.")


def _ordered(owner, order, parameters):
    """The parameters as the one dict says."""
    if len(order) > 1 or len(order[0]) > 1:
        raise ValueError(
            f"For '{owner}', 'order_params' must be the one key of one dict, but got {len(order)} dicts "
            f"with {sorted({key for item in order for key in item})}."
        )
    if not isinstance(order[0]["order_params"], Iterable):
        raise TypeError(
            f"For '{owner}', 'order_params' must be a list of Parameters, but got "
            f"{type(order[0]['order_params']).__name__}."
        )
    ordered = _without_names(order[0]["order_params"])
    wanted, got = {id(param) for param in parameters}, [id(param) for param in ordered]
    if set(got) != wanted or len(got) != len(wanted):
        difference = sorted({param.name for param in parameters} ^ {getattr(param, "name", "?") for param in ordered})
        raise ValueError(
            f"For '{owner}', 'order_params' must hold each parameter of the groups once, but they differ "
            f"in {difference}."
        )
    return ordered


def by_step(numbers: Sequence[float | list[float]]) -> list:
    """What groups have of a number: one for each, or, where one of them has a list, a row of these for each step."""
    steps = max((len(number) for number in numbers if isinstance(number, list)), default=0)
    if not steps:
        return list(numbers)
    columns = [number if isinstance(number, list) else [number] for number in numbers]
    return [[held(column, step) for column in columns] for step in range(steps)]


class Group(MutableMapping):
    """The arguments of a group, and what else users and schedulers keep in it; a mapping as torch's groups are.

    A key that is no argument may be set to anything, and deleted.
    """

    def __init__(self, owner: str, arguments: Iterable[str]):
        self._owner, self._arguments = owner, tuple(arguments)

    @property
    @abstractmethod
    def _options(self) -> dict[str, Any]:
        """What is kept."""

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)

    def __getitem__(self, name: str) -> Any:
        return self._options[name]

    def __setitem__(self, name: str, value: Any) -> None:
        value = self.check(name, value)
        if name in self._arguments:
            self.put(name, value)
        else:
            self._options[name] = value

    def __delitem__(self, name: str) -> None:
        if name not in self.extra:
            raise KeyError(
                f"For '{self._owner}', what can be deleted from a group must be in {self.extra}, but got {name!r}."
            )
        del self._options[name]

    def clear(self) -> None:
        """Raise, because a group keeps its arguments.

        Raises:
            KeyError: Naming what can be deleted.
        """
        del self["params"]

    def __repr__(self) -> str:
        return repr(dict(self))

    @property
    def extra(self) -> list[str]:
        """The keys that are no arguments."""
        return [name for name in self._options if name not in MEMBERS and name not in self._arguments]

    def replace_extra(self, extra: dict[str, Any]) -> None:
        """Drop the keys that are no arguments and take others, as loading a state does in torch."""
        for name in self.extra:
            del self._options[name]
        self._options.update(extra)

    @property
    def settable(self) -> list[str]:
        """The arguments that may change between steps."""
        return list(self._arguments)

    def check(self, name: str, value: Any) -> Any:
        """The value as it would be set; raise if it may not be.

        Raises:
            KeyError: If the argument may not change, or the key is not one but like one.
            TypeError, ValueError: If the value is out of range, or the group cannot have it.
        """
        if name in NOTES:
            return as_number(value, f"For '{self._owner}', '{name}'")
        if name not in self._arguments and not own_key(name, self._arguments):
            return value
        if name not in self.settable:
            raise KeyError(
                f"For '{self._owner}', what can be set in a group must be in {self.settable}, but got {name!r}."
            )
        return self._check(name, plain(value, f"For '{self._owner}', '{name}'"))

    @abstractmethod
    def _check(self, name, value):
        """The value of an argument as it would be set."""

    @abstractmethod
    def put(self, name: str, value: Any) -> None:
        """Set an argument to a checked value."""


class ParamGroup(Group):
    """The arguments of one group of an optimizer as they are now. A number that is set takes effect at the next step.

    What decides which state there is (flags, and whether a momentum is zero) is fixed at construction.
    """

    def __init__(self, optimizer: nn.Optimizer, index: int):
        self._optimizer, self._index = optimizer, index
        super().__init__(type(optimizer).__name__, optimizer.defaults)

    @property
    def _options(self) -> dict[str, Any]:
        """Those of the optimizer as it is now, which a group that is added makes anew."""
        return self._optimizer.groups[self._index]

    def __getitem__(self, name: str) -> Any:
        if name not in self.settable:
            return self._options[name]
        if name == "lr":
            return self._optimizer.rates.given(self._index)
        columns = [kept.asnumpy()[..., self._index] for kept in self._kept(name)]
        if self.follows(name):
            return self._column(name, columns[0].tolist())
        numbers = [float(column.flat[0]) for column in columns]
        return tuple(numbers) if isinstance(self._options[name], tuple) else numbers[0]

    def _check(self, name, value):
        value = self.alone(name, value)
        self._optimizer.check_group({**self, name: value})
        return value

    def alone(self, name: str, value: Any) -> Any:
        """The value of an argument as it would be set, whatever the others are.

        Raises:
            TypeError, ValueError: If it is out of range, or the group cannot have it.
        """
        what = f"For '{self._owner}', '{name}'"
        if self.follows(name):
            raise ValueError(f"{what} of a group on a schedule must not be set, but got {value}.")
        value = self._optimizer.kinds[name].each.check(self._owner, name, value)
        if any(slot.when == name and bool(value) != bool(self[name]) for slot in self._optimizer.slots):
            raise ValueError(
                f"{what} must stay zero or stay nonzero, because it decides which state there is, but got {value} "
                f"after {self[name]}: make an optimizer with {name}={value}."
            )
        return value

    def put(self, name: str, value: Any) -> None:
        """Set an argument to a checked value."""
        if name == "lr":
            self._optimizer.rates.set(self._index, value)
            return
        kind = self._optimizer.kinds[name]
        for kept, member in zip(self._kept(name), kind.members(name)):
            numbers = kept.asnumpy().copy()
            numbers[..., self._index] = kind.number(value, member, self._options)
            write(kept, Tensor(numbers))

    def current(self, name: str) -> Any:
        """The argument as it is now; of one on a schedule, this step's."""
        if name == "lr":
            return self._optimizer.rates.current(self._index)
        if not self.follows(name):
            return self[name]
        return held(self[name], int(self._optimizer.global_step.asnumpy()[0]))

    @property
    def settable(self) -> list[str]:
        """The numbers that a step reads."""
        kinds, read = self._optimizer.kinds, {"lr", *self._optimizer.hyperparameters}
        return [name for name in self._arguments if {*kinds[name].members(name)} & read]

    def follows(self, name: str) -> bool:
        """Whether an argument follows a schedule in the graph: a learning rate, or what has a number for each step."""
        if name == "lr":
            return self._optimizer.rates.scheduled(self._index)
        if isinstance(self._options[name], list):
            return True
        # A checkpoint may have numbers for each step where one was given.
        tables = [kept.asnumpy()[:, self._index] for kept in self._kept(name) if kept.ndim > 1]
        return any((table != table[0]).any() for table in tables)

    def _column(self, name, table):
        """The numbers of each step, without those after the last that fill the table of all groups."""
        given = self._options[name]
        while len(table) > (len(given) if isinstance(given, list) else 1) and table[-1] == table[-2]:
            table = table[:-1]
        return table

    def _kept(self, name):
        """What holds the numbers of an argument, of all groups; nothing if no step reads it."""
        members, read = self._optimizer.kinds[name].members(name), self._optimizer.hyperparameters
        return [read[member] for member in members if member in read]
