"""Parameter groups from the names, ranks and cells of a network, for the optimizers here and those of mindspore.nn.

Every function leaves out the parameters that are not trained, drops empty groups and ends with "order_params": the
gradients come in the order of `net.trainable_params()`, however the groups cut it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from mindspore import Parameter, mint, nn

from ms_optim.arguments import COMMON, NamePatterns, Number, refuse_idle_patterns

DECAY = COMMON["weight_decay"]
NORMS = tuple(
    cell
    for library in (nn, mint.nn)
    for name, cell in vars(library).items()
    if "Norm" in name and isinstance(cell, type)
)


def param_groups_weight_decay(
    params: Iterable[Parameter], weight_decay: float | Sequence[float], no_decay: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Exempt vectors, scalars, biases and named parameters from weight decay, as timm's function of this name does.

    Args:
        params (Iterable[Parameter]): Of any shapes, such as `net.trainable_params()`.
        weight_decay (Union[float, Sequence[float]]): For all others, or one for each step. Range [0, inf).
        no_decay (Sequence[str]): Patterns of names, as of `fnmatch`: ``("*.pos_embed", "*.gain")``. Default: ``()`` .

    Returns:
        list[dict], the group without decay, the group with it, and the order.

    Raises:
        TypeError: If `params` is not an iterable of Parameters, or another argument is of the wrong kind.
        ValueError: If `weight_decay` is out of range, no parameter is trained, or a pattern matches none that is.

    Examples:
        >>> from mindspore import nn
        >>> from ms_optim import AdamW
        >>> from ms_optim.groups import param_groups_weight_decay
        >>> net = nn.SequentialCell(nn.Dense(4, 3), nn.LayerNorm((3,)))
        >>> groups = param_groups_weight_decay(net.trainable_params(), 0.1)
        >>> [[param.name for param in group["params"]] for group in groups[:-1]]
        [['0.bias', '1.gamma', '1.beta'], ['0.weight']]
        >>> optimizer = AdamW(groups, lr=1e-3)
    """
    owner = "param_groups_weight_decay"
    params = _trained(owner, params)
    weight_decay = DECAY.check(owner, "weight_decay", weight_decay)
    options = {False: {"weight_decay": 0.0}, True: {"weight_decay": weight_decay}}
    return _grouped(params, _decays(owner, params, no_decay), options)


def param_groups_layer_decay(
    params: Iterable[Parameter],
    layers: Sequence[str],
    lr: float | Sequence[float],
    weight_decay: float | Sequence[float],
    layer_decay: float = 0.75,
    no_decay: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Decrease the learning rate from head to input, layer by layer, as timm's function of this name does.

    With n layers, layer i from 0 gets lr * layer_decay**(n - 1 - i); weight decay goes to what
    `param_groups_weight_decay` gives it to. The method is that of BEiT (Bao et al. 2022, "BEiT: BERT Pre-Training of
    Image Transformers").

    Args:
        params (Iterable[Parameter]): Of any shapes, such as `net.trainable_params()`.
        layers (Sequence[str]): One pattern of names for each layer, from the input to the head, as of `fnmatch`. The
            first that matches a parameter has it, so a last ``"*"`` is all the rest.
        lr (Union[float, Sequence[float]]): The learning rate of the head, or one for each step. Range [0, inf).
        weight_decay (Union[float, Sequence[float]]): One, or one for each step. Range [0, inf).
        layer_decay (float): Range (0, 1]. Default: ``0.75`` .
        no_decay (Sequence[str]): Patterns of further names without weight decay. Default: ``()`` .

    Returns:
        list[dict], up to two groups for each layer (without weight decay, with it), and the order.

    Raises:
        TypeError: If `params` is not an iterable of Parameters, or another argument is of the wrong kind.
        ValueError: If a number is out of range, no parameter is trained, one is in no layer, or a pattern matches none.

    Examples:
        >>> from mindspore import nn
        >>> from ms_optim.groups import param_groups_layer_decay
        >>> net = nn.SequentialCell(nn.Dense(4, 3), nn.Dense(3, 3), nn.Dense(3, 2))
        >>> groups = param_groups_layer_decay(net.trainable_params(), ("0.*", "1.*", "*"), 0.1, 0.05, layer_decay=0.5)
        >>> [([param.name for param in group["params"]], group["lr"], group["weight_decay"]) for group in groups[:2]]
        [(['0.bias'], 0.025, 0.0), (['0.weight'], 0.025, 0.05)]
    """
    owner = "param_groups_layer_decay"
    params = _trained(owner, params)
    weight_decay = DECAY.check(owner, "weight_decay", weight_decay)
    layer_decay = Number("(0, 1]").check(owner, "layer_decay", layer_decay)
    lr = COMMON["lr"].check(owner, "lr", lr)
    if not isinstance(lr, (float, list)):
        raise TypeError(f"For '{owner}', 'lr' must be a number or one for each step, but got {lr!r}.")
    rates = np.array(lr)
    layer_of = _first_matching(owner, params, layers)
    options = {
        (layer, decays): {
            "lr": (rates * layer_decay ** (len(layers) - 1 - layer)).tolist(),
            "weight_decay": weight_decay if decays else 0.0,
        }
        for layer in range(len(layers))
        for decays in (False, True)
    }
    return _grouped(params, list(zip(layer_of, _decays(owner, params, no_decay))), options)


def param_groups_norm_bias(
    net: nn.Cell,
    weight_decay: float | Sequence[float],
    bias_lr: float | Sequence[float] | None = None,
    norms: Sequence[type[nn.Cell]] = (),
) -> list[dict[str, Any]]:
    """Make YOLOv5's three groups: weights of norms (no decay), all other weights (decay), biases (no decay).

    What a parameter is, its cell says and not its name: `gamma` or `weight` of a norm cell; `beta` of a norm cell or
    `bias` of any. The biases are a group of their own because their learning rate warms up from above.

    Args:
        net (Cell): The network. Norm cells are those of `mindspore.nn` and `mindspore.mint.nn`.
        weight_decay (Union[float, Sequence[float]]): For weights that are not those of norms, or one for each step.
            Range [0, inf).
        bias_lr (Union[float, Sequence[float], LearningRateSchedule, None]): Of the biases; None is that of the
            optimizer. Default: ``None`` .
        norms (Sequence[type]): Further classes of norm cells, such as an RMSNorm of your own. Default: ``()`` .

    Returns:
        list[dict], the groups of norm weights, decayed weights and biases, and the order.

    Raises:
        TypeError: If `net` is not a Cell, `norms` not a sequence of classes, or `weight_decay` not a number.
        ValueError: If `weight_decay` is out of range, or no parameter is trained.

    Examples:
        >>> from mindspore import nn
        >>> from ms_optim.groups import param_groups_norm_bias
        >>> net = nn.SequentialCell(nn.Conv2d(3, 8, 3, has_bias=True), nn.BatchNorm2d(8))
        >>> [[param.name for param in group["params"]] for group in param_groups_norm_bias(net, 5e-4)[:-1]]
        [['1.gamma'], ['0.weight'], ['0.bias', '1.beta']]
    """
    owner = "param_groups_norm_bias"
    if not isinstance(net, nn.Cell):
        raise TypeError(f"For '{owner}', 'net' must be a Cell, but got {type(net).__name__}.")
    if not isinstance(norms, Sequence) or not all(isinstance(norm, type) for norm in norms):
        raise TypeError(f"For '{owner}', 'norms' must be classes of cells, but got {norms!r}.")
    params = _trained(owner, net.get_parameters())
    weight_decay = DECAY.check(owner, "weight_decay", weight_decay)
    if bias_lr is not None:
        bias_lr = COMMON["lr"].check(owner, "bias_lr", bias_lr)
    kind_of: dict[int, str] = {}
    for _, cell in net.cells_and_names():
        is_norm = isinstance(cell, (*NORMS, *norms))
        for name, param in cell.parameters_and_names(expand=False):
            is_bias = name == "bias" or (is_norm and name == "beta")
            is_norm_weight = is_norm and name in ("gamma", "weight")
            kind_of.setdefault(id(param), "bias" if is_bias else "norm" if is_norm_weight else "weight")
    options = {
        "norm": {"weight_decay": 0.0},
        "weight": {"weight_decay": weight_decay},
        "bias": {"weight_decay": 0.0} if bias_lr is None else {"weight_decay": 0.0, "lr": bias_lr},
    }
    return _grouped(params, [kind_of[id(param)] for param in params], options)


def _trained(owner, params):
    kind = "an iterable of Parameters"
    if isinstance(params, (Parameter, nn.Cell, Mapping, str, set, frozenset)) or not isinstance(params, Iterable):
        raise TypeError(f"For '{owner}', 'params' must be {kind}, but got {type(params).__name__}.")
    params = list(params)
    odd = [type(param).__name__ for param in params if not isinstance(param, Parameter)]
    if odd:
        raise TypeError(f"For '{owner}', 'params' must be {kind}, but got an element of {odd[0]}.")
    trained = [param for param in params if param.requires_grad]
    if not trained:
        raise ValueError(
            f"For '{owner}', 'params' must hold a parameter that requires a gradient, but got "
            f"{[param.name for param in params]}."
        )
    return trained


def _check_patterns(owner, name, patterns):
    if not isinstance(patterns, (tuple, list)) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"For '{owner}', '{name}' must be a tuple or list of name patterns, but got {patterns!r}.")


def _first_matching(owner, params, layers):
    """Find for each parameter the first layer whose pattern matches its name."""
    _check_patterns(owner, "layers", layers)
    patterns = [NamePatterns([pattern]) for pattern in layers]
    layer_of = [next((i for i, matches in enumerate(patterns) if matches(param)), None) for param in params]
    names = [param.name for param in params]
    lost = [name for name, layer in zip(names, layer_of) if layer is None]
    if lost:
        raise ValueError(f"For '{owner}', 'layers' must match every parameter, but got none for {lost}.")
    idle = [pattern for i, pattern in enumerate(layers) if i not in layer_of]
    if idle:
        raise ValueError(
            f"For '{owner}', each pattern of 'layers' must be the first to match one of {names}, but got {idle}."
        )
    return layer_of


def _decays(owner, params, no_decay):
    """Decide whether each parameter decays, by timm's rule."""
    _check_patterns(owner, "no_decay", no_decay)
    refuse_idle_patterns(owner, "no_decay", no_decay, params)
    exempt = NamePatterns(no_decay)
    return [param.ndim > 1 and param.name.split(".")[-1] != "bias" and not exempt(param) for param in params]


def _grouped(params, keys, options):
    """One group for each key of `options` that a parameter has, then the order."""
    members = {key: [param for param, own in zip(params, keys) if own == key] for key in options}
    groups = [{"params": group, **options[key]} for key, group in members.items() if group]
    return [*groups, {"order_params": params}]
