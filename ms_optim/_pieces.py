"""Compiled steps of many parameters in several graphs, because the time of one grows with the square of its tensors."""

from typing import Any

import mindspore as ms
from mindspore import nn

# How many parameters are in one graph.
PIECE = 256


class _Numbers(nn.Cell):
    """What a step has of numbers, and which parameters move."""

    def __init__(self, optimizer):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer

    def construct(self, present):
        """Compute them."""
        return self.optimizer.numbers_of_step(present)


class _Rule(nn.Cell):
    """The rule on some of the parameters."""

    def __init__(self, optimizer, begin, end):
        super().__init__(auto_prefix=False)
        self.optimizer, self.begin, self.end = optimizer, begin, end
        self.laid_out = optimizer.lay_out(begin, end)

    def construct(self, gradients, rows, moves, present):
        """Apply it."""
        rows, moves = rows[self.begin : self.end], moves[self.begin : self.end]
        return self.optimizer.apply_rule(gradients, rows, moves, present, self.laid_out)


class _Weight(nn.Cell):
    """What an average takes of the values at a step, and whether it does."""

    def __init__(self, ema):
        super().__init__(auto_prefix=False)
        self.ema = ema

    def construct(self):
        """Compute it."""
        return self.ema.weight_of_step()


class _Average(nn.Cell):
    """Some of the averages."""

    def __init__(self, ema, begin, end):
        super().__init__(auto_prefix=False)
        self.ema, self.laid_out = ema, ema.lay_out(begin, end)

    def construct(self, weight, due):
        """Take them."""
        return self.ema.average_part(weight, due, self.laid_out)


def parts(count: int) -> list[tuple[int, int]]:
    """Where each graph begins and ends, of so many parameters; none where one is enough."""
    return [(begin, min(begin + PIECE, count)) for begin in range(0, count, PIECE)] if count > PIECE else []


class Steps:
    """The steps of an `Optimizer`: a graph for the numbers, and one for the rule on each piece."""

    def __init__(self, optimizer: nn.Optimizer):
        self._numbers = _Numbers(optimizer)
        self._rules = [_Rule(optimizer, *part) for part in optimizer.parted]

    def __call__(self, gradients: tuple, present: tuple[bool, ...]) -> tuple[bool, ...]:
        """Take one, of gradients that are there, or are numbers in the place of what is absent."""
        rows, moves = self._numbers.compile_and_run(present)
        done: tuple[bool, ...] = ()
        for rule in self._rules:
            some = slice(rule.begin, rule.end)
            done += rule.compile_and_run(ms.mutable(gradients[some]), rows, moves, present[some])
        return done


class Averages:
    """The steps of the averages of an `EMA`."""

    def __init__(self, ema: nn.Optimizer):
        self._weight = _Weight(ema)
        self._averages = [_Average(ema, *part) for part in ema.parted]

    def __call__(self) -> Any:
        """Take one."""
        weight, due = self._weight.compile_and_run()
        for some in self._averages:
            some.compile_and_run(weight, due)
