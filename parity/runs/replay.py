"""Replays a recorded run of PyTorch by an optimizer of MindSpore, where torch need not be installed."""

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import mindspore as ms
import numpy as np

from ms_optim import OPTIMIZERS
from ms_optim._native import obstacle
from ms_optim._values import write
from parity.cases import CASES
from parity.cases.formats import FORMATS
from parity.judge.compare import Verdict, compare, of_kinds
from parity.runs.files import Run
from parity.runs.follow import (
    Build,
    Unjudged,
    begun,
    counterpart,
    followed,
    gradients_of,
    of_what_moves,
    trace_of,
)
from parity.sides import mindspore as mindspore_side
from parity.sides.trace import PARAMETER, Recorder, Trace

OWNER = "replay"
# How far apart one step may be in float32 and in float64, of the largest magnitude of a tensor.
SAME = 1e-4
# What parameters may be.
DTYPES = {"float16": ms.float16, "bfloat16": ms.bfloat16, "float32": ms.float32}


@dataclass(frozen=True)
class Leg:
    """One way to take the steps: in a mode, and with an argument `fused` or as the optimizer chooses."""

    name: str
    mode: str
    fused: bool | None
    compiled: bool


def replay(
    run: Run,
    build: Build | None = None,
    modes: Iterable[str] = ("graph",),
    device: str | None = None,
    jit_level: str | None = None,
) -> Iterator[tuple[str, Verdict, Trace]]:
    """Drive an optimizer with the gradients of a run, and judge each leg by what torch did in float32 and in float64.

    Args:
        run (Run): What `parity.runs.read` has read.
        build (Callable): A function from a list of Parameters, named as torch's and in the order of the run, to a
            `mindspore.nn.Optimizer`. Default: ``None`` , the one of this library that is called as torch's, with the
            groups and numbers of the run.
        modes (Iterable[str]): Of "graph" and "pynative". Default: ``("graph",)`` .
        device (str): What `mindspore.set_device` takes, before anything has run. Default: ``None`` .
        jit_level (str): "O0", "O1" or "O2". Default: ``None`` .

    Returns:
        Iterator[tuple[str, Verdict, Trace]], the name of each leg, what is found, and what it was found in.

    Raises:
        Unjudged: If the run has no steps, no float64 twin or parameters of several dtypes, or such as nothing here
            computes with, there is no optimizer of this name, a number of its groups changes that ours compiles, or
            the optimizer does not take a step.
    """
    name = run.header["optimizer"]
    dtypes = sorted({*run.header["dtypes"].values()})
    if len(dtypes) != 1 or dtypes[0] not in DTYPES:
        raise Unjudged(f"For '{OWNER}', the parameters of 'run' must be of one of {[*DTYPES]}, but got {dtypes}.")
    (dtype,) = dtypes
    if build is None and name not in OPTIMIZERS:
        raise Unjudged(f"For '{OWNER}', 'run' must be of one of {[*OPTIMIZERS]}, but got {name!r}: say which is meant.")
    noise = CASES[name][0].noise if name in CASES else 0.0
    single, double = _recorded(run, max(noise, 16 * FORMATS[dtype].eps))
    device = device or ms.get_context("device_target")
    legs = [
        leg
        for leg in _legs(name if build is None else None, modes)
        if not (dtype == "bfloat16" and leg.fused is False and device == "CPU")
    ]
    if not legs:
        raise Unjudged(
            f"For '{OWNER}', 'run' must not be of bfloat16 on CPU, where MindSpore's operators do not write it: there "
            f"is no kernel of {name}."
        )
    for leg in legs:
        made = build or counterpart(run, OPTIMIZERS[name], leg.fused)
        ours = _taken(run, made, leg, device, jit_level, DTYPES[dtype])
        verdict = compare(ours, *of_kinds(ours, single, double), noise=noise, initial=run.initial, dtype=dtype)
        yield leg.name, verdict, ours


def named(target: str) -> Build:
    """The function that "module:name" names.

    Raises:
        Unjudged: If there is none.
    """
    module, _, name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the module raises
        raise Unjudged(f"For '{OWNER}', 'optimizer' must be MODULE:FUNCTION, but got {target!r}: {error}.") from error
    if not callable(found):
        raise Unjudged(f"For '{OWNER}', 'optimizer' must name a function, but got {found!r}.")
    return found


def _legs(name, modes):
    """Each mode on each path of an optimizer of ours; of any other, as it is called."""
    for mode in modes:
        if name is None:
            yield Leg(mode, mode, None, False)
            continue
        yield Leg(f"{mode} composed", mode, False, True)
        if not obstacle(name, getattr(OPTIMIZERS[name], "update", len)):
            yield Leg(f"{mode} native", mode, True, True)
            yield Leg(f"{mode} direct", mode, True, False)


def _taken(run, build, leg, device, jit_level, dtype):
    """The trace of our optimizer on the gradients of the run."""
    mindspore_side.set_mode(leg.mode, device, jit_level)
    optimizer, recorder = begun(run, build, dtype), Recorder()
    by_name = {param.name: param for param in optimizer.parameters}
    for i, step in enumerate(followed(run, optimizer)):
        for key, value in step.before.items():
            write(by_name[key], ms.Tensor(value, dtype))
        drawn = gradients_of(step, [param.name for param in optimizer.parameters])
        try:
            with mindspore_side.direct_calls(leg.compiled):
                optimizer(tuple(mindspore_side.gradient(grad, dtype) for grad in drawn.values()))
        except Exception as error:  # of MindSpore's compiler in many lines, of which the first says what
            said = str(error).strip().partition("\n")[0]
            raise Unjudged(
                f"For '{OWNER}', 'optimizer' must take step {i}, but raised {type(error).__name__}: {said}"
            ) from error
        recorder.add(mindspore_side.values(optimizer.parameters), mindspore_side.state(optimizer))
    return of_what_moves(run, recorder.trace())


def _recorded(run, noise) -> tuple[Trace, Trace]:
    """What torch did in float32, and its twin in float64, which is no truth unless they take the same steps."""
    single, double = trace_of(run), Recorder()
    for step in run.steps:
        if not step.double_parameters:
            raise Unjudged(f"For '{OWNER}', 'run' must have the steps of a float64 twin, but got none.")
        double.add(dict(step.double_parameters), {name: dict(slots) for name, slots in step.double_state.items()})
    twin = double.trace()
    for key, steps in twin.items():
        if key in single:
            _check_twin(run, key, single[key], steps, max(SAME, noise))
    return single, twin


def _check_twin(run, key, single, twin, allowed):
    """Raise if a twin does otherwise than was recorded, as where state was changed between steps, which it has not.

    Of parameters the steps are compared, because what they lead to drifts apart; and of halves nothing else, because
    their state may stand still where that of the twin moves.
    """
    kind, name = key
    if kind != PARAMETER and {*run.header["dtypes"].values()} != {"float32"}:
        return
    for i, (one, other) in enumerate(zip(single, twin)):
        off = np.subtract(one, other, dtype=float)
        if kind == PARAMETER and i and name not in run.steps[i].before:
            off = off - np.subtract(single[i - 1], twin[i - 1], dtype=float)
        if _largest(off) > allowed * _largest(other):
            raise Unjudged(
                f"For '{OWNER}', the float64 twin of 'run' must take the steps that were recorded, but step {i} takes "
                f"{kind} of '{name}' {_largest(off):.2g} away from it, as where state was changed between steps, which "
                "a twin does not see."
            )


def _largest(value):
    """The largest magnitude that is finite."""
    value = np.asarray(value, float)
    return np.abs(value[np.isfinite(value)]).max(initial=0.0)
