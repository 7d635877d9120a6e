"""The state of optimizers: what there is for each parameter, and all of it in the layout of torch (2.13)."""

import copy
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Integral
from types import MappingProxyType
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn

from ms_optim import _clones, _compiled
from ms_optim._declaration import arguments_of
from ms_optim._groups import HOW, MEMBERS, own_key
from ms_optim._values import LIST, as_array, as_number, plain, write
from ms_optim.arguments import Devices
from ms_optim.slot import MASTER

# What other Adams call whether they correct the bias: apex and DeepSpeed, and transformers.
CORRECTED = ("bias_correction", "correct_bias")
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


class Swappable:
    """What may have averages in the place of its weights for a while."""

    swapped = False

    def refuse_inside(self, what: str) -> None:
        """Raise if they are there, saying what does not go.

        Raises:
            RuntimeError: If they are.
        """
        if self.swapped:
            raise RuntimeError(f"For '{type(self).__name__}', {what} inside 'average_parameters'.")


class Stateful(Swappable, nn.Optimizer):
    """An optimizer whose state can be told, loaded and copied as a whole."""

    has_memory = False

    def give_memory(self) -> None:
        """Initialize what was made under `no_init_parameters`, before a step touches it."""
        if not self.has_memory:
            for param in self.get_parameters():
                param.init_data()
            object.__setattr__(self, "has_memory", True)

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
        object.__setattr__(self, "release_clones", _clones.release_with(self, params, clones))

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
        args, kwargs = copy.deepcopy(self._made_of(), memo)
        memo[id(self)] = made = remade(type(self), args, kwargs, self.state_dict())
        return made

    def __reduce_ex__(self, protocol):
        self.refuse_inside("no copy can be made")
        return remade, (type(self), *self._made_of(), self.state_dict())


def remade(cls: type, args: tuple, kwargs: dict, state: dict) -> Stateful:
    """An optimizer with the state of another, over the Parameters of its arguments."""
    made = cls(*args, **kwargs)
    made.load_state_dict(state)
    return made


def parts(owner: str, given: Mapping, *optional: str) -> tuple[Mapping, Sequence]:
    """The state and the groups of what has torch's layout, and no other keys than these and the optional ones.

    Raises:
        ValueError: If it has another layout.
    """
    said, keys = f"For '{owner}',", {"state", "param_groups"}
    if not isinstance(given, Mapping) or not keys <= given.keys() <= keys | {*optional}:
        got = sorted(given, key=str) if isinstance(given, Mapping) else type(given).__name__
        raise ValueError(
            f"{said} 'state_dict' must have the keys 'state' and 'param_groups', as that of torch.optim "
            f"has, but got {got}."
        )
    state, groups = given["state"], given["param_groups"]
    if not isinstance(state, Mapping) or not all(isinstance(slots, Mapping) for slots in state.values()):
        raise ValueError(f"{said} 'state' must be a dict of dicts, but got {reprlib.repr(state)}.")
    if not isinstance(groups, LIST) or not all(
        isinstance(group, Mapping)
        and isinstance(group.get("params"), LIST)
        and isinstance(group.get("param_names", ()), LIST)
        for group in groups
    ):
        raise ValueError(
            f"{said} 'param_groups' must be a list of dicts with a list as 'params', and one as "
            f"'param_names' if that is there, but got {reprlib.repr(groups)}."
        )
    return _keyed(said, state, groups)


def _keyed(said, state, groups):
    """The state and the groups, with integers where text has digits, as JSON has it in the place of keys."""
    places = [place for group in groups for place in group["params"]]
    if all(isinstance(place, str) and place.isdecimal() for place in places):
        groups = [{**group, "params": list(map(int, group["params"]))} for group in groups]
        places = list(map(int, places))
    alike = any(all(isinstance(place, kind) for place in places) for kind in (Integral, str))
    if not alike or len(set(places)) < len(places):
        raise ValueError(
            f"{said} 'params' of the groups must be different integers, or different names, but got {places}."
        )
    if all(isinstance(place, Integral) for place in places):
        state = {int(key) if isinstance(key, str) and key.isdecimal() else key: kept for key, kept in state.items()}
    return state, groups


def by_name(owner: str, groups: Sequence[Mapping], wanted: Sequence[Sequence[str]]) -> Sequence[Mapping]:
    """The groups, in the order in which the parameters are wanted if they are called by their names.

    Raises:
        ValueError: If they have other names.
    """
    if not any(isinstance(place, str) for group in groups for place in group["params"]):
        return groups
    found = {frozenset(group["params"]): group for group in groups}
    if len(found) < len(groups) or found.keys() != {*map(frozenset, wanted)}:
        raise ValueError(
            f"For '{owner}', 'params' of the groups must be places or the names {[*map(list, wanted)]}, but got "
            f"{[list(group['params']) for group in groups]}; 'ms_optim.convert.to_mindspore' takes those of torch."
        )
    return [{**found[frozenset(names)], "params": list(names)} for names in wanted]


def told(optimizer: Stateful) -> dict:
    """Copies of the state of an `Optimizer` by the place of each parameter, and its groups.

    Besides, the place in schedules as "global_step", and the places of what is frozen as "frozen".
    As in torch a parameter that has not been stepped has no state, unless its state starts as something. On which
    devices a training is, is not said.
    """
    places = _places(optimizer)
    eager = any(slot.init for slot in optimizer.slots)
    steps = optimizer.step_counts.asnumpy()
    state = {}
    for i, (name, slots) in enumerate(optimizer.state.items()):
        if slots and (eager or steps[i] > 0):
            state[places[name]] = {slot: Tensor(kept.asnumpy().copy(), kept.dtype) for slot, kept in slots.items()}
    groups = []
    names = [name for name in optimizer.defaults if not isinstance(optimizer.kinds[name], Devices)]
    for group in optimizer.param_groups:
        arguments = {name: group.current(name) for name in names}
        kept = {name: copy.deepcopy(group[name]) for name in (*group.extra, "param_names") if name in group}
        groups.append(arguments | kept | {"params": [places[param.name] for param in group["params"]]})
    frozen = [
        places[param.name] for param, moves in zip(optimizer.parameters, optimizer.trainable.asnumpy()) if not moves
    ]
    return {
        "state": dict(sorted(state.items())),
        "param_groups": groups,
        "global_step": int(optimizer.global_step.asnumpy()[0]),
        "frozen": sorted(frozen),
    }


def changes(optimizer: Stateful, given: Mapping) -> list[Change]:
    """What takes over what `told` gave, or torch's: all of it fits, and nothing is changed before the first."""
    owner = type(optimizer).__name__
    given_state, given_groups = parts(owner, given, "global_step", "frozen")
    wanted = [[param.name for param in group["params"]] for group in optimizer.groups]
    given_groups = by_name(owner, given_groups, wanted)
    places, found = _group_changes(optimizer, owner, given_groups)
    given_state = _with_steps(optimizer, given_state, given_groups)
    if not given_state.keys() <= set(places.values()):
        raise ValueError(
            f"For '{owner}', 'state' must be of the parameters {sorted(places.values())}, but got "
            f"{[place for place in given_state if place not in places.values()]}."
        )
    numbers = {name: np.zeros(len(optimizer.parameters)) for name in {"step": 0, **optimizer.state.vectors}}
    for i, param in enumerate(optimizer.parameters):
        found += _parameter_changes(optimizer, i, given_state.get(places[param.name], {}), numbers)
    place = given.get("global_step")
    if place is not None:
        place = as_number(place, f"For '{owner}', 'global_step'", whole=True)
    elif optimizer.dynamic_lr and "step" not in optimizer.state.vectors:
        raise ValueError(
            f"For '{owner}', 'state_dict' must say by 'global_step' how many steps were taken, "
            "because a learning rate is on a schedule, but got none."
        )
    else:
        place = int(numbers["step"].max())
    vectors = {"step": optimizer.step_counts, **optimizer.state.vectors}
    found += [partial(write, vector, Tensor(numbers[name])) for name, vector in vectors.items()]
    found.append(partial(write, optimizer.global_step, Tensor([place], optimizer.global_step.dtype)))
    if "frozen" in given:
        frozen = given["frozen"]
        if not isinstance(frozen, LIST) or not {*frozen} <= set(places.values()):
            raise ValueError(
                f"For '{owner}', 'frozen' must be of the parameters {sorted(places.values())}, but got {frozen!r}."
            )
        found.append(
            partial(optimizer.set_trainable, [places[param.name] not in frozen for param in optimizer.parameters])
        )
    return found


def _places(optimizer):
    """The place of each parameter, by name, as torch counts: through the groups."""
    params = [param for group in optimizer.groups for param in group["params"]]
    return {param.name: i for i, param in enumerate(params)}


def _with_steps(optimizer, state, groups):
    """The state, with the count of steps that apex's FusedAdam has in a group for each parameter that has none."""
    if "step" not in optimizer.state.vectors:
        return state
    steps = {place: group["step"] for group in groups if "step" in group for place in group["params"]}
    return {place: {"step": steps[place], **kept} if kept and place in steps else kept for place, kept in state.items()}


def _group_changes(optimizer, owner, groups):
    """What torch calls each parameter, and what sets the numbers and the other keys of the groups."""
    sizes = [[len(group["params"]) for group in each] for each in (optimizer.groups, groups)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"For '{owner}', 'param_groups' must have {sizes[0]} parameters, but got {sizes[1]}.")
    places, found = {}, []
    for i, (group, given) in enumerate(zip(optimizer.param_groups, groups)):
        places |= {param.name: place for param, place in zip(group["params"], given["params"])}
        extra = {}
        for name, value in given.items():
            if name in (*MEMBERS, *HOW) or (name in group.settable and group.follows(name)):
                continue
            if name == "step" and "step" in optimizer.state.vectors:
                continue  # that of the parameters, for `_with_steps`
            if name in CORRECTED and not value:
                raise ValueError(
                    f"For '{owner}', '{name}' of group {i} must be True, because no optimizer here leaves the bias "
                    f"correction out, but got {value!r}."
                )
            if name in group.settable:
                found.append(partial(group.__setitem__, name, group.check(name, value)))
            elif name in optimizer.defaults:
                value = plain(value, f"For '{owner}', '{name}' of group {i}")
                value = tuple(value) if isinstance(group[name], tuple) and isinstance(value, list) else value
                if value != group[name] and name in arguments_of(type(optimizer)):
                    raise ValueError(
                        f"For '{owner}', '{name}' of group {i} must be {group[name]!r} as in the optimizer, because "
                        f"it decides what is computed, but got {value!r}: make an optimizer with {name}={value!r}."
                    )
            elif own_key(name, optimizer.defaults):
                raise ValueError(f"For '{owner}', the keys of group {i} must be in {[*group]}, but got {name!r}.")
            else:
                extra[name] = group.check(name, copy.deepcopy(value))
        found.append(partial(group.replace_extra, extra))
    return places, found


def _parameter_changes(optimizer, i, given, numbers):
    """Put the numbers of parameter i into the vectors; what writes its tensors."""
    owner, param, state = type(optimizer).__name__, optimizer.parameters[i], optimizer.state
    slots = [slot for slot in optimizer.slots if not slot.scalar and state.slots[slot.name][i] is not None]
    wanted = {*(slot.name for slot in slots), *state.vectors}
    idle = {*state.slots, MASTER.name} - wanted  # left over from a flag that is off
    given = {name: value for name, value in given.items() if value is not None and name not in idle}
    if given and MASTER in slots:  # where there was none, it is taken from the parameter at the next step
        given = {MASTER.name: np.zeros(param.shape), **given}
    if given and given.keys() != wanted:
        raise ValueError(
            f"For '{owner}', the state of '{param.name}' must be {sorted(wanted)}, but got {sorted(given, key=str)}."
        )
    for name in state.vectors if given else ():
        numbers[name][i] = as_number(given[name], f"For '{owner}', '{name}' of '{param.name}'", whole=name == "step")
    if "step" not in state.vectors:
        numbers["step"][i] = bool(given)  # torch does not count: it has a buffer, or has it not yet
    if not given:
        group = optimizer.groups[optimizer.group_of[i]]
        given = {
            slot.name: np.full(state.slots[slot.name][i].shape, slot.first(group, optimizer.kinds)) for slot in slots
        }
    return state.changes(i, given, owner)
