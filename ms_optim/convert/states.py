"""The state of an optimizer under the names and in the order of the other side."""

import itertools
import re
from collections.abc import Mapping

from ms_optim._groups import MEMBERS
from ms_optim._torch_layout import parts
from ms_optim.convert.files import array, dtype_of, ms_tensor, torch_tensor
from ms_optim.convert.names import COUNTER, aligned, sides
from ms_optim.sparse_adam import SparseAdam

# A key of what `get_optimizer_state_dict` flattens: the name of a parameter, and of a slot or an argument.
_FLAT = re.compile(r"(state|param_groups)\.(.+)\.([^.]+)")
BUFFERS = (COUNTER, "running_mean", "running_var")


def state_by_name(rows, params, optimizer, given, names):
    """The state dict of torch's optimizer with its parameters in our order, and their shapes."""
    by_parameter = {row.parameter: row for row in rows}
    dtypes = {
        (param.name, slot): kept.dtype
        for slot, column in optimizer.state.slots.items()
        for param, kept in zip(optimizer.parameters, column)
        if kept is not None
    }
    state_of, matched = _matched(rows, params, optimizer, given, names, "to_mindspore")
    groups, state, count = [], {}, itertools.count()
    for (theirs, numbers), group in zip(matched, optimizer.param_groups):
        places = {param.name: next(count) for param in group["params"]}
        groups.append({**theirs, "params": list(places.values())})
        for param in group["params"]:
            row, kept = by_parameter[param.name], dict(state_of.get(numbers.get(param.name), {}))
            for slot, value in kept.items():
                if (param.name, slot) in dtypes and value is not None:
                    name = f"{slot} of {row.torch}"
                    found = _reshaped(array(value, name), row.torch_shape, row.shape, name)
                    kept[slot] = ms_tensor(found, dtypes[param.name, slot], name)
            if kept:
                state[places[param.name]] = kept
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
    _, matched = _matched(rows, params, optimizer, like, names, "to_torch")
    ours, groups, state = optimizer.state_dict(), [], {}
    for mine in ours["param_groups"]:
        mine.pop("param_names", None)
    for (theirs, numbers), mine, group in zip(matched, ours["param_groups"], optimizer.param_groups):
        groups.append({**theirs, **mine, **{name: theirs[name] for name in MEMBERS if name in theirs}})
        for param, place in zip(group["params"], mine["params"]):
            row = first[param.name]
            for slot, value in ours["state"].get(place, {}).items() if param.name in numbers else ():
                found, scalar = array(value), slot in optimizer.state.vectors
                found = found if scalar else _reshaped(found, row.shape, row.torch_shape, f"{slot} of {row.parameter}")
                state.setdefault(numbers[param.name], {})[slot] = (
                    int(found)
                    if slot == "step" and isinstance(optimizer, SparseAdam)  # which counts in an int there
                    else torch_tensor(found, "float32" if scalar else dtype_of(value), exactly=not scalar)
                )
    return {"state": dict(sorted(state.items())), "param_groups": sorted(groups, key=lambda group: group["params"])}


def _matched(rows, params, optimizer, given, names, owner):
    """The state by torch's numbers; and for each group of ours that of torch, and its number of each parameter.

    A parameter that one side freezes, and of which the other has no state, may be missing there.
    """
    what = f"optimizer_{'like' if owner == 'to_torch' else 'state'}"
    flattened = isinstance(given, Mapping) and bool(given) and all(_FLAT.fullmatch(str(key)) for key in given)
    if flattened:
        given = _unflattened(given)
    try:
        state, groups = parts(owner, {key: given[key] for key in ("state", "param_groups")})
    except (KeyError, TypeError, ValueError) as error:
        got = [*given] if isinstance(given, Mapping) else type(given).__name__
        raise TypeError(
            f"For '{owner}', '{what}' must be the state dict of an optimizer of torch, but got {got}: {error}"
        ) from None
    numbers = [[*group["params"]] for group in groups]
    if names is None and all("param_names" in group for group in groups):
        names = [name for group in groups for name in group["param_names"]]
    elif names is None and any(isinstance(number, str) for each in numbers for number in each):
        names = [name for each in numbers for name in each]
    if names is None:
        return state, _by_order(rows, params, optimizer, state, groups, owner)
    if len(names) != sum(map(len, numbers)):
        raise ValueError(
            f"For '{owner}', 'names' must be the {sum(map(len, numbers))} parameters of torch's optimizer, but got "
            f"{len(names)}: {list(names)}."
        )
    known, short = {row.torch: row.parameter for row in rows}, {name: name for name in names}
    if not known.keys() >= short.keys():  # the module was in a wrapper on one side only
        short, own = aligned(names, known)
        known = {key: known[name] for name, key in own.items()}
    rest = iter(names)
    named = [[name for _, name in zip(each, rest)] for each in numbers]
    theirs = [
        {known.get(short[name]) or (name,): number for name, number in zip(*each)} for each in zip(named, numbers)
    ]
    ours = [{param.name: param.requires_grad for param in group["params"]} for group in optimizer.param_groups]
    if flattened:
        groups, theirs = _split(groups, theirs, ours)
    matched = [
        (group, found) for own in ours for group, found in zip(groups, theirs) if _same_members(own, found, state)
    ]
    if not len(ours) == len(theirs) == len(matched) or sum(map(len, theirs)) != len(names):
        raise ValueError(
            f"For '{owner}', the groups of both optimizers must hold the same parameters, but got\n"
            + sides(map(str, named), map(str, map(list, ours)))
        )
    return state, matched


def _unflattened(given):
    """The layout of torch's optimizers of what `get_optimizer_state_dict` has flattened, with a key for each value.

    Which groups there were it does not say: those with the same arguments become one.
    """
    state, arguments = {}, {}
    for key, value in given.items():
        kind, name, what = _FLAT.fullmatch(key).groups()
        (state if kind == "state" else arguments).setdefault(name, {})[what] = value
    groups = []
    for name, values in arguments.items():
        same = next((group for group in groups if {**group, "params": None} == {**values, "params": None}), None)
        if same is None:
            groups.append(same := {**values, "params": []})
        same["params"].append(name)
    return {"state": state, "param_groups": groups}


def _split(groups, theirs, ours):
    """Groups that became one because they have the same arguments, as they are in our optimizer; and what is left."""
    owned = {name for own in ours for name in own}
    parted = [
        (group, {name: number for name, number in found.items() if (name in own if own else name not in owned)})
        for own in (*ours, {})
        for group, found in zip(groups, theirs)
    ]
    parted = [(group, found) for group, found in parted if found]
    return [group for group, _ in parted], [found for _, found in parted]


def _same_members(ours, theirs, state):
    """Whether two groups hold the same parameters, but for what stands still in one and has no state in the other."""
    still = {name for name in ours.keys() - theirs.keys() if not ours[name]}
    idle = {name for name in theirs.keys() - ours.keys() if not state.get(theirs[name])}
    return bool(ours.keys() & theirs.keys()) and ours.keys() - still == theirs.keys() - idle


def _by_order(rows, params, optimizer, state, groups, owner):
    """What `_matched` finds without names: the parameters of each group are in the order of the module.

    Which group is which, the numbers and the shapes of their parameters tell, and else their places.
    """
    order = {row.parameter: None for row in rows if row.torch.rpartition(".")[2] not in BUFFERS and row.parameter}
    _refuse_sorted(rows, params, owner)
    rank, row_of = {name: i for i, name in enumerate(order)}, {row.parameter: row for row in rows}
    foreign = [param.name for param in optimizer.parameters if param.name not in rank]
    if foreign:
        raise ValueError(f"For '{owner}', 'optimizer' must have Parameters of 'cell', but got {foreign}.")
    ours = [sorted((param.name for param in group["params"]), key=rank.__getitem__) for group in optimizer.param_groups]
    moving = [[name for name in each if params[name].requires_grad] for each in ours]
    theirs = [[*group["params"]] for group in groups]
    stepped = [[number for number in each if state.get(number)] for each in theirs]

    def fits(names, numbers):
        """Whether what is kept for each has the shapes that it must have."""
        return len(names) == len(numbers) and all(
            array(kept, f"{slot.name} of {row_of[name].torch}").shape == slot.shape(row_of[name].torch_shape)
            for name, number in zip(names, numbers)
            for slot in optimizer.slots
            if not slot.scalar and (kept := state.get(number, {}).get(slot.name)) is not None
        )

    for wanted, got in itertools.product((ours, moving), (theirs, stepped)):
        found = [{i for i, numbers in enumerate(got) if fits(names, numbers)} for names in wanted]
        alike = [
            {i for i in each if groups[i].get("weight_decay") == group.get("weight_decay")}
            for each, group in zip(found, optimizer.param_groups)
        ]
        chosen = (_paired(alike) or _paired(found)) if len(ours) == len(theirs) else None
        if chosen is not None:
            return [(groups[i], dict(zip(names, got[i]))) for names, i in zip(wanted, chosen)]
    raise ValueError(
        f"For '{owner}', 'names' must give the torch module's parameter names in the order of its optimizer, because "
        "its groups have no 'param_names', and their sizes, weight decays and shapes of state do not tell which are "
        f"which, but got groups of {list(map(len, theirs))} parameters for those of {list(map(len, ours))}."
    )


def _paired(candidates):
    """One place for each, no two the same: its own, or the only one that is left for it; None if that is not told."""
    if all(i in each for i, each in enumerate(candidates)):
        return list(range(len(candidates)))
    left, chosen = dict(enumerate(candidates)), {}
    while left:
        sure = next((i for i, each in left.items() if len(each - {*chosen.values()}) == 1), None)
        if sure is None:
            return None
        (chosen[sure],) = left.pop(sure) - {*chosen.values()}
    return [chosen[i] for i in range(len(candidates))]


def _refuse_sorted(rows, params, owner):
    """Raise if the names are in alphabetic order, as files of safetensors have them, and the network has another."""
    names = [row.torch for row in rows if row.parameter is not None]
    places = {name: i for i, name in enumerate(params)}
    here = [places[row.parameter] for row in rows if row.parameter is not None]
    if names == sorted(names) and here != sorted(here):
        raise ValueError(
            f"For '{owner}', 'names' must give the torch module's parameter names in the order of its optimizer, "
            "because those of the weights are in alphabetic order, which is not that of the network, but got none."
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
