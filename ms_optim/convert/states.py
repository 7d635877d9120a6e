"""The state of an optimizer under the names and in the order of the other side."""

import itertools
from collections.abc import Mapping

from ms_optim.convert.files import array, dtype_of, ms_tensor, torch_tensor
from ms_optim.convert.names import COUNTER, aligned, sides

BUFFERS = (COUNTER, "running_mean", "running_var")


def state_by_name(rows, params, optimizer, given, names):
    """The state dict of torch's optimizer with its parameters in our order, and their shapes."""
    by_parameter, slots = {row.parameter: row for row in rows}, set(optimizer.state.slots)
    matched = _matched(rows, params, optimizer, given, names, "to_mindspore")
    groups, state = [], {number: dict(kept) for number, kept in given["state"].items()}
    for (theirs, numbers), group in zip(matched, optimizer.param_groups):
        groups.append({**theirs, "params": [numbers[param.name] for param in group["params"]]})
        for param in group["params"]:
            row, kept = by_parameter[param.name], state.get(numbers[param.name], {})
            for slot, value in kept.items():
                if slot in slots and value is not None:
                    name = f"{slot} of {row.torch}"
                    found = _reshaped(array(value, name), row.torch_shape, row.shape, name)
                    kept[slot] = ms_tensor(found, param.dtype, name)
    return {"state": state, "param_groups": groups}


def state_for_torch(rows, params, optimizer, like, names):
    """The state dict of our optimizer with its parameters in torch's order, or else that of the module, and shapes."""
    first = {row.parameter: row for row in reversed(rows)}
    if like is None:
        counter, groups = itertools.count(), []
        for group in optimizer.param_groups:
            inside = {param.name for param in group["params"]}
            own = [row.torch for row in rows if row.parameter in inside and row is first[row.parameter]]
            groups.append({"param_names": own, "params": [next(counter) for _ in own]})
        like, names = {"state": {}, "param_groups": groups}, None
    matched = _matched(rows, params, optimizer, like, names, "to_torch")
    ours, groups, state = optimizer.state_dict(), [], {}
    for (theirs, numbers), mine, group in zip(matched, ours["param_groups"], optimizer.param_groups):
        groups.append({**theirs, **mine, "params": list(numbers.values())})
        for param, place in zip(group["params"], mine["params"]):
            row = first[param.name]
            for slot, value in ours["state"].get(place, {}).items():
                found, scalar = array(value), slot in optimizer.state.vectors
                found = found if scalar else _reshaped(found, row.shape, row.torch_shape, f"{slot} of {row.parameter}")
                state.setdefault(numbers[param.name], {})[slot] = torch_tensor(
                    found, "float32" if scalar else dtype_of(value), exactly=not scalar
                )
    return {"state": dict(sorted(state.items())), "param_groups": sorted(groups, key=lambda group: group["params"])}


def _matched(rows, params, optimizer, given, names, owner):
    """For each group of ours, that of torch, and torch's number of each of its parameters, by name."""
    if not _is_state_dict(given):
        raise TypeError(
            f"For '{owner}', 'optimizer_{'like' if owner == 'to_torch' else 'state'}' must be the state "
            "dict of an optimizer of torch, but got "
            f"{list(given) if isinstance(given, Mapping) else type(given).__name__}: 'state' must be a "
            "mapping of mappings, and 'param_groups' a list of mappings with lists of 'params'."
        )
    groups = given["param_groups"]
    count = sum(len(group["params"]) for group in groups)
    if names is None and all("param_names" in group for group in groups):
        names = [name for group in groups for name in group["param_names"]]
    elif names is None:
        own = {
            row.parameter: row.torch
            for row in rows
            if row.torch.rpartition(".")[2] not in BUFFERS and row.parameter is not None
        }
        if len(groups) > 1 or not all(params[name].requires_grad for name in own):
            raise ValueError(
                f"For '{owner}', 'names' must give the torch module's parameter names in the order of its "
                "optimizer, because its groups have no 'param_names' and there are several, or some "
                "Parameters are not trained."
            )
        names = list(own.values())
    if len(names) != count:
        raise ValueError(
            f"For '{owner}', 'names' must be the {count} parameters of torch's optimizer, but got "
            f"{len(names)}: {list(names)}."
        )
    known, short = {row.torch: row.parameter for row in rows}, {name: name for name in names}
    if not known.keys() >= short.keys():  # the module was in a wrapper on one side only
        short, own = aligned(names, known)
        known = {key: known[name] for name, key in own.items()}
    rest = iter(names)
    named = [[name for _, name in zip(group["params"], rest)] for group in groups]
    theirs = [
        {known.get(short[name]): number for name, number in zip(each, group["params"])}
        for each, group in zip(named, groups)
    ]
    ours = [[param.name for param in group["params"]] for group in optimizer.param_groups]
    matched = [
        (group, numbers) for each in ours for group, numbers in zip(groups, theirs) if numbers.keys() == set(each)
    ]
    if not len(ours) == len(theirs) == len(matched) or sum(map(len, theirs)) != count:
        raise ValueError(
            f"For '{owner}', the groups of both optimizers must hold the same parameters, but got\n"
            + sides(map(str, named), map(str, ours))
        )
    return matched


def _is_state_dict(given):
    """Whether it has the parts of the state dict of an optimizer of torch."""
    state, groups = (given.get(key) if isinstance(given, Mapping) else None for key in ("state", "param_groups"))
    return (
        isinstance(state, Mapping)
        and all(isinstance(kept, Mapping) for kept in state.values())
        and isinstance(groups, (list, tuple))
        and all(
            isinstance(group, Mapping)
            and isinstance(group.get("params"), (list, tuple))
            and isinstance(group.get("param_names", []), (list, tuple))
            for group in groups
        )
    )


def _reshaped(found, old, new, name):
    """State in the shape that its parameter has on the other side."""
    if found.shape == old:
        return found.reshape(new)
    if old != new and found.ndim == len(old):
        raise ValueError(
            f"For 'convert', '{name}' must have the shape of its parameter, {old}, because that is {new} "
            f"on the other side, but got {found.shape}: Adafactor divides these axes otherwise there. "
            "mint.nn.Conv1d has torch's."
        )
    return found
