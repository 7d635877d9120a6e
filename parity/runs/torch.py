"""Records a run of PyTorch around an ordinary training loop, by the hooks of its optimizer."""

import contextlib
import copy
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity.runs import watch
from parity.runs.files import Step, Writer
from parity.runs.notes import Notes, loss_of
from parity.sides.torch_settings import default_dtype, numbers_for_double

OWNER = "record"


class Recording:
    """A block in which the steps of an optimizer of torch are recorded; `parity.record` makes it.

    A float64 twin of the optimizer takes the same steps, on the gradients and the numbers that are recorded: it is the
    truth by which a replay is judged. Of a number that is the eps of a dtype it has that of the parameters. Where the
    twin cannot be copied or take a step, as of a class that asks for a closure, a warning says that there is no truth.

    What a loop does before a step is noted with it: the scale of a `torch.amp.GradScaler`, and gradients that the
    functions of `torch.nn.utils` clip, if they are of this optimizer. A step that a scaler skips is none, and counted.

    Args:
        optimizer (torch.optim.Optimizer): One whose step takes gradients: LBFGS is refused. Where `step` is given a
            closure, the gradients are those that it has left.
        folder (Union[str, Path]): Where to; it is made, and must not hold a run.
        model (Union[None, torch.nn.Module]): What has the names of the parameters. Default: ``None`` , the names that
            the groups of the optimizer have, as those made of `named_parameters()`.
        first (Union[None, int]): After so many steps nothing more is recorded. Default: ``None`` .
        every (int): Only each such step is recorded, from the first on, in [1, inf). Default: ``1`` .
        elements (Union[None, int]): Of larger tensors only so many elements are recorded, in [1, inf).
            Default: ``None`` .
        seed (int): By which they are drawn, with the name of the parameter. Default: ``0`` .

    Attributes:
        steps (int): How many were recorded.
        seconds (float): What recording has taken, the twin's steps included.

    Raises:
        TypeError: If the optimizer's step evaluates a closure more than once.
        ValueError: If a parameter has no name, or two have the same; in a step, if a group was added.
        FileExistsError: If the folder holds a run.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        folder: str | Path,
        model: torch.nn.Module | None = None,
        first: int | None = None,
        every: int = 1,
        elements: int | None = None,
        seed: int = 0,
    ):
        if isinstance(optimizer, torch.optim.LBFGS):
            raise TypeError(f"For '{OWNER}', 'optimizer' must evaluate a closure once in a step, but got LBFGS.")
        if model is not None and not isinstance(model, torch.nn.Module):
            raise TypeError(
                f"For '{OWNER}', 'model' must be a torch.nn.Module or None, but got {type(model).__name__}."
            )
        self._optimizer, self._first = optimizer, first
        self._params = _named(optimizer, model)
        self.steps, self.seconds, self._loss, self._left_out = 0, 0.0, None, False
        self._notes, self._came = Notes(), False  # whether the step that a scaler is about to take has begun
        self._before: dict[str, torch.Tensor] = {}
        self._gradients: dict[str, torch.Tensor] = {}
        self._groups: list[dict[str, Any]] = []
        self._unkept: set[str] = set()  # the state that is no number
        names = {param: name for name, param in self._params.items()}
        self._members = [[names[param] for param in group["params"]] for group in optimizer.param_groups]
        groups = [
            {"params": members, **_arguments(group)} for members, group in zip(self._members, optimizer.param_groups)
        ]
        self._writer = Writer(
            folder,
            type(optimizer).__name__,
            groups,
            _values(self._params),
            self._state(optimizer, self._params),
            [name for name, param in self._params.items() if param.dtype == torch.bfloat16],
            {
                "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": sys.version.split()[0]},
                "command": " ".join(sys.argv),
                "threads": torch.get_num_threads(),
                "seed": torch.initial_seed(),
                "device": str(next(iter(self._params.values())).device),
            },
            elements,
            seed,
            every,
        )
        self._twin: torch.optim.Optimizer | None = None
        self._twins: dict[str, torch.nn.Parameter] = {}
        with self._for_twin():
            self._twin, self._twins = self._made_double()
        self._last = {name: param.detach().clone() for name, param in self._params.items()}
        self._hooks: list[Any] = []
        self._outermost: Any = None  # the frame of the step that is being taken

    def __enter__(self):
        self._hooks = [
            self._optimizer.register_step_pre_hook(self._begin),
            self._optimizer.register_step_post_hook(self._end),
        ]
        watch.watch(self)
        return self

    def __exit__(self, *error):
        watch.leave(self)
        for hook in self._hooks:
            hook.remove()
        self._writer.end(self._notes.left)

    def loss(self, value: Any) -> None:
        """Say what the loss of the step is that comes next."""
        self._loss = loss_of(value)

    def note(self, **named: Any) -> None:
        """Say what else there is to say of the step that comes next, in values of JSON."""
        self._notes.say(**named)

    def clipped(self, gradients: list[torch.Tensor], kind: str, told: dict[str, Any]) -> None:
        """Note that gradients are about to be clipped, and of which parameters if not of all that have one."""
        if self._is_done():
            return
        given, mine = {id(grad) for grad in gradients}, self._present()
        names = [name for name, grad in mine.items() if id(grad) in given]
        if names:
            some = {} if len(names) == len(mine) else {"params": names}
            self._notes.add(kind, {**told, **some})

    def scaled(self, optimizer: torch.optim.Optimizer, scale: float) -> None:
        """Note by what the loss was multiplied."""
        if optimizer is self._optimizer and not self._is_done():
            self._came = False
            self._notes.see("loss_scale", scale)

    def stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """Count the step as skipped if it has not come."""
        if optimizer is self._optimizer and not self._is_done() and not self._came:
            self._notes.skip()

    def _present(self):
        return {name: param.grad for name, param in self._params.items() if param.grad is not None}

    @contextlib.contextmanager
    def _for_twin(self):
        """Do what is the twin's, which no training is to notice: if it fails there is none, and a warning says so."""
        devices = sorted({param.device.index for param in self._params.values() if param.is_cuda})
        try:
            with default_dtype(torch.float64), torch.random.fork_rng(devices):
                yield
        except Exception as error:
            self._twin, self._twins = None, {}
            warnings.warn(
                f"For '{OWNER}', the float64 twin of {type(self._optimizer).__name__} must take its steps, but raised "
                f"{type(error).__name__}: {error}. The run can be compared and diagnosed, but not replayed.",
                stacklevel=3,
            )

    def _made_double(self):
        """The same optimizer over float64 copies of the parameters, with all that it has; and these, by name."""
        memo: dict[int, Any] = {}
        twins = {}
        for name, param in self._params.items():
            memo[id(param)] = twins[name] = torch.nn.Parameter(_double(param.detach()), param.requires_grad)
        twin = type(self._optimizer).__new__(type(self._optimizer))
        for name, value in vars(self._optimizer).items():
            if not name.endswith("_hooks") and name != "step":  # which a scheduler wraps
                twin.__dict__[name] = copy.deepcopy(value, memo)
        twin.__setstate__({})
        for slots in twin.state.values():
            for slot, value in slots.items():
                if torch.is_tensor(value) and value.is_floating_point():
                    slots[slot] = _double(value)
        return twin, twins

    def _begin(self, optimizer, args, kwargs):
        if self._is_done() or self._is_within():
            return None
        self._outermost, self._came = sys._getframe(1), True
        began = time.perf_counter()
        members = [[id(param) for param in group["params"]] for group in optimizer.param_groups]
        if members != [[id(self._params[name]) for name in group] for group in self._members]:
            raise ValueError(f"For '{OWNER}', 'optimizer' must keep its groups of parameters, but they are others now.")
        self._groups = [_arguments(group) for group in optimizer.param_groups]
        self._before = {
            name: param.detach().clone()
            for name, param in self._params.items()
            if not _is_same(param.detach(), self._last[name])
        }
        self._keep_gradients()
        self.seconds += time.perf_counter() - began
        by_place = len(args) > 1  # after the optimizer
        closure = args[1] if by_place else kwargs.get("closure")
        if closure is None:
            return None

        def evaluated():
            loss = closure()
            self._keep_gradients()
            return loss

        return ((args[0], evaluated), kwargs) if by_place else (args, {**kwargs, "closure": evaluated})

    def _keep_gradients(self):
        """Copy them before the rule: what takes its step for several tensors at once may alter them."""
        self._gradients = {name: grad.detach().clone() for name, grad in self._present().items()}

    def _end(self, optimizer, args, kwargs):
        if sys._getframe(1) is not self._outermost:
            return
        self._outermost = None
        found = getattr(optimizer, "found_inf", None)  # a scaled gradient was not finite: nothing has moved
        if self._is_done():
            return
        if found is not None and bool(found):
            self._notes.skip()
            return
        began = time.perf_counter()
        if getattr(optimizer, "grad_scale", None) is not None:  # the rule itself has unscaled them
            self._keep_gradients()
        gradients = self._gradients
        if self._twin is not None:
            with self._for_twin():
                self._step_double(gradients)
        is_due = self._writer.is_due()
        if is_due:
            before = {**self._last, **self._before} if self._left_out else self._before
            self._writer.add(
                Step(
                    self._groups,
                    {name: _gradient(grad) for name, grad in gradients.items()},
                    _values(self._params),
                    self._state(optimizer, self._params),
                    _values(self._twins),
                    self._state(self._twin, self._twins),
                    {name: _array(value) for name, value in before.items()},
                    self._loss,
                    self._notes.taken(),
                )
            )
            self.steps += 1
        else:
            self._notes.pass_by()
        self._last = {name: param.detach().clone() for name, param in self._params.items()}
        self._left_out, self._loss = not is_due, None
        self.seconds += time.perf_counter() - began

    def _step_double(self, gradients):
        for name, value in self._before.items():
            self._twins[name].data.copy_(value)
        for own, group in zip(self._twin.param_groups, self._optimizer.param_groups):
            if group["params"]:
                own.update(numbers_for_double(group, group["params"][0].dtype))
        for name, twin in self._twins.items():
            twin.grad = _double(gradients[name]) if name in gradients else None
        type(self._twin).step(self._twin)

    def _is_within(self):
        """Whether a step is being taken already: that of a class may call that of the class it derives from."""
        frame = sys._getframe(2)
        while frame is not None and frame is not self._outermost:
            frame = frame.f_back
        return frame is not None

    def _is_done(self):
        return self._first is not None and self.steps >= self._first

    def _state(self, optimizer, params):
        return {
            name: {slot: _array(value) for slot, value in optimizer.state[param].items() if self._is_kept(slot, value)}
            for name, param in params.items()
            if optimizer.state.get(param)
        }

    def _is_kept(self, slot, value):
        """Whether state can be recorded: a warning names what is neither None nor numbers, once."""
        kept = torch.is_tensor(value) or np.asarray(value).dtype.kind in "biuf"
        if not kept and value is not None and slot not in self._unkept:
            self._unkept.add(slot)
            warnings.warn(
                f"For '{OWNER}', the state of 'optimizer' must be tensors and numbers, but {slot!r}, which is left "
                f"out, is {type(value).__name__}.",
                stacklevel=2,
            )
        return kept


def _values(params):
    return {name: _array(param) for name, param in params.items()}


def _is_same(one, other):
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _double(value):
    """A float64 copy, of what is float64 too: the twin moves it."""
    return value.to(torch.float64, copy=True)


def _named(optimizer, model):
    """The parameters of the optimizer by name, in the order of the model, whatever their groups are.

    Raises:
        ValueError: If one has no name, or two have the same.
    """
    names = {id(param): name for name, param in model.named_parameters()} if model is not None else {}
    found: dict[str, torch.nn.Parameter] = {}
    for group in optimizer.param_groups:
        given = group.get("param_names", [None] * len(group["params"]))
        for param, own in zip(group["params"], given):
            name = names.get(id(param), own)
            if name is None or name in found:
                what = f"a parameter of shape {tuple(param.shape)} without" if name is None else "two of"
                raise ValueError(
                    f"For '{OWNER}', 'model' must have a name for each parameter of the optimizer, but got {what} "
                    f"{'one' if name is None else repr(name)}."
                )
            found[name] = param
    order = {id(param): place for place, param in enumerate(model.parameters())} if model is not None else {}
    return dict(sorted(found.items(), key=lambda item: order.get(id(item[1]), len(order))))


def _arguments(group):
    """What a group has besides its parameters, as JSON has it."""
    return {
        key: value.item() if torch.is_tensor(value) and value.numel() == 1 else copy.copy(value)
        for key, value in group.items()
        if key not in ("params", "param_names")
    }


def _gradient(grad):
    """An array; of a sparse gradient its rows, and the values of each."""
    if not grad.is_sparse:
        return _array(grad)
    grad = grad.coalesce()
    if grad.sparse_dim() != 1:
        raise ValueError(f"For '{OWNER}', sparse gradients must be of rows, but got {grad.sparse_dim()} sparse axes.")
    return _array(grad.indices()[0]), _array(grad.values())


def _array(value):
    """A copy on the host; bfloat16 as float32, which holds it."""
    if not torch.is_tensor(value):
        return np.asarray(value, np.float64 if isinstance(value, float) else None)
    value = value.detach()
    return (value.float() if value.dtype == torch.bfloat16 else value).cpu().numpy().copy()
