"""Restoring state into cells that may have compiled."""

from collections.abc import Mapping

from mindspore import Tensor, nn, ops


def restore(cell: nn.Cell, parameters: Mapping[str, Tensor]) -> list[str]:
    """Give a network, an optimizer or a training cell the values of a checkpoint, at any time.

    `mindspore.load_param_into_net` replaces buffers that a step which has compiled goes on reading: the values it shows
    afterwards are not those that the step uses. This writes into the buffers.

    Args:
        cell (Cell): Every one of its Parameters gets a value.
        parameters (Mapping[str, Tensor]): Values by name, as `mindspore.load_checkpoint` returns them, of the shapes
            and dtypes of the Parameters.

    Returns:
        list[str], the names that the cell does not have.

    Raises:
        TypeError: If `cell` is not a Cell, `parameters` not a mapping or a value not a Tensor.
        ValueError: If a Parameter has no value, or one of another shape or dtype. Nothing is written then.

    Examples:
        >>> import mindspore as ms
        >>> import ms_optim
        >>> from mindspore import nn
        >>> net = nn.Dense(2, 3)
        >>> optimizer = ms_optim.SGD(net.trainable_params(), lr=0.1, momentum=0.9)
        >>> saved = {name: param.copy() for name, param in optimizer.parameters_dict().items()}
        >>> ms_optim.restore(optimizer, saved)
        []
    """
    if not isinstance(cell, nn.Cell):
        raise TypeError(f"For 'restore', 'cell' must be a Cell, but got {type(cell).__name__}.")
    if not isinstance(parameters, Mapping):
        raise TypeError(f"For 'restore', 'parameters' must map names to Tensors, but got {type(parameters).__name__}.")
    wanted = {param.name: param for param in cell.get_parameters()}
    missing = sorted(wanted.keys() - parameters.keys())
    if missing:
        raise ValueError(f"For 'restore', 'parameters' must hold a value for each Parameter, but lacks {missing}.")
    for name, param in wanted.items():
        value = parameters[name]
        if not isinstance(value, Tensor):
            raise TypeError(f"For 'restore', '{name}' must be a Tensor, but got {type(value).__name__}.")
        if (value.shape, value.dtype) != (param.shape, param.dtype):
            raise ValueError(f"For 'restore', '{name}' must be {param.dtype} of shape {param.shape}, but got "
                             f"{value.dtype} of shape {value.shape}.")
    for name, param in wanted.items():
        ops.assign(param, parameters[name])
    return [name for name in parameters if name not in wanted]
