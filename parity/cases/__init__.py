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
        rank: How many axes the parameters have that it takes; None is any.
        sparse: Whether it takes sparse gradients, and no others.
        noise: What the rule's own rounding may do to the parameters, relative to the largest magnitude.
    """

    optimizer: str
    reference: str
    kwargs: dict
    groups: tuple[tuple[str, dict], ...] = ()
    inner: "Case | None" = None
    rank: int | None = None
    sparse: bool = False
    noise: float = 0.0

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


def _cases(optimizer, *grid, **options):
    """The cases of an optimizer that torch has."""
    return tuple(Case(optimizer, f"torch.optim.{optimizer}", kwargs, **options) for kwargs in grid)


CASES: dict[str, tuple[Case, ...]] = {
    "ASGD": _cases(
        "ASGD",
        {},
        {"lr": 0.1, "lambd": 0.2, "alpha": 0.6, "t0": 8, "weight_decay": 0.1},
        {"lr": 0.05, "lambd": 0.5, "alpha": 1.5, "t0": 0, "weight_decay": 0.3, "maximize": True},
    ),
    "Adadelta": _cases(
        "Adadelta",
        {},
        {"lr": 0.5, "rho": 0.5, "eps": 1e-3, "weight_decay": 0.3},
        {"lr": 2.0, "rho": 0.99999, "eps": 1e-8, "weight_decay": 0.1, "maximize": True},
        {"lr": 0.1, "rho": 0.0, "eps": 1e-2},
    ),
    "Adafactor": _cases(
        "Adafactor",
        {"eps": (1e-7, 1e-3)},  # None is 2**-23 in float32 and 2**-52 in float64: no truth to judge by
        {"lr": 0.3, "beta2_decay": -0.3, "eps": (1e-2, 0.3), "d": 1.5, "weight_decay": 0.2},
        {"lr": 0.1, "beta2_decay": -1.0, "eps": (1e-5, 1e-2), "d": 4.0, "weight_decay": 0.6, "maximize": True},
        {"lr": 0.05, "beta2_decay": 0.0, "eps": (0.0, 0.0), "d": 1.0},
    ),
    "Adagrad": _cases(
        "Adagrad",
        {},
        {"lr": 0.1, "lr_decay": 0.2, "initial_accumulator_value": 0.5, "eps": 1e-3, "weight_decay": 0.3},
        {"lr": 0.5, "lr_decay": 0.01, "eps": 1e-2, "weight_decay": 0.1, "maximize": True},
    ),
    "Adam": _cases("Adam", *_ADAM_GRID, {"lr": 0.03, "weight_decay": 0.6, "decoupled_weight_decay": True}),
    "Adamax": _cases("Adamax", *_ADAM_GRID[:4]),
    "AdamW": (
        *_cases("AdamW", *_ADAM_GRID),
        Case(
            "AdamW",
            "torch.optim.AdamW",
            {"lr": 0.03, "weight_decay": 0.6},
            groups=(
                ("*.weight", {"lr": 1e-7, "betas": (0.7, 0.95), "eps": 1e-2, "amsgrad": True}),
                ("*.b*", {"weight_decay": 0.0, "maximize": True}),
            ),
        ),
    ),
    "EMA": (
        Case("EMA", "parity.references.EMA", {}, inner=_SGD),
        Case("EMA", "parity.references.EMA", {"decay": 0.99999, "schedule": "averaged_model"}, inner=_SGD),
        Case(
            "EMA",
            "parity.references.EMA",
            {"decay": 0.9, "schedule": "timm", "gamma": 3.0, "power": 0.8, "min_decay": 0.3, "update_after_step": 4},
            inner=_SGD,
        ),
        Case("EMA", "parity.references.EMA", {"decay": 0.7, "update_after_step": 3}, inner=_SGD),
        Case("EMA", "parity.references.EMA", {"decay": 0.6, "schedule": "torch_ema", "update_every": 3}, inner=_SGD),
        Case("EMA", "parity.references.EMA", {"decay": 0.9999, "schedule": "yolov5"}, inner=_ADAMW),
        Case("EMA", "parity.references.EMA", {"decay": 0.95, "schedule": "zero_start"}, inner=_ADAMW),
    ),
    "MomentumAGC": (
        Case("MomentumAGC", "parity.references.SGDAGC", {}),
        Case(
            "MomentumAGC",
            "parity.references.SGDAGC",
            {"lr": 0.1, "momentum": 0.95, "dampening": 0.3, "weight_decay": 0.2, "clipping": 0.3, "clip_eps": 0.5},
        ),
        Case(
            "MomentumAGC",
            "parity.references.SGDAGC",
            {
                "lr": 0.05,
                "momentum": 0.8,
                "nesterov": True,
                "weight_decay": 0.1,
                "clipping": 0.05,
                "clip_eps": 1e-2,
                "exempt": ("fc.*", "*gain"),
                "unit": "squeezed",
            },
        ),
        Case(
            "MomentumAGC",
            "parity.references.SGDAGC",
            {"lr": 0.1, "momentum": 0.0, "clipping": 2.0, "weight_decay": 0.3, "maximize": True, "unit": "squeezed"},
            groups=(("*.weight", {"clipping": 0.1, "unit": "output"}), ("*.b*", {"clipping": 0.0, "lr": 0.02})),
        ),
    ),
    # torch rounds to bfloat16 after each product, in an order of summation that depends on the processor, and a
    # rounding that falls the other way changes what follows.
    "Muon": _cases(
        "Muon",
        {},
        {"lr": 0.2, "weight_decay": 0.5, "momentum": 0.8, "nesterov": False, "adjust_lr_fn": "match_rms_adamw"},
        {
            "lr": 1.0,
            "momentum": 0.5,
            "ns_coefficients": (2.0, -1.5, 0.5),
            "eps": 1e-3,
            "ns_steps": 2,
            "adjust_lr_fn": "original",
        },
        rank=2,
        noise=1e-3,
    ),
    "NAdam": _cases(
        "NAdam",
        *_ADAM_GRID[:3],
        # With an eps as small as Adam's here, torch's float64 run itself multiplies a change of 1e-15 by 500.
        {"lr": 0.1, "betas": (0.99, 0.9), "eps": 1e-2, "weight_decay": 0.3, "maximize": True},
        {"lr": 0.03, "momentum_decay": 0.3, "weight_decay": 0.6, "decoupled_weight_decay": True},
    ),
    "RAdam": _cases(
        "RAdam",
        *_ADAM_GRID[:4],
        {"lr": 0.03, "betas": (0.5, 0.9), "weight_decay": 0.6, "decoupled_weight_decay": True},
    ),
    "RMSprop": _cases(
        "RMSprop",
        {},
        {"lr": 0.05, "alpha": 0.5, "eps": 1e-3, "weight_decay": 0.3, "momentum": 0.9},
        {"lr": 0.02, "alpha": 0.9, "eps": 1e-2, "weight_decay": 0.1, "centered": True, "maximize": True},
        {"lr": 0.01, "alpha": 0.99999, "eps": 1e-4, "momentum": 0.5, "centered": True},
    ),
    "Rprop": _cases(
        "Rprop",
        {},
        {"lr": 0.5, "etas": (0.3, 1.7), "step_sizes": (1e-2, 2.0)},
        {"lr": 0.4, "etas": (0.9, 1.1), "step_sizes": (0.05, 0.3), "maximize": True},
    ),
    "SGD": (
        *_cases("SGD", {}, *_MOMENTUM_GRID),
        Case(
            "SGD",
            "torch.optim.SGD",
            {"lr": 0.1, "momentum": 0.9},
            groups=(("*.weight", {"momentum": 0.0}), ("*.b*", {"lr": 0.01, "nesterov": True})),
        ),
    ),
    "SparseAdam": (
        *_cases(
            "SparseAdam",
            {},
            {"lr": 0.05, "betas": (0.8, 0.99999), "eps": 1e-3},
            {"lr": 0.1, "betas": (0.999, 0.9), "eps": 1e-2, "maximize": True},
            sparse=True,
        ),
        Case(
            "SparseAdam",
            "torch.optim.SparseAdam",
            {"lr": 0.03},
            sparse=True,
            groups=(("*.weight", {"lr": 1e-5, "betas": (0.7, 0.95), "eps": 1e-2}), ("*.b*", {"eps": 1e-4})),
        ),
    ),
}

# Those whose step takes a closure.
MINIMIZERS: dict[str, tuple[Case, ...]] = {
    "LBFGS": _cases(
        "LBFGS",
        {"lr": 0.3, "max_iter": 5},  # without a search, steps of length 1 leave the valley
        {"max_iter": 5, "line_search_fn": "strong_wolfe"},
    ),
}

# How each optimizer trains a real network: the network in `parity.cases.networks` and the case.
RECIPES: tuple[tuple[str, Case], ...] = (
    *(
        ("transformer", case)
        for case in (
            *_cases("ASGD", {"lr": 0.1, "t0": 100.0, "weight_decay": 1e-4}),
            *_cases("Adafactor", {"lr": 1e-2, "eps": (1e-7, 1e-3)}),
            *_cases("Adagrad", {"lr": 0.02}),
            *_cases("Adam", {"lr": 2e-3}),
            Case(
                "AdamW",
                "torch.optim.AdamW",
                {"lr": 2e-3, "betas": (0.9, 0.95), "weight_decay": 0.05},
                groups=(("*.bias", {"weight_decay": 0.0}), ("*norm*", {"weight_decay": 0.0})),
            ),
            *_cases("Adamax", {"lr": 4e-3}),
            *_cases("Muon", {"lr": 0.02}, rank=2, noise=1e-3),
            *_cases("NAdam", {"lr": 2e-3}),
            *_cases("RAdam", {"lr": 2e-3}),
        )
    ),
    *(
        ("nfnet", case)
        for case in (
            *_cases("Adadelta", {"lr": 1.0}),
            Case(
                "EMA",
                "parity.references.EMA",
                {"decay": 0.99, "schedule": "timm"},
                inner=Case("AdamW", "torch.optim.AdamW", {"lr": 2e-3}),
            ),
            Case(
                "MomentumAGC",
                "parity.references.SGDAGC",
                {
                    "lr": 0.05,
                    "momentum": 0.9,
                    "nesterov": True,
                    "weight_decay": 2e-5,
                    "clipping": 0.05,
                    "exempt": ("head.weight",),
                },
                groups=(("*.gain", {"weight_decay": 0.0}), ("*.bias", {"weight_decay": 0.0})),
            ),
            *_cases("RMSprop", {"lr": 1e-3, "momentum": 0.9}),
            *_cases("Rprop", {"lr": 1e-3, "step_sizes": (1e-6, 1e-2)}),
            *_cases("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}),
        )
    ),
)
