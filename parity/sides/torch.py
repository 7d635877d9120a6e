"""Runs an optimizer of PyTorch on a problem."""

import copy
import importlib
import inspect
from collections.abc import Callable, Iterable

import numpy as np
import torch

from parity.cases import Case
from parity.cases.losses import Loss
from parity.cases.problems import Gradient, Problem, Rows
from parity.sides.torch_settings import default_dtype, numbers_for_double, one_thread
from parity.sides.trace import Recorder, Trace

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def forms(reference: type) -> list[str]:
    """The arguments by which an optimizer of torch takes another form of its step here: "foreach", "fused"."""
    return [form for form in ("foreach", "fused") if form in inspect.signature(reference).parameters]


def factory(case: Case, fused: bool = False) -> Callable[[list], torch.optim.Optimizer]:
    """A function from named parameters to the reference optimizer of a case, if `fused` in torch's fused form."""
    module, name = case.reference.rsplit(".", 1)
    reference = getattr(importlib.import_module(module), name)
    kwargs = {**case.kwargs, "fused": True} if fused and "fused" in forms(reference) else case.kwargs

    def build(named):
        params = dict(named)
        if case.inner:
            return _Averaged(factory(case.inner, fused)(named), reference(params.values(), **case.kwargs), list(params))
        groups = case.split(params)
        if "fused" in kwargs:  # torch's fused SGD fails on a group where one parameter's first gradient comes later
            groups = [([name], overrides) for names, overrides in groups for name in names]
        return reference(
            [{"params": [(name, params[name]) for name in names], **overrides} for names, overrides in groups], **kwargs
        )

    return build


class _Averaged:
    """An optimizer and the average that is updated after each of its steps, as one optimizer whose state has both."""

    def __init__(self, optimizer, average, names):
        self.optimizer, self._average, self._names = optimizer, average, names
        self.zero_grad = optimizer.zero_grad

    def step(self):
        self.optimizer.step()
        self._average.update()

    @property
    def state(self):
        averages = zip(self._average.params, self._average.average)
        return {param: {**self.optimizer.state.get(param, {}), "ema": average} for param, average in averages}

    def state_dict(self):
        averages = dict(zip(self._names, self._average.average))
        return {
            **self.optimizer.state_dict(),
            "ema": {"step": self._average.step, "decay": self._average.decay, "averages": averages},
        }

    def load_state_dict(self, given):
        self.optimizer.load_state_dict({key: value for key, value in given.items() if key != "ema"})
        averages = given["ema"]["averages"]
        self._average.restore(given["ema"]["step"], [averages[name] for name in self._names])


class Session:
    """An optimizer of PyTorch and its parameters, in one dtype; a run can be stopped, and taken up elsewhere.

    `schedule` is the name and the arguments of one of torch's schedulers, which steps after each of its steps.
    """

    def __init__(
        self,
        build: Callable[[list], torch.optim.Optimizer],
        initial: dict[str, np.ndarray],
        dtype: str,
        schedule: tuple[str, dict] | None = None,
    ):
        self.dtype = DTYPES[dtype]
        self.named = [
            (name, torch.nn.Parameter(torch.tensor(value, dtype=self.dtype))) for name, value in initial.items()
        ]
        with default_dtype(self.dtype):
            self.optimizer = build(self.named)
            self._inner = getattr(self.optimizer, "optimizer", self.optimizer)
            if self.dtype == torch.float64:  # which is the truth of what float32 computes
                for group in self._inner.param_groups:
                    group.update(numbers_for_double(group, torch.float32))
            self.scheduler = schedule and getattr(torch.optim.lr_scheduler, schedule[0])(self._inner, **schedule[1])

    def steps(self, gradients: Iterable[dict[str, Gradient]]) -> Trace:
        """Take a step on each of the gradients."""
        recorder = Recorder()
        with default_dtype(self.dtype), one_thread():
            for drawn in gradients:
                for name, param in self.named:
                    param.grad = _gradient(drawn[name], param)
                self.optimizer.step()
                if self.scheduler:
                    self.scheduler.step()
                recorder.add(self.values, _state(self.optimizer, self.named))
        return recorder.trace()

    @property
    def values(self) -> dict[str, np.ndarray]:
        """The weights as they are now."""
        return {name: param.detach().numpy().copy() for name, param in self.named}

    def stop(self) -> tuple[dict[str, np.ndarray], dict]:
        """The weights as they are now, and, as arrays, the state dicts of what there is, by name."""
        return self.values, {
            name: _mapped(part.state_dict(), lambda value: value.detach().numpy().copy(), torch.Tensor)
            for name, part in self._parts.items()
        }

    def take_up(self, state: dict):
        """Load what `stop` of a session has given."""
        with default_dtype(self.dtype):
            for name, part in self._parts.items():
                part.load_state_dict(self._kept(state[name]))

    def _kept(self, tree, key=None):
        """A tree of dicts with what torch takes for arrays: of a count of steps it makes what the optimizer keeps."""
        if isinstance(tree, dict):
            return {name: self._kept(value, name) for name, value in tree.items()}
        if not isinstance(tree, np.ndarray):
            return copy.copy(tree)
        return int(tree) if key == "step" else torch.tensor(tree, dtype=self.dtype)

    @property
    def _parts(self):
        return {"optimizer": self.optimizer} | ({"scheduler": self.scheduler} if self.scheduler else {})


def told(build: Callable[[list], torch.optim.Optimizer], problem: Problem) -> tuple[str, list[dict]]:
    """The name of the optimizer that `build` makes, and of each group "params", by name, and its arguments."""
    params = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in problem.initial.items()}
    names = {id(param): name for name, param in params.items()}
    optimizer = build(list(params.items()))
    groups = [
        {
            **{key: value for key, value in group.items() if key != "param_names"},
            "params": [names[id(param)] for param in group["params"]],
        }
        for group in optimizer.param_groups
    ]
    return type(optimizer).__name__, groups


def _gradient(drawn, param):
    """What a problem has drawn, in the dtype and the layout that the optimizer of a parameter takes."""
    if isinstance(drawn, Rows):
        values = torch.tensor(drawn.values, dtype=param.dtype)
        return torch.sparse_coo_tensor(drawn.indices[None], values, param.shape, check_invariants=True)
    return None if drawn is None else torch.tensor(drawn, dtype=param.dtype)


def _mapped(tree, function, kind):
    """A tree of dicts with the function applied to what is of a kind."""
    if isinstance(tree, dict):
        return {key: _mapped(value, function, kind) for key, value in tree.items()}
    return function(tree) if isinstance(tree, kind) else copy.copy(tree)


def run(build: Callable[[list], torch.optim.Optimizer], problem: Problem, dtype: str) -> Trace:
    """The trace of the optimizer that `build` makes of named parameters, fed the problem's gradients in `dtype`."""
    return Session(build, problem.initial, dtype).steps(problem.gradients)


def minimize(build: Callable[[list], torch.optim.Optimizer], loss: Loss, steps: int, dtype: str) -> Trace:
    """The trace of an optimizer that takes a closure: parameters, and of each step the loss and both counts."""
    session = Session(build, loss.initial, dtype)
    params = [param for _, param in session.named]
    data = [torch.tensor(value, dtype=session.dtype) for value in loss.data]

    def closure():
        session.optimizer.zero_grad()
        value = loss.function(params, data, torch)
        value.backward()
        return value

    recorder = Recorder()
    with default_dtype(session.dtype), one_thread():
        for _ in range(steps):
            value = session.optimizer.step(closure)
            state = session.optimizer.state_dict()["state"][0]
            recorder.add(
                session.values,
                {
                    loss.name: {
                        "loss": value.detach().numpy(),
                        **{name: np.asarray(state[name]) for name in ("func_evals", "n_iter")},
                    }
                },
            )
    return recorder.trace()


def _state(optimizer, named):
    return {
        name: {slot: np.asarray(value) for slot, value in optimizer.state[param].items() if value is not None}
        for name, param in named
        if param in optimizer.state
    }
