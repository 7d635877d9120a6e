"""Weights, optimizer state and averages from torch (2.13) to MindSpore and back, by the names of the parameters."""

from ms_optim.convert.files import load
from ms_optim.convert.names import ParameterMap, Row, parameter_map
from ms_optim.convert.stand_ins import Unread
from ms_optim.convert.transfer import to_mindspore, to_torch

__all__ = ["ParameterMap", "Row", "Unread", "load", "parameter_map", "to_mindspore", "to_torch"]
