"""The configurations and errors that torch's own tests use, as arguments of ours."""

import functools
import inspect
import itertools
import sys
from importlib import import_module
from unittest.mock import MagicMock

import torch
from mindspore import Parameter, Tensor

from helpers import UNGROUPED


def _read(name, *left_out):
    """A module of torch's tests without others, which take seconds to import and say only where a test is skipped."""
    package = "torch.testing._internal"
    left_out = [f"{package}.{other}" for other in left_out if f"{package}.{other}" not in sys.modules]
    sys.modules.update({other: MagicMock() for other in left_out})
    try:
        return import_module(f"{package}.{name}")
    finally:
        for other in left_out:
            del sys.modules[other]


_torchs = _read("common_optimizers", "common_device_type", "common_methods_invocations")
PUBLISHED = {info.optim_cls.__name__: info for info in _torchs.optim_db}
# Arguments that say how torch computes and have no meaning here, and what ours has beyond torch's.
ABSENT = ("foreach", "capturable", "differentiable")
OWN = UNGROUPED
# And to some, which say where they compute.
PLACED = {"Adafactor": ("matrix_group",), "MomentumAGC": ("unit_group",), "Muon": ("matrix_group",)}


def arguments(function):
    """The parameters of a signature by name: whether one may go without its name, and its default, which has a kind."""
    return {
        name: (
            parameter.kind is parameter.POSITIONAL_OR_KEYWORD,
            parameter.default,
            isinstance(parameter.default, bool),
        )
        for name, parameter in inspect.signature(function).parameters.items()
    }


def translated(value, tensor):
    """A value of torch in MindSpore: what `tensor` makes of each tensor that it holds."""
    if isinstance(value, torch.Tensor):
        return tensor(value)
    if isinstance(value, (list, tuple)):
        return type(value)(translated(item, tensor) for item in value)
    if isinstance(value, dict):
        return {key: translated(item, tensor) for key, item in value.items()}
    return value


def translated_arguments(kwargs):
    """The keyword arguments of torch, for ours."""
    return translated(kwargs, lambda value: Tensor(value.numpy()))


def translated_parameters(params):
    """The parameters of torch, or what is wrong with them: p0, p1 ..., one for each, however often it occurs."""
    count = itertools.count()
    make = functools.cache(lambda value: Parameter(Tensor(value.detach().numpy()), name=f"p{next(count)}"))
    return translated(params, make)


# Published errors that are none here, by their descriptions.
ACCEPTED = {
    "Tensor lr must be 1-element": "a 1-d Tensor has one learning rate for each step",
    "betas must be either both floats or both Tensors": "a 0-d Tensor is a number like any other",
}
# What the others say here, where they are not about the value of the one argument beside lr.
TWICE = r"'params' must hold each parameter, and each name, once, but got \['p0'\] more than once"
LISTS = "'params' must be a list of Parameters or of dicts"
MESSAGES = {
    "invalid param type": f"{LISTS}, but got Parameter",
    "a param group cannot have duplicate parameters": TWICE,
    "duplicate parameters should not occur across param groups either": TWICE,
    "all optimizer params should be with/without names": (
        r"'param_names' must be one for each of the \d+ parameters of a group, but got \['[^']+'\]"
    ),
    "all optimizer param groups should be with/without names.": (
        r"'params' must be with names in all groups or in none, but got some in \[\d\] of 2 groups"
    ),
    "does not support complex parameters": "the dtype of 'p0' must be in .*, but got Complex64",
    "only support 2D parameters": r"'params' must be matrices, but got 'p0' of shape \(\d+, \d+, \d+\)",
}

# Brock et al. 2021, table 6, in millions of parameters.
NFNETS = {
    "nfnet_f0": 71.5,
    "nfnet_f1": 132.6,
    "nfnet_f2": 193.8,
    "nfnet_f3": 254.9,
    "nfnet_f4": 316.1,
    "nfnet_f5": 377.2,
    "nfnet_f6": 438.4,
    "nfnet_f7": 499.5,
}
