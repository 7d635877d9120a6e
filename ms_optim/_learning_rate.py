"""Learning rates: numbers, tables and schedules, as float64 wherever they start as Python numbers."""

from collections.abc import Iterable, Mapping

import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore.nn.learning_rate_schedule import LearningRateSchedule

from ms_optim.arguments import RANGES, number_in

LearningRate = float | Iterable[float] | Tensor | LearningRateSchedule


def learning_rate_source(
    owner: str, value: LearningRate, name: str, argument: str = "lr"
) -> Parameter | LearningRateSchedule:
    """A float64 Parameter for a number, a schedule for a table of numbers; a schedule is kept as it is.

    Raises:
        TypeError, ValueError: If the value of `argument` is none of these, or a number is out of range.
    """
    if isinstance(value, LearningRateSchedule):
        return value
    kind = f"a number in {RANGES['lr']}, a list or 1-d Tensor of them or a LearningRateSchedule"
    if isinstance(value, (Tensor, np.ndarray)):
        if value.ndim > 1:
            raise ValueError(f"For '{owner}', '{argument}' must be {kind}, but got {value.ndim} dimensions.")
        value = value.tolist() if isinstance(value, np.ndarray) else value.asnumpy().tolist()
    listed = isinstance(value, Iterable) and not hasattr(value, "__float__")
    if listed and not isinstance(value, (str, bytes, Mapping, set, frozenset)):
        table = [number_in(owner, f"{argument}[{i}]", item, RANGES["lr"]) for i, item in enumerate(value)]
        if not table:
            raise ValueError(f"For '{owner}', '{argument}' must be {kind}, but got an empty list.")
        return Table(float64_parameter(table, name))
    if isinstance(value, nn.Cell) or callable(value):
        raise TypeError(f"For '{owner}', '{argument}' must be {kind}, but got {value!r}.")
    return float64_parameter(number_in(owner, argument, value, RANGES["lr"]), name)


def float64_parameter(value: float | list | np.ndarray, name: str) -> Parameter:
    """Numbers that a graph reads at every step; a Python float in a graph would be a float32."""
    return Parameter(Tensor(np.array(value, np.float64)), name=name, requires_grad=False)


class Table(LearningRateSchedule):
    """One learning rate per step; the last one holds."""

    def __init__(self, table):
        super().__init__()
        self.learning_rate = table
        self.last = table.shape[0] - 1

    def construct(self, global_step):
        """Look this step up."""
        return self.learning_rate.gather(global_step.clip(None, self.last), 0)


class Constant(LearningRateSchedule):
    """A learning rate that only `ops.assign` changes, among groups that follow a schedule."""

    def __init__(self, learning_rate):
        super().__init__()
        self.learning_rate = learning_rate

    def construct(self, global_step):
        """Give the same at every step."""
        return self.learning_rate
