"""Learning rates of groups: numbers, tables and schedules, as float64 wherever they start as Python numbers."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn
from mindspore.nn.learning_rate_schedule import LearningRateSchedule

from ms_optim import _compiled
from ms_optim._host import Memory
from ms_optim._values import float64_parameter, held, write
from ms_optim.arguments import Kind

LearningRate: TypeAlias = float | Iterable[float] | Tensor | LearningRateSchedule


def look_up(table, step):
    """What a table has for a step, in a graph, with an axis of one step: its last holds."""
    return table.gather(step.clip(None, table.shape[0] - 1), 0)


class Table(LearningRateSchedule):
    """One learning rate per step; the last one holds."""

    def __init__(self, table):
        super().__init__()
        self.learning_rate = table

    def construct(self, global_step):
        """Look this step up."""
        return look_up(self.learning_rate, global_step)


class Constant(LearningRateSchedule):
    """A learning rate that is set, among groups that follow a schedule."""

    def __init__(self, learning_rate):
        super().__init__()
        self.learning_rate = learning_rate

    def construct(self, global_step):
        """Give the same at every step."""
        return self.learning_rate


def _source(rate, name):
    """A float64 Parameter for a number, a schedule for a list of them; a schedule as it is."""
    if isinstance(rate, LearningRateSchedule):
        return rate
    return Table(float64_parameter(rate, name)) if isinstance(rate, list) else float64_parameter(rate, name)


def _is_foreign(source):
    """Whether a source is a schedule of MindSpore's or of a user's."""
    return not isinstance(source, (Parameter, Constant, Table))


class Rates:
    """The learning rate of each group.

    Groups that were not made with a rate of their own share one, `learning_rate`, which is that of the first of them.
    What another of them is set to later is in a vector beside it, in which NaN stands for the shared one: MindSpore's
    callbacks, which write `learning_rate`, move those that follow it.

    Args:
        owner: What errors name.
        kind: What each may be at a step.
        groups: Checked groups.
        own: Which groups were made with a rate of their own.
        global_step: What schedules are at.

    Attributes:
        sources: A Parameter or a schedule for each group; Parameters all, or schedules all.
        later: The vector, or None where no two groups share a rate.
        is_dynamic: Whether the sources are schedules.
    """

    def __init__(self, owner: str, kind: Kind, groups: Sequence[dict], own: Sequence[bool], global_step: Parameter):
        self._owner, self._kind = owner, kind
        self.own, self._global_step = own, global_step
        self.sharing = [i for i, has_own in enumerate(own) if not has_own]
        shared = _source(groups[self.sharing[0]]["lr"], "learning_rate") if self.sharing else None
        sources: list[Any] = [
            _source(group["lr"], f"learning_rate_group_{i}") if has_own else shared
            for i, (group, has_own) in enumerate(zip(groups, own))
        ]
        self.is_dynamic = any(isinstance(source, nn.Cell) for source in sources)
        if self.is_dynamic:
            constants = {id(source): Constant(source) for source in sources if isinstance(source, Parameter)}
            sources = [constants.get(id(source), source) for source in sources]
        self.sources = sources
        shares = len(self.sharing) > 1 and not self.scheduled(self.sharing[0])
        self.later = float64_parameter([np.nan] * len(groups), "optimizer.lr") if shares else None
        kept = [getattr(source, "learning_rate", source) for source in sources if not _is_foreign(source)]
        self._memory = Memory([global_step, *kept, *([self.later] if shares else [])])

    def learning_rate(self, group_of: Sequence[int]) -> Parameter | nn.Cell | tuple:
        """What `nn.Optimizer` calls so: one for all, or one for each parameter if a group was made with its own."""
        if not any(self.own):
            return self.sources[0]
        each = [self.sources[i] for i in group_of]
        return nn.CellList(each, auto_prefix=False) if self.is_dynamic else ParameterTuple(each)

    def scheduled(self, index: int) -> bool:
        """Whether the rate of a group follows a schedule in the graph."""
        return not isinstance(self.sources[index], (Parameter, Constant))

    def given(self, index: int) -> LearningRate:
        """The rate of a group as it is given to an optimizer: a number, a list with one for each step, or a schedule.

        The list is what the steps read, which a checkpoint may have changed.
        """
        if not self.scheduled(index):
            return self.number(index)
        source = self.sources[index]
        return source.learning_rate.asnumpy().tolist() if isinstance(source, Table) else source

    def number(self, index: int) -> float:
        """The rate of a group that is on no schedule."""
        later = np.nan if self.later is None else self.later.asnumpy()[index]
        return float(self._parameter(index).asnumpy() if np.isnan(later) else later)

    def current(self, index: int) -> float:
        """The rate of a group at the step that comes."""
        if not self.scheduled(index):
            return self.number(index)
        return self._given_by(self.sources[index](self._global_step))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise unless what a schedule gives is one number, as a graph finds when it is compiled.

        Raises:
            ValueError: If it is not.
        """
        if math.prod(shape) != 1:
            raise ValueError(
                f"For '{self._owner}', 'lr' must be a schedule that gives one number for a step, but got one that "
                f"gives a Tensor of the shape {tuple(shape)}."
            )

    def _given_by(self, given):
        """What a schedule gives at a step, as a float."""
        self.check_shape(given.shape)
        return float(given.asnumpy().item())

    def _at(self, place, source, number):
        """What a source gives at a step, with the dtypes of a graph; `number` is what it keeps."""
        if number is None:
            given = self._given_by(_compiled.call(source, Tensor(place.copy())))
            return self._kind.check(self._owner, f"lr[{place.item()}]", given)
        return held(number, place.item()) if isinstance(source, Table) else number.item()

    def on_host(self) -> np.ndarray:
        """The rate of each group at the step that comes, from memory; schedules of a user's are run.

        Raises:
            ValueError: If such a schedule gives what is no learning rate.
        """
        place, *kept = self._memory.arrays()
        later = None if self.later is None else kept.pop()
        numbers = iter(kept)
        rates = np.array(
            [self._at(place, source, None if _is_foreign(source) else next(numbers)) for source in self.sources]
        )
        return rates if later is None else np.where(np.isnan(later), rates, later)

    def set(self, index: int, rate: float) -> None:
        """Change the rate of a group, and of no other."""
        parameter = self._parameter(index)
        if self.later is not None and not self.own[index]:
            before, later = float(parameter.asnumpy()), self.later.asnumpy().copy()
            shared = rate if index == self.sharing[0] else before
            for i in self.sharing[1:]:
                now = rate if i == index else before if np.isnan(later[i]) else later[i]
                later[i] = np.nan if now == shared else now
            write(self.later, Tensor(later))
            rate = shared
        write(parameter, Tensor(rate, parameter.dtype))

    def _parameter(self, index):
        source = self.sources[index]
        return source.learning_rate if isinstance(source, Constant) else source
