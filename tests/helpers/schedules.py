"""A case for each scheduler of torch, for both libraries; optimizers that they drive; what they change."""

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mindspore import Parameter, Tensor

from ms_optim import SGD, lr_scheduler
from ms_optim._groups import NOTES

TORCH = SimpleNamespace(**vars(torch.optim.lr_scheduler), SWALR=torch.optim.swa_utils.SWALR)
NAMES = [name for name in torch.optim.lr_scheduler.__all__ if name != "LRScheduler"] + ["SWALR"]
LRS = (0.1, 0.037)
STEPS = 1000
METRICS = np.random.default_rng(0).integers(-1, 2, STEPS).cumsum() / 10 + 3  # many are equal


class Fading:
    """A factor that depends on how often it was asked for, which is its state."""

    def __init__(self):
        self.asked = 0

    def __call__(self, epoch):
        """Fade with each question."""
        self.asked += 1
        return 0.999**self.asked


# The class and its arguments; for those made of others, theirs under "schedulers".
CASES = {
    "lambda": ("LambdaLR", dict(lr_lambda=lambda epoch: 0.99**epoch)),
    "lambda of each": ("LambdaLR", dict(lr_lambda=[lambda epoch: 1 / (1 + epoch), Fading()])),
    "multiplicative": ("MultiplicativeLR", dict(lr_lambda=lambda epoch: 1 - 1 / (2 + epoch))),
    "multiplicative of each": ("MultiplicativeLR", dict(lr_lambda=(lambda epoch: 0.999, Fading()))),
    "step": ("StepLR", dict(step_size=7)),
    "step 1": ("StepLR", dict(step_size=1, gamma=0.993)),
    "multi-step": ("MultiStepLR", dict(milestones=[50, 0, 3, 50, 999], gamma=0.3)),
    "constant": ("ConstantLR", dict()),
    "constant 0.3": ("ConstantLR", dict(factor=0.3, total_iters=600)),
    "linear": ("LinearLR", dict()),
    "linear down": ("LinearLR", dict(start_factor=0.9, end_factor=0.013, total_iters=333)),
    "linear to zero": ("LinearLR", dict(start_factor=0.7, end_factor=0.0, total_iters=700)),
    "exponential": ("ExponentialLR", dict(gamma=0.97)),
    "polynomial": ("PolynomialLR", dict()),
    "polynomial 0.9": ("PolynomialLR", dict(total_iters=900, power=0.9)),
    "cosine": ("CosineAnnealingLR", dict(T_max=1000)),
    "cosine up and down": ("CosineAnnealingLR", dict(T_max=37, eta_min=0.0123)),
    "cosine 1": ("CosineAnnealingLR", dict(T_max=1, eta_min=0.05)),
    "restarts": ("CosineAnnealingWarmRestarts", dict(T_0=10)),
    "longer restarts": ("CosineAnnealingWarmRestarts", dict(T_0=7, T_mult=3, eta_min=1e-4)),
    "cyclic": ("CyclicLR", dict(base_lr=0.01, max_lr=0.1, step_size_up=13)),
    "cyclic of each": (
        "CyclicLR",
        dict(
            base_lr=[0.01, 0.003],
            max_lr=[0.1, 0.2],
            step_size_up=20,
            step_size_down=31,
            mode="triangular2",
            base_momentum=[0.5, 0.6],
            max_momentum=[0.95, 0.7],
        ),
    ),
    "cyclic by iterations": (
        "CyclicLR",
        dict(
            base_lr=0.01,
            max_lr=0.1,
            step_size_up=9,
            step_size_down=0,
            mode="exp_range",
            gamma=0.997,
            cycle_momentum=False,
        ),
    ),
    "cyclic by a function": (
        "CyclicLR",
        dict(
            base_lr=0.01,
            max_lr=0.1,
            step_size_up=9,
            mode="unused",
            scale_fn=lambda step: 1 / (1 + step),
            scale_mode="iterations",
        ),
    ),
    "cyclic by an object": (
        "CyclicLR",
        dict(base_lr=0.01, max_lr=0.1, step_size_up=9, scale_fn=Fading(), cycle_momentum=False),
    ),
    "one cycle": ("OneCycleLR", dict(max_lr=0.2, total_steps=1000)),
    "one cycle of each": (
        "OneCycleLR",
        dict(
            max_lr=[0.2, 0.07],
            epochs=50,
            steps_per_epoch=20,
            pct_start=0.41,
            anneal_strategy="linear",
            base_momentum=[0.5, 0.6],
            max_momentum=0.9,
            div_factor=7,
            final_div_factor=33.0,
        ),
    ),
    "one cycle of three": ("OneCycleLR", dict(max_lr=0.2, total_steps=1000, three_phase=True, pct_start=0.37)),
    "one cycle without momentum": (
        "OneCycleLR",
        dict(max_lr=0.2, total_steps=1001, cycle_momentum=False, pct_start=0.0),
    ),
    "swa": ("SWALR", dict(swa_lr=0.005)),
    "swa of each": ("SWALR", dict(swa_lr=[0.005, 0.3], anneal_epochs=77, anneal_strategy="linear")),
    "swa at once": ("SWALR", dict(swa_lr=0.005, anneal_epochs=0)),
    "plateau": ("ReduceLROnPlateau", dict()),
    "plateau of max": (
        "ReduceLROnPlateau",
        dict(mode="max", factor=0.8, patience=3, threshold=0.02, cooldown=2, min_lr=[1e-3, 1e-2], eps=1e-5),
    ),
    "plateau by abs": (
        "ReduceLROnPlateau",
        dict(factor=0.9, patience=0, threshold=0.1, threshold_mode="abs", min_lr=1e-4),
    ),
    "plateau of max by abs": (
        "ReduceLROnPlateau",
        dict(mode="max", factor=0.9, patience=1, threshold=0.1, threshold_mode="abs"),
    ),
    "plateau of equal metrics": ("ReduceLROnPlateau", dict(factor=0.99, patience=0, threshold=0.0)),
    "warm-up, cosine": (
        "SequentialLR",
        dict(
            schedulers=[("LinearLR", dict(start_factor=0.01, total_iters=50)), ("CosineAnnealingLR", dict(T_max=950))],
            milestones=[50],
        ),
    ),
    "four in a row": (
        "SequentialLR",
        dict(
            schedulers=[
                ("ConstantLR", dict(factor=0.0, total_iters=90)),
                ("CosineAnnealingWarmRestarts", dict(T_0=10, T_mult=2)),
                ("SWALR", dict(swa_lr=0.01)),
                ("ExponentialLR", dict(gamma=0.99)),
            ],
            milestones=[20, 200, 300],
        ),
    ),
    "two of three": (
        "SequentialLR",
        dict(
            schedulers=[
                ("StepLR", dict(step_size=3)),
                ("LambdaLR", dict(lr_lambda=Fading())),
                ("PolynomialLR", dict(total_iters=100)),
            ],
            milestones=[0, 30],
        ),
    ),
    "chain": (
        "ChainedScheduler",
        dict(
            schedulers=[
                ("ConstantLR", dict(factor=0.1, total_iters=20)),
                ("ExponentialLR", dict(gamma=0.999)),
                ("CosineAnnealingLR", dict(T_max=1000, eta_min=1e-3)),
            ]
        ),
    ),
    "chain with a cycle": (
        "ChainedScheduler",
        dict(
            schedulers=[
                ("ExponentialLR", dict(gamma=0.9)),
                ("CyclicLR", dict(base_lr=0.01, max_lr=[0.3, 0.2], step_size_up=7)),
            ]
        ),
    ),
    "row in a chain": (
        "ChainedScheduler",
        dict(
            schedulers=(
                (
                    "SequentialLR",
                    dict(
                        schedulers=[("LinearLR", dict(total_iters=9)), ("StepLR", dict(step_size=30))], milestones=[9]
                    ),
                ),
                ("MultiplicativeLR", dict(lr_lambda=lambda epoch: 0.999)),
            )
        ),
    ),
    "chain, then polynomial": (
        "SequentialLR",
        dict(
            schedulers=[
                (
                    "ChainedScheduler",
                    dict(
                        schedulers=[
                            ("ConstantLR", dict(factor=0.5, total_iters=5)),
                            ("CosineAnnealingLR", dict(T_max=40)),
                            ("LinearLR", dict()),
                        ]
                    ),
                ),
                ("PolynomialLR", dict(total_iters=500, power=2.0)),
            ],
            milestones=[30],
        ),
    ),
    "row in a row": (
        "SequentialLR",
        dict(
            schedulers=[
                (
                    "SequentialLR",
                    dict(schedulers=[("LinearLR", dict()), ("ExponentialLR", dict(gamma=0.9))], milestones=[6]),
                ),
                ("OneCycleLR", dict(max_lr=0.3, total_steps=980)),
            ],
            milestones=[21],
        ),
    ),
}
MADE_OF_OTHERS = ("ChainedScheduler", "SequentialLR")
each_case = pytest.mark.parametrize("name", CASES)


def cycles_momentum(case):
    """Whether a scheduler, or a part of one, does."""
    cls, kwargs = case
    alone = cls in ("CyclicLR", "OneCycleLR") and kwargs.get("cycle_momentum", True)
    return alone or any(map(cycles_momentum, kwargs.get("schedulers", ())))


def build(lib, optimizer, case, **more):
    """The scheduler of a case: torch's or ours."""
    cls, kwargs = case
    if "schedulers" in kwargs:
        kwargs = {**kwargs, "schedulers": [build(lib, optimizer, part) for part in kwargs["schedulers"]]}
    else:
        kwargs = deepcopy(kwargs)
    first = () if cls == "ChainedScheduler" else (optimizer,)
    return getattr(lib, cls)(*first, **kwargs, **more)


def torch_optimizer(cls="SGD", lrs=LRS):
    """One of torch, with a group for each learning rate."""
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in lrs]
    return torch.optim.SGD(groups, momentum=0.9) if cls == "SGD" else torch.optim.Adam(groups)


def stand_in(cls="SGD", lrs=LRS):
    """What our schedulers see of one."""
    rest = dict(momentum=0.9) if cls == "SGD" else dict(betas=(0.9, 0.999))
    return SimpleNamespace(param_groups=[{"lr": lr, **rest} for lr in lrs])


def our_optimizer(cls=SGD, lrs=LRS, dtype=np.float64, **kwargs):
    """One of ours, with a group for each learning rate and a parameter, zero, in each."""
    params = [Parameter(Tensor(np.zeros(2, dtype)), name=f"group{i}") for i in range(len(lrs))]
    return cls([{"params": [param], "lr": lr} for param, lr in zip(params, lrs)], **kwargs)


def step(scheduler, count):
    """One step; the one that needs a metric gets one."""
    if hasattr(scheduler, "num_bad_epochs"):
        scheduler.step(METRICS[count])
    else:
        scheduler.step()


NUMBERS = ("lr", "momentum", "betas", *NOTES)


def numbers(optimizer):
    """What a scheduler may change of each group."""
    return [{key: group[key] for key in NUMBERS if key in group} for group in optimizer.param_groups]


def positive(groups):
    """The numbers of torch's groups, with zero for a learning rate that rounding took below."""
    return [{**group, "lr": 0.0 if -1e-15 < group["lr"] < 0 else group["lr"]} for group in groups]


def copy_groups(source, target):
    """Give the groups of one optimizer the numbers of another's."""
    for group, saved in zip(target.param_groups, numbers(source)):
        for key, value in saved.items():
            group[key] = value


def host_driven(case, steps):
    """What a scheduler gives on the host."""
    optimizer = stand_in(lrs=LRS[:1])
    scheduler, lrs = build(lr_scheduler, optimizer, case), []
    for _ in range(steps):
        lrs.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    return lrs
