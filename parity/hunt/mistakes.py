"""Mistakes that a training may make besides those of a rule: in arguments, schedules, decay or gradients."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from types import FunctionType
from typing import Any

import numpy as np

from ms_optim import OPTIMIZERS
from ms_optim._groups import HOW
from ms_optim.arguments import Choice, Whole
from parity.cases import ENTRIES, Mutant
from parity.cases.problems import Rows
from parity.runs.files import Mapped, Run
from parity.runs.follow import Prepare
from parity.runs.problems import OF_ALL
from parity.sides.arrays import array

# What the numbers of a training usually are, besides the defaults.
DECAYS, EPSILONS, NORMS = (
    (0.9, 0.95, 0.99, 0.999),
    (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10),
    (0.1, 0.5, 1.0, 5.0, 10.0),
)

Alter = Callable[[Run], Run]


@dataclass(frozen=True)
class Mistake:
    """What may be wrong with a training: edits of the rule, other numbers, other gradients.

    Args:
        words: What it is; of several, of each.
        mutants: The edits.
        change: What it makes of the class, after the edits.
        alter: What it makes of the numbers of a run.
        prepare: From the rule, the number of the step and its gradients, what it makes of them.
        known: Whether it is wrong of every run, so that it is worth saying where it does not show.
        guessed: Whether it was made up after the run.
        made_of: Of several, each.
    """

    words: tuple[str, ...]
    mutants: tuple[Mutant, ...] = ()
    change: Callable[[type], type] | None = None
    alter: Alter | None = None
    prepare: Prepare | None = None
    known: bool = False
    guessed: bool = False
    made_of: tuple["Mistake", ...] = ()

    def __str__(self) -> str:
        *others, last = self.words
        return f"{', '.join(others)} and {last}" if others else last

    def with_(self, other: "Mistake") -> "Mistake | None":
        """Both, unless they are of one kind and nothing says how they go together."""
        made = {}
        for kind in ("change", "alter", "prepare"):
            mine, others = getattr(self, kind), getattr(other, kind)
            if mine and others:
                return None
            made[kind] = mine or others
        if {*self.words} & {*other.words}:
            return None
        each = (self.made_of or (self,)) + (other.made_of or (other,))
        return Mistake(self.words + other.words, self.mutants + other.mutants, **made, made_of=each)


def mistakes(name: str, run: Run, norms: Sequence[float]) -> Iterator[Mistake]:
    """All that are known of a rule, of its arguments, and of what surrounds it, as they would be made in a run.

    Args:
        name: Whose rule.
        run: The run.
        norms: Those of all gradients of each of its steps.
    """
    for mutant in _of_rule(name):
        yield Mistake((mutant.mistake,), (mutant,), known=True)
    for words, power in (("", _running_product), (", powers at once", np.power)):
        yield Mistake((f"the numbers of a step in float32{words}",), change=partial(_in_float32, power), known=True)
    yield from _of_arguments(name, run)
    yield from _of_decay(run)
    yield from _of_schedules(run)
    yield from _of_gradients(run, norms)


def _of_rule(name):
    """The mutants of an optimizer, and of those that have the same rule, by what they get wrong."""
    found = {}
    for other in dict.fromkeys((name, *OPTIMIZERS)):
        if getattr(OPTIMIZERS[other], "update", None) is OPTIMIZERS[name].update:
            for mutant in ENTRIES[other].mutants:
                if mutant.leg == "rule":
                    found.setdefault((mutant.right, mutant.wrong), replace(mutant, optimizer=name))
    return found.values()


def _in_float32(power, cls):
    """The class with its numbers computed in float32, as a Python float in a graph is."""
    names = {**cls.scalars.__globals__, "power": power}
    scalars = FunctionType(cls.scalars.__code__, names, cls.scalars.__name__)

    @functools.wraps(cls.scalars)
    def rounded(*numbers):
        return tuple(number.double() for number in scalars(*(number.float() for number in numbers)))

    return type(cls.__name__, (cls,), {"scalars": rounded})


def _running_product(base, exponent):
    """A power as it is kept from step to step."""
    if not (np.asarray(exponent) == np.floor(exponent)).all():
        return base**exponent
    product, factor = np.ones(exponent.shape, base.dtype), np.broadcast_to(base, exponent.shape)
    for step in range(int(exponent.max(initial=0))):
        product = np.where(step < exponent, product * factor, product)
    return array(product)


def _of_arguments(name, run):
    """Choices that are others; numbers that are defaults, swapped, or what others usually are."""
    cls = OPTIMIZERS[name]
    known = {
        key: parameter.default
        for key, parameter in inspect.signature(cls).parameters.items()
        if key not in (*HOW, *OF_ALL, "params", "lr", "weight_decay")
    }
    told = {key: group[key] for group in run.header["groups"] for key in group if key in known}
    for key, value in told.items():
        for other in _others(key, value, known[key], cls.kind_of(key)):
            yield Mistake((f"{key} {other} for {value}",), alter=partial(_with, key, other))


def _of_decay(run):
    """Decay that is where it should not be, or is none."""
    decays = [group.get("weight_decay", 0.0) for group in run.header["groups"]]
    if not any(decays):
        return
    own = run.header.get("names", {})  # of Parameters that the run calls as torch does
    ranks = run.ranks
    yield Mistake(("weight_decay of matrices alone",), alter=partial(_undecayed, lambda name: ranks[name] < 2))
    for parts in (("beta", "gamma"), ("beta", "gamma", "bias"), ("bias",)):  # the first are MindSpore's
        yield Mistake(
            (f"no weight_decay where a name has {' or '.join(parts)}",),
            alter=partial(_undecayed, lambda name, parts=parts: any(part in own.get(name, name) for part in parts)),
        )
    if len({*decays}) > 1:
        yield Mistake(("one weight_decay for all groups",), alter=partial(_with, "weight_decay", max(decays)))
    settings = _settings(run)

    def coupled(rule, i, drawn):
        def decayed(name, grad):
            return grad + settings(i, name)[1] * rule.params[name]

        return {name: grad if _is_rows(grad) else decayed(name, grad) for name, grad in drawn.items()}

    def decoupled(rule, i, drawn):
        for name, grad in drawn.items():
            lr, decay = settings(i, name)
            if grad is not None:
                rule.params[name] = rule.params[name] * (1 - lr * decay)
        return drawn

    undecayed = partial(_undecayed, lambda name: True)
    yield Mistake(("weight_decay added to the gradient (L2)",), alter=undecayed, prepare=coupled)
    yield Mistake(("weight_decay of the parameters themselves",), alter=undecayed, prepare=decoupled)


def _of_schedules(run):
    """Learning rates of other steps."""
    rates = [[group.get("lr") for group in step.groups] for step in run.steps]
    if all(rate == rates[0] for rate in rates):
        return
    yield Mistake(("lr one step late",), alter=partial(_rates, [rates[0], *rates[:-1]]))
    yield Mistake(("lr one step early",), alter=partial(_rates, [*rates[1:], rates[-1]]))
    yield Mistake(("lr that stays what it was at first",), alter=partial(_rates, [rates[0]] * len(rates)))


def _of_gradients(run, norms):
    """Gradients times a constant, clipped, or zeros where they were absent."""
    for most in NORMS:
        if max(norms, default=0.0) > most:
            yield Mistake(
                (f"gradients clipped to a norm of {most}",),
                prepare=lambda rule, i, drawn, most=most: _clipped(drawn, norms[i], most),
            )
    if any({*step.gradients} != {*run.initial} for step in run.steps):
        yield Mistake(
            ("gradients of zeros where they were absent",),
            prepare=lambda rule, i, drawn: {
                name: np.zeros(rule.params[name].shape) if grad is None else grad for name, grad in drawn.items()
            },
        )


def _settings(run):
    """A function from the number of a step and a name to the lr and the weight_decay of the run itself."""
    group_of = {name: number for number, group in enumerate(run.header["groups"]) for name in group["params"]}

    def settings(i, name):
        group = run.steps[i].groups[group_of[name]]
        return group["lr"], group.get("weight_decay", 0.0)

    return settings


def _others(key, value, default, kind):
    """What else an argument of a kind may be."""
    if isinstance(kind, Choice):
        return [other for other in kind.choices if other != value]
    if isinstance(value, (list, tuple)):
        value = tuple(value)
        if not all(map(is_number, value)):
            return []
        found = [tuple(default)] if isinstance(default, tuple) else []
        found += [value[::-1]] if key == "betas" else []
        found += [(*value[:i], other, *value[i + 1 :]) for i, part in enumerate(value) for other in _usual("", part)]
    elif is_number(value):
        found = [default] if is_number(default) else []
        found += [value - 1, value + 1] if isinstance(kind, Whole) else _usual(key, value)
    else:
        return []
    return [other for other in dict.fromkeys(found) if other != value]


def _usual(key, value):
    """What others usually have for a number."""
    usual = EPSILONS if key == "eps" else DECAYS if 0.5 <= value < 1 else ()
    return [other for other in usual if other != value]


def is_number(value: Any) -> bool:
    """Whether it is a number, and no flag."""
    return isinstance(value, Real) and not isinstance(value, bool)


def regrouped(run: Run, change: Callable[[list, int | None], list]) -> Run:
    """The run with other groups; `change` is given the number of a step, or None for what there was at first."""
    steps = Mapped(run.steps, lambda i, step: replace(step, groups=change(step.groups, i)))
    return replace(run, header={**run.header, "groups": change(run.header["groups"], None)}, steps=steps)


def _with(key, value, run):
    return regrouped(run, lambda groups, i: [{**group, key: value} if key in group else group for group in groups])


def _undecayed(drops, run):
    """Each group in two, of which the second does not decay."""
    members = [
        [[name for name in group["params"] if drops(name) == side] for side in (False, True)]
        for group in run.header["groups"]
    ]

    def change(groups, i):
        made = []
        for group, sides in zip(groups, members):
            for dropped, names in enumerate(sides):
                if names:
                    named = {"params": names} if i is None else {}
                    made.append({**group, **named, **({"weight_decay": 0.0} if dropped else {})})
        return made

    return regrouped(run, change)


def _rates(rates, run):
    def change(groups, i):
        return [{**group, "lr": rate} for group, rate in zip(groups, rates[i or 0])]

    return regrouped(run, change)


def scaled_rates(words: str, factor: float) -> Mistake:
    """Learning rates times a constant."""

    def scaled(groups, i):
        return [{**group, "lr": group["lr"] * factor} for group in groups]

    return Mistake((words,), alter=lambda run: regrouped(run, scaled))


def scaled_gradients(words: str, factor: float) -> Mistake:
    """Gradients times a constant."""
    return Mistake((words,), prepare=lambda rule, i, drawn: each_of(drawn, lambda grad: grad * factor))


def breaks(optimizer: str, name: str, step: int, steps: int) -> Iterator[Mistake]:
    """What may have come over a run at a step at which a parameter leaves the rule that it followed.

    Args:
        optimizer: Whose rule.
        name: The parameter.
        step: The step.
        steps: How many there are.
    """
    if step < 1:
        return
    slots = [slot.name for slot in OPTIMIZERS[optimizer].slots]
    tensors = [slot.name for slot in OPTIMIZERS[optimizer].slots if not slot.scalar]
    kinds = {"the state": None}
    if tensors != slots:
        kinds |= {"the state but for its numbers": tensors}
    if len(tensors) > 1:
        kinds |= {slot: [slot] for slot in tensors}
    for what, some in kinds.items():
        for whose, own in ((f"{name!r}", name), ("all", None)):
            words = f"{what} of {whose} begun anew"
            yield _restart(f"{words} at step {step}", own, some, lambda i: i == step)
            if 2 * step < steps:
                yield _restart(f"{words} every {step} steps", own, some, lambda i: i % step == 0)
    yield Mistake(
        (f"{name!r} standing still from step {step} on",),
        prepare=lambda rule, i, drawn: {**drawn, name: None} if i >= step else drawn,
        guessed=True,
    )


def _restart(words, name, kinds, when):
    def prepare(rule, i, drawn):
        if i and when(i):
            rule.begin_anew(name, kinds)
        return drawn

    return Mistake((words,), prepare=prepare, guessed=True)


def _is_rows(grad):
    """Whether a gradient is of some rows only, or of none."""
    return grad is None or isinstance(grad, Rows)


def each_of(drawn: Mapping, change: Callable) -> dict:
    """The gradients of a step, each changed; of a sparse one the values, and of one that is absent nothing."""

    def changed(grad):
        if grad is None:
            return None
        return Rows(grad.indices, change(grad.values)) if isinstance(grad, Rows) else change(grad)

    return {name: changed(grad) for name, grad in drawn.items()}


def norm_of(gradients: Mapping) -> float:
    """The L2 norm of all gradients of a step."""
    values = (grad[-1] if isinstance(grad, tuple) else grad for grad in gradients.values())
    return float(np.sqrt(sum(np.square(value, dtype=np.float64).sum() for value in values)))


def _clipped(drawn, norm, most):
    return each_of(drawn, lambda grad: grad * min(1.0, most / (norm + 1e-6)))


def is_whole(number: float) -> bool:
    """Whether it is near a whole number beyond 1."""
    return 1 < round(number) < 1e6 and abs(number / round(number) - 1) < 1e-3
