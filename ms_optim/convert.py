"""Weights, optimizer state and averages from torch (2.13) to MindSpore and back, by the names of the parameters."""

import argparse
import importlib
import itertools
import json
import os
import pickle
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_optim._state_dict import as_array
from ms_optim.checkpoint import save
from ms_optim.ema import EMA

TORCH, OURS = (".pt", ".pth"), (".ckpt",)
EITHER = ".safetensors"
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
# What torch calls the Parameters of a layer of mindspore.nn. Those of all others, `mint.nn` too, it calls the same.
LAYERS = (
    ((nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d,
      nn.InstanceNorm2d, nn.InstanceNorm3d), NORM),
    ((nn.Embedding, nn.EmbeddingLookup), {"embedding_table": "weight"}),
    ((nn.PReLU,), {"w": "weight"}),
)
COUNTER = "num_batches_tracked"
BUFFERS = (COUNTER, "running_mean", "running_var")
# What DistributedDataParallel, AveragedModel and torch.compile put before each name.
WRAPPERS = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Row:
    """What torch calls a tensor, the Parameter that it goes to, if any, the shapes of both, and how that is known."""

    torch: str
    parameter: str | None
    torch_shape: tuple[int, ...]
    shape: tuple[int, ...]
    how: str

    def cells(self) -> tuple[str, str, str, str]:
        """The row of a table."""
        shapes = str(self.torch_shape)
        return (self.torch, self.parameter or "-",
                shapes if self.shape == self.torch_shape else f"{shapes} <-> {self.shape}", self.how)


class ParameterMap(tuple):
    """A Row for each name of torch, in torch's order; as text, a table."""

    __slots__ = ()
    HEADINGS = ("torch", "MindSpore", "shape", "known by")

    def __str__(self) -> str:
        rows = [self.HEADINGS, *(row.cells() for row in self)]
        widths = [max(map(len, column)) for column in zip(*rows)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def parameter_map(cell: nn.Cell, names_and_shapes: Mapping, given: Mapping[str, str | None] | None = None
                  ) -> ParameterMap:
    """Find which Parameter of a cell each tensor of a torch module is.

    A Parameter is found by its place in the cell, if that is the name in torch, "gamma" of a norm being "weight" and so
    on; else by structure: if the names and shapes that remain of its layer occur once on either side. The prefixes
    "module." and "_orig_mod." do not count. `mindspore.nn.Conv1d` has an axis of size 1 in its weight that torch's has
    not; the table shows both shapes. "num_batches_tracked" goes nowhere unless the layer has it, as those of `mint.nn`.

    Args:
        cell (Cell): The network.
        names_and_shapes (Mapping): torch's `state_dict`, or shapes by name.
        given (Mapping[str, Union[str, None]]): Where names of torch go, before all else: to the name of a Parameter, or
            its place in the cell, or nowhere (None). The name of a module stands for all in it. Tied weights are two
            names for one Parameter. Default: ``None`` .

    Returns:
        ParameterMap, a tuple of rows (torch, parameter, torch_shape, shape, how).

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a name is left over on either side, or shapes differ, or `given` names what is not there.

    Examples:
        >>> from mindspore import nn
        >>> from ms_optim.convert import parameter_map
        >>> net = nn.SequentialCell(nn.Dense(2, 3), nn.LayerNorm([3]))
        >>> print(parameter_map(net, {"0.weight": (3, 2), "0.bias": (3,), "norm.weight": (3,), "norm.bias": (3,)}))
        torch        MindSpore  shape   known by
        0.weight     0.weight   (3, 2)  name
        0.bias       0.bias     (3,)    name
        norm.weight  1.gamma    (3,)    structure
        norm.bias    1.beta     (3,)    structure
    """
    if not isinstance(cell, nn.Cell):
        raise TypeError(f"For 'parameter_map', 'cell' must be a Cell, but got {type(cell).__name__}.")
    shapes, ours, aliases = _shapes_of(names_and_shapes), *_in_torch_words(cell)
    found, problems = _given(shapes, ours, aliases, given or {})
    bare = {name: name if any(key.startswith(WRAPPERS) for key in ours) else _bare(name) for name in shapes}
    found |= {name: (bare[name], "name") for name in shapes if name not in found and bare[name] in ours}
    moved = dict(_by_structure({name: shapes[name] for name in shapes if name not in found},
                               {key: ours[key][1] for key in ours.keys() - {key for key, _ in found.values()}}))
    found |= {name: (key, "structure") for name, key in moved.items()}
    for name in shapes:
        layer, _, leaf = name.rpartition(".")
        mate, _ = found.get(f"{layer}.running_mean".lstrip("."), (None, ""))
        if name not in found and leaf == COUNTER and mate is not None:
            key = mate.removesuffix("running_mean") + COUNTER
            found[name] = (key, "structure") if key in ours else (None, "no counterpart")
    rows = []
    for name, (key, how) in found.items():
        parameter, torch_shape, shape = ours[key] if key is not None else (None, shapes[name], shapes[name])
        rows.append(Row(name, parameter, torch_shape, shape, how))
        if torch_shape != shapes[name]:
            problems.append(f"shapes differ: {name} {shapes[name]} in torch, {parameter} {shape} in MindSpore")
    used = {key for key, _ in found.values()}
    left = ([f"{name} {shapes[name]}" for name in shapes if name not in found],
            [f"{parameter} {shape}" for key, (parameter, _, shape) in ours.items() if key not in used])
    if problems or any(left):
        raise ValueError("For 'parameter_map', each name of torch must go to a Parameter of its shape and none may be "
                         "left over, but got\n" + "\n".join([*problems, *_sides(*left)]))
    order = list(shapes)
    return ParameterMap(sorted(rows, key=lambda row: order.index(row.torch)))


def _sides(theirs, ours):
    return [f"{side}: {', '.join(names) or 'nothing'}" for side, names in (("torch", theirs), ("MindSpore", ours))]


def _bare(name):
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name


def _shapes_of(values):
    if not isinstance(values, Mapping) or not values:
        raise TypeError("For 'parameter_map', a state dict must map names to tensors or shapes, but got "
                        f"{type(values).__name__} {values if isinstance(values, Mapping) else ''}.")
    shapes = {name: getattr(value, "shape", value) for name, value in values.items()}
    odd = [name for name, shape in shapes.items() if not isinstance(shape, (tuple, list))]
    if odd:
        raise TypeError(f"For 'parameter_map', a state dict must map names to tensors or shapes, but got "
                        f"{type(values[odd[0]]).__name__} for {odd[0]!r}, among {list(values)[:10]}.")
    return {name: tuple(map(int, shape)) for name, shape in shapes.items()}


def _in_torch_words(cell):
    """By what torch would call it: the name of each Parameter, its shape there, its shape here; and aliases."""
    found, aliases = {}, {}
    for path, part in cell.cells_and_names():
        words = next((words for classes, words in LAYERS if isinstance(part, classes)), {})
        torch_path = path
        if path.endswith("bn2d") and isinstance(dict(cell.cells_and_names()).get(path[:-5], cell), nn.BatchNorm3d):
            torch_path = path[:-5]
        for leaf, param in part.parameters_and_names(expand=False):
            key = f"{torch_path}.{words.get(leaf, leaf)}".lstrip(".")
            shape = torch_shape = tuple(param.shape)
            if isinstance(part, (nn.Conv1d, nn.Conv1dTranspose)) and leaf == "weight":
                torch_shape = (*shape[:2], shape[3])
            if any(param.name == other for other, _, _ in found.values()):
                raise ValueError(f"For 'parameter_map', the Parameters must have different names, but got "
                                 f"{param.name!r} more than once.")
            found[key] = (param.name, torch_shape, shape)
            aliases |= {f"{path}.{leaf}".lstrip("."): key, key: key}
    aliases |= {name: key for key, (name, _, _) in found.items()}
    return found, aliases


def _given(shapes, ours, aliases, given):
    """What the caller says of each name, for it alone or for a module that it is in; and what makes no sense of it."""
    found, problems, used = {}, [], set()
    for name in shapes:
        heads = [name, *(name[:i] for i in reversed(range(len(name))) if name[i] == ".")]
        head = next((head for head in heads if head in given), None)
        if head is None:
            continue
        used.add(head)
        key = given[head] if head == name or given[head] is None else given[head] + name[len(head):]
        if key is None:
            found[name] = (None, "given")
        elif key in aliases:
            found[name] = (aliases[key], "given")
        elif name.rpartition(".")[2] != COUNTER:
            problems.append(f"given, but not in MindSpore: {key} (for {name})")
    return found, problems + [f"given, but not in torch: {head}" for head in given if head not in used]


def _by_structure(theirs, ours):
    """Pair the names of layers whose names and shapes occur once on either side."""
    sides = []
    for side in (theirs, ours):
        layers = {}
        for name, shape in side.items():
            layer, _, leaf = name.rpartition(".")
            if leaf != COUNTER:
                layers.setdefault(layer, {})[leaf] = (shape, name)
        kinds = {}
        for leaves in layers.values():
            kinds.setdefault(frozenset((leaf, shape) for leaf, (shape, _) in leaves.items()), []).append(leaves)
        sides.append({kind: found[0] for kind, found in kinds.items() if len(found) == 1})
    for kind in sides[0].keys() & sides[1].keys():
        for leaf, _ in kind:
            yield sides[0][kind][leaf][1], sides[1][kind][leaf][1]


def _array(value):
    array = as_array(value)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _dtype_of(value):
    """The name of a dtype of either framework or of NumPy."""
    return str(value.dtype).rpartition(".")[2].lower()


def _tensor(array, dtype, name):
    """A Tensor of MindSpore that holds the very numbers."""
    tensor = Tensor(np.ascontiguousarray(array).reshape(array.shape), dtype)
    if not np.array_equal(_array(tensor), array, equal_nan=True):
        raise ValueError(f"For 'to_mindspore', {dtype} must hold the numbers of '{name}' exactly, but they are "
                         f"{array.dtype} and would be rounded.")
    return tensor


def to_mindspore(cell: nn.Cell, state_dict: Mapping, optimizer: nn.Optimizer | None = None,
                 optimizer_state: Mapping | None = None, *, ema_state: Mapping | None = None,
                 ema_step: int | None = None, names: Sequence[str] | None = None,
                 given: Mapping[str, str | None] | None = None) -> ParameterMap:
    """Give a network, its optimizer and its average what torch's had; a step that has compiled goes on from there.

    A state dict holds no arguments of layers: the eps of `mindspore.nn.LayerNorm`, for one, is not torch's.

    Args:
        cell (Cell): The network. Its Parameters get the values.
        state_dict (Mapping): That of the torch module: tensors of torch or MindSpore, or arrays.
        optimizer (Optimizer): One of this library over Parameters of `cell`, or an EMA. Default: ``None`` .
        optimizer_state (Mapping): `state_dict()` of torch's optimizer, whose groups must hold the same parameters, in
            any order. Default: ``None`` .
        ema_state (Mapping): That of torch's AveragedModel, or averages by the module's names, as timm's. An EMA needs
            it. Buffers that the EMA does not average must be those of `state_dict`. Default: ``None`` .
        ema_step (int): How many steps the EMA has seen. Default: ``None`` , "n_averaged" of AveragedModel.
        names (Sequence[str]): The module's parameter names in the order in which torch's optimizer numbers them, if
            its groups have no "param_names". Default: ``None`` , the order of `state_dict`, if there is one group.
        given (Mapping[str, Union[str, None]]): As for `parameter_map`. Default: ``None`` .

    Returns:
        ParameterMap, what went where.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If something does not fit or would be rounded, or the order of torch's optimizer is not known;
            nothing is changed then.

    Examples:
        >>> import numpy as np
        >>> from mindspore import nn
        >>> from ms_optim import SGD
        >>> from ms_optim.convert import to_mindspore
        >>> net = nn.Dense(2, 1)
        >>> optimizer = SGD(net.trainable_params(), lr=0.1, momentum=0.9)
        >>> weights = {"weight": np.ones((1, 2), np.float32), "bias": np.zeros(1, np.float32)}
        >>> state = {"state": {0: {"momentum_buffer": weights["weight"]}, 1: {"momentum_buffer": weights["bias"]}},
        ...          "param_groups": [{"params": [0, 1], "lr": 0.2}]}
        >>> rows = to_mindspore(net, weights, optimizer, state)
        >>> optimizer.param_groups[0]["lr"]
        0.2
    """
    rows = parameter_map(cell, state_dict, given)
    params = {param.name: param for param in cell.get_parameters()}
    values = {}
    for row in rows:
        if row.parameter is None:
            continue
        value = _tensor(_array(state_dict[row.torch]).reshape(row.shape), params[row.parameter].dtype, row.torch)
        twin = values.setdefault(row.parameter, value)
        if twin is not value and not np.array_equal(_array(twin), _array(value), equal_nan=True):
            raise ValueError(f"For 'to_mindspore', what goes to '{row.parameter}' must be one value, but "
                             f"{[other.torch for other in rows if other.parameter == row.parameter]} differ.")
    if (optimizer is None) != (optimizer_state is None and ema_state is None):
        raise TypeError("For 'to_mindspore', 'optimizer' must come with 'optimizer_state' or 'ema_state', and these "
                        "with it.")
    if optimizer is not None:
        if isinstance(optimizer, EMA) != (ema_state is not None):
            raise ValueError("For 'to_mindspore', 'ema_state' must be given if 'optimizer' is an EMA, and only then: "
                             "an EMA that is made after the conversion starts at the weights.")
        state = optimizer.state_dict()
        if optimizer_state is not None:
            inner = optimizer.optimizer if isinstance(optimizer, EMA) else optimizer
            state = {**{key: state[key] for key in state if key == "ema"},
                     **_state_by_name(rows, params, inner, optimizer_state, names)}
        if ema_state is not None:
            state["ema"] |= _averages_by_name(rows, optimizer, ema_state, ema_step, values)
        optimizer.load_state_dict(state)
    for name, value in values.items():
        ops.assign(params[name], value)
    return rows


def _matched(rows, params, optimizer, groups, names, owner):
    """For each group of ours, its place among torch's and torch's number of each of its parameters, by name."""
    lengths = [len(group["params"]) for group in groups]
    if all("param_names" in group for group in groups):
        named = [list(group["param_names"]) for group in groups]
    else:
        if names is None:
            own = [row for row in rows if row.torch.rpartition(".")[2] not in BUFFERS and row.parameter is not None]
            if len(groups) > 1 or not all(params[row.parameter].requires_grad for row in own):
                raise ValueError(f"For '{owner}', 'names' must give the torch module's parameter names in the order of "
                                 "its optimizer, because its groups have no 'param_names' and there are several, or "
                                 "some Parameters are not trained.")
            names = list({row.parameter: row.torch for row in reversed(own)}.values())[::-1]
        if len(names) != sum(lengths):
            raise ValueError(f"For '{owner}', 'names' must be the {sum(lengths)} parameters of torch's optimizer, but "
                             f"got {len(names)}: {list(names)}.")
        rest = iter(names)
        named = [list(itertools.islice(rest, length)) for length in lengths]
    by_name = {key: row.parameter for row in rows for key in (_bare(row.torch), row.torch)}
    unknown = [name for name in itertools.chain(*named) if by_name.get(_bare(name)) is None]
    theirs = [{by_name.get(name, by_name.get(_bare(name))): number for name, number in zip(each, group["params"])}
              for each, group in zip(named, groups)]
    ours = [[param.name for param in group["params"]] for group in optimizer.param_groups]
    places = [next((i for i, each in enumerate(theirs) if each.keys() == set(group)), None) for group in ours]
    if unknown or None in places or len(ours) != len(theirs) or [len(each) for each in theirs] != lengths:
        raise ValueError(f"For '{owner}', the groups of both optimizers must hold the same parameters, but got\n"
                         + "\n".join(_sides(map(str, named), map(str, ours))))
    return [(place, theirs[place]) for place in places]


def _state_by_name(rows, params, optimizer, given, names):
    """The state dict of torch's optimizer with its parameters in our order."""
    if not isinstance(given, Mapping) or not {"state", "param_groups"} <= given.keys():
        raise TypeError("For 'to_mindspore', 'optimizer_state' must be the state dict of an optimizer of torch, but "
                        f"got {sorted(given) if isinstance(given, Mapping) else type(given).__name__}.")
    by_parameter = {row.parameter: row for row in rows}
    slots = [slot.name for slot in optimizer.tensor_slots]
    groups, state = [], dict(given["state"])
    for place, numbers in _matched(rows, params, optimizer, given["param_groups"], names, "to_mindspore"):
        group = {key: value for key, value in given["param_groups"][place].items() if key != "param_names"}
        ours = optimizer.param_groups[len(groups)]["params"]
        groups.append({**group, "params": [numbers[param.name] for param in ours]})
        for param in ours:
            row, number = by_parameter[param.name], numbers[param.name]
            kept = {key: value for key, value in state.get(number, {}).items() if value is not None}
            for slot in kept.keys() & set(slots):
                array = _array(kept[slot])
                array = array.reshape(row.shape) if array.shape == row.torch_shape else array
                kept[slot] = _tensor(array, param.dtype, f"{slot} of {row.torch}")
            if number in state:
                state[number] = kept
    return {"state": state, "param_groups": groups}


def _averages_by_name(rows, ema, given, step, values):
    """What `EMA.load_state_dict` takes, from the averages by torch's names."""
    given = {_bare(name): value for name, value in given.items()}
    count = given.pop("n_averaged", None)
    if step is None:
        if count is None or (ema.update_after_step, ema.update_every) != (0, 1):
            raise ValueError("For 'to_mindspore', 'ema_step' must say how many steps the EMA has seen, because "
                             "'n_averaged' does not.")
        step = int(_array(count).item())
    wanted = {_bare(row.torch): row for row in rows}
    left = [name for name in given if name not in wanted], [name for name in wanted if name not in given]
    if any(left):
        raise ValueError("For 'to_mindspore', 'ema_state' must have the names of 'state_dict', but only one has\n"
                         + "\n".join(f"{side}: {names}" for side, names in zip(("ema_state", "state_dict"), left)))
    kept = {param.name: average for param, average in zip(ema.tracked, ema.averages)}
    averages = {}
    for name, row in wanted.items():
        if row.parameter is None:
            continue
        array = _array(given[name])
        if array.shape != row.torch_shape:
            raise ValueError(f"For 'to_mindspore', the average of '{name}' must be of shape {row.torch_shape}, but got "
                             f"{array.shape}.")
        array = array.reshape(row.shape)
        if row.parameter in kept:
            averages[row.parameter] = _tensor(array, kept[row.parameter].dtype, f"the average of {name}")
        elif not np.array_equal(array, _array(values[row.parameter]), equal_nan=True):
            raise ValueError(f"For 'to_mindspore', the EMA must average '{row.parameter}' too, by its 'buffers', "
                             f"because '{name}' of 'ema_state' is not that of 'state_dict'.")
    return {"averages": averages, "step": step}


def to_torch(cell: nn.Cell, like: Mapping, optimizer: nn.Optimizer | None = None, *,
             optimizer_like: Mapping | None = None, names: Sequence[str] | None = None,
             given: Mapping[str, str | None] | None = None) -> dict[str, dict]:
    """The weights, the state of the optimizer and the averages as torch's tensors, under torch's names.

    Tensors have the same bits after any way there and back. Numbers are float64 here and float32 in torch: "step" is
    the same up to 2**24, NAdam's "mu_product" and ASGD's "eta" and "mu" are rounded. torch's optimizers have no place
    for "global_step", the place in schedules, nor for the step counts of SGD and Muon.

    Args:
        cell (Cell): The network.
        like (Mapping): `state_dict()` of the torch module: the names, the dtypes, and the values of what the cell does
            not have, such as "num_batches_tracked", in the averages too.
        optimizer (Optimizer): One of this library over Parameters of `cell`, or an EMA. Default: ``None`` .
        optimizer_like (Mapping): `state_dict()` of torch's optimizer, for its groups and their order. Default:
            ``None`` , the groups of `optimizer`, the parameters of each in the order of `like`.
        names (Sequence[str]): As for `to_mindspore`, for `optimizer_like`. Default: ``None`` .
        given (Mapping[str, Union[str, None]]): As for `parameter_map`. Default: ``None`` .

    Returns:
        dict[str, dict], "model" for the module, "optimizer" for its optimizer, "ema" for an AveragedModel.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If something does not fit or would be rounded.

    Examples:
        >>> import torch
        >>> from mindspore import nn
        >>> from ms_optim import AdamW
        >>> from ms_optim.convert import to_torch
        >>> net, module = nn.Dense(2, 3), torch.nn.Linear(2, 3)
        >>> converted = to_torch(net, module.state_dict(), AdamW(net.trainable_params()))
        >>> module.load_state_dict(converted["model"])
        <All keys matched successfully>
        >>> torch.optim.AdamW(module.parameters()).load_state_dict(converted["optimizer"])
    """
    rows = parameter_map(cell, like, given)
    params = {param.name: param for param in cell.get_parameters()}

    def tensor(row, source):
        model = like[row.torch]
        value = model if row.parameter is None else source.get(row.parameter, params[row.parameter])
        if not hasattr(value, "dtype"):
            raise ValueError(f"For 'to_torch', 'like' must hold the value of '{row.torch}', because the cell does not.")
        dtype = _dtype_of(model if hasattr(model, "dtype") else value)
        return _torch_tensor(_array(value).reshape(row.torch_shape), dtype)

    converted = {"model": {row.torch: tensor(row, {}) for row in rows}}
    if optimizer is not None:
        averaged = isinstance(optimizer, EMA)
        converted["optimizer"] = _state_for_torch(rows, params, optimizer.optimizer if averaged else optimizer,
                                                  optimizer_like, names)
        if averaged:
            state = optimizer.state_dict()["ema"]
            every, after = optimizer.update_every, optimizer.update_after_step
            count = max(0, (state["step"] - 1) // every - (after - 1) // every)
            converted["ema"] = {"n_averaged": _torch_tensor(np.array(count), "int64"),
                                **{f"module.{_bare(row.torch)}": tensor(row, state["averages"]) for row in rows}}
    return converted


def _state_for_torch(rows, params, optimizer, like, names):
    ours = optimizer.state_dict()
    first = {row.parameter: row for row in reversed(rows)}
    groups = [None] * len(ours["param_groups"])
    if like is None:
        numbers = itertools.count()
        matched = [(i, {name: next(numbers) for name in sorted(
            (param.name for param in group["params"]), key=lambda name: rows.index(first[name]))})
            for i, group in enumerate(optimizer.param_groups)]
    else:
        matched = _matched(rows, params, optimizer, like["param_groups"], names, "to_torch")
    state = {}
    for (place, numbers), mine, group in zip(matched, ours["param_groups"], optimizer.param_groups):
        theirs = like["param_groups"][place] if like is not None else {
            "param_names": [first[name].torch for name in numbers]}
        groups[place] = {**theirs, **mine, "params": list(numbers.values())}
        for param, our_place in zip(group["params"], mine["params"]):
            row, kept = first[param.name], {}
            for slot, value in ours["state"].get(our_place, {}).items():
                array = _array(value)
                scalar = slot in optimizer.scalar_slots
                array = array.reshape(row.torch_shape) if array.shape == row.shape and not scalar else array
                kept[slot] = _torch_tensor(array, "float32" if scalar else _dtype_of(value), exactly=not scalar)
            if kept:
                state[numbers[param.name]] = kept
    return {"state": dict(sorted(state.items())), "param_groups": groups}


def _torch():
    """The package, which only files and tensors of torch need."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise ImportError(f"For 'convert', files and tensors of torch need the package torch, but {error}.") from error


def _torch_tensor(array, dtype, exactly=True):
    torch = _torch()
    tensor = torch.from_numpy(np.array(array)).to(getattr(torch, dtype))
    if exactly and not np.array_equal(_array(tensor), array, equal_nan=True):
        raise ValueError(f"For 'to_torch', {dtype} must hold the numbers exactly, but they are {array.dtype} and would "
                         "be rounded.")
    return tensor


def load(file: str | os.PathLike) -> dict:
    """Read a checkpoint as numpy arrays and plain dicts, lists and numbers; bfloat16 as float32, which is exact.

    Nothing that a file contains is run.

    Args:
        file (Union[str, PathLike]): Ends in ".pt" or ".pth" (torch.save), ".ckpt" (mindspore.save_checkpoint) or
            ".safetensors".

    Returns:
        dict, what the file holds, by name.

    Raises:
        ValueError: If the file ends otherwise, holds code or anything but tensors, numbers and containers, is damaged,
            or is no mapping.
        OSError: If it cannot be read.
        ImportError: If it is torch's and there is no torch.

    Examples:
        >>> import tempfile
        >>> import ms_optim
        >>> from mindspore import nn
        >>> from ms_optim.convert import load
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ms_optim.save(nn.Dense(2, 3), folder + "/net.ckpt")
        ...     sorted(load(folder + "/net.ckpt"))
        ['bias', 'weight']
    """
    return _plain(_read(file))


def _plain(value):
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value] if isinstance(value, list) else tuple(map(_plain, value))
    return _array(value) if hasattr(value, "dtype") else value


def _read(file):
    path = Path(file)
    if path.suffix not in (*TORCH, *OURS, EITHER):
        raise ValueError(f"For 'load', 'file' must end in one of {(*TORCH, *OURS, EITHER)}, but got {str(path)!r}.")
    with path.open("rb"):
        pass
    try:
        if path.suffix in TORCH:
            found = _torch().load(path, map_location="cpu", weights_only=True)
        elif path.suffix in OURS:
            found = ms.load_checkpoint(str(path))
        else:
            found = importlib.import_module("safetensors.numpy").load_file(path)
    except pickle.UnpicklingError as error:
        reason = next((line.strip() for line in str(error).splitlines()
                       if "GLOBAL" in line or "WeightsUnpickler error" in line), "no checkpoint of torch")
        raise ValueError(f"For 'load', '{path}' must hold only tensors, numbers and containers, and nothing else in it "
                         f"was run, but got: {reason}") from None
    except (ImportError, OSError):
        raise
    except Exception as error:  # of protobuf, zip, safetensors: each has its own kind for a damaged file
        raise ValueError(f"For 'load', '{path}' must be a whole checkpoint, but got {type(error).__name__}: "
                         f"{str(error).strip().splitlines()[0] if str(error).strip() else ''}") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"For 'load', '{path}' must hold a mapping by name, but got {type(found).__name__}.")
    return found


def _by_rules(values, back, given):
    """A map by names alone: those of norms and embeddings differ. What a name alone does not tell is an error."""
    given = {value: key for key, value in given.items() if value is not None} if back else dict(given)
    layers, rows, unclear = {}, [], []
    for name in values:
        layers.setdefault(name.rpartition(".")[0], set()).add(name.rpartition(".")[2])
    for name, shape in _shapes_of(values).items():
        layer, _, leaf = name.rpartition(".")
        leaves, new, how = layers[layer], leaf, "name"
        if back:
            norm, word = {"gamma", "beta"} <= leaves or "moving_mean" in leaves, {**NORM, "embedding_table": "weight"}
            new = word.get(leaf, leaf) if norm or leaf == "embedding_table" else leaf
            plain = norm or leaf not in ("gamma", "beta")
        else:
            norm = "running_mean" in leaves or (len(shape) == 1 and {"weight", "bias"} <= leaves and len(_shape(
                values, layer, "weight")) == 1)
            new = {theirs: ours for ours, theirs in NORM.items()}.get(leaf, leaf) if norm else leaf
            plain = norm or leaf != "weight" or len(shape) > 2 or (len(shape) == 2 and "bias" in leaves)
        other = f"{layer}.{new}".lstrip(".")
        if name in given:
            other, how = given.pop(name), "given"
        elif not back and leaf == COUNTER and "running_mean" in leaves:
            other, how = None, "no counterpart"
        elif new != leaf:
            how = "layer"
        elif not plain:
            unclear.append(f"{name} {shape}")
        rows.append(Row(*((other, name) if back else (name, other)), shape, shape, how))
    goals = [row.torch if back else row.parameter for row in rows]
    twice = sorted({goal for goal in goals if goal is not None and goals.count(goal) > 1})
    if unclear or given or twice:
        sides = ("MindSpore", "torch") if back else ("torch", "MindSpore")
        raise ValueError("For 'convert', each name must tell its layer (a weight alone is of a Dense or an Embedding, "
                         "a gamma alone of a norm or of its own), or '--map' or '--cell' must, but got\n"
                         f"{sides[0]}: {', '.join(unclear) or 'nothing'} unclear; given but not there: "
                         f"{', '.join(given) or 'nothing'}\n{sides[1]}: {', '.join(twice) or 'nothing'} more than once")
    return ParameterMap(rows)


def _shape(values, layer, leaf):
    return values[f"{layer}.{leaf}".lstrip(".")].shape


def _with_cell(values, cell, back, given):
    """The map that the cell tells, once it has taken all values; and for torch its tensors."""
    if not back:
        return to_mindspore(cell, values, given=given), None
    params = {param.name: param for param in cell.get_parameters()}
    left = ([f"{name} {tuple(value.shape)}" for name, value in values.items()
             if name not in params or tuple(value.shape) != tuple(params[name].shape)],
            [f"{name} {param.shape}" for name, param in params.items()
             if name not in values or tuple(values[name].shape) != tuple(param.shape)])
    if any(left):
        raise ValueError(f"For 'convert', the file must have the Parameters of the cell, but do not fit\nfile: "
                         f"{', '.join(left[0])}\ncell: {', '.join(left[1])}")
    for name, value in values.items():
        ops.assign(params[name], _tensor(_array(value), params[name].dtype, name))
    words, aliases = _in_torch_words(cell)
    renamed = {aliases.get(goal): name for name, goal in given.items()}
    like = {renamed.get(name, name): shape for name, (_, shape, _) in words.items()}
    return parameter_map(cell, like, given), to_torch(cell, like, given=given)["model"]


def main(argv: Iterable[str] | None = None) -> int:
    """Convert a file; print what went where."""
    parser = argparse.ArgumentParser(
        prog="convert", description="Convert the weights in a file of torch (.pt, .pth) to one of MindSpore (.ckpt), "
        "or back; .safetensors is of whichever the other is not. What it cannot map is an error.")
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--key", help="the entry of SOURCE that is the state dict, such as 'model'")
    parser.add_argument("--map", metavar="FILE.json", help="names of torch, and for each the name of MindSpore")
    parser.add_argument("--cell", metavar="PACKAGE.MODULE:FACTORY", help="a function that makes the network, whose "
                        "Parameters then decide; without it names and ranks do, and an unclear one is an error")
    options = parser.parse_args(argv)
    try:
        print_table(_convert(options))
    except (ValueError, TypeError, OSError, ImportError, AttributeError) as error:
        print(f"convert: error: {error}", file=sys.stderr)
        return 2
    return 0


def _convert(options):
    source, target = Path(options.source).suffix, Path(options.target).suffix
    if (source in TORCH) + (target in TORCH) + (source in OURS) + (target in OURS) == 0 or (
            {source, target} <= {*TORCH} or source == target) or target not in (*TORCH, *OURS, EITHER):
        raise ValueError(f"SOURCE and TARGET must be one file of torch ({', '.join(TORCH)}) and one of MindSpore "
                         f"({', '.join(OURS)}), or one of either and a {EITHER}, but got {source!r} and {target!r}.")
    back = target in TORCH or source in OURS
    values = _read(options.source)
    if options.key is not None:
        if not isinstance(values.get(options.key), Mapping):
            raise ValueError(f"'--key' must be an entry of SOURCE that is a mapping, but got {options.key!r} of "
                             f"{list(values)[:10]}.")
        values = values[options.key]
    _shapes_of(values)
    given = json.loads(Path(options.map).read_text(encoding="utf-8")) if options.map else {}
    if not isinstance(given, dict):
        raise ValueError(f"'--map' must be a JSON object, but got {type(given).__name__}.")
    if options.cell:
        module, _, factory = options.cell.partition(":")
        cell = getattr(importlib.import_module(module), factory)()
        rows, converted = _with_cell(values, cell, back, given)
    else:
        rows, cell = _by_rules(values, back, given), nn.Cell()
        if back:
            converted = {row.torch: _torch_tensor(_array(values[row.parameter]), _dtype_of(values[row.parameter]))
                         for row in rows}
        else:
            cell.values = ParameterTuple([Parameter(_tensor(_array(values[row.torch]), _ms_dtype(
                values[row.torch]), row.torch), name=row.parameter) for row in rows if row.parameter is not None])
    if not back:
        save(cell, options.target)
        return rows
    path = Path(options.target)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        written = Path(folder, path.name)
        if target == EITHER:
            importlib.import_module("safetensors.torch").save_file(converted, written)
        else:
            _torch().save(converted, written)
        os.replace(written, path)
    return rows


def _ms_dtype(value):
    name = _dtype_of(value)
    return getattr(ms, {"bool": "bool_"}.get(name, name))


def print_table(rows: ParameterMap):
    """Print with rich, if it is there and this is a terminal, and else as plain text."""
    try:
        if not sys.stdout.isatty():
            raise ImportError
        console, table = (importlib.import_module(f"rich.{name}") for name in ("console", "table"))
    except ImportError:
        print(rows)
        return
    shown = table.Table()
    for heading in rows.HEADINGS:
        shown.add_column(heading, overflow="fold")
    for row in rows:
        shown.add_row(*row.cells())
    console.Console().print(shown)


if __name__ == "__main__":
    sys.exit(main())
