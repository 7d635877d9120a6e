"""The state of an optimizer in the layout of `torch.optim.Optimizer.state_dict` (2.13)."""

from collections.abc import Mapping

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from ms_optim._arguments import NOTES

# What torch's groups also say: how it computes, and not what.
HOW = ("capturable", "differentiable", "foreach", "fused")


def state_dict(optimizer: nn.Optimizer) -> dict:
    """Copies of the state by the place of each parameter among the groups, the groups, and the step of the schedules.

    As in torch a parameter that has not been stepped has no state, unless its state starts as something.
    """
    places = _places(optimizer)
    eager = any(slot.init for slot in optimizer.tensor_slots)
    started = {param.name: eager or steps > 0 for param, steps in zip(optimizer.parameters, optimizer.step.asnumpy())}
    state = {places[name]: {slot: Tensor(kept.asnumpy().copy(), kept.dtype) for slot, kept in slots.items()}
             for name, slots in optimizer.state.items() if started[name] and slots}
    groups = []
    for group in optimizer.param_groups:
        arguments = {name: group.current(name) for name in group if name not in ("params", *NOTES)}
        notes = {name: group[name] for name in group if name in NOTES}
        groups.append(arguments | notes | {"params": [places[param.name] for param in group["params"]]})
    return {"state": dict(sorted(state.items())), "param_groups": groups,
            "global_step": int(optimizer.global_step.asnumpy()[0])}


def load_state_dict(optimizer: nn.Optimizer, given: Mapping):
    """Take over what `state_dict` gave, or torch's; if something does not fit, raise and change nothing."""
    owner = type(optimizer).__name__
    if not isinstance(given, Mapping) or not {"state", "param_groups"} <= given.keys() <= {
            "state", "param_groups", "global_step"}:
        keys = sorted(given) if isinstance(given, Mapping) else type(given).__name__
        raise ValueError(f"For '{owner}', 'state_dict' must have the keys 'state' and 'param_groups', as that of "
                         f"torch.optim has, but got {keys}.")
    places, numbers = _fitting_groups(optimizer, owner, given["param_groups"])
    by_place = {place: name for name, place in places.items()}
    unknown = [place for place in given["state"] if place not in by_place]
    if unknown:
        raise ValueError(f"For '{owner}', 'state' must be of the parameters {sorted(by_place)}, but got {unknown}.")
    scalars = {name: np.zeros(len(optimizer.parameters)) for name in {"step": 0, **optimizer.scalar_slots}}
    tensors: list[tuple[Parameter, Tensor]] = []
    for i, param in enumerate(optimizer.parameters):
        state = given["state"].get(places[param.name], {})
        _fitting_state(optimizer, i, state, scalars, tensors)
    place_in_schedule = given.get("global_step")
    if place_in_schedule is None:
        if optimizer.dynamic_lr and "step" not in optimizer.scalar_slots:
            raise ValueError(f"For '{owner}', 'state_dict' must say by 'global_step' how many steps were taken, "
                             "because a learning rate is on a schedule, but got none.")
        place_in_schedule = scalars["step"].max()
    for group, settings in zip(optimizer.param_groups, numbers):
        for name, value in settings.items():
            group[name] = value
    for name, vector in {"step": optimizer.step, **optimizer.scalar_slots}.items():
        ops.assign(vector, Tensor(scalars[name]))
    for kept, value in tensors:
        ops.assign(kept, value)
    ops.assign(optimizer.global_step, Tensor([int(place_in_schedule)], optimizer.global_step.dtype))


def _places(optimizer):
    """The place of each parameter, by name, as torch counts: through the groups."""
    params = [param for group in optimizer.options for param in group["params"]]
    return {param.name: i for i, param in enumerate(params)}


def _fitting_groups(optimizer, owner, groups):
    """What torch calls each parameter, and for each group what is to be set in it."""
    sizes = [[len(group["params"]) for group in each] for each in (optimizer.options, groups)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"For '{owner}', 'param_groups' must have {sizes[0]} parameters, but got {sizes[1]}.")
    places, settings = {}, []
    for i, (group, given) in enumerate(zip(optimizer.param_groups, groups)):
        places |= {param.name: place for param, place in zip(group["params"], given["params"])}
        changes = {}
        for name, value in given.items():
            if name in ("params", "param_names", *HOW) or (name == "lr" and group.scheduled):
                continue
            if name in NOTES:
                changes[name] = value
            elif name in group.settable:
                group.check(name, value)
                changes[name] = value
            elif name in group:
                if value != group[name]:
                    raise ValueError(f"For '{owner}', '{name}' of group {i} must be {group[name]!r} as in the "
                                     f"optimizer, because it decides what is computed, but got {value!r}.")
            else:
                raise ValueError(f"For '{owner}', the keys of group {i} must be in {['params', *group]}, but got "
                                 f"{name!r}.")
        settings.append(changes)
    return places, settings


def _fitting_state(optimizer, i, state, scalars, tensors):
    """Collect the state of parameter i: its numbers into the vectors, its tensors beside the Parameters they go to."""
    owner, param = type(optimizer).__name__, optimizer.parameters[i]
    slots = {slot.name: (slot, kept) for slot, kept in zip(optimizer.tensor_slots, optimizer.slot_table[i])
             if kept is not None}
    state = {name: value for name, value in state.items() if value is not None}
    wanted = {*slots, *optimizer.scalar_slots}
    if state and state.keys() != wanted:
        raise ValueError(f"For '{owner}', the state of '{param.name}' must be {sorted(wanted)}, but got "
                         f"{sorted(state)}.")
    for name in optimizer.scalar_slots:
        if state:
            number = as_array(state[name])
            if number.size != 1:
                raise ValueError(f"For '{owner}', '{name}' of '{param.name}' must be a number, but got shape "
                                 f"{number.shape}.")
            scalars[name][i] = number.item()
    if "step" not in optimizer.scalar_slots:
        scalars["step"][i] = bool(state)  # torch does not count: it has a buffer, or has it not yet
    for name, (slot, kept) in slots.items():
        value = as_array(state[name]) if state else np.full(
            kept.shape, optimizer.options[optimizer.group_of[i]][slot.init] if slot.init else 0.0)
        if value.shape != tuple(kept.shape):
            raise ValueError(f"For '{owner}', '{name}' of '{param.name}' must be of shape {tuple(kept.shape)}, but got "
                             f"{value.shape}.")
        tensors.append((kept, Tensor(value, kept.dtype)))


def as_array(value) -> np.ndarray:
    """A number, an array, a Tensor of MindSpore or one of torch, whichever device it is on, as an array."""
    if isinstance(value, Tensor):
        return value.float().asnumpy() if str(value.dtype) == "BFloat16" else value.asnumpy()
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    return np.asarray(value)
