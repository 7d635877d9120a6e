"""Records a run of MindSpore: direct calls as they are, and steps in graphs by an optimizer around the optimizer."""

import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.train import Callback

from ms_optim import EMA
from ms_optim.convert.names import in_torch_words
from ms_optim.sparse_adam import fit_rows
from parity.runs.files import Step, Writer
from parity.runs.notes import Notes, loss_of
from parity.sides.mindspore_state import array_of, state, values

OWNER = "record"


class Recording:
    """A block in which the steps of an optimizer of MindSpore are recorded; `parity.record` makes it.

    With each step the loss scale is noted: that of the cell which `Model` trains, or else of the optimizer. Gradients
    are recorded as the rule sees them, which is without the latter.

    Args:
        optimizer (mindspore.nn.Optimizer): Of this library, of MindSpore or your own, whose step takes gradients: LBFGS
            is refused.
        folder (Union[str, Path]): Where to; it is made, and must not hold a run.
        model (Union[None, mindspore.nn.Cell]): The network: parameters are then called, and shaped, as torch's are.
            Default: ``None`` , the names of the Parameters.
        first (Union[None, int]): After so many steps nothing more is recorded. Default: ``None`` .
        every (int): Only each such step is recorded, from the first on, in [1, inf). Default: ``1`` .
        elements (Union[None, int]): Of larger tensors only so many elements are recorded, in [1, inf).
            Default: ``None`` .
        seed (int): By which they are drawn, with the name of the parameter. Default: ``0`` .
        arguments (Mapping[str, Any]): The numbers of an optimizer that is none of this library, in torch's words.
            Default: ``None`` , its learning rate alone.

    Attributes:
        optimizer (mindspore.nn.Optimizer): What takes the steps of a training cell, `Model.train` or a function under
            `@ms.jit`: the optimizer, with the gradients kept where they can be read. Its steps are recorded one by one:
            by `callback`, or by `taken` after each. It takes dense gradients only: steps on pairs of indices and
            values, or without some gradients, are recorded where the optimizer itself is called.
        steps (int): How many were recorded.
        seconds (float): What recording has taken.

    Raises:
        TypeError: If the optimizer's step takes a closure.
        ValueError: If the network lacks a parameter of the optimizer.
        FileExistsError: If the folder holds a run.
    """

    def __init__(
        self,
        optimizer: nn.Optimizer,
        folder: str | Path,
        model: nn.Cell | None = None,
        first: int | None = None,
        arguments: Mapping[str, Any] | None = None,
        every: int = 1,
        elements: int | None = None,
        seed: int = 0,
    ):
        if getattr(optimizer, "takes_closure", False):
            raise TypeError(f"For '{OWNER}', 'optimizer' must take gradients, but got {type(optimizer).__name__}.")
        self._inner, self._first, self._arguments = optimizer, first, dict(arguments or {})
        self._scale = optimizer.loss_scale  # which it does not change
        if model is not None and not isinstance(model, nn.Cell):
            raise TypeError(f"For '{OWNER}', 'model' must be a Cell or None, but got {type(model).__name__}.")
        # A container that a network is put into later gives its Parameters other names.
        self._params = [*optimizer.parameters]
        self._first_names = [param.name for param in self._params]
        self._names, self._shapes = self._first_names, [tuple(param.shape) for param in self._params]
        if model is not None:
            rows = {row.parameter: row for row in in_torch_words(model)[0].values()}
            missing = sorted({*self._names} - {*rows})
            if missing:
                raise ValueError(
                    f"For '{OWNER}', 'model' must have all parameters of the optimizer, but got none of {missing}."
                )
            self._shapes = [rows[name].torch_shape for name in self._names]
            self._names = [rows[name].torch for name in self._names]
        self.steps, self.seconds, self._loss, self._left_out, self._notes = 0, 0.0, None, False, Notes()
        now = self._values()
        # That of the network, whatever the groups are.
        order = self._names if model is None else [row.torch for row in rows.values() if row.torch in now]
        self._writer = Writer(
            folder,
            type(optimizer.optimizer if isinstance(optimizer, EMA) else optimizer).__name__,
            [{"params": members, **numbers} for members, numbers in zip(self._members(), self._numbers())],
            {name: now[name] for name in order},
            self._state() if self._has_stepped() else None,
            [name for name, param in zip(self._names, self._params) if param.dtype == ms.bfloat16],
            {
                "versions": {"mindspore": ms.__version__, "numpy": np.__version__, "python": sys.version.split()[0]},
                "names": dict(zip(self._names, self._first_names)),
                "command": " ".join(sys.argv),
                "threads": ms.get_context("runtime_num_threads"),
                "seed": ms.get_seed(),
                "device": ms.get_context("device_target"),
                "mode": "graph" if ms.get_context("mode") == ms.GRAPH_MODE else "pynative",
                **_average(optimizer),
            },
            elements,
            seed,
            every,
        )
        self._last, self._next, self._ready = now, self._numbers(), None
        self.optimizer = _Around(optimizer)
        self._count, self._class = 0, type(optimizer)

    def __enter__(self):
        self._count = int(self.optimizer.steps_seen.asnumpy())
        recording = self

        def called(optimizer, gradients, *args, **kwargs):
            if recording._is_done() or recording.optimizer.taking:
                return recording._class.__call__(optimizer, gradients, *args, **kwargs)
            with recording._timed():
                before, numbers = recording._changed(), recording._numbers()
                kept = recording._gradients(gradients)
            done = recording._class.__call__(optimizer, gradients, *args, **kwargs)
            with recording._timed():
                recording._add(kept, numbers, before)
            return done

        # A special method is looked up in the class, so that the optimizer is given another for the while.
        self._inner.__class__ = type(self._class.__name__, (self._class,), {"__call__": called})
        return self

    def __exit__(self, kind, *error):
        self._inner.__class__ = self._class
        self._writer.end(self._notes.left)
        if kind is None and not self.steps:
            warnings.warn(
                f"For '{OWNER}', no step was recorded: steps in a graph must be taken by the 'optimizer' of the block, "
                "with 'callback()' among the callbacks or 'taken()' after each.",
                stacklevel=2,
            )

    def loss(self, value: Any) -> None:
        """Say what the loss of the step is that comes next, or of the one that `taken` records."""
        self._loss = loss_of(value)

    def note(self, **named: Any) -> None:
        """Say what else there is to say of the step that comes next, or that `taken` records, in values of JSON."""
        self._notes.say(**named)

    def taken(self, loss: Any = None) -> None:
        """Record the step that a graph has just taken by `optimizer`; one that a loss scale has skipped is counted.

        Raises:
            ValueError: If there was more than one: with `dataset_sink_mode` a sink size of 1 is needed.
        """
        count = int(self.optimizer.steps_seen.asnumpy())
        new, self._count = count - self._count, count
        if self._is_done():
            return
        if not new:
            self._notes.skip()
            return
        if new > 1:
            raise ValueError(f"For '{OWNER}', 'taken' must be called after each step, but got {new} since the last.")
        with self._timed():
            if loss is not None:
                self.loss(loss)
            numbers, before = self._ready or ([*map(self._as_it_was, self._next, self._numbers(), self._groups())], {})
            self._add(self._gradients(self.optimizer.gradients), numbers, before)

    def begin(self, cell: nn.Cell | None = None) -> None:
        """Read what a step begins with that a graph is about to take; else, when `taken` is called, it is read then.

        The cell is the one that takes it, if that is known: one with a loss scale has it as `scale_sense`.
        """
        if not self._is_done():
            with self._timed():
                self._ready = self._numbers(), self._changed()
                scale = getattr(cell, "scale_sense", None)
                if isinstance(scale, Tensor):
                    self._notes.see("loss_scale", float(scale.asnumpy().item()))

    def callback(self) -> Callback:
        """What `Model.train` takes among its callbacks, to record each step and its loss."""
        return _Taken(self)

    @contextmanager
    def _timed(self):
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began

    def _is_done(self):
        return self._first is not None and self.steps >= self._first

    def _has_stepped(self):
        return bool(getattr(self._inner, "global_step", None) is not None and self._inner.global_step.asnumpy().any())

    def _changed(self):
        """The parameters that were changed since the step before, as they are now."""
        now = self._values()
        return {name: value for name, value in now.items() if not np.array_equal(value, self._last[name], True)}

    def _values(self):
        return {
            name: value.reshape(shape)
            for name, shape, value in zip(self._names, self._shapes, values(self._params).values())
        }

    def _state(self):
        """That of each parameter; a slot of its shape has the shape that torch's has."""
        kept, found = state(self._inner), {}
        for param, first, name, shape in zip(self._params, self._first_names, self._names, self._shapes):
            slots = kept.get(param.name, kept.get(first, {}))
            found[name] = {
                slot: value.reshape(shape) if value.shape == tuple(param.shape) else value
                for slot, value in slots.items()
            }
        return found

    def _gradients(self, gradients):
        kept = {}
        for grad, param, name, shape in zip(gradients, self._params, self._names, self._shapes):
            if isinstance(grad, Tensor):
                kept[name] = self._unscaled(array_of(grad)).reshape(shape)
            elif grad is not None:
                rows, values = map(array_of, fit_rows(OWNER, grad, param))
                if rows.ndim == 2 and rows.shape[1] != 1:
                    raise ValueError(
                        f"For '{OWNER}', sparse gradients must be of rows, but got {rows.shape[1]} sparse axes for "
                        f"'{param.name}'."
                    )
                kept[name] = rows.ravel(), self._unscaled(values)
        return kept

    def _unscaled(self, values):
        return values if self._scale == 1.0 else np.divide(values, self._scale, dtype=values.dtype)

    def _groups(self):
        return getattr(self._inner, "param_groups", [None])

    def _members(self):
        name_of = {id(param): name for param, name in zip(self._params, self._names)}
        return [
            self._names if group is None else [name_of[id(param)] for param in group["params"]]
            for group in self._groups()
        ]

    def _numbers(self):
        """The arguments of each group, as they are for the step that comes."""
        return [
            self._of_stock()
            if group is None
            else {key: _plain(_now(group, key)) for key in group if key not in ("params", "param_names")}
            for group in self._groups()
        ]

    def _of_stock(self):
        rate = self._inner.get_lr() if self._has_rates() else ()
        rates = {float(one.asnumpy()) for one in (rate if isinstance(rate, (list, tuple)) else [rate])}
        return {**({"lr": rates.pop()} if len(rates) == 1 else {}), **self._arguments}

    def _has_rates(self):
        """Whether no list of rates has ended: MindSpore reads beyond one, and may raise only in what comes then."""
        lists = self._inner.get_lr_parameter([*self._inner.parameters])
        step = int(self._inner.global_step.asnumpy().item())
        return all(step < rates.size for rates in lists if isinstance(rates, Parameter) and rates.ndim)

    @staticmethod
    def _as_it_was(before, now, group):
        """The numbers of a step that was taken: one on a schedule has moved on, any other may have been set before."""
        if group is None:
            return before
        return {key: before.get(key) if group.follows(key) else value for key, value in now.items()}

    def _add(self, gradients, numbers, before):
        now, is_due = self._values(), self._writer.is_due()
        if is_due:
            before = {**self._last, **before} if self._left_out else before
            notes = {**({"loss_scale": self._scale} if self._scale != 1.0 else {}), **self._notes.taken()}
            self._writer.add(Step(numbers, gradients, now, self._state(), before=before, loss=self._loss, notes=notes))
            self.steps += 1
        else:
            self._notes.pass_by()
        self._last, self._next, self._loss, self._ready = now, self._numbers(), None, None
        self._left_out = not is_due


def _average(optimizer):
    """What the header says of an average around the optimizer."""
    if not isinstance(optimizer, EMA):
        return {}
    made_with = {key: value for key, value in optimizer.made_with.items() if key not in ("buffers", "buffer_update")}
    return {"average": {**made_with, "decay": float(optimizer.decay.asnumpy())}}


class _Around(nn.Optimizer):
    """Keeps the gradients in Parameters of its own, counts, and takes the step of the optimizer inside."""

    def __init__(self, inner):
        super().__init__(0.0, inner.parameters)
        del self.learning_rate  # the base's; what sets it reaches that of the optimizer, and each name occurs once
        for name in ("learning_rate", "global_step", "dynamic_lr", "is_group_lr"):
            setattr(self, name, getattr(inner, name))
        self.inner = inner
        gradients = tuple(
            Parameter(ops.zeros(param.shape, param.dtype), name=f"recorded.{param.name}", requires_grad=False)
            for param in inner.parameters
        )
        seen = Parameter(Tensor(0, ms.int32), name="recorded", requires_grad=False)
        for name, kept in (("gradients", gradients), ("steps_seen", seen)):
            object.__setattr__(self, name, kept)  # no Parameters of this Cell: checkpoints are as without it
        self.count, self.taking = len(gradients), False

    def __call__(self, gradients):
        """Take a step outside of a graph, whose own call is not to be recorded beside it."""
        self.taking = True
        try:
            return super().__call__(gradients)
        finally:
            self.taking = False

    def construct(self, gradients):
        """Keep them, and step."""
        for i in range(self.count):
            if not isinstance(gradients[i], Tensor):
                raise TypeError(
                    "For 'record', 'gradients' must be dense Tensors where the 'optimizer' of the block takes them, "
                    "but got sparse ones or None: call the optimizer itself, outside of a graph."
                )
            ops.assign(self.gradients[i], gradients[i].to(self.gradients[i].dtype))
        ops.assign_add(self.steps_seen, Tensor(1, ms.int32))
        return self.inner(gradients)


class _Taken(Callback):
    """Records a step after each of `Model.train`."""

    def __init__(self, recording):
        super().__init__()
        self._recording = recording

    def on_train_step_begin(self, run_context):
        """Read what the step begins with."""
        self._recording.begin(run_context.original_args().get("train_network"))

    def on_train_step_end(self, run_context):
        """Record it, with its loss."""
        outputs = run_context.original_args().net_outputs
        outputs = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
        self._recording.taken(outputs if isinstance(outputs, Tensor) and outputs.size == 1 else None)


def _now(group, key):
    """An argument as it is for the step that comes."""
    return group.current(key) if key in group.settable else group[key]


def _plain(value):
    """A number as JSON has it."""
    return value.asnumpy().tolist() if isinstance(value, Tensor) else value
