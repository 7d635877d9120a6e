"""The schedulers of torch.optim.lr_scheduler, torch's SWALR, and the schedules of transformers.

On the host a scheduler sets the numbers of an optimizer's groups between its steps, and nothing compiles again:

>>> from mindspore import nn
>>> from ms_optim import SGD
>>> from ms_optim.lr_scheduler import StepLR, table
>>> params = nn.Dense(2, 3).trainable_params()
>>> optimizer = SGD(params, lr=0.5)
>>> scheduler = StepLR(optimizer, step_size=30)
>>> scheduler.step()  # after an epoch, or a step; in Model.train `SchedulerCallback` does it

In the graph, as for data sink, the optimizer reads a table that a scheduler has filled:

>>> optimizer = SGD(params, lr=table(lambda optimizer: StepLR(optimizer, step_size=30), lr=0.5, steps=90))
"""

from ms_optim.lr_scheduler.annealing import SWALR, CosineAnnealingLR, CosineAnnealingWarmRestarts
from ms_optim.lr_scheduler.base import LRScheduler
from ms_optim.lr_scheduler.callback import SchedulerCallback
from ms_optim.lr_scheduler.composed import ChainedScheduler, SequentialLR
from ms_optim.lr_scheduler.cycles import CyclicLR
from ms_optim.lr_scheduler.one_cycle import OneCycleLR
from ms_optim.lr_scheduler.plateau import ReduceLROnPlateau
from ms_optim.lr_scheduler.simple import (
    ConstantLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from ms_optim.lr_scheduler.tables import table
from ms_optim.lr_scheduler.warmups import (
    get_constant_schedule,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_cosine_with_hard_restarts_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

__all__ = [
    "SWALR",
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SchedulerCallback",
    "SequentialLR",
    "StepLR",
    "get_constant_schedule",
    "get_constant_schedule_with_warmup",
    "get_cosine_schedule_with_warmup",
    "get_cosine_with_hard_restarts_schedule_with_warmup",
    "get_linear_schedule_with_warmup",
    "table",
]
