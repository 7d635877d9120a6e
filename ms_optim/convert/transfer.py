"""Weights, optimizer state and averages from torch (2.13) to MindSpore and back, by the names of the parameters.

A run that torch began goes on here, and back there:

    >>> import tempfile
    >>> import torch
    >>> from mindspore import nn
    >>> from ms_optim import AdamW
    >>> from ms_optim.convert import load, to_mindspore, to_torch
    >>> module = torch.nn.Linear(2, 3)
    >>> begun = torch.optim.AdamW(module.parameters(), lr=3e-4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"model": module.state_dict(), "optimizer": begun.state_dict()}, folder + "/begun.pt")
    ...     saved = load(folder + "/begun.pt")
    >>> net = nn.Dense(2, 3)
    >>> optimizer = AdamW(net.trainable_params())
    >>> rows = to_mindspore(net, saved["model"], optimizer, saved["optimizer"])
    >>> optimizer.param_groups[0]["lr"]
    0.0003
    >>> converted = to_torch(net, module.state_dict(), optimizer)
    >>> module.load_state_dict(converted["model"])
    <All keys matched successfully>
    >>> begun.load_state_dict(converted["optimizer"])
"""

from collections.abc import Mapping, Sequence

import numpy as np
from mindspore import nn

from ms_optim._values import as_number, write
from ms_optim.convert.files import array, dtype_of, ms_tensor, same, torch_tensor
from ms_optim.convert.names import ParameterMap, aligned, bare, parameter_map, shapes_of
from ms_optim.convert.states import state_by_name, state_for_torch
from ms_optim.ema import EMA
from ms_optim.optimizer import Optimizer


def to_mindspore(
    cell: nn.Cell,
    state_dict: Mapping,
    optimizer: nn.Optimizer | None = None,
    optimizer_state: Mapping | None = None,
    *,
    ema_state: Mapping | None = None,
    ema_step: int | None = None,
    names: Sequence[str] | None = None,
    given: Mapping[str, str | None] | None = None,
) -> ParameterMap:
    """Give a network, its optimizer and its average what torch's had; a step that has compiled goes on from there.

    A state dict holds no arguments of layers: the eps of `mindspore.nn.LayerNorm`, for one, is not torch's. Adafactor
    computes something else for the weight of `mindspore.nn.Conv1d`, whose last two axes are not torch's: its state is
    refused; `mint.nn.Conv1d` has torch's axes.

    Args:
        cell (Cell): The network. Its Parameters get the values.
        state_dict (Mapping): That of the torch module: tensors of torch or MindSpore, or arrays.
        optimizer (Optimizer): One of this library over Parameters of `cell`, or an EMA; not LBFGS, whose
            `load_state_dict` takes torch's. Default: ``None`` .
        optimizer_state (Mapping): `state_dict()` of torch's optimizer, whose groups must hold the same parameters, in
            any order; by number or, as FSDP has it, by name, also flattened by `get_optimizer_state_dict`. What one
            side freezes, and of which the other has no state, may be missing. Default: ``None`` .
        ema_state (Mapping): That of torch's AveragedModel, or averages by the module's names, as timm's. An EMA needs
            it. Buffers that the EMA does not average must be those of `state_dict`. Default: ``None`` .
        ema_step (int): How many steps the EMA has seen. Default: ``None`` , "n_averaged" of AveragedModel.
        names (Sequence[str]): The module's parameter names in the order in which torch's optimizer numbers them.
            Default: ``None`` , its groups' "param_names"; or else each group is in the order of `state_dict`, and is
            that of ours which has as many parameters, of these shapes, and the same weight decay.
        given (Mapping[str, Union[str, None]]): As for `parameter_map`. Default: ``None`` .

    Returns:
        ParameterMap, what went where.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If something does not fit or would be rounded, or the order of torch's optimizer is not known;
            nothing is changed then.
    """
    rows = parameter_map(cell, state_dict, given)
    params = cell.parameters_dict()
    values = _by_parameter(rows, state_dict, params)
    if (optimizer is None) != (optimizer_state is None and ema_state is None):
        raise TypeError(
            "For 'to_mindspore', 'optimizer' must come with 'optimizer_state' or 'ema_state', and these with it."
        )
    if optimizer is not None:
        inner = _inner(optimizer, "to_mindspore")
        if (inner is not optimizer) != (ema_state is not None):
            raise ValueError(
                "For 'to_mindspore', 'ema_state' must be given if 'optimizer' is an EMA, and only then: "
                "an EMA that is made after the conversion starts at the weights."
            )
        state = (
            state_by_name(rows, params, inner, optimizer_state, names)
            if optimizer_state is not None
            else inner.state_dict()
        )
        if ema_state is not None:
            state["ema"] = _averages_by_name(rows, params, optimizer, ema_state, ema_step, values)
        optimizer.load_state_dict(state)
    for name, value in values.items():
        write(params[name], value)
    return rows


def _inner(optimizer, owner):
    """The optimizer, or that in an EMA."""
    inner = optimizer.optimizer if isinstance(optimizer, EMA) else optimizer
    if not isinstance(inner, Optimizer):
        raise TypeError(
            f"For '{owner}', 'optimizer' must be one of ms_optim with state for each parameter, or an EMA "
            f"of one, but got {type(inner).__name__}."
        )
    return inner


def _by_parameter(rows, given, like, what=""):
    """A Tensor for each Parameter, of the dtype that it has in `like`, from what torch has by name."""
    values = {}
    for row in rows:
        if row.parameter is None:
            continue
        found = array(given[row.torch], what + row.torch)
        if found.shape != row.torch_shape or not hasattr(given[row.torch], "dtype"):
            raise ValueError(
                f"For 'to_mindspore', {what}'{row.torch}' must be a tensor of shape {row.torch_shape}, "
                f"but got {type(given[row.torch]).__name__} of {found.shape}."
            )
        value = ms_tensor(found.reshape(row.shape), like[row.parameter].dtype, what + row.torch)
        if values.setdefault(row.parameter, value) is not value and not same(values[row.parameter], value):
            raise ValueError(
                f"For 'to_mindspore', what goes to '{row.parameter}' must be one value, but "
                f"{[other.torch for other in rows if other.parameter == row.parameter]} differ."
            )
    return values


def _averages_by_name(rows, params, ema, given, step, values):
    """What `EMA.load_state_dict` takes, from the averages by torch's names."""
    if not isinstance(given, Mapping):
        raise TypeError(
            f"For 'to_mindspore', 'ema_state' must be a mapping of averages by name, but got {type(given).__name__}."
        )
    count = given.get("n_averaged")
    given = {name: value for name, value in given.items() if name != "n_averaged"}
    theirs, wanted = aligned(shapes_of(given), (row.torch for row in rows))
    given = {short: given[name] for name, short in theirs.items()}
    if step is None:
        if count is None or (ema.update_after_step, ema.update_every) != (0, 1):
            raise ValueError(
                "For 'to_mindspore', 'ema_step' must say how many steps the EMA has seen, because "
                "'n_averaged' does not."
            )
        step = as_number(count, "For 'to_mindspore', 'n_averaged'", whole=True)
    theirs, ours = given.keys(), set(wanted.values())
    if theirs != ours:
        raise ValueError(
            "For 'to_mindspore', 'ema_state' must have the names of 'state_dict', but only one has\n"
            f"ema_state: {sorted(theirs - ours)}\nstate_dict: {sorted(ours - theirs)}"
        )
    kept = {param.name: average for param, average in zip(ema.tracked, ema.averages)}
    averages = _by_parameter(
        rows, {name: given[short] for name, short in wanted.items()}, params | kept, "the average of "
    )
    for row in rows:
        if row.parameter in averages.keys() - kept.keys() and not same(averages[row.parameter], values[row.parameter]):
            raise ValueError(
                f"For 'to_mindspore', the EMA must average '{row.parameter}' too, by its 'buffers', "
                f"because '{wanted[row.torch]}' of 'ema_state' is not that of 'state_dict'."
            )
    return {"averages": {name: averages[name] for name in kept}, "step": step, "decay": ema.decay.asnumpy().item()}


def to_torch(
    cell: nn.Cell,
    like: Mapping,
    optimizer: nn.Optimizer | None = None,
    *,
    optimizer_like: Mapping | None = None,
    names: Sequence[str] | None = None,
    given: Mapping[str, str | None] | None = None,
) -> dict[str, dict]:
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
    """
    rows = parameter_map(cell, like, given)
    params = cell.parameters_dict()

    def tensor(row, source):
        model = like[row.torch]
        value = model if row.parameter is None else source.get(row.parameter, params[row.parameter])
        if not hasattr(value, "dtype"):
            raise ValueError(f"For 'to_torch', 'like' must hold the value of '{row.torch}', because the cell does not.")
        dtype = dtype_of(model if hasattr(model, "dtype") else value)
        return torch_tensor(array(value).reshape(row.torch_shape), dtype)

    converted = {"model": {row.torch: tensor(row, {}) for row in rows}}
    if optimizer is not None:
        inner = _inner(optimizer, "to_torch")
        converted["optimizer"] = state_for_torch(rows, params, inner, optimizer_like, names)
        if inner is not optimizer:
            state, short = optimizer.state_dict()["ema"], bare(like)
            every, after = optimizer.update_every, optimizer.update_after_step
            count = max(0, (state["step"] - 1) // every - (after - 1) // every)
            converted["ema"] = {
                "n_averaged": torch_tensor(np.array(count), "int64"),
                **{f"module.{short[row.torch]}": tensor(row, state["averages"]) for row in rows},
            }
    return converted
