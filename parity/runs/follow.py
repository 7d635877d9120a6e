"""Takes an optimizer through a recorded run: with its groups and numbers, from its state, step by step."""

from collections.abc import Callable, Iterable, Iterator

import mindspore as ms
from mindspore import Parameter, nn

import ms_optim
from ms_optim._declaration import arguments_of
from ms_optim._groups import HOW
from parity.cases.problems import Gradient, Rows
from parity.runs.files import Run, Step
from parity.sides.arrays import array
from parity.sides.mindspore import parameters
from parity.sides.rules import Rule, rule_of
from parity.sides.trace import PARAMETER, Recorder, Trace

OWNER = "parity"  # of which several verbs follow a run
Build = Callable[[list[Parameter]], nn.Optimizer]
Prepare = Callable[[Rule, int, dict[str, Gradient]], dict[str, Gradient]]


class Unjudged(ValueError):
    """Why a run cannot be replayed, or not be judged."""


def counterpart(run: Run, cls: type[nn.Optimizer], fused: bool | None = None) -> Build:
    """A function that makes an optimizer of a class of ours, with the groups of a run and their numbers at first.

    It is inside an average if that of the run is.

    Raises:
        Unjudged: If the run has some elements alone, and a step looks at whole tensors.
    """
    _check_elements(run, cls)
    known = arguments_of(cls)

    def build(params):
        by_name = {param.name: param for param in params}
        groups = [
            {
                "params": [by_name[member] for member in group["params"]],
                **{key: _argument(value) for key, value in group.items() if key != "params" and key not in HOW},
            }
            for group in run.header["groups"]
        ]
        # what decides how AdamW differs from Adam is no argument of AdamW
        groups = [{key: value for key, value in group.items() if key in known} for group in groups]
        average = run.header.get("average")
        try:
            optimizer = cls([*groups, {"order_params": params}], fused=fused)
            return optimizer if average is None else ms_optim.EMA(optimizer, **average)
        except (TypeError, ValueError) as error:
            raise Unjudged(f"For '{OWNER}', 'run' must have numbers that {cls.__name__} takes, but: {error}") from None

    return build


def begun(run: Run, build: Build, dtype: ms.dtype.Type | None = None) -> nn.Optimizer:
    """The optimizer before the first step, with the weights, of their own dtype or another, and the state of then."""
    try:
        optimizer = build(parameters(run.initial, dtype))
    except Unjudged:
        raise
    except Exception as error:
        raise Unjudged(
            f"For '{OWNER}', 'optimizer' must be made, but raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(optimizer, nn.Optimizer) or getattr(optimizer, "takes_closure", False):
        raise Unjudged(
            f"For '{OWNER}', 'optimizer' must give a mindspore.nn.Optimizer that takes gradients, but gave "
            f"{optimizer!r}."
        )
    lost = sorted({*run.initial} - {param.name for param in optimizer.parameters})
    if lost:
        raise Unjudged(f"For '{OWNER}', 'optimizer' must be of all parameters, but left out {lost}.")
    _check_elements(run, type(optimizer))
    if run.initial_state:
        if not hasattr(optimizer, "load_state_dict") or not hasattr(optimizer, "groups"):
            raise Unjudged(
                f"For '{OWNER}', 'run' must begin with the first step for {type(optimizer).__name__}, which takes over "
                "no state."
            )
        places = {param.name: i for i, param in enumerate(p for group in optimizer.groups for p in group["params"])}
        state = {places[name]: dict(slots) for name, slots in run.initial_state.items()}
        try:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        except (TypeError, ValueError) as error:
            raise Unjudged(f"For '{OWNER}', 'run' must begin with state that fits, but: {error}") from None
    return optimizer


def followed(run: Run, optimizer: nn.Optimizer) -> Iterator[Step]:
    """Each step, when the optimizer has the numbers that it is taken with.

    Raises:
        Unjudged: If steps are left out, or a number changes that the optimizer compiles, or that is no number of it.
    """
    every = run.header.get("every", 1)
    if every != 1:
        raise Unjudged(f"For '{OWNER}', 'run' must have each step, but got one of {every}.")
    numbers = [dict(group) for group in run.header["groups"]]
    for i, step in enumerate(run.steps):
        _change_numbers(optimizer, numbers, step.groups, i)
        yield step


def rewind(run: Run, optimizer: nn.Optimizer) -> None:
    """Give an optimizer that was taken through a run the numbers that it began with."""
    for step in run.steps[-1:]:
        _change_numbers(optimizer, [dict(group) for group in step.groups], run.header["groups"], 0)


def retold(run: Run, other: Run, optimizer: nn.Optimizer) -> bool:
    """Give an optimizer, as it is before the first step of a run, the numbers that another run begins with.

    Returns:
        Whether it then is as one that is made for that run, which takes longer than its first steps; if not, it is left
        as it was.
    """
    given, wanted = run.header["groups"], other.header["groups"]
    if len(given) != len(wanted) or any(
        one.keys() != two.keys() or one["params"] != two["params"] for one, two in zip(given, wanted)
    ):
        return False
    changed = []
    for group, one, two in zip(optimizer.param_groups, given, wanted):
        changed += [(group, key, one[key], two[key]) for key in one if one[key] != two[key]]
    if not all(key in group.settable and not group.follows(key) for group, key, *_ in changed):
        return False
    for i, (group, key, _, value) in enumerate(changed):
        try:
            group[key] = _argument(value)
        except (TypeError, ValueError):
            for group, key, value, _ in changed[:i]:
                group[key] = _argument(value)
            return False
    return True


def gradients_of(step: Step, names: list[str]) -> dict[str, Gradient]:
    """Those of a step by name, None where there is none."""
    drawn = {name: step.gradients.get(name) for name in names}
    return {name: Rows(*grad) if isinstance(grad, tuple) else grad for name, grad in drawn.items()}


def trace_of(run: Run) -> Trace:
    """What the recorded optimizer itself did.

    Raises:
        Unjudged: If the run has no steps.
    """
    if not run.steps:
        raise Unjudged(f"For '{OWNER}', 'run' must have steps, but got none.")
    recorder = Recorder()
    for step in run.steps:
        recorder.add(dict(step.parameters), {name: dict(slots) for name, slots in step.state.items()})
    return recorder.trace()


def by_the_rule(
    run: Run,
    optimizer: nn.Optimizer,
    dtypes: Iterable[str],
    prepare: Prepare | None = None,
    cls: type[nn.Optimizer] | None = None,
) -> list[Trace]:
    """The trace, in each of some precisions, of the rule of an optimizer of ours on arrays of NumPy, through a run.

    The optimizer is as `begun` gives it, and takes over the numbers of each step; it takes none itself.
    `prepare` is given the rule, the number of the step and its gradients, may change the parameters of the rule, and
    gives the gradients that the rule takes. `cls` is a class whose functions are taken instead of the optimizer's own.
    """
    rules = [rule_of(optimizer, dtype, cls) for dtype in dtypes]
    recorders = [Recorder() for _ in rules]
    for _ in stepped(run, optimizer, rules, prepare):
        for rule, recorder in zip(rules, recorders):
            recorder.add(rule.params, rule.state)
    return [of_what_moves(run, recorder.trace()) for recorder in recorders]


def stepped(
    run: Run, optimizer: nn.Optimizer, rules: Iterable[Rule], prepare: Prepare | None = None
) -> Iterator[tuple[int, Step]]:
    """Each step of a run, when the rules of an optimizer have taken it; the arguments are those of `by_the_rule`."""
    read = None
    for i, step in enumerate(followed(run, optimizer)):
        for rule in rules:
            if step.groups != read:
                rule.read_numbers()
            rule.params.update({name: array(value, rule.dtype) for name, value in step.before.items()})
            drawn = gradients_of(step, rule.names)
            rule.step(prepare(rule, i, drawn) if prepare else drawn)
        read = step.groups
        yield i, step


def of_what_moves(run: Run, trace: Trace) -> Trace:
    """Without the state of what is frozen: torch makes none before the first gradient of a parameter."""
    stepped = {*run.initial_state, *(name for step in run.steps for name in step.gradients)}
    return {key: steps for key, steps in trace.items() if key[0] == PARAMETER or key[1] in stepped}


def _check_elements(run, cls):
    """Raise if a run has some elements alone, and a step of a class looks at whole tensors."""
    if "sample" in run.header and not getattr(cls, "elementwise", True):
        raise Unjudged(
            f"For '{OWNER}', 'run' must have all elements, because a step of {cls.__name__} looks at whole tensors, "
            f"but it has {run.header['sample']['elements']} of each."
        )


def _argument(value):
    return tuple(value) if isinstance(value, list) else value


def _change_numbers(optimizer, numbers, groups, i):
    """Change those of the groups that differ from the ones of the step before."""
    for number, (last, given) in enumerate(zip(numbers, groups)):
        for key in [key for key, value in given.items() if key not in (*HOW, "params") and value != last.get(key)]:
            value, last[key] = _argument(given[key]), given[key]
            if not isinstance(optimizer, (ms_optim.Optimizer, ms_optim.EMA)):
                raise Unjudged(
                    f"For '{OWNER}', '{key}' of group {number} must not change, because {type(optimizer).__name__} is "
                    f"none of this library, but it is {value!r} in step {i}."
                )
            if len(optimizer.param_groups) != len(numbers):
                raise Unjudged(
                    f"For '{OWNER}', the optimizer must have {len(numbers)} groups as that of the run, whose numbers "
                    f"change, but got {len(optimizer.param_groups)}."
                )
            group = optimizer.param_groups[number]
            if key not in group or group.follows(key):
                continue  # a note of a scheduler, or what a schedule of its own says
            if key not in group.settable:
                raise Unjudged(
                    f"For '{OWNER}', '{key}' of group {number} must stay {group[key]!r}, because it decides what is "
                    f"compiled, but it is {value!r} in step {i}."
                )
            try:
                group[key] = value
            except (TypeError, ValueError) as error:
                raise Unjudged(
                    f"For '{OWNER}', the numbers of step {i} must be such as ours takes, but: {error}"
                ) from None
