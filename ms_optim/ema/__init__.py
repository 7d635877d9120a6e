"""Exponential moving averages of parameters (Polyak and Juditsky 1992; Tarvainen and Valpola 2017, "Mean teachers")."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import zip_longest

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.ops import MultitypeFuncGraph

from ms_optim import _native
from ms_optim._math import lerp
from ms_optim._state import assignment
from ms_optim._values import as_number, plain
from ms_optim.arguments import FLOATS, check, check_gradients
from ms_optim.optimizer import Optimizer, run_compiled


def constant(n, steps, decay, warmup):
    """Keep decay from the start, which is the initial parameters: timm's ModelEmaV2, BYOL, "Mean teachers"."""
    return decay


def averaged_model(n, steps, decay, warmup):
    """Copy once, then keep decay: torch's AveragedModel, timm's ModelEmaV3 without warm-up."""
    return decay.where(n > 1, 0)


def timm(n, steps, decay, warmup):
    """Copy once, then approach decay by a power of the steps since: timm's ModelEmaV3 with warm-up, ema-pytorch."""
    min_decay, gamma, power = warmup
    value = 1 - (1 + (steps - 1) / gamma) ** -power
    return value.minimum(decay).maximum(min_decay).where(steps > 1, 0)


def torch_ema(n, steps, decay, warmup):
    """Keep at most (1 + n)/(10 + n): TensorFlow's ExponentialMovingAverage with num_updates, torch-ema."""
    return ((1 + n) / (10 + n)).minimum(decay)


def yolov5(n, steps, decay, warmup):
    """Keep decay*(1 - exp(-n/2000)): YOLOv5, MindCV and others of MindSpore's model zoo."""
    return decay * (1 - (-n / 2000).exp())


def zero_start(n, steps, decay, warmup):
    """Go through y/(1 - decay^n) for y <- decay*y + (1 - decay)*param, y = 0 at first; decay 1 is the plain mean."""
    return 1 - ((1 - decay) / (1 - decay**n)).where(decay < 1, 1 / n)


SCHEDULES = {
    schedule.__name__: schedule for schedule in (constant, averaged_model, timm, torch_ema, yolov5, zero_start)
}


def ema_weight(step, decay, warmup, schedule, update_after_step, update_every):
    """The parameters' weight in the average at a step, counted from 1, and whether this step averages."""
    steps = step - update_after_step
    n = (step - 1) // update_every - (update_after_step - 1) // update_every
    weight = (1 - schedule(n, steps, decay, warmup)).where(steps > 0, 1)
    return weight, (step - 1) % update_every == 0


_average = MultitypeFuncGraph("average")


@_average.register("Tensor", "Tensor", "Tensor", "Tensor", "Bool")
def _average_or_copy(weight, due, average, value, copied):
    """Compute average <- average + weight*(value - average), in float32 unless it is float64; or average <- value.

    Where it is not due, the average is not what weight 0 gives: that would be NaN for an infinite value.
    """
    if copied:
        new = value.to(average.dtype)
    else:
        dtype = ms.float64 if average.dtype == ms.float64 else ms.float32
        new = lerp(average.to(dtype), value.to(dtype), weight.to(dtype)).to(average.dtype)
    ops.assign(average, new.where(due, average))
    return True


def _scalar(value, name):
    return Parameter(Tensor(value, ms.float64), name=name, requires_grad=False)


def _set_decay(self, value):
    ops.assign(self._decay, Tensor(check(type(self).__name__, "decay", value), ms.float64))


_DECAY = property(lambda self: self._decay, _set_decay, doc="A float64 Parameter, to which a number may be assigned.")


def _shadow(param):
    average = param.clone()
    average.name = f"ema.{param.name}"
    average.requires_grad = False
    if param.dtype in FLOATS and param.dtype != ms.float64:
        average.set_dtype(ms.float32)
    return average


def _integer(name, value, low):
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        kind = ValueError if type(value) is int else TypeError
        raise kind(f"For 'EMA', '{name}' must be an int in [{low}, inf), but got {value!r}.")
    return value


def _parameter_list(owner, name, params):
    if isinstance(params, Tensor) or not isinstance(params, Iterable):
        raise TypeError(f"For '{owner}', '{name}' must be a list of Parameters, but got {type(params).__name__}.")
    params = list(params)
    odd = [type(param).__name__ for param in params if not isinstance(param, Parameter)]
    if odd:
        raise TypeError(f"For '{owner}', '{name}' must be a list of Parameters, but got an element of {odd[0]}.")
    return params


class EMA(nn.Optimizer):
    """Another optimizer, and after each of its steps an exponential moving average of the parameters.

    It takes that optimizer's place, in the same graph: a step that is skipped, as on overflow, is not averaged. What
    it does not have itself, such as `param_groups`, it takes from that optimizer; `learning_rate` and `global_step`
    they share.

    ================== =========================================== ====================================================
    schedule           decay of average n = 1, 2, ...              as in
    ================== =========================================== ====================================================
    ``constant``       decay                                       timm's ModelEmaV2, TensorFlow without num_updates
    ``averaged_model`` 0 at n = 1, then decay                      torch's AveragedModel, get_ema_multi_avg_fn(decay);
                                                                   timm's ModelEmaV3 without warm-up
    ``timm``           0 at s = 0, then 1 - (1 + s/gamma)^-power   timm's ModelEmaV3 with use_warmup, ema-pytorch;
                       clamped to [min_decay, decay]               s = step - update_after_step - 1
    ``torch_ema``      min(decay, (1 + n)/(10 + n))                torch-ema, TensorFlow with num_updates
    ``yolov5``         decay*(1 - exp(-n/2000))                    YOLOv5, MindCV
    ``zero_start``     1 - (1 - decay)/(1 - decay^n)               y/(1 - decay^n), where y starts at zero (Adam's
                                                                   correction); decay 1 is the plain mean (SWA)
    ================== =========================================== ====================================================

    Args:
        optimizer (nn.Optimizer): Any optimizer of this library or of `mindspore.nn`. The averages start at its
            parameters as they are now, so load pretrained weights first.
        decay (float): What the average keeps of itself at a step. Range [0, 1]. Default: ``0.9999`` .
        schedule (str): How the decay starts: a name in the table. Default: ``"constant"`` .
        min_decay (float): Of ``timm`` : prevails over `decay`. Range [0, 1]. Default: ``0.0`` .
        gamma (float): Of ``timm`` . Range (0, inf). Default: ``1.0`` .
        power (float): Of ``timm`` . Range (0, inf). Default: ``2 / 3`` .
        update_after_step (int): Copy up to this step, and count n from there. Default: ``0`` .
        update_every (int): Average at steps 1, 1 + update_every, ... as ema-pytorch does. Default: ``1`` .
        buffers (Iterable[Parameter]): What else the network needs, such as the moving mean and variance of batch
            normalization. Default: ``()`` .
        buffer_update (str): ``"average"`` (integers are copied), ``"copy"`` or ``"skip"`` the buffers when the
            parameters are averaged. Default: ``"average"`` .

    Inputs:
        - **gradients** (tuple[Tensor]) - As `optimizer` takes them. Where one is None, the parameter, though it stands
          still, is averaged.

    Outputs:
        What `optimizer` returns.

    Note:
        Averages are float32, those of float64 parameters float64. MindSpore's CPU backend, however, passes a float64
        Parameter through float32 where one graph both assigns and reads it: averaged float64 parameters, and their
        averages, are no more exact than float32.

    Raises:
        TypeError: If an argument is of the wrong kind, or `optimizer` is itself an EMA.
        ValueError: If an argument is out of range, or a name occurs twice.
        RuntimeError: If a step runs inside `average_parameters`.

    Examples:
        >>> from mindspore import nn
        >>> from ms_optim import EMA, AdamW
        >>> net = nn.Dense(2, 3)
        >>> ema = EMA(AdamW(net.trainable_params(), lr=1e-3), decay=0.999, schedule="timm")
        >>> train_step = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), ema)
        >>> with ema.average_parameters():
        ...     pass  # evaluate the network, or save it
        >>> [average.name for average in ema.averages]
        ['ema.weight', 'ema.bias']
    """

    ema_weight = staticmethod(ema_weight)
    decay = _DECAY

    def __init__(
        self,
        optimizer,
        decay=0.9999,
        *,
        schedule="constant",
        min_decay=0.0,
        gamma=1.0,
        power=2 / 3,
        update_after_step=0,
        update_every=1,
        buffers=(),
        buffer_update="average",
    ):
        if not isinstance(optimizer, nn.Optimizer) or isinstance(optimizer, EMA):
            raise TypeError(
                f"For 'EMA', 'optimizer' must be an nn.Optimizer other than an EMA, but got {type(optimizer).__name__}."
            )
        super().__init__(0.0, optimizer.parameters, loss_scale=optimizer.loss_scale)
        del self.learning_rate  # the base's; in a checkpoint each name can occur once
        for name in (
            "learning_rate",
            "global_step",
            "dynamic_lr",
            "is_group",
            "is_group_lr",
            "weight_decay",
            "dynamic_weight_decay",
        ):
            setattr(self, name, getattr(optimizer, name))
        self._decay = _scalar(check("EMA", "decay", decay), "optimizer.ema_decay")
        self._step = _scalar(0.0, "optimizer.ema_step")
        self.schedule = SCHEDULES[check("EMA", "schedule", schedule)]
        self.warmup = tuple(
            Tensor(check("EMA", name, value), ms.float64)
            for name, value in (("min_decay", min_decay), ("gamma", gamma), ("power", power))
        )
        self.update_after_step = _integer("update_after_step", update_after_step, 0)
        self.update_every = _integer("update_every", update_every, 1)
        buffers = _parameter_list("EMA", "buffers", buffers)
        if check("EMA", "buffer_update", buffer_update) == "skip":
            buffers = []
        copied = [buffer_update == "copy" or buffer.dtype not in FLOATS for buffer in buffers]
        averages = [_shadow(param) for param in (*self.parameters, *buffers)]
        names = [param.name for param in (*optimizer.get_parameters(), *buffers, *averages)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                "For 'EMA', parameters, buffers, state and averages must have different names, but got "
                f"{twice} more than once."
            )
        self.tracked = (*self.parameters, *buffers)
        self.averages = ParameterTuple(averages)
        self.copied = (*[False for _ in self.parameters], *copied)
        self.swapped = False
        self.optimizer = optimizer
        self.fused = getattr(optimizer, "fused", True) and _native.absence("EMA", "average") is None
        if self.fused:
            self.check_averages = _native.checked_when_compiled(
                _native.check_averages, "EMA", self.averages, self.tracked, self.copied
            )
            self.kernel = _native.average_kernel("EMA", _average_or_copy).primitive()
            self.layout = Tensor(np.array(self.copied, np.int32))

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "optimizer" not in self.__dict__.get("_cells", ()):
                raise
            return getattr(self.optimizer, name)

    @property
    def state(self) -> dict[str, dict[str, Tensor]]:
        """The state of the optimizer, where it tells it, and the average as slot "ema", by parameter."""
        inner = getattr(self.optimizer, "state", {})
        return {
            param.name: {**inner.get(param.name, {}), "ema": average}
            for param, average in zip(self.tracked, self.averages)
        }

    @property
    def state_bytes(self) -> int:
        """The memory of the optimizer's state, of the averages and of two numbers."""
        return self.optimizer.state_bytes + sum(state.nbytes for state in (*self.averages, self._decay, self._step))

    def state_dict(self, *args, **kwargs) -> dict:
        """That of the optimizer, and, as "ema", the averages by name, how many steps there were, and the decay.

        With the arguments of `mindspore.nn.Cell.state_dict` it is that, as a Cell around this one needs it.
        """
        if args or kwargs:
            return super().state_dict(*args, **kwargs)
        self._refuse_foreign("state_dict")
        averages = {param.name: Tensor(average.asnumpy().copy()) for param, average in zip(self.tracked, self.averages)}
        numbers = {"decay": self._decay.asnumpy().item(), "step": int(self._step.asnumpy().item())}
        return {**self.optimizer.state_dict(), "ema": {**numbers, "averages": averages}}

    def load_state_dict(self, state_dict: Mapping):
        """Take over what `state_dict` of an average of the same parameters has given.

        Raises:
            TypeError, ValueError: If a parameter, a state or an argument does not fit; nothing is changed then.
        """
        for assign in self.assignments(state_dict):
            assign()

    def assignments(self, state_dict: Mapping) -> list[Callable[[], object]]:
        """What `load_state_dict` does, one call for each thing that it writes; none of them is made.

        Raises:
            TypeError, ValueError: As `load_state_dict`.
        """
        self._refuse_foreign("load_state_dict")
        given = state_dict.get("ema") if isinstance(state_dict, Mapping) else None
        names = [param.name for param in self.tracked]
        if (
            not isinstance(given, Mapping)
            or given.keys() != {"averages", "decay", "step"}
            or (not isinstance(given["averages"], Mapping) or given["averages"].keys() != set(names))
        ):
            raise ValueError(
                f"For 'EMA', 'state_dict' must hold as 'ema' 'averages' of {names}, 'decay' and 'step', "
                f"but got {sorted(given, key=str) if isinstance(given, Mapping) else given!r}."
            )
        decay = check("EMA", "decay", plain(given["decay"], "For 'EMA', 'decay'"))
        step = as_number(given["step"], "For 'EMA', 'step'", whole=True)
        averages = [
            assignment(average, given["averages"][name], f"For 'EMA', the average of '{name}'")
            for name, average in zip(names, self.averages)
        ]
        inner = self.optimizer.assignments({key: value for key, value in state_dict.items() if key != "ema"})
        numbers = [
            partial(ops.assign, kept, Tensor(value, kept.dtype))
            for kept, value in ((self._decay, decay), (self._step, step))
        ]
        return [*inner, *averages, *numbers]

    def add_param_group(self, group: dict):
        """Raise: an average has the parameters that it was made with.

        Raises:
            TypeError: Always; it says what to do.
        """
        raise TypeError(
            "For 'EMA', 'add_param_group' must be called on its optimizer, around which a new EMA is made "
            "then, but was called on the EMA."
        )

    def _refuse_foreign(self, method):
        if not isinstance(self.optimizer, Optimizer):
            raise TypeError(
                f"For 'EMA', the optimizer must be one of ms_optim for '{method}', but got "
                f"{type(self.optimizer).__name__}."
            )

    def __call__(self, gradients):
        """Run one compiled step in both modes."""
        self._refuse_inside("no step can be taken")
        if isinstance(self.optimizer, Optimizer):
            return run_compiled(self, self.optimizer.checked("EMA", gradients))
        gradients = check_gradients("EMA", gradients, self.parameters)
        if any(grad is None for grad in gradients):
            raise ValueError(f"For 'EMA' of '{type(self.optimizer).__name__}', no gradient must be None.")
        return self.compile_and_run(ms.mutable(gradients))

    def construct(self, gradients, present=None):
        """One step of the optimizer, then one of the average."""
        if self.fused:
            self.check_averages()
        done = self.optimizer(gradients) if present is None else self.optimizer(gradients, present)
        step = self._step + 1
        weight, due = self.ema_weight(
            step, self._decay, self.warmup, self.schedule, self.update_after_step, self.update_every
        )
        if self.fused:
            self.kernel(weight, due, self.layout, *self.averages, *self.tracked)
        else:
            self.hyper_map(ops.partial(_average, weight, due), self.averages, self.tracked, self.copied)
        ops.assign(self._step, step)
        return done

    @contextlib.contextmanager
    def average_parameters(self) -> Iterator[None]:
        """Put the averages into the network, graphs that are already compiled included, until the block is left.

        A checkpoint that is saved inside holds the averages as the parameters. At the end, also by an exception, the
        parameters are what they were before; this takes one copy of them.

        Raises:
            RuntimeError: If a block is inside another, or, at its end, if a compiled training step ran inside.
        """
        self._refuse_inside("no other block can be entered")
        step = self._step.asnumpy().item()
        kept = [ops.deepcopy(param) for param in self.tracked]
        self.swapped = True
        try:
            self._write_averages()
            yield
        finally:
            for param, value in zip(self.tracked, kept):
                ops.assign(param, value)
            self.swapped = False
        if self._step.asnumpy().item() != step:
            raise RuntimeError(
                "For 'EMA', a training step ran inside 'average_parameters': the parameters are what "
                "they were before, but the optimizer's state and the averages are not."
            )

    def copy_to(self):
        """Write the averages into the network for good."""
        self._refuse_inside("'copy_to' has no effect")
        self._write_averages()

    def _write_averages(self):
        for param, average in zip(self.tracked, self.averages):
            ops.assign(param, average.astype(param.dtype))

    def _refuse_inside(self, what):
        if self.swapped:
            raise RuntimeError(f"For 'EMA', {what} inside 'average_parameters'.")


class ParameterEMA(nn.Cell):
    """One network's average in another: a momentum encoder (MoCo) or a target network (DQN).

    Each call computes target <- decay*target + (1 - decay)*source, alone or within a larger compiled graph.

    Args:
        source (Union[nn.Cell, Iterable[Parameter]]): What is trained.
        target (Union[nn.Cell, Iterable[Parameter]]): What follows it, of the same structure, but under other names, as
            `target.update_parameters_name("target.")` gives. In float16 it hardly moves.
        decay (float): The momentum of MoCo, 1 - tau of a soft update. Range [0, 1].
        buffer_update (str): ``"average"`` (integers are copied), ``"copy"`` or ``"skip"`` what requires no gradient in
            the source. Lists are averaged whole, and integers copied. Default: ``"skip"`` .

    Outputs:
        bool, True.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `decay` is out of range, or a parameter of the source and one of the target do not fit.

    Examples:
        >>> from mindspore import nn
        >>> from ms_optim import ParameterEMA
        >>> net, target = nn.Dense(2, 3), nn.Dense(2, 3)
        >>> target.update_parameters_name("target.")
        >>> follow = ParameterEMA(net, target, decay=0.995)
        >>> follow.copy()  # hard update
        >>> follow()  # soft update
        True
    """

    decay = _DECAY

    def __init__(self, source, target, decay, *, buffer_update="skip"):
        super().__init__()
        decay = check("ParameterEMA", "decay", decay)
        check("ParameterEMA", "buffer_update", buffer_update)
        pairs = _pair(source, target)
        if isinstance(source, nn.Cell) and buffer_update == "skip":
            pairs = [(param, other) for param, other in pairs if param.requires_grad]
        if not pairs:
            raise ValueError("For 'ParameterEMA', 'source' must hold a parameter to average.")
        copies = isinstance(source, nn.Cell) and buffer_update == "copy"
        self.source, self.target = tuple(param for param, _ in pairs), tuple(other for _, other in pairs)
        self.copied = tuple(param.dtype not in FLOATS or (copies and not param.requires_grad) for param in self.source)
        self.everything = tuple(True for _ in pairs)
        self.now = Tensor(True)
        self.hyper_map = ops.HyperMap()
        self._decay = _scalar(decay, f"decay.{self.target[0].name}")
        self.fused = _native.absence("ParameterEMA", "average") is None
        if self.fused:
            self.check_averages = _native.checked_when_compiled(
                _native.check_averages, "ParameterEMA", self.target, self.source, self.copied
            )
            self.kernel = _native.average_kernel("ParameterEMA", _average_or_copy).primitive()
            self.layout = Tensor(np.array(self.copied, np.int32))

    def __call__(self):
        """Run one compiled update in both modes."""
        return self.compile_and_run()

    def construct(self):
        """One soft update."""
        if self.fused:
            self.check_averages()
            self.kernel(1 - self._decay, self.now, self.layout, *self.target, *self.source)
        else:
            self.hyper_map(ops.partial(_average, 1 - self._decay, self.now), self.target, self.source, self.copied)
        return True

    def copy(self):
        """Copy the source into the target: a hard update."""
        self.hyper_map(ops.partial(_average, self._decay, self.now), self.target, self.source, self.everything)


def _pair(source, target):
    """The parameters of source and target side by side, once they are known to fit."""
    if isinstance(source, nn.Cell) != isinstance(target, nn.Cell):
        raise TypeError(
            "For 'ParameterEMA', 'source' and 'target' must be two Cells or two lists of Parameters, but "
            f"got {type(source).__name__} and {type(target).__name__}."
        )
    if isinstance(source, nn.Cell):
        source, target = source.parameters_and_names(), target.parameters_and_names()
    else:
        source, target = (
            [("", param) for param in _parameter_list("ParameterEMA", name, params)]
            for name, params in (("source", source), ("target", target))
        )
    pairs = []
    for (name, param), (other_name, other) in zip_longest(source, target, fillvalue=("", None)):
        if (
            param is None
            or other is None
            or param.name == other.name
            or ((name, param.shape, param.dtype) != (other_name, other.shape, other.dtype))
        ):
            raise ValueError(
                "For 'ParameterEMA', 'source' and 'target' must pair parameters of the same place, shape "
                f"and dtype, but of different names, but got pair {len(pairs)}: {param} and {other}."
            )
        pairs.append((param, other))
    return pairs
