"""Optimizers by name, with the parameter groups of a recipe."""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from mindspore import Parameter, nn

from ms_optim import OPTIMIZERS
from ms_optim.arguments import COMMON, Flag
from ms_optim.groups import param_groups_layer_decay, param_groups_weight_decay

OWNER = "create_optimizer"


def create_optimizer(
    params: nn.Cell | Iterable[Parameter] | Iterable[dict],
    name: str,
    *,
    filter_bias_and_bn: bool = True,
    no_decay: Sequence[str] = (),
    layer_decay: float | None = None,
    layers: Sequence[str] = (),
    **arguments: Any,
) -> nn.Optimizer:
    """Make an optimizer by its name, and the groups that go with a weight decay, as timm's function of this name does.

    Args:
        params (Union[nn.Cell, list[Parameter], list[dict]]): The network, whose trainable parameters are taken, or
            parameters; or groups, which stay as they are.
        name (str): A key of `ms_optim.OPTIMIZERS`, in any case, with underscores or without: "adamw", "momentum_agc".
        filter_bias_and_bn (bool): Exempt vectors, scalars and biases, if there is a weight decay, as
            `param_groups_weight_decay` does. Default: ``True`` .
        no_decay (Sequence[str]): Patterns of names that are exempt besides, as of `fnmatch`. Default: ``()`` .
        layer_decay (Union[None, float]): What multiplies the learning rate from layer to layer, from the head to the
            input, in (0, 1], as in `param_groups_layer_decay`. Default: ``None`` .
        layers (Sequence[str]): One pattern of names for each layer, for `layer_decay`. Default: ``()`` .
        **arguments: What the class takes: `lr`, `weight_decay` ...; what is not given has the default of the class.

    Returns:
        Optimizer, one of the class.

    Raises:
        TypeError: If an argument is of the wrong kind, or the class has no such.
        ValueError: If there is no such name, an argument is out of range or has nothing to act on, or a pattern matches
            none of the parameters.

    Examples:
        >>> from mindspore import nn
        >>> from ms_optim.factory import create_optimizer
        >>> net = nn.SequentialCell(nn.Dense(4, 3), nn.LayerNorm((3,)), nn.Dense(3, 2))
        >>> optimizer = create_optimizer(net, "momentum_agc", lr=0.1, momentum=0.9, weight_decay=2e-5)
        >>> [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
        [(4, 0.0), (2, 2e-05)]
        >>> optimizer = create_optimizer(net, "adamw", lr=1e-3, layer_decay=0.5, layers=("0.*", "1.*", "2.*"))
        >>> sorted({group["lr"] for group in optimizer.param_groups})
        [0.00025, 0.0005, 0.001]
    """
    cls = _class_of(name)
    known = inspect.signature(cls).parameters
    odd = sorted(arguments.keys() - (known.keys() - {"params"}))
    if odd:
        allowed = [argument for argument in known if argument != "params"]
        raise TypeError(f"For '{OWNER}', the arguments of {cls.__name__} must be in {allowed}, but got {odd}.")
    filtered = Flag().check(OWNER, "filter_bias_and_bn", filter_bias_and_bn)
    params = params.trainable_params() if isinstance(params, nn.Cell) else params
    params = list(params) if isinstance(params, Iterable) and not isinstance(params, (str, dict, Parameter)) else params
    values = {name: arguments.get(name, known[name].default) for name in ("lr", "weight_decay") if name in known}
    decay = COMMON["weight_decay"].check(OWNER, "weight_decay", values.get("weight_decay", 0.0))
    grouped = isinstance(params, list) and any(isinstance(item, dict) for item in params)
    if layers and layer_decay is None:
        raise ValueError(f"For '{OWNER}', 'layers' must be given with 'layer_decay', but got {layers!r} alone.")
    if no_decay and (grouped or not filtered or not decay):
        raise ValueError(
            f"For '{OWNER}', 'no_decay' must be given where a weight decay is filtered, but got {no_decay!r} with "
            f"{'groups' if grouped else f'a weight decay of {decay}'}."
        )
    if layer_decay is not None:
        if grouped or "weight_decay" not in known or not filtered:
            raise ValueError(
                f"For '{OWNER}', 'layer_decay' must be given with parameters, which it makes groups of, and for an "
                f"optimizer with a weight decay, filtered, but got {layer_decay!r} for {cls.__name__}."
            )
        params = param_groups_layer_decay(params, layers, values["lr"], decay, layer_decay, no_decay)
    elif filtered and decay and not grouped:
        params = param_groups_weight_decay(params, decay, no_decay)
    return cls(params, **arguments)


def _class_of(name):
    """The optimizer of a name."""
    if not isinstance(name, str):
        raise TypeError(f"For '{OWNER}', 'name' must be a name in {[*OPTIMIZERS]}, but got {name!r}.")
    found = {key.lower(): cls for key, cls in OPTIMIZERS.items()}
    plain = name.lower().replace("_", "").replace("-", "")
    if plain not in found:
        raise ValueError(f"For '{OWNER}', 'name' must be in {[*OPTIMIZERS]}, but got {name!r}.")
    return found[plain]
