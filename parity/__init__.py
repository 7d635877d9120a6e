"""Compares optimizers of MindSpore with those of PyTorch, step by step: every parameter and every state slot.

`parity.record` records a training of yours in PyTorch, and `python -m parity replay` drives an optimizer of MindSpore
with what it recorded; `parity.runs` says what is in the files.
"""

import importlib
from importlib.util import find_spec

# The packages of the extra `parity`, which a plain installation of ms_optim does not bring.
EXTRA = ("hypothesis", "matplotlib", "rich", "safetensors", "sklearn", "torch")


def require() -> None:
    """Raise if packages are missing; without torch alone, what it did elsewhere can still be compared with.

    Recording asks for nothing but torch, safetensors and NumPy.

    Raises:
        ImportError: Naming them, and what brings them.
    """
    missing = [package for package in EXTRA if find_spec(package) is None]
    if missing and missing != ["torch"]:
        raise ImportError(
            f"For 'parity', the packages {', '.join(EXTRA)} must be installed, but {', '.join(missing)} cannot be "
            "found: pip install 'ms_optim[parity]'"
        )


def __getattr__(name: str):
    if name != "record":  # which needs torch, where MindSpore need not be
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return importlib.import_module("parity.runs.torch").record
