"""The state of optimizers: what there is for each parameter, and what all that have one can do with it."""

import contextlib
import copy
import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from types import MappingProxyType
from typing import Any

from mindspore import Parameter, Tensor, nn
from mindspore.ops import Primitive

from ms_optim import _clones, _compiled
from ms_optim._values import as_array, settle, write

# One of the writes that loading a state comes to, once all of it is known to fit.
Change = Callable[[], object]


class State(Mapping):
    """What is kept for each parameter, as torch keys it: by parameter (its name), then by slot. It cannot be set.

    Args:
        parameters: Those that have state.
        slots: The name of each kind of tensor, and for each parameter the Parameter that holds it, or None.
        vectors: The name of each kind of number, and the float64 Parameter with one for each parameter.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        slots: Mapping[str, Sequence[Parameter | None]],
        vectors: Mapping[str, Parameter] = MappingProxyType({}),
    ):
        self.parameters, self.slots, self.vectors = parameters, slots, vectors

    def __iter__(self) -> Iterator[str]:
        return (param.name for param in self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def __getitem__(self, name: str | Parameter) -> Mapping[str, Tensor]:
        name = getattr(name, "name", name)
        for i, param in enumerate(self.parameters):
            if param.name == name:
                return self._of(i, {slot: vector.asnumpy() for slot, vector in self.vectors.items()})
        raise KeyError(name)

    def items(self):
        """Each name with its state; every vector is read once."""
        numbers = {slot: vector.asnumpy() for slot, vector in self.vectors.items()}
        return [(param.name, self._of(i, numbers)) for i, param in enumerate(self.parameters)]

    def values(self):
        """The state of each parameter."""
        return [slots for _, slots in self.items()]

    def _of(self, i, numbers):
        tensors = {slot: column[i] for slot, column in self.slots.items() if column[i] is not None}
        return MappingProxyType({slot: Tensor(vector[i]) for slot, vector in numbers.items()} | tensors)

    @property
    def tensors(self) -> list[Parameter]:
        """Every tensor."""
        return [kept for column in self.slots.values() for kept in column if kept is not None]

    @property
    def names(self) -> dict[int, str]:
        """The name of each tensor, by its `id`: the slot, and the name that its parameter has now."""
        return {
            id(kept): f"{slot}.{param.name}"
            for slot, column in self.slots.items()
            for param, kept in zip(self.parameters, column)
            if kept is not None
        }

    def changes(self, i: int, values: Mapping[str, Any], owner: str) -> list[Change]:
        """What writes the tensors of a parameter, from a value for each slot that it has.

        Raises:
            ValueError: If a value does not fit.
        """
        name = self.parameters[i].name
        return [
            rewrite(column[i], values[slot], f"For '{owner}', '{slot}' of '{name}'")
            for slot, column in self.slots.items()
            if column[i] is not None
        ]


def rewrite(kept: Parameter, value: Any, what: str) -> Change:
    """What writes a value, known to fit, into a Parameter. `what` begins the message otherwise."""
    return partial(write, kept, Tensor(as_array(value, what, kept.shape), kept.dtype))


# The blocks that are entered: for each average, by its `id`, those Parameters in whose place its values are.
_replaced: dict[int, set[int]] = {}


class Swappable:
    """What has weights, in whose place averages may be for a while: its own, or those of another that has them too.

    What it has of its own is private: Parameters must have other names than an optimizer has.
    """

    parameters: Sequence[Parameter]

    @property
    def _weights(self) -> Sequence[Parameter]:
        return self.parameters

    @property
    def swapped(self) -> bool:
        """Whether averages are there."""
        return are_replaced(self._weights)

    @contextlib.contextmanager
    def _replacing(self, params: Iterable[Parameter]) -> Iterator[None]:
        """Say of Parameters that averages are in their place, until the block is left.

        Raises:
            RuntimeError: If a block of the same is inside another.
        """
        if id(self) in _replaced:
            self.refuse_inside("no other block can be entered")
        _replaced[id(self)] = {*map(id, params)}
        try:
            yield
        finally:
            del _replaced[id(self)]

    @property
    def _is_inside(self) -> bool:
        """Whether its own averages are in the place of its weights."""
        return id(self) in _replaced

    def _refuse_crossing(self) -> None:
        """Raise if a block that was entered later, of some of the same Parameters, has not been left."""
        blocks = list(_replaced.items())
        places = [place for place, _ in blocks]
        if id(self) in places:
            own, later = _replaced[id(self)], blocks[places.index(id(self)) + 1 :]
            if any(own & those for _, those in later):
                raise RuntimeError(
                    f"For '{type(self).__name__}', the block of averages that was entered last must be left first."
                )

    def _hold(self, name: str, value: Any) -> None:
        """Have an attribute that a Cell does not see: it looks through what it is given, and keeps Parameters twice."""
        object.__setattr__(self, name, value)

    def refuse_inside(self, what: str) -> None:
        """Raise if averages are there, saying what does not go.

        Raises:
            RuntimeError: If they are.
        """
        if self.swapped:
            raise RuntimeError(f"For '{type(self).__name__}', {what} inside 'average_parameters'.")


def are_replaced(params: Iterable[Parameter]) -> bool:
    """Whether averages are in the place of some Parameters."""
    blocks = list(_replaced.values())  # which another thread may change
    return bool(blocks) and any(id(param) in those for those in blocks for param in params)


class Stateful(Swappable, nn.Optimizer):
    """An optimizer whose state can be told, loaded and copied as a whole."""

    has_memory = False
    # What cannot be set as an attribute: until an optimizer is made, nothing.
    settled: Set[str] = frozenset()

    def __setattr__(self, name, value):
        if name in self.settled and not self._is_written(name, value):
            way = self._way_to_set(name, value)
            raise AttributeError(f"For '{type(self).__name__}', {name!r} must be {way}, but was set as an attribute.")
        if self.settled and name in self._columns:
            self._refuse_column(name, value)
        named = self.__dict__.get("_params", {}).get(name)
        if not self.settled and named is not None and not isinstance(value, Primitive):
            # A Cell keeps a primitive beside a parameter of its name, writes a Tensor into it, and refuses all else.
            self._refuse_parameters([named], lambda named: any(named is param for param in self.parameters))
        super().__setattr__(name, value)

    @property
    def _columns(self) -> Collection[str]:
        """The attributes that are tuples of state, with one entry for each parameter."""
        return ()

    def _refuse_column(self, name, value):
        """Raise unless it may take the place of a tuple of state, as that of a trainer which shards state by hand."""
        fits = isinstance(value, (tuple, list)) and len(value) == len(self.parameters)
        if not (fits and all(kept is None or isinstance(kept, Parameter) for kept in value)):
            raise AttributeError(
                f"For '{type(self).__name__}', {name!r} must be a tuple of a Parameter or None for each of its "
                f"{len(self.parameters)} parameters, but was set to {reprlib.repr(value)}: 'load_state_dict' writes "
                "state."
            )

    def _is_written(self, name, value):
        """Whether it is the learning rate and a Tensor, which MindSpore writes into the Parameter."""
        one = name == "learning_rate" and isinstance(self.learning_rate, Parameter)
        return one and isinstance(value, Tensor) and not isinstance(value, Parameter)

    def _way_to_set(self, name, value):
        """How what is settled can be set."""
        if name in ("state", "step_counts", "averages"):
            return "loaded with 'load_state_dict'"
        if name == "trainable":
            return "said with 'freeze' and 'unfreeze'"
        group, key = self.param_groups[0], "lr" if name == "learning_rate" else name
        return f"set in a group, as param_groups[0][{key!r}] = {value!r}" if key in group.settable else "given to it"

    def register_forward_pre_hook(self, *args: Any, **kwargs: Any) -> None:
        """Raise: steps that are no calls of `construct` run no hooks.

        Raises:
            TypeError: Always; it says what to do.
        """
        raise TypeError(
            f"For '{type(self).__name__}', no hook can be registered, because none would run in most of its steps: do "
            "what it does before or after the step."
        )

    register_forward_hook = register_forward_pre_hook

    def give_memory(self) -> None:
        """Initialize what was made under `no_init_parameters`, before a step touches it."""
        if not self.has_memory:
            for param in self.get_parameters():
                param.init_data()
            self._hold("has_memory", True)

    def step(self, gradients=None):
        """Take a step, as a call does; the way in which torch's users write it, but with the gradients."""
        if _compiled.in_graph():
            return self.construct(gradients)
        return self(gradients)

    @property
    def state_bytes(self) -> int:
        """The memory of the state."""
        return sum(kept.nbytes for kept in self._kept())

    def state_dict(self, *args: Any, **kwargs: Any) -> dict:
        """The state in the layout of torch's optimizers, as copies.

        With the arguments of `mindspore.nn.Cell.state_dict` it is that, as a Cell around this one needs it.
        """
        return super().state_dict(*args, **kwargs) if args or kwargs else self._told()

    def load_state_dict(self, state_dict: Mapping) -> None:
        """Take over what `state_dict` of an optimizer of this class, or of torch's, has given.

        The next step goes on from there, in a step that has compiled too. Values may be Tensors of MindSpore or torch,
        arrays or numbers.

        Raises:
            TypeError, ValueError: If a parameter, a state or an argument does not fit; nothing is changed then.
            RuntimeError: If averages are in the place of the weights.
        """
        self.refuse_inside("no state can be loaded")
        for change in self.changes(state_dict):
            change()

    def changes(self, state_dict: Mapping) -> list[Change]:
        """What `load_state_dict` does, one call for each thing that it writes; none of them is made.

        Raises:
            TypeError, ValueError: As `load_state_dict`.
        """
        return []

    def legacy_values(self, saved: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """What Parameters are that an older version did not have, by names or keys that begin with a prefix."""
        return {}

    def present_names(self) -> dict[int, str]:
        """What the tensors of the state are called in checkpoints, by their `id`: after their parameters."""
        return {}

    def _load_from_state_dict(self, state_dict, prefix, *args):
        state_dict.update(self.legacy_values(state_dict, prefix))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _refuse_parameters(self, parameters, is_taken=None):
        """Raise if Parameters have names by which a Cell keeps something else."""
        is_taken = is_taken or (lambda param: hasattr(type(self), param.name))
        taken = [param.name for param in parameters if is_taken(param)]
        if taken:
            raise ValueError(
                f"For '{type(self).__name__}', 'params' must have other names than what the optimizer keeps, but got "
                f"{taken}."
            )

    def _own_clones(self, params: Iterable[Parameter], clones: Iterable[Parameter]) -> None:
        """Have the parameters keep these clones as long as this optimizer lives, or until it is made anew."""
        before = self.__dict__.get("release_clones")
        if before is not None:
            before()
        self._hold("release_clones", _clones.release_with(self, params, clones))

    @property
    def written(self) -> Sequence[Tensor]:
        """What a step writes of tensors."""
        return [*self.parameters, *self._kept()]

    def _kept(self) -> Sequence[Tensor]:
        """Every tensor of the state."""
        return ()

    def _told(self) -> dict:
        """What `state_dict` gives."""
        return {}

    def _made_of(self) -> tuple[tuple, dict]:
        """Arguments that make one like this, as it is now."""
        return (), {}

    def __deepcopy__(self, memo):
        self.refuse_inside("no copy can be made")
        settle(self._weights)
        args, kwargs = copy.deepcopy(self._made_of(), memo)
        memo[id(self)] = made = remade(type(self), args, kwargs, self.state_dict())
        return made

    def __reduce_ex__(self, protocol):
        self.refuse_inside("no copy can be made")
        settle(self._weights)
        return remade, (type(self), *self._made_of(), self.state_dict())


def remade(cls: type, args: tuple, kwargs: dict, state: dict) -> Stateful:
    """An optimizer with the state of another, over the Parameters of its arguments."""
    made = cls(*args, **kwargs)
    made.load_state_dict(state)
    return made
