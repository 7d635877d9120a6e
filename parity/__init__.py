"""Compares optimizers of MindSpore with those of PyTorch, step by step: every parameter and every state slot."""

from importlib.util import find_spec

# The packages of the extra `parity`, which a plain installation of ms_optim does not bring.
EXTRA = ("hypothesis", "matplotlib", "rich", "sklearn", "torch")
_missing = [package for package in EXTRA if find_spec(package) is None]
if _missing and _missing != ["torch"]:  # without torch alone, what PyTorch did elsewhere can still be compared with
    raise ImportError(
        f"For 'parity', the packages {', '.join(EXTRA)} must be installed, but {', '.join(_missing)} cannot be found: "
        "pip install 'ms_optim[parity]'"
    )
