"""The optimizers of torch.optim, and those of NFNet, for MindSpore."""

from ms_optim.adam import Adam
from ms_optim.adamw import AdamW
from ms_optim.checkpoint import restore
from ms_optim.ema import EMA, ParameterEMA
from ms_optim.momentum_agc import MomentumAGC
from ms_optim.sgd import SGD

OPTIMIZERS = {
    "Adam": Adam,
    "AdamW": AdamW,
    "MomentumAGC": MomentumAGC,
    "SGD": SGD,
}

__all__ = ["EMA", "OPTIMIZERS", "SGD", "Adam", "AdamW", "MomentumAGC", "ParameterEMA", "restore"]
__version__ = "0.1.0"
