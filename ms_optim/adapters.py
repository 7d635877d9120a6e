"""The optimizers under MindSpore's words for arguments, for libraries that make those of `mindspore.nn` from a recipe.

Each is a function of the name of a class in `ms_optim`, and returns one of these::

    from ms_optim import adapters
    optimizer = adapters.AdamW(params=groups, learning_rate=schedule, beta1=0.9, beta2=0.95, weight_decay=0.1)

Arguments are MindSpore's, in its order where it has the optimizer (`MomentumAGC` has those of `mindspore.nn.Momentum`):
"learning_rate", "beta1" and "beta2", "epsilon" or "eps", "use_nesterov", "use_amsgrad", "decay" of RMSProp, "accum" of
Adagrad; any argument of the class goes by its own name too. Defaults and numbers are those of the class. What would
change nothing, as "use_locking", is taken; what the optimizer does not do is refused, as "use_nesterov" of Adam and the
key "grad_centralization" of a group where they are True.
"""

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mindspore import nn

from ms_optim import OPTIMIZERS

# MindSpore's words, and which argument each is; of a pair also which of the two.
WORDS = {
    "learning_rate": "lr",
    "epsilon": "eps",
    "use_nesterov": "nesterov",
    "use_amsgrad": "amsgrad",
    "accum": "initial_accumulator_value",
    "beta1": "betas",
    "beta2": "betas",
}
BETAS = ("beta1", "beta2")
# What is a word for something in one class alone.
WORDS_OF = {"RMSprop": {"decay": "alpha"}}
# What has no counterpart in a class: what it may be, and, where there is something, what to do instead.
IDLE = {
    "use_locking": (None, ""),
    "use_lazy": (False, "; SparseAdam updates the rows that a gradient has"),
    "use_offload": (False, ""),
    "update_slots": (True, ""),
    "use_nesterov": (False, "; NAdam is Adam with Nesterov's momentum"),
    "use_amsgrad": (False, ""),
    "weight_decay": (0.0, ""),
    "grad_centralization": (False, "; subtract the mean from the gradients before the step"),
}
# The arguments of `mindspore.nn`, in its order.
PLACES = {
    "ASGD": ("learning_rate", "lambd", "alpha", "t0", "weight_decay"),
    "Adadelta": ("learning_rate", "rho", "epsilon", "loss_scale", "weight_decay"),
    "Adagrad": ("accum", "learning_rate", "update_slots", "loss_scale", "weight_decay"),
    "Adam": (
        "learning_rate",
        *BETAS,
        "eps",
        "use_locking",
        "use_nesterov",
        "weight_decay",
        "loss_scale",
        "use_amsgrad",
    ),
    "AdamW": ("learning_rate", *BETAS, "eps", "weight_decay"),
    "Adamax": ("learning_rate", *BETAS, "eps", "weight_decay", "loss_scale"),
    "MomentumAGC": ("learning_rate", "momentum", "weight_decay", "loss_scale", "use_nesterov"),
    "RMSprop": (
        "learning_rate",
        "decay",
        "momentum",
        "epsilon",
        "use_locking",
        "centered",
        "loss_scale",
        "weight_decay",
    ),
    "Rprop": ("learning_rate", "etas", "step_sizes", "weight_decay"),
    "SGD": ("learning_rate", "momentum", "dampening", "weight_decay", "nesterov", "loss_scale"),
}


def _words(owner):
    """MindSpore's words for arguments of a class, and which argument each is."""
    return {**WORDS, **WORDS_OF.get(owner, {})}


def _translated(owner, own, given, before):
    """Arguments under the names of a class, from MindSpore's; of a pair the other is as it was before."""
    found: dict[str, Any] = {}
    words = _words(owner)
    pair = {*BETAS} & given.keys()
    if pair and "betas" in given:
        raise TypeError(f"For '{owner}', 'betas' must be given once, but got it as {sorted(pair)} too.")
    for word, value in given.items():
        name = word if word in own else words.get(word, word)
        if name not in own:
            allowed, instead = IDLE.get(word, (None, ""))
            if word not in IDLE:
                known = sorted({*own, *(word for word, name in words.items() if name in own)} - {"params"})
                raise TypeError(f"For '{owner}', the arguments must be in {known}, but got '{word}'.")
            if allowed is not None and value != allowed:
                raise ValueError(f"For '{owner}', '{word}' must be {allowed}, but got {value!r}{instead}.")
            continue
        if word in BETAS:
            betas = list(found.get(name, before.get(name, own[name].default)))
            betas[BETAS.index(word)] = value
            found[name] = tuple(betas)
            continue
        if name in found:
            raise TypeError(f"For '{owner}', '{name}' must be given once, but got it as '{word}' too.")
        found[name] = value
    return found


def _group(owner, own, group, arguments):
    """A group under the names of a class, beside the arguments of all; other keys are the user's."""
    if not isinstance(group, Mapping):
        return group
    words = {key: value for key, value in group.items() if key in _words(owner) or key in IDLE}
    rest = {key: value for key, value in group.items() if key not in words}
    return rest | _translated(owner, own, words, arguments)


def _adapted(name, cls):
    own = inspect.signature(cls).parameters

    def make(params: Iterable, *args: Any, **kwargs: Any) -> nn.Optimizer:
        places = PLACES.get(name, ("learning_rate",))
        if len(args) > len(places):
            raise TypeError(
                f"For '{name}', only {('params', *places)} may go by place, but got {len(args) + 1} values."
            )
        twice = sorted(kwargs.keys() & {*places[: len(args)]})
        if twice:
            raise TypeError(f"For '{name}', each argument must be given once, but got {twice} by place and by name.")
        arguments = _translated(name, own, {**dict(zip(places, args)), **kwargs}, {})
        if isinstance(params, Iterable):
            params = [_group(name, own, item, arguments) for item in params]
        return cls(params, **arguments)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = (
        f"`ms_optim.{name}` from MindSpore's arguments, by place {', '.join(PLACES.get(name, ('learning_rate',)))}, or "
        "by its own."
    )
    return make


ADAPTERS: dict[str, Callable[..., nn.Optimizer]] = {name: _adapted(name, cls) for name, cls in OPTIMIZERS.items()}


def __getattr__(name: str) -> Callable[..., nn.Optimizer]:
    if name not in ADAPTERS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return ADAPTERS[name]


def __dir__() -> list[str]:
    return [*globals(), *ADAPTERS]


def register(prefix: str = "ms_optim.") -> list[str]:
    """Let configurations of mindformers name these optimizers, as ``type: ms_optim.AdamW`` .

    Args:
        prefix (str): What comes before the names; mindformers has an AdamW of its own. Default: ``"ms_optim."`` .

    Returns:
        list[str], the names.

    Raises:
        ImportError: If mindformers is not installed.
    """
    mindformers = importlib.import_module("mindformers.tools.register")
    for name, make in ADAPTERS.items():
        mindformers.MindFormerRegister.register_cls(make, mindformers.MindFormerModuleType.OPTIMIZER, prefix + name)
    return [prefix + name for name in ADAPTERS]
