"""Runs the rules themselves on arrays of NumPy: their mathematics, with no arithmetic of a framework."""

from collections.abc import Callable, Collection, Mapping
from unittest.mock import patch

import numpy as np
from mindspore import Parameter, nn

from ms_optim import _math
from ms_optim._math import decide, is_near, lerp, way_of
from parity.cases.problems import Gradient, Problem, Rows
from parity.sides.arrays import Array, array, summed_in_order
from parity.sides.mindspore import parameters
from parity.sides.trace import Recorder, Trace

# How many elements the parameters that are taken as one have at most, each, on average.
SMALL = 4096


def run(build: Callable[[list[Parameter]], nn.Optimizer], problem: Problem, dtype: str = "float64") -> Trace:
    """The trace of the functions of the optimizer that `build` makes, applied to arrays.

    Numbers are float64 whatever the tensors are, and cast once, as in a compiled step.
    """
    optimizer = build(parameters(problem.initial))
    rule, recorder = rule_of(optimizer, dtype), Recorder()
    for gradients in problem.gradients:
        rule.step(gradients)
        recorder.add(rule.params, rule.state)
    return recorder.trace()


def rule_of(optimizer: nn.Optimizer, dtype: str, cls: type[nn.Optimizer] | None = None) -> "Rule":
    """What takes the steps of an optimizer of this library, from its parameters, state and numbers as they are now.

    `cls` is a class whose functions it has, or the one inside of an average, instead of its own.
    """
    if hasattr(optimizer, "averages"):
        return _Average(optimizer, Rule(optimizer.optimizer, dtype, cls))
    return Rule(optimizer, dtype, cls)


def shaken_of(optimizer: nn.Optimizer, seed: int, cls: type[nn.Optimizer] | None = None) -> "Rule":
    """The same in float32, and its roundings are others: those of a seed."""
    if hasattr(optimizer, "averages"):
        return _Average(optimizer, Shaken(optimizer.optimizer, seed, cls))
    return Shaken(optimizer, seed, cls)


class Rule:
    """`scalars` and `update` of an optimizer, over every parameter.

    Attributes:
        params (dict[str, Array]): The parameters, by name.
    """

    def __init__(self, optimizer, dtype, cls=None):
        self.optimizer, self.dtype = optimizer, np.dtype(dtype)
        self._functions = cls or type(optimizer)
        self.names = [param.name for param in optimizer.parameters]
        self.params = {param.name: array(param.asnumpy(), self.dtype) for param in optimizer.parameters}
        self._slots = {
            name: tuple(None if kept is None else array(kept.asnumpy(), self.dtype) for kept in row)
            for name, row in zip(self.names, optimizer.slot_table)
        }
        vectors = [name for name in optimizer.state.vectors if name != "step"]
        self._numbers = {name: array(kept.asnumpy()) for name, kept in zip(vectors, optimizer.scalar_state)}
        self._steps = array(optimizer.step_counts.asnumpy())
        weights = optimizer.lerp_weights  # of the numbers, and of the loss scale, which is none here
        self._weights = None if weights is None else array(weights.asnumpy())
        self.read_numbers()

    def read_numbers(self) -> None:
        """Take over the numbers of the optimizer as they are now."""
        optimizer = self.optimizer
        self._hyper = [array(values.asnumpy()[optimizer.group_of]) for values in optimizer.numbers]
        rates = np.array([group["lr"] for group in optimizer.param_groups], np.float64)
        self._rates = array(rates[optimizer.group_of])

    def store(self, dtype: str) -> None:
        """Round the parameters and the state of each to a dtype, and go on with what they are then."""

        def stored(value):
            return value if value is None else value.to(dtype).to(self.dtype)

        self.params = {name: stored(value) for name, value in self.params.items()}
        self._slots = {name: tuple(map(stored, kept)) for name, kept in self._slots.items()}

    def begin_anew(self, name: str | None = None, kinds: Collection[str] | None = None) -> None:
        """Give a parameter, or each, the state of before the first step: all of it, or slots and "step" by name."""
        optimizer = self.optimizer
        slots = [slot for slot in optimizer.slots if not slot.scalar]
        for i, own in enumerate(self.names):
            if name not in (None, own):
                continue
            group = optimizer.groups[optimizer.group_of[i]]
            self._slots[own] = tuple(
                array(np.full(kept.shape, slot.first(group, optimizer.kinds)), self.dtype)
                if kept is not None and (kinds is None or slot.name in kinds)
                else kept
                for slot, kept in zip(slots, self._slots[own])
            )
            for kind, numbers in {"step": self._steps, **self._numbers}.items():
                if kinds is None or kind in kinds:
                    numbers[i] = 0

    def step(self, gradients: Mapping[str, Gradient]) -> None:
        """Take a step; None is a gradient that is absent."""
        with np.errstate(all="ignore"):
            self._step(gradients)

    def _step(self, gradients):
        present = np.array([gradients[name] is not None for name in self.names])
        self._steps = self._steps + present
        numbers = self._functions.scalars(self._steps, *self._numbers.values(), self._rates, *self._hyper)
        self._numbers = {name: new.where(present, old) for (name, old), new in zip(self._numbers.items(), numbers)}
        rows = array(np.array(numbers[len(self._numbers) :]).T, self.dtype)
        rows, conditions = decide(rows, self.optimizer.conditions_read, self._weights)
        for places in self._at_once(gradients, np.flatnonzero(present).tolist()):
            if len(places) > 1:
                self._update_joined(places, gradients, rows, conditions)
            else:
                (i,) = places
                chosen = [condition[i] for condition in conditions]
                self._update(self.names[i], gradients[self.names[i]], rows[i], chosen, self.optimizer.flags[i])

    def _at_once(self, gradients, places):
        """Which parameters are taken as one: small ones that differ in numbers alone, if the rule goes by elements.

        Of those the calls of NumPy take longer than the arithmetic.
        """
        names = [self.names[i] for i in places]
        small = sum(self.params[name].size for name in names) <= SMALL * len(names)
        if not (self._functions.elementwise and small) or any(isinstance(gradients[name], Rows) for name in names):
            return [[i] for i in places]
        alike = {}
        for i, name in zip(places, names):
            has = tuple(kept is not None for kept in self._slots[name])
            alike.setdefault((self.optimizer.flags[i], has), []).append(i)
        return alike.values()

    def _update_joined(self, places, gradients, rows, conditions):
        """Update the parameters of some places, one behind the other."""
        names = [self.names[i] for i in places]
        shapes = [self.params[name].shape for name in names]
        sizes = [self.params[name].size for name in names]
        ends = np.cumsum(sizes).tolist()

        def joined(values):
            if values[0] is None:
                return None
            return array(np.concatenate([np.asarray(value, self.dtype).reshape(-1) for value in values]))

        def spread(columns):
            """Each number of a parameter for each of its elements, unless it is that of all."""
            same = (columns == columns[:, :1]).all(1)
            return [array(column[0] if one else column.repeat(sizes)) for column, one in zip(columns, same)]

        def parted(whole):
            if whole is None:
                return [None] * len(names)
            plain = np.asarray(whole)
            return [plain[end - size : end].reshape(shape).view(Array) for shape, size, end in zip(shapes, sizes, ends)]

        kept = tuple(map(joined, zip(*(self._slots[name] for name in names))))
        numbers = spread(np.asarray(rows)[places].T)
        chosen = spread(np.array(conditions)[:, places]) if conditions else ()
        flags = self.optimizer.flags[places[0]]
        param, kept = self._functions.update(
            joined([self.params[name] for name in names]),
            joined([gradients[name] for name in names]),
            kept,
            *numbers,
            *chosen,
            *flags,
        )
        self.params |= zip(names, parted(param))
        self._slots |= zip(names, zip(*map(parted, kept)) if kept else [()] * len(names))

    def _update(self, name, drawn, row, chosen, flags):
        touched, grad = _summed(drawn, self.dtype)
        whole = (self.params[name], *self._slots[name])
        param, *kept = (one if one is None or touched is None else one[touched] for one in whole)
        param, kept = self._functions.update(param, grad, tuple(kept), *row, *chosen, *flags)
        if touched is not None:
            param, *kept = (one if one is None else _put(one, touched, new) for one, new in zip(whole, (param, *kept)))
        self.params[name], self._slots[name] = param, tuple(kept)

    @property
    def state(self) -> dict[str, dict[str, Array]]:
        """What there is besides the parameters, by name and by slot."""
        numbers = {"step": self._steps, **self._numbers}
        return {
            name: {slot: kept for slot, kept in zip(self.optimizer.state.slots, self._slots[name]) if kept is not None}
            | {number: numbers[number][i] for number in self.optimizer.state.vectors}
            for i, name in enumerate(self.names)
        }


def _summed(drawn, dtype):
    """The rows that a gradient touches, or None for all, and the gradient of each."""
    if not isinstance(drawn, Rows):
        return None, array(drawn, dtype)
    touched, places = np.unique(drawn.indices, return_inverse=True)
    grad = np.zeros((len(touched), *drawn.values.shape[1:]), dtype)
    np.add.at(grad, places, drawn.values)
    return touched, array(grad)


def _put(whole, rows, values):
    """A copy with other rows."""
    whole = whole.copy()
    whole[rows] = values
    return whole


class Shaken(Rule):
    """A rule in float32 that rounds otherwise.

    After each step each element of its state moves by one unit in the last place, or by none, and its sums are those of
    one element after another in float32.
    """

    def __init__(self, optimizer, seed, cls=None):
        super().__init__(optimizer, "float32", cls)
        self._rng = np.random.default_rng(seed)

    def _step(self, gradients):
        with patch.object(_math, "sums_in_float64", False), summed_in_order():
            super()._step(gradients)
        for name, slots in self._slots.items():
            self._slots[name] = tuple(kept if kept is None else self.moved(kept) for kept in slots)

    def moved(self, kept: Array) -> Array:
        """A tensor whose elements are rounded otherwise."""
        units = self._rng.integers(-1, 2, kept.shape) * np.finfo(self.dtype).eps
        return array(kept * (1 + units), self.dtype)


class _Average:
    """The weight of an average and its interpolation, after the rule of the optimizer inside."""

    def __init__(self, ema, inner):
        self._ema, self._inner = ema, inner
        self._averages, self._steps = dict(self.params), array(0.0)
        self.read_numbers()

    @property
    def names(self):
        return self._inner.names

    @property
    def dtype(self):
        return self._inner.dtype

    @property
    def params(self):
        return self._inner.params

    def read_numbers(self):
        self._inner.read_numbers()
        self._decay = array(self._ema.decay.asnumpy())
        self._warmup = [array(number.asnumpy()) for number in self._ema.warmup]

    def step(self, gradients):
        self._inner.step(gradients)
        self._steps = self._steps + 1
        with np.errstate(all="ignore"):
            weight, due = self._ema.weight_at(self._steps, self._decay, self._warmup)
            weight = weight.to(self._inner.dtype)
            self._averages = {
                name: lerp(average, self.params[name], way_of(weight), is_near(weight)).where(due, average)
                for name, average in self._averages.items()
            }
            if isinstance(self._inner, Shaken):
                self._averages = {name: self._inner.moved(average) for name, average in self._averages.items()}

    @property
    def state(self):
        return {name: slots | {"ema": self._averages[name]} for name, slots in self._inner.state.items()}
