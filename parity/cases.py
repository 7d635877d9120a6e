"""The cases: each optimizer, its PyTorch reference, and a grid in which every argument is once where it shows.

A case passes the same keyword arguments to both sides. This is the one file to edit when an optimizer is added.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, eq=False)
class Case:
    """One optimizer with one set of arguments.

    Args:
        optimizer: The name in `ms_optim`.
        reference: Where the PyTorch class is, such as "torch.optim.SGD".
        kwargs: The arguments of both.
        groups: fnmatch patterns on parameter names and what the group overrides; the rest is the first group.
        inner: The case whose optimizer this one wraps.
    """

    optimizer: str
    reference: str
    kwargs: dict
    groups: tuple[tuple[str, dict], ...] = ()
    inner: "Case | None" = None

    def __str__(self) -> str:
        arguments = [str(self.inner)] if self.inner else []
        arguments += [f"{key}={value}" for key, value in self.kwargs.items()]
        arguments += [f"{pattern!r}: {overrides}" for pattern, overrides in self.groups]
        return f"{self.optimizer}({', '.join(arguments)})"

    def split(self, names: Iterable[str]) -> list[tuple[list[str], dict]]:
        """The names of each group and what it overrides; a name goes to the first pattern that it matches."""
        members = [([], overrides) for overrides in ({}, *(overrides for _, overrides in self.groups))]
        for name in names:
            hits = [i for i, (pattern, _) in enumerate(self.groups, 1) if fnmatchcase(name, pattern)]
            members[min(hits, default=0)][0].append(name)
        return [(group, overrides) for group, overrides in members if group]


_ADAM_GRID = (
    {},
    {"lr": 0.05, "betas": (0.8, 0.99999), "eps": 1e-3},
    {"lr": 0.01, "betas": (0.0, 0.5), "eps": 1e-6, "weight_decay": 0.7},
    {"lr": 0.1, "betas": (0.999, 0.9), "eps": 1e-12, "weight_decay": 0.3, "maximize": True},
    {"lr": 0.02, "betas": (0.5, 0.7), "eps": 1e-4, "weight_decay": 0.5, "amsgrad": True},
)
_MOMENTUM_GRID = (
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.05, "momentum": 0.95, "dampening": 0.4, "weight_decay": 0.3},
    {"lr": 0.02, "momentum": 0.8, "nesterov": True, "weight_decay": 0.2},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.5, "maximize": True},
    {"lr": 0.3, "momentum": 0.0, "dampening": 0.6, "weight_decay": 0.2},
)
_SGD = Case("SGD", "torch.optim.SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True})
_ADAMW = Case("AdamW", "torch.optim.AdamW", {"lr": 0.05, "betas": (0.8, 0.99), "weight_decay": 0.3})
CASES: dict[str, tuple[Case, ...]] = {
    "Adam": (
        *(Case("Adam", "torch.optim.Adam", kwargs) for kwargs in _ADAM_GRID),
        Case("Adam", "torch.optim.Adam", {"lr": 0.03, "weight_decay": 0.6, "decoupled_weight_decay": True}),
    ),
    "AdamW": (
        *(Case("AdamW", "torch.optim.AdamW", kwargs) for kwargs in _ADAM_GRID),
        Case("AdamW", "torch.optim.AdamW", {"lr": 0.03, "weight_decay": 0.6},
             groups=(("*.weight", {"lr": 1e-7, "betas": (0.7, 0.95), "eps": 1e-2, "amsgrad": True}),
                     ("*.b*", {"weight_decay": 0.0, "maximize": True}))),
    ),
    "EMA": (
        Case("EMA", "parity.references.EMA", {}, inner=_SGD),
        Case("EMA", "parity.references.EMA", {"decay": 0.99999, "schedule": "averaged_model"}, inner=_SGD),
        Case("EMA", "parity.references.EMA",
             {"decay": 0.9, "schedule": "timm", "gamma": 3.0, "power": 0.8, "min_decay": 0.3, "update_after_step": 4},
             inner=_SGD),
        Case("EMA", "parity.references.EMA", {"decay": 0.7, "update_after_step": 3}, inner=_SGD),
        Case("EMA", "parity.references.EMA", {"decay": 0.6, "schedule": "torch_ema", "update_every": 3}, inner=_SGD),
        Case("EMA", "parity.references.EMA", {"decay": 0.9999, "schedule": "yolov5"}, inner=_ADAMW),
        Case("EMA", "parity.references.EMA", {"decay": 0.95, "schedule": "zero_start"}, inner=_ADAMW),
    ),
    "MomentumAGC": (
        Case("MomentumAGC", "parity.references.SGDAGC", {}),
        Case("MomentumAGC", "parity.references.SGDAGC",
             {"lr": 0.1, "momentum": 0.95, "dampening": 0.3, "weight_decay": 0.2, "clipping": 0.3, "clip_eps": 0.5}),
        Case("MomentumAGC", "parity.references.SGDAGC",
             {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1, "clipping": 0.05, "clip_eps": 1e-2,
              "exempt": ("fc.*", "*gain"), "unit": "squeezed"}),
        Case("MomentumAGC", "parity.references.SGDAGC",
             {"lr": 0.1, "momentum": 0.0, "clipping": 2.0, "weight_decay": 0.3, "maximize": True, "unit": "squeezed"},
             groups=(("*.weight", {"clipping": 0.1, "unit": "output"}), ("*.b*", {"clipping": 0.0, "lr": 0.02}))),
    ),
    "SGD": (
        Case("SGD", "torch.optim.SGD", {}),
        *(Case("SGD", "torch.optim.SGD", kwargs) for kwargs in _MOMENTUM_GRID),
        Case("SGD", "torch.optim.SGD", {"lr": 0.1, "momentum": 0.9},
             groups=(("*.weight", {"momentum": 0.0}), ("*.b*", {"lr": 0.01, "nesterov": True}))),
    ),
}

# How each optimizer trains a real network: the network in `parity.models` and the case.
RECIPES: tuple[tuple[str, Case], ...] = (
    ("transformer", Case("Adam", "torch.optim.Adam", {"lr": 2e-3})),
    ("transformer", Case("AdamW", "torch.optim.AdamW", {"lr": 2e-3, "betas": (0.9, 0.95), "weight_decay": 0.05},
                         groups=(("*.bias", {"weight_decay": 0.0}), ("*norm*", {"weight_decay": 0.0})))),
    ("nfnet", Case("EMA", "parity.references.EMA", {"decay": 0.99, "schedule": "timm"},
                   inner=Case("AdamW", "torch.optim.AdamW", {"lr": 2e-3}))),
    ("nfnet", Case("MomentumAGC", "parity.references.SGDAGC",
                   {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 2e-5, "clipping": 0.05,
                    "exempt": ("head.weight",)},
                   groups=(("*.gain", {"weight_decay": 0.0}), ("*.bias", {"weight_decay": 0.0})))),
    ("nfnet", Case("SGD", "torch.optim.SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4})),
)
