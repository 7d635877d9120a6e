"""Runs an optimizer of MindSpore on a problem."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from unittest import mock

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

import ms_optim
from ms_optim import lr_scheduler
from ms_optim._host import SWITCH
from ms_optim._values import write
from parity.cases import Case
from parity.cases.losses import Loss
from parity.cases.problems import Gradient, Problem, Rows
from parity.sides.mindspore_state import state, values
from parity.sides.trace import Recorder, Trace

MODES = {"graph": ms.GRAPH_MODE, "pynative": ms.PYNATIVE_MODE}


def factory(
    case: Case, ours: type[nn.Optimizer] | None = None, fused: bool | None = None
) -> Callable[[list[Parameter]], nn.Optimizer]:
    """A function from parameters to our optimizer of a case, or to another class with its arguments."""
    ours = ours or getattr(ms_optim, case.optimizer)
    kwargs = case.kwargs if fused is None else {**case.kwargs, "fused": fused}

    def build(params):
        if case.inner:
            return ours(factory(case.inner, fused=fused)(params), **case.kwargs)
        by_name = {param.name: param for param in params}
        if not case.groups:
            return ours(params, **kwargs)
        groups = [
            {"params": [by_name[name] for name in names], **overrides} for names, overrides in case.split(by_name)
        ]
        return ours([*groups, {"order_params": params}], **kwargs)

    return build


def set_mode(mode: str, device: str | None = None, jit_level: str | None = None):
    """Compile or not, with the strict syntax: what the compiler cannot lift is an error and never runs in Python.

    A device, which MindSpore takes before anything has run, and a level of optimization are set if they are given.
    """
    if device not in (None, ms.get_context("device_target")):
        ms.set_device(device)
    if jit_level is not None:
        ms.set_context(jit_config={"jit_level": jit_level})
    ms.set_context(mode=MODES[mode], jit_syntax_level=ms.STRICT)


def structure(optimizer: nn.Optimizer) -> tuple | None:
    """What two optimizers share that differ in numbers only, so that one graph serves both; None if it is not known.

    It is of those of this library, and of what edited sources make, but not of what may have attributes of its own.
    """
    if not all(
        type(one).__module__.startswith(OURS) for one in (optimizer, getattr(optimizer, "optimizer", optimizer))
    ):
        return None
    constants = getattr(optimizer, "constants", None)
    described = tuple((param.name, param.shape, param.dtype) for param in optimizer.get_parameters())
    level = str(ms.get_context("jit_config"))
    return constants and (ms.get_context("mode"), level, *constants, described)


# The modules of this library, of this package, and of edited sources.
OURS = ("ms_optim.", "parity.", "mutant_")
_compiled: dict[tuple, nn.Optimizer] = {}
KEPT = 16  # a compiled graph takes megabytes


def compiled_before(optimizer: nn.Optimizer) -> nn.Optimizer:
    """One that differs from the optimizer in numbers only and has compiled, given its numbers; or the optimizer itself.

    A compilation takes longer than the steps of a case.
    """
    key = structure(optimizer)
    if key is None:
        return optimizer
    twin = _compiled.pop(key, optimizer)
    _compiled[key] = twin
    if len(_compiled) > KEPT:
        del _compiled[next(iter(_compiled))]
    for mine, new in zip(twin.get_parameters(), optimizer.get_parameters(), strict=True):
        if mine is not new:
            write(mine, new)
    return twin


def direct_calls(compiled: bool) -> contextlib.AbstractContextManager:
    """A block in which direct calls compile what a graph would run, or take the way that they take."""
    return mock.patch.dict(os.environ, {SWITCH: "0" if compiled else "1"})


class Session:
    """An optimizer of MindSpore and its parameters, in one mode; a run can be stopped, and taken up elsewhere.

    `schedule` is the name and the arguments of a scheduler, which steps after each of its steps. `anew` compiles, even
    if one like it has compiled before. `dtype` is that of the parameters, if not that of `initial`. If `compiled`, the
    steps are what a graph runs, else what direct calls do; by default as in `mode`. `device` and `jit_level` are set
    first, if they are given. `slots` is as `state` takes it.
    """

    def __init__(
        self,
        build: Callable[[list[Parameter]], nn.Optimizer],
        initial: dict[str, np.ndarray],
        mode: str,
        schedule: tuple[str, dict] | None = None,
        anew: bool = False,
        dtype: str | None = None,
        compiled: bool | None = None,
        device: str | None = None,
        jit_level: str | None = None,
        slots: Mapping[str, str] | None = None,
    ):
        self.slots = slots
        self.compiled = mode == "graph" if compiled is None else compiled
        self.mode, self.dtype = mode, dtype and getattr(ms, dtype)
        set_mode(mode, device, jit_level)
        self.optimizer = build(parameters(initial, self.dtype))
        if not anew:
            self.optimizer = compiled_before(self.optimizer)
        self.scheduler = schedule and getattr(lr_scheduler, schedule[0])(self.optimizer, **schedule[1])

    def steps(self, gradients: Iterable[dict[str, Gradient]]) -> Trace:
        """Take a step on each of the gradients."""
        set_mode(self.mode)
        recorder = Recorder()
        for drawn in gradients:
            given = [drawn[param.name] for param in self.optimizer.parameters]
            with direct_calls(self.compiled):
                self.optimizer(tuple(gradient(grad, self.dtype) for grad in given))
            if self.scheduler:
                self.scheduler.step()
            recorder.add(self.values, state(self.optimizer, self.slots))
        return recorder.trace()

    @property
    def values(self) -> dict[str, np.ndarray]:
        """The weights as they are now."""
        return values(self.optimizer.parameters)

    def stop(self) -> tuple[dict[str, np.ndarray], dict]:
        """The weights as they are now, and, as arrays, the state dicts of what there is, by name."""
        return self.values, {name: _arrays(part.state_dict()) for name, part in self._parts.items()}

    def take_up(self, state: dict):
        """Load what `stop` of a session has given."""
        for name, part in self._parts.items():
            part.load_state_dict(state[name])

    def save(self, file: Path) -> dict:
        """Write a checkpoint of the optimizer; the state of the scheduler, which is none of a Cell, is returned."""
        ms_optim.save(self.optimizer, file)
        return self.scheduler.state_dict()

    def restore(self, file: Path, schedule: dict):
        """Read what `save` has written."""
        self.scheduler.load_state_dict(schedule)
        ms_optim.restore(self.optimizer, file)

    @property
    def _parts(self):
        return {"optimizer": self.optimizer} | ({"scheduler": self.scheduler} if self.scheduler else {})


def gradient(drawn: Gradient, dtype: ms.dtype.Type | None = None):
    """What a problem has drawn, as an optimizer takes it."""
    if isinstance(drawn, Rows):
        return Tensor(drawn.indices), Tensor(drawn.values, dtype)
    return None if drawn is None else Tensor(drawn, dtype)


def _arrays(tree):
    """A tree of dicts with arrays for Tensors."""
    if isinstance(tree, dict):
        return {key: _arrays(value) for key, value in tree.items()}
    return tree.asnumpy() if isinstance(tree, Tensor) else tree


def run(
    build: Callable[[list[Parameter]], nn.Optimizer],
    problem: Problem,
    mode: str,
    compiled: bool = False,
    device: str | None = None,
    jit_level: str | None = None,
    slots: Mapping[str, str] | None = None,
) -> Trace:
    """The trace of the optimizer that `build` makes of parameters, fed the problem's gradients in float32.

    Its steps are what a graph runs if `compiled`, else direct calls, as a user makes them; on a device and at a level
    of optimization ("O0", "O1", "O2"), if they are given. `slots` is as `state` takes it.
    """
    session = Session(
        build,
        problem.initial,
        mode,
        dtype=problem.dtype,
        compiled=compiled,
        device=device,
        jit_level=jit_level,
        slots=slots,
    )
    return session.steps(problem.gradients)


class _Loss(nn.Cell):
    """A loss of Parameters and data."""

    def __init__(self, loss, params):
        super().__init__()
        self.function, self.weights = loss.function, ParameterTuple(params)
        self.data = tuple(Tensor(value) for value in loss.data)

    def construct(self):
        """Compute it."""
        return self.function(self.weights, self.data, ops)


@functools.cache
def _closure(loss, mode):
    """Parameters and the function that gives a loss of them and its gradients, which compiles once."""
    params = parameters(loss.initial)
    return params, ms.value_and_grad(_Loss(loss, params), None, ParameterTuple(params))


def minimize(build: Callable[[list[Parameter]], nn.Optimizer], loss: Loss, steps: int, mode: str) -> Trace:
    """The trace of an optimizer that takes a closure: parameters, and of each step the loss and both counts."""
    set_mode(mode)
    params, closure = _closure(loss, mode)
    for param in params:
        ops.assign(param, Tensor(loss.initial[param.name]))
    optimizer, recorder = build(params), Recorder()
    for _ in range(steps):
        value = optimizer.step(closure)
        state = optimizer.state_dict()["state"][0]
        counts = {name: np.asarray(state[name]) for name in ("func_evals", "n_iter")}
        recorder.add(values(params), {loss.name: {"loss": value.asnumpy(), **counts}})
    return recorder.trace()


def parameters(initial: Mapping[str, np.ndarray], dtype: ms.dtype.Type | None = None) -> list[Parameter]:
    """Parameters with these values, by name."""
    return [Parameter(Tensor(value, dtype), name=name) for name, value in initial.items()]
