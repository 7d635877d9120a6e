"""The state of an optimizer in the layout of `torch.optim.Optimizer.state_dict` (2.13)."""

import reprlib
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Integral

import numpy as np
from mindspore import Tensor, nn

from ms_optim._values import LIST, as_array, as_number, plain, write
from ms_optim.arguments import NOTES

# What torch's groups also say: how it computes, and not what.
HOW = ("capturable", "differentiable", "foreach", "fused")


def state_dict(optimizer: nn.Optimizer) -> dict:
    """Copies of the state by the place of each parameter among the groups, the groups, and the step of the schedules.

    As in torch a parameter that has not been stepped has no state, unless its state starts as something.
    """
    places = _places(optimizer)
    eager = any(slot.init for slot in optimizer.tensor_slots)
    started = {param.name: eager or steps > 0 for param, steps in zip(optimizer.parameters, optimizer.step.asnumpy())}
    state = {
        places[name]: {slot: Tensor(kept.asnumpy().copy(), kept.dtype) for slot, kept in slots.items()}
        for name, slots in optimizer.state.items()
        if started[name] and slots
    }
    groups = []
    for group in optimizer.param_groups:
        arguments = {name: group.current(name) for name in group if name not in ("params", *NOTES)}
        notes = {name: group[name] for name in group if name in NOTES}
        groups.append(arguments | notes | {"params": [places[param.name] for param in group["params"]]})
    return {
        "state": dict(sorted(state.items())),
        "param_groups": groups,
        "global_step": int(optimizer.global_step.asnumpy()[0]),
    }


def assignments(optimizer: nn.Optimizer, given: Mapping) -> list[Callable[[], object]]:
    """What takes over what `state_dict` gave, or torch's: all of it fits, and nothing is changed before the first."""
    owner = type(optimizer).__name__
    given_state, given_groups = layout(owner, given, "global_step")
    places, changes = _fitting_groups(optimizer, owner, given_groups)
    if not given_state.keys() <= set(places.values()):
        raise ValueError(
            f"For '{owner}', 'state' must be of the parameters {sorted(places.values())}, but got "
            f"{[place for place in given_state if place not in places.values()]}."
        )
    scalars = {name: np.zeros(len(optimizer.parameters)) for name in {"step": 0, **optimizer.scalar_slots}}
    for i, param in enumerate(optimizer.parameters):
        changes += _fitting_state(optimizer, i, given_state.get(places[param.name], {}), scalars)
    place_in_schedule = given.get("global_step")
    if place_in_schedule is not None:
        place_in_schedule = as_number(place_in_schedule, f"For '{owner}', 'global_step'", whole=True)
    elif optimizer.dynamic_lr and "step" not in optimizer.scalar_slots:
        raise ValueError(
            f"For '{owner}', 'state_dict' must say by 'global_step' how many steps were taken, "
            "because a learning rate is on a schedule, but got none."
        )
    else:
        place_in_schedule = int(scalars["step"].max())
    vectors = {"step": optimizer.step, **optimizer.scalar_slots}
    changes += [partial(write, vector, Tensor(scalars[name])) for name, vector in vectors.items()]
    place_in_schedule = Tensor([place_in_schedule], optimizer.global_step.dtype)
    return [*changes, partial(write, optimizer.global_step, place_in_schedule)]


def layout(owner: str, given: Mapping, *optional: str) -> tuple[Mapping, list]:
    """The state and the groups of what has torch's layout, and no other keys than these and the optional ones."""
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
    places = [place for group in groups for place in group["params"]]
    if not all(isinstance(place, Integral) for place in places) or len(set(places)) < len(places):
        raise ValueError(f"{said} 'params' of the groups must be different integers, but got {places}.")
    return state, groups


def _places(optimizer):
    """The place of each parameter, by name, as torch counts: through the groups."""
    params = [param for group in optimizer.options for param in group["params"]]
    return {param.name: i for i, param in enumerate(params)}


def _fitting_groups(optimizer, owner, groups):
    """What torch calls each parameter, and what sets the numbers and notes of the groups."""
    sizes = [[len(group["params"]) for group in each] for each in (optimizer.options, groups)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"For '{owner}', 'param_groups' must have {sizes[0]} parameters, but got {sizes[1]}.")
    places, changes = {}, []
    for i, (group, given) in enumerate(zip(optimizer.param_groups, groups)):
        places |= {param.name: place for param, place in zip(group["params"], given["params"])}
        for name, value in given.items():
            if name in ("params", "param_names", *HOW) or (name == "lr" and group.scheduled):
                continue
            if name in NOTES or name in group.settable:
                changes.append(partial(group.__setitem__, name, group.check(name, value)))
            elif name in group:
                value = plain(value, f"For '{owner}', '{name}' of group {i}")
                if value != group[name]:
                    raise ValueError(
                        f"For '{owner}', '{name}' of group {i} must be {group[name]!r} as in the "
                        f"optimizer, because it decides what is computed, but got {value!r}."
                    )
            else:
                raise ValueError(f"For '{owner}', the keys of group {i} must be in {[*group]}, but got {name!r}.")
    return places, changes


def _fitting_state(optimizer, i, state, scalars):
    """Put the numbers of parameter i into the vectors; what assigns its tensors."""
    owner, param = type(optimizer).__name__, optimizer.parameters[i]
    slots = {
        slot.name: (slot, kept)
        for slot, kept in zip(optimizer.tensor_slots, optimizer.slot_table[i])
        if kept is not None
    }
    state = {name: value for name, value in state.items() if value is not None}
    wanted = {*slots, *optimizer.scalar_slots}
    if state and state.keys() != wanted:
        raise ValueError(
            f"For '{owner}', the state of '{param.name}' must be {sorted(wanted)}, but got {sorted(state, key=str)}."
        )
    for name in optimizer.scalar_slots if state else ():
        scalars[name][i] = as_number(state[name], f"For '{owner}', '{name}' of '{param.name}'", whole=name == "step")
    if "step" not in optimizer.scalar_slots:
        scalars["step"][i] = bool(state)  # torch does not count: it has a buffer, or has it not yet
    changes = []
    for name, (slot, kept) in slots.items():
        first = optimizer.options[optimizer.group_of[i]][slot.init] if slot.init else 0.0
        value = state[name] if state else np.full(kept.shape, first)
        changes.append(assignment(kept, value, f"For '{owner}', '{name}' of '{param.name}'"))
    return changes


def assignment(kept: Tensor, value, what: str) -> Callable[[], object]:
    """What assigns a tensor, known to fit, to a Parameter. `what` begins the message otherwise."""
    return partial(write, kept, Tensor(as_array(value, what, kept.shape), kept.dtype))
