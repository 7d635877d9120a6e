"""Exponential moving averages of parameters (Polyak and Juditsky 1992; Tarvainen and Valpola 2017, "Mean teachers")."""

from ms_optim.ema.average import EMA
from ms_optim.ema.follower import ParameterEMA
from ms_optim.ema.schedules import SCHEDULES, ema_weight

__all__ = ["EMA", "SCHEDULES", "ParameterEMA", "ema_weight"]
