"""The arguments of an optimizer: what each may be, parameter groups with every argument filled in, gradients."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from numbers import Integral, Real

import mindspore as ms
import numpy as np
from mindspore import COOTensor, CSRTensor, Parameter, Tensor
from mindspore.common.sparse_tensor import RowTensorInner

# What each argument may be, for defaults and groups alike: an interval of numbers, a list of one interval for each of
# several numbers, a range of ints, a tuple of choices, or a predicate on parameters, which may be given as patterns of
# their names. Where one optimizer means something else by a name, its own comes before it.
RANGES = {
    "Adafactor.eps": ["[0, inf) or None", "[0, inf)"],
    "SparseAdam.eps": "(0, inf)",
    "adjust_lr_fn": (None, "original", "match_rms_adamw"),
    "alpha": "[0, inf)",
    "amsgrad": (False, True),
    "beta2_decay": "(-inf, 0]",
    "betas": ["[0, 1)", "[0, 1)"],
    "buffer_update": ("average", "copy", "skip"),
    "centered": (False, True),
    "clip_eps": "[0, inf)",
    "clipping": "[0, inf)",
    "d": "[1, inf)",
    "dampening": "(-inf, inf)",
    "decay": "[0, 1]",
    "decoupled_weight_decay": (False, True),
    "eps": "[0, inf)",
    "etas": ["(0, 1)", "(1, inf)"],
    "exempt": "predicate",
    "fused": (None, False, True),
    "gamma": "(0, inf)",
    "history_size": range(1, sys.maxsize),
    "initial_accumulator_value": "[0, inf)",
    "lambd": "[0, inf)",
    "line_search_fn": (None, "strong_wolfe"),
    "loss_scale": "(0, inf)",
    "lr": "[0, inf)",
    "lr_decay": "[0, inf)",
    "max_eval": range(1, sys.maxsize),
    "max_iter": range(1, sys.maxsize),
    "maximize": (False, True),
    "min_decay": "[0, 1]",
    "momentum": "[0, inf)",
    "momentum_decay": "[0, inf)",
    "nesterov": (False, True),
    "ns_coefficients": ["(-inf, inf)", "(-inf, inf)", "(-inf, inf)"],
    "ns_steps": range(100),
    "power": "(0, inf)",
    "rho": "[0, 1]",
    "schedule": ("averaged_model", "constant", "timm", "torch_ema", "yolov5", "zero_start"),
    "step_sizes": ["[0, inf)", "[0, inf]"],
    "t0": "(-inf, inf)",
    "tolerance_change": "(-inf, inf)",
    "tolerance_grad": "(-inf, inf)",
    "unit": ("output", "squeezed"),
    "weight_decay": "[0, inf)",
}
# What `scalars` calls the numbers of an argument that holds several.
MEMBERS = {
    "betas": ("beta1", "beta2"),
    "eps": ("eps1", "eps2"),
    "etas": ("etaminus", "etaplus"),
    "ns_coefficients": ("ns_a", "ns_b", "ns_c"),
    "step_sizes": ("step_size_min", "step_size_max"),
}
# What schedulers leave in a group, as torch's do.
NOTES = ("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr")
# What a gradient may be that has not all of the elements; a tuple is one of indices and values.
SPARSE = (RowTensorInner, COOTensor, CSRTensor, tuple, list)
FLOATS = (ms.float16, ms.bfloat16, ms.float32, ms.float64)
# The gap between 1 and the next number of each of these.
EPSILONS = dict(zip(FLOATS, (2.0**-10, 2.0**-7, 2.0**-23, 2.0**-52)))


class NamePatterns(tuple):
    """fnmatch patterns as a predicate: whether one of them matches the name of a Parameter."""

    __slots__ = ()

    def __call__(self, param: Parameter) -> bool:
        """Match its name."""
        return any(fnmatchcase(param.name, pattern) for pattern in self)


def check(owner: str, name: str, value):
    """The value of argument `name` as a float, a tuple of floats, an int, one of its choices or a predicate.

    Raises:
        TypeError: If the value is of the wrong kind.
        ValueError: If it is outside what RANGES allows.
    """
    allowed = RANGES.get(f"{owner}.{name}") or RANGES[name]
    if isinstance(allowed, tuple):
        if not any(value is choice or (isinstance(choice, str) and value == choice) for choice in allowed):
            kind = ValueError if isinstance(value, type(allowed[-1])) else TypeError
            raise kind(f"For '{owner}', '{name}' must be one of {allowed}, but got {value!r}.")
        return value
    if allowed == "predicate":
        if callable(value):
            return value
        patterns = (value,) if isinstance(value, str) else value
        if not isinstance(patterns, (tuple, list)) or not all(isinstance(pattern, str) for pattern in patterns):
            raise TypeError(
                f"For '{owner}', '{name}' must be name patterns or a function of a Parameter, but got {value!r}."
            )
        return NamePatterns(patterns)
    if isinstance(allowed, range):
        interval = f"[{allowed.start}, {allowed.stop})"
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError(f"For '{owner}', '{name}' must be an int in {interval}, but got {value!r}.")
        if value not in allowed:
            raise ValueError(f"For '{owner}', '{name}' must be in {interval}, but got {value!r}.")
        return int(value)
    if isinstance(allowed, list):
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != len(allowed):
            raise TypeError(
                f"For '{owner}', '{name}' must be {len(allowed)} numbers in {' and '.join(allowed)}, but got {value!r}."
            )
        return tuple(number_in(owner, f"{name}[{i}]", *item) for i, item in enumerate(zip(value, allowed)))
    return number_in(owner, name, value, allowed)


def number_in(owner: str, name: str, value, allowed: str) -> float | None:
    """The value of argument `name` as a float, if it lies in an interval such as "[0, 1)", or "[0, 1) or None"."""
    interval, _, optional = allowed.partition(" or ")
    if optional and value is None:
        return None
    item = value.item() if getattr(value, "shape", None) == () else value
    if not isinstance(item, Real) or isinstance(item, bool):
        raise TypeError(f"For '{owner}', '{name}' must be a number in {allowed}, but got {value!r}.")
    low, high = map(float, interval[1:-1].split(","))
    number = float(item)
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    if not (above and below):
        raise ValueError(f"For '{owner}', '{name}' must be in {allowed}, but got {value!r}.")
    return number


def is_flag(name: str) -> bool:
    """Whether an argument is decided at construction, once for each parameter, and not a number that may change."""
    return isinstance(RANGES.get(name), (range, tuple)) or RANGES.get(name) == "predicate"


def flag_of(options: dict, name: str, param: Parameter):
    """What a parameter of a group gets for a flag."""
    value = options[name]
    if RANGES[name] != "predicate":
        return value
    answer = value(param)
    if not isinstance(answer, (bool, np.bool_)):
        raise TypeError(f"For '{name}', the function must return a bool, but got {answer!r} for '{param.name}'.")
    return bool(answer)


def members_of(options: dict, name: str) -> tuple[str, ...]:
    """What `scalars` calls the numbers of an argument."""
    return MEMBERS[name] if name in MEMBERS and isinstance(options[name], tuple) else (name,)


def number_of(options: dict, name: str) -> float:
    """The number that `scalars` calls `name`, from the arguments of a group.

    None is the gap of the floats that the group's first parameter holds, as in torch.
    """
    for argument, members in MEMBERS.items():
        if name in members:
            value = options[argument][members.index(name)]
            return EPSILONS[options["params"][0].dtype] if value is None else value
    return options[name]


def parse_groups(owner: str, params, defaults: dict) -> tuple[list[dict], list[Parameter], list[int]]:
    """The groups with every argument filled in and checked, the parameters in order and the group of each.

    Raises:
        TypeError, ValueError: As `Optimizer` says, naming the argument.
    """
    kind = "a list of Parameters or of dicts"
    if isinstance(params, (Parameter, Mapping, str, set, frozenset)) or not isinstance(params, Iterable):
        raise TypeError(f"For '{owner}', 'params' must be {kind}, but got {type(params).__name__}.")
    params = list(params)
    if all(isinstance(item, Parameter) for item in params):
        params = [{"params": params}]
    if not all(isinstance(item, dict) for item in params):
        odd = next(item for item in params if not isinstance(item, dict))
        raise TypeError(f"For '{owner}', 'params' must be {kind}, but got an element of {type(odd).__name__}.")
    order = [item for item in params if "order_params" in item]
    groups = [_parse_group(owner, item, defaults) for item in params if "order_params" not in item]
    parameters = [param for group in groups for param in group["params"]]
    if not parameters:
        raise ValueError(f"For '{owner}', 'params' must not be empty.")
    names = [param.name for param in parameters]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"For '{owner}', 'params' must hold each parameter, and each name, once, but got {twice} more than once."
        )
    group_of = {param.name: i for i, group in enumerate(groups) for param in group["params"]}
    if order:
        parameters = _ordered(owner, order, parameters)
    return groups, parameters, [group_of[param.name] for param in parameters]


def _parse_group(owner, group, defaults):
    if "params" not in group:
        raise ValueError(f"For '{owner}', each group must have the key 'params', but got {sorted(group)}.")
    unknown = sorted(key for key in group if key not in ("params", *defaults, *NOTES))
    if unknown:
        raise ValueError(f"For '{owner}', the keys of a group must be in {['params', *defaults]}, but got {unknown}.")
    params = group["params"]
    params = [params] if isinstance(params, Parameter) else params
    if isinstance(params, (str, set, frozenset)) or not isinstance(params, Iterable):
        raise TypeError(f"For '{owner}', 'params' of a group must be a list of Parameters, but got {params!r}.")
    params = list(params)
    for param in params:
        if not isinstance(param, Parameter):
            raise TypeError(
                f"For '{owner}', 'params' of a group must be a list of Parameters, but got an element of "
                f"{type(param).__name__}."
            )
        if 0 in param.shape:
            raise ValueError(
                f"For '{owner}', 'params' must hold no empty parameter, but got '{param.name}' of shape {param.shape}."
            )
        if param.dtype not in FLOATS:
            raise TypeError(f"For '{owner}', the dtype of '{param.name}' must be in {FLOATS}, but got {param.dtype}.")
    options = {"params": params}
    for name, default in defaults.items():
        value = group.get(name, default)
        options[name] = value if name == "lr" else check(owner, name, value)
    options |= {name: group[name] for name in NOTES if name in group}
    if options.get("nesterov") and "dampening" in options and (options["momentum"] == 0 or options["dampening"] != 0):
        raise ValueError(
            f"For '{owner}', 'nesterov' must be False unless 'momentum' > 0 and 'dampening' is 0, but got "
            f"'momentum' {options['momentum']} and 'dampening' {options['dampening']}."
        )
    return options


def _ordered(owner, order, parameters):
    if len(order) > 1 or len(order[0]) > 1:
        raise ValueError(
            f"For '{owner}', 'order_params' must be the one key of one dict, but got {len(order)} dicts "
            f"with {sorted({key for item in order for key in item})}."
        )
    if not isinstance(order[0]["order_params"], Iterable):
        raise TypeError(
            f"For '{owner}', 'order_params' must be a list of Parameters, but got "
            f"{type(order[0]['order_params']).__name__}."
        )
    ordered = list(order[0]["order_params"])
    wanted, got = {id(param) for param in parameters}, [id(param) for param in ordered]
    if set(got) != wanted or len(got) != len(wanted):
        difference = sorted({param.name for param in parameters} ^ {getattr(param, "name", "?") for param in ordered})
        raise ValueError(
            f"For '{owner}', 'order_params' must hold each parameter of the groups once, but they differ "
            f"in {difference}."
        )
    return ordered


def check_gradients(
    owner: str, gradients, parameters: Sequence[Parameter], kinds: str = "float Tensors", fit: Callable | None = None
) -> tuple:
    """The gradients as a tuple: for each parameter what `fit` makes of its gradient, or None.

    Raises:
        TypeError, ValueError: As `Optimizer` says, naming what does not fit.
    """
    if not isinstance(gradients, (tuple, list)):
        raise TypeError(
            f"For '{owner}', 'gradients' must be a tuple of {kinds} or None, but got {type(gradients).__name__}."
        )
    if len(gradients) != len(parameters):
        raise ValueError(
            f"For '{owner}', 'gradients' must hold {len(parameters)} entries, one for each parameter, but "
            f"got {len(gradients)}."
        )
    fit = fit or _fit_dense
    return tuple(None if grad is None else fit(owner, grad, param) for grad, param in zip(gradients, parameters))


def _fit_dense(owner, grad, param):
    """The gradient, if it is a float Tensor of the parameter's shape."""
    if not isinstance(grad, Tensor) or grad.dtype not in FLOATS:
        kind = str(grad.dtype) if isinstance(grad, Tensor) else type(grad).__name__
        other = " SparseAdam takes sparse gradients." if isinstance(grad, SPARSE) else ""
        raise TypeError(
            f"For '{owner}', 'gradients' must be a tuple of float Tensors or None, but got {kind} for "
            f"'{param.name}'.{other}"
        )
    if grad.shape != param.shape:
        raise ValueError(
            f"For '{owner}', 'gradients' must have the shapes of the parameters, but got {grad.shape} "
            f"for '{param.name}' of shape {param.shape}."
        )
    return grad
