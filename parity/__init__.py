"""Compares optimizers of MindSpore with those of PyTorch, step by step: every parameter and every state slot.

`parity.record` records a training of yours, and `python -m parity` with `replay`, `compare` or `diagnose` says where
and why it parts from another; `parity.runs` says what is in the files.
"""

import importlib
import inspect
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# The packages of the extra `parity`, which a plain installation of ms_optim does not bring.
EXTRA = ("hypothesis", "jinja2", "matplotlib", "rich", "safetensors", "sklearn", "torch")


def require() -> None:
    """Raise if packages are missing; without torch alone, what it did elsewhere can still be compared with.

    Recording asks for nothing but safetensors, NumPy and the framework.

    Raises:
        ImportError: Naming them, and what brings them.
    """
    missing = [package for package in EXTRA if find_spec(package) is None]
    if missing and missing != ["torch"]:
        raise ImportError(
            f"For 'parity', the packages {', '.join(EXTRA)} must be installed, but {', '.join(missing)} cannot be "
            "found: pip install 'ms_optim[parity]'"
        )


def record(optimizer: Any, folder: str | Path, model: Any = None, first: int | None = None, **options: Any) -> Any:
    """Make a block in which the steps of an optimizer are recorded into a folder, as `parity.runs` describes it.

    A loop in PyTorch, and one in MindSpore that calls the optimizer, stay as they are. Where the steps of MindSpore are
    taken in a graph, as in `Model.train`, the graph is given the `optimizer` of the block, and `callback()` of the
    block is among the callbacks, or `taken(loss)` is called right after each step, before a schedule sets the numbers
    of the next; otherwise `begin()` before the step reads them. Sparse gradients, as pairs of indices and values, are
    recorded of direct calls alone.

    Args:
        optimizer (Union[torch.optim.Optimizer, mindspore.nn.Optimizer]): Of either framework, which need not be there
            beside the other.
        folder (Union[str, Path]): Where to; it is made, and must not hold a run.
        model (Union[None, torch.nn.Module, mindspore.nn.Cell]): The network, which has the names of the parameters.
            Those of a Cell are called as torch calls them, so that runs of both can be compared. Default: ``None`` .
        first (Union[None, int]): After so many steps nothing more is recorded. Default: ``None`` .
        options: `every` records one of so many steps, `elements` so many elements of each larger tensor, drawn by
            `seed` and its name, which keeps runs of large networks small: two such runs can be compared, and one with
            all steps replayed, if the rule is elementwise. For MindSpore's own optimizers, which do not tell their
            numbers, `arguments` in torch's words.

    Returns:
        A block with `steps`, how many were recorded, `seconds`, what that has taken, `loss(value)`, which says what
        the loss of the next step is, and `note(name=value, ...)`, which says anything else of it that JSON has. Loss
        scales, steps that these skip, and gradients that the functions of `torch.nn.utils` clip are noted by
        themselves: by any `torch.amp.GradScaler`, and in MindSpore by `Model` and by the optimizer.

    Raises:
        TypeError: If the optimizer is none of either, or its step evaluates a closure more than once; in a step, if the
            `optimizer` of the block is given a gradient that is sparse or None.
        ValueError: If a parameter has no name, or two have the same; in a step, if a group was added.
        FileExistsError: If the folder holds a run.

    Examples:
        >>> import parity
        >>> import torch
        >>> net = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
        >>> with parity.record(optimizer, "linear", model=net) as run:
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         loss = net(torch.ones(2, 3)).square().mean()
        ...         loss.backward()
        ...         run.loss(loss)
        ...         optimizer.step()
        >>> run.steps
        3
        >>> import ms_optim
        >>> from mindspore import Tensor, nn, value_and_grad
        >>> net = nn.Dense(3, 1)
        >>> optimizer = ms_optim.AdamW(net.trainable_params(), lr=0.1)
        >>> step = value_and_grad(net, None, optimizer.parameters)
        >>> with parity.record(optimizer, "dense", model=net) as run:
        ...     for _ in range(3):
        ...         loss, gradients = step(Tensor([[1.0, 1.0, 1.0]]))
        ...         run.loss(loss)
        ...         done = optimizer(gradients)
        >>> run.steps
        3
    """
    if first is not None and (not isinstance(first, int) or isinstance(first, bool) or first < 1):
        raise ValueError(f"For 'record', 'first' must be an int of at least 1 or None, but got {first!r}.")
    for module in ("torch.optim", "mindspore.nn"):
        framework = sys.modules.get(module)  # whose it is has been imported
        if framework is not None and isinstance(optimizer, framework.Optimizer):
            side = importlib.import_module(f"parity.runs.{module.partition('.')[0]}")
            known = [*inspect.signature(side.Recording).parameters][4:]
            unknown = [name for name in options if name not in known]
            if unknown:
                raise TypeError(f"For 'record', 'options' must be among {known}, but got {unknown}.")
            if not isinstance(folder, (str, Path)):
                raise TypeError(f"For 'record', 'folder' must be a str or a Path, but got {folder!r}.")
            return side.Recording(optimizer, folder, model, first, **options)
    raise TypeError(
        f"For 'record', 'optimizer' must be a torch.optim.Optimizer or a mindspore.nn.Optimizer, but got "
        f"{type(optimizer).__name__}."
    )
