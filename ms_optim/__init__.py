"""The optimizers of torch.optim, and those of NFNet, for MindSpore."""

from ms_optim import _versions  # noqa: F401  # first: it refuses versions that are known to fail
from ms_optim import lr_scheduler as lr_scheduler
from ms_optim.adadelta import Adadelta
from ms_optim.adafactor import Adafactor
from ms_optim.adagrad import Adagrad
from ms_optim.adam import Adam
from ms_optim.adamax import Adamax
from ms_optim.adamw import AdamW
from ms_optim.asgd import ASGD
from ms_optim.checkpoint import restore, save
from ms_optim.ema import EMA, ParameterEMA
from ms_optim.lbfgs import LBFGS
from ms_optim.lion import Lion
from ms_optim.momentum_agc import MomentumAGC
from ms_optim.muon import Muon
from ms_optim.nadam import NAdam
from ms_optim.optimizer import Optimizer
from ms_optim.radam import RAdam
from ms_optim.resuming import RandomState, resume
from ms_optim.rmsprop import RMSprop
from ms_optim.rprop import Rprop
from ms_optim.sgd import SGD
from ms_optim.slot import Slot
from ms_optim.sparse_adam import SparseAdam
from ms_optim.stopping import StopRequest

OPTIMIZERS = {
    "ASGD": ASGD,
    "Adadelta": Adadelta,
    "Adafactor": Adafactor,
    "Adagrad": Adagrad,
    "Adam": Adam,
    "AdamW": AdamW,
    "Adamax": Adamax,
    "LBFGS": LBFGS,
    "Lion": Lion,
    "MomentumAGC": MomentumAGC,
    "Muon": Muon,
    "NAdam": NAdam,
    "RAdam": RAdam,
    "RMSprop": RMSprop,
    "Rprop": Rprop,
    "SGD": SGD,
    "SparseAdam": SparseAdam,
}

__all__ = [
    "ASGD",
    "EMA",
    "LBFGS",
    "OPTIMIZERS",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "MomentumAGC",
    "Muon",
    "NAdam",
    "Optimizer",
    "ParameterEMA",
    "RAdam",
    "RMSprop",
    "RandomState",
    "Rprop",
    "Slot",
    "SparseAdam",
    "StopRequest",
    "restore",
    "resume",
    "save",
]
__version__ = "0.1.0"
