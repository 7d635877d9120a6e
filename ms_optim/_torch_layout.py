"""The state of an optimizer in the layout of torch (2.13): told, and taken over."""

import copy
import reprlib
from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Integral

import numpy as np
from mindspore import Tensor

from ms_optim._declaration import arguments_of
from ms_optim._groups import HOW, MEMBERS, own_key
from ms_optim._state import Change, Stateful
from ms_optim._values import LIST, as_number, plain, write
from ms_optim.arguments import Devices
from ms_optim.slot import MASTER

# What other Adams call whether they correct the bias: apex and DeepSpeed, and transformers.
CORRECTED = ("bias_correction", "correct_bias")


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
        state = _by_place(state)
    return state, groups


def _by_place(given):
    """The same by numbers where a key is one in words, as JSON has it."""
    return {int(key) if isinstance(key, str) and key.isdecimal() else key: kept for key, kept in given.items()}


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

    Besides, the place in schedules as "global_step", the places of what is frozen as "frozen", and where "step" is no
    state, as in torch's SGD, how many steps each parameter has taken as "steps".
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
    made = {
        "state": dict(sorted(state.items())),
        "param_groups": groups,
        "global_step": int(optimizer.global_step.asnumpy()[0]),
        "frozen": sorted(frozen),
    }
    if "step" in optimizer.state.vectors:
        return made
    taken = {places[param.name]: int(count) for param, count in zip(optimizer.parameters, steps)}
    return {**made, "steps": dict(sorted(taken.items()))}


def changes(optimizer: Stateful, given: Mapping) -> list[Change]:
    """What takes over what `told` gave, or torch's: all of it fits, and nothing is changed before the first."""
    owner = type(optimizer).__name__
    given_state, given_groups = parts(owner, given, "global_step", "frozen", "steps")
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
    steps = _steps(owner, given.get("steps", {}), places)
    for i, param in enumerate(optimizer.parameters):
        key = places[param.name]
        found += _parameter_changes(optimizer, i, given_state.get(key, {}), steps.get(key), numbers)
    place = given.get("global_step")
    if place is not None:
        place = as_number(place, f"For '{owner}', 'global_step'", whole=True)
    elif (optimizer.dynamic_lr or optimizer.has_tables) and not {"step", "steps"} & {*optimizer.state.vectors, *given}:
        raise ValueError(
            f"For '{owner}', 'state_dict' must say by 'global_step' how many steps were taken, because "
            f"{'a learning rate is on a schedule' if optimizer.dynamic_lr else 'an argument has one for each step'}, "
            "but got none."
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
        moves = [places[param.name] not in frozen for param in optimizer.parameters]
        found.append(partial(optimizer.take_over, moves))
    return found


def _steps(owner, given, places):
    """How many steps are said to have been taken, by what the groups call each parameter.

    Raises:
        TypeError, ValueError: If they are no whole numbers, or of other parameters.
    """
    known = sorted(places.values())
    if not isinstance(given, Mapping):
        raise TypeError(f"For '{owner}', 'steps' must be a dict of the parameters {known}, but got {given!r}.")
    steps = _by_place(given)
    if not steps.keys() <= {*known}:
        raise ValueError(f"For '{owner}', 'steps' must be of the parameters {known}, but got {[*given]}.")
    return {place: as_number(count, f"For '{owner}', 'steps' of {place}", whole=True) for place, count in steps.items()}


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
        extra, numbers = {}, {}
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
                numbers[name] = group.alone(name, plain(value, f"For '{owner}', '{name}' of group {i}"))
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
        optimizer.check_group({**group, **numbers})
        found += [partial(group.put, name, value) for name, value in numbers.items()]
        found.append(partial(group.replace_extra, extra))
    return places, found


def _parameter_changes(optimizer, i, given, steps, numbers):
    """Put the numbers of parameter i, and its steps if they are no state, into the vectors; what writes its tensors."""
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
    if "step" not in state.vectors:  # torch does not count: it has a buffer, or has it not yet
        begun = bool(given) or not slots
        numbers["step"][i] = steps if begun and steps is not None else bool(given)
    if not given:
        group = optimizer.groups[optimizer.group_of[i]]
        given = {
            slot.name: np.full(state.slots[slot.name][i].shape, slot.first(group, optimizer.kinds)) for slot in slots
        }
    return state.changes(i, given, owner)
