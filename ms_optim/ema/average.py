"""An optimizer with an average of what it optimizes."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Set
from functools import partial
from types import MappingProxyType
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_optim import _compiled, _direct, _native, _pieces
from ms_optim._describing import table_of
from ms_optim._gradients import check_gradients
from ms_optim._host import Memory, vector
from ms_optim._state import Change, State, Stateful
from ms_optim._values import as_it_is, as_number, float64_parameter, plain, repeated, write
from ms_optim.arguments import COMMON, FLOATS, Choice, Number, Whole
from ms_optim.ema.evaluation import Averaged
from ms_optim.ema.schedules import COPYING, SCHEDULES, ema_weight
from ms_optim.ema.tensors import average, check_parameters, shadow, sides, use_kernel, ways


class EMA(Averaged, Stateful):
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
        optimizer (nn.Optimizer): Any optimizer of this library or of `mindspore.nn` whose step takes gradients. The
            averages start at its parameters as they are now, so load pretrained weights first; where they are not
            initialized yet, as they are at the first step.
        decay (float): What the average keeps of itself at a step, in [0, 1]. Default: ``0.9999`` .
        schedule (str): How the decay starts, as in the table: "constant", "averaged_model", "timm", "torch_ema",
            "yolov5" or "zero_start". Default: ``"constant"`` .
        min_decay (float): Of ``timm`` : prevails over `decay`, in [0, 1]. Default: ``0.0`` .
        gamma (float): Of ``timm`` , in (0, inf). Default: ``1.0`` .
        power (float): Of ``timm`` , in (0, inf). Default: ``2 / 3`` .
        update_after_step (int): Copy up to this step, and count n from there, in [0, inf). Default: ``0`` .
        update_every (int): Average at steps 1, 1 + update_every, ... as ema-pytorch does, in [1, inf).
            Default: ``1`` .
        buffers (Iterable[Parameter]): What else the network needs, such as the moving mean and variance of batch
            normalization. Default: ``()`` .
        buffer_update (str): "average" (integers are copied), "copy" or "skip" the buffers when the
            parameters are averaged. Default: ``"average"`` .

    Inputs:
        - **gradients** (tuple[Tensor]) - As `optimizer` takes them. Where one is None, the parameter, though it stands
          still, is averaged.

    Outputs:
        What `optimizer` returns.

    Note:
        Averages are float32, those of float64 parameters float64. Where MindSpore's operators compute, as with
        `fused=False`, its CPU backend passes a float64 Parameter through float32 if one graph both assigns and reads
        it: averaged float64 parameters, frozen ones too, and their averages, are no more exact than float32 then.

    Raises:
        TypeError: If an argument is of the wrong kind, or `optimizer` is itself an EMA, or LBFGS.
        ValueError: If an argument is out of range, or a name occurs twice.
        RuntimeError: If a step runs inside `average_parameters`, or after a group was added to `optimizer`.

    Supported Platforms:
        ``CPU``. For ``Ascend`` and ``GPU`` a step is compiled and was not run; README says what is known.

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

    # What cannot be set as an attribute: until one is made, nothing.
    settled: Set[str] = frozenset()
    ema_weight = staticmethod(ema_weight)
    arguments = {
        "buffer_update": COMMON["buffer_update"],
        "decay": COMMON["decay"],
        "gamma": Number("(0, inf)"),
        "min_decay": COMMON["decay"],
        "power": Number("(0, inf)"),
        "schedule": Choice(*SCHEDULES),
        "update_after_step": Whole(0),
        "update_every": Whole(1),
    }

    def __init__(
        self,
        optimizer: nn.Optimizer,
        decay: float = 0.9999,
        *,
        schedule: str = "constant",
        min_decay: float = 0.0,
        gamma: float = 1.0,
        power: float = 2 / 3,
        update_after_step: int = 0,
        update_every: int = 1,
        buffers: Iterable[Parameter] = (),
        buffer_update: str = "average",
    ):
        if not isinstance(optimizer, nn.Optimizer) or isinstance(optimizer, EMA):
            raise TypeError(
                f"For 'EMA', 'optimizer' must be an nn.Optimizer other than an EMA, but got {type(optimizer).__name__}."
            )
        if getattr(optimizer, "takes_closure", False):
            raise TypeError(
                f"For 'EMA', 'optimizer' must take gradients, but got {type(optimizer).__name__}, whose step takes a "
                "closure: call a ParameterEMA after each of its steps."
            )
        given: dict[str, Any] = dict(
            decay=decay,
            schedule=schedule,
            min_decay=min_decay,
            gamma=gamma,
            power=power,
            update_after_step=update_after_step,
            update_every=update_every,
            buffer_update=buffer_update,
        )
        given = {name: self.arguments[name].check("EMA", name, value) for name, value in given.items()}
        buffers = check_parameters("EMA", "buffers", buffers)
        self._refuse_parameters(optimizer.parameters)
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
        self.made_with = {**given, "buffers": buffers}
        self._decay = float64_parameter(given["decay"], "optimizer.ema_decay")
        self._step = float64_parameter(0.0, "optimizer.ema_step")
        self._hold("on_memory", Memory((self._step, self._decay)))
        self.schedule = SCHEDULES[given["schedule"]]
        self.copying = self.schedule in COPYING
        self.on_host = tuple(given[name] for name in ("min_decay", "gamma", "power"))
        self.warmup = tuple(Tensor(number, ms.float64) for number in self.on_host)
        self.update_after_step, self.update_every = given["update_after_step"], given["update_every"]
        self._set_averages(optimizer, [] if buffer_update == "skip" else buffers)
        copied = [
            buffer_update == "copy" or buffer.dtype not in FLOATS for buffer in self.tracked[len(self.parameters) :]
        ]
        self.copied = (*[False for _ in self.parameters], *copied)
        self.optimizer = optimizer
        # Trainers that shard state by hand look for it here.
        for name, column in vars(optimizer).items():
            if isinstance(column, ParameterTuple) and name not in vars(self):
                self._hold(name, column)
        self._set_path()
        self.settled = {*self.arguments, "averages", "fused", "loss_scale", "weight_decay"} - {"decay"}

    def _set_path(self):
        """Choose the native kernel or MindSpore's operators."""
        optimizer = self.optimizer
        parted = not self._changed() and getattr(optimizer, "parted", ())
        self.parted = _pieces.parts(len(self.averages)) if parted else []
        self._hold("pieces", None)
        self._hold("_compiled_for", None)
        fused = getattr(optimizer, "fused", True) and _native.absence("EMA", "average") is None
        self._hold("fused", fused)  # which is settled, as an attribute
        if self.fused:
            use_kernel(self, "EMA", self.averages, self.tracked)
        self._hold("laid_out", self.lay_out(0, len(self.averages)))

    def _set_averages(self, optimizer, buffers):
        """Keep an average for each parameter, in a tuple of Parameters, and for each buffer beside it."""
        tracked = (*self.parameters, *buffers)
        averages = [shadow(param) for param in tracked]
        self._own_clones(tracked, averages)
        names = [param.name for param in (*optimizer.get_parameters(), *buffers, *averages)]
        twice = repeated(names)
        if twice:
            raise ValueError(
                "For 'EMA', parameters, buffers, state and averages must have different names, but got "
                f"{twice} more than once."
            )
        self.parameter_averages = ParameterTuple(averages[: len(self.parameters)])
        for kept in averages[len(self.parameters) :]:
            self.insert_param_to_cell(kept.name, kept, check_name_contain_dot=False)
        self._hold("tracked", tracked)  # a Cell would look for names that occur twice, once more
        self._hold("averages", tuple(averages))

    def __setattr__(self, name, value):
        if self.settled and name not in self.arguments and name in self._inner_settled:
            setattr(self.optimizer, name, value)  # which says how, or writes it
            return
        super().__setattr__(name, value)
        if name == "parameters" and "tracked" in vars(self):  # as of the optimizer
            self.optimizer.parameters = value
            self._hold("tracked", (*value, *self.tracked[len(value) :]))
            self._set_path()

    @property
    def _columns(self):
        return ("parameter_averages", *getattr(self.optimizer, "_columns", ()))

    def _way_to_set(self, name, value):
        if name == "averages":
            return super()._way_to_set(name, value)
        return f"given to {'it' if name in self.arguments else 'its optimizer'}"

    @property
    def _inner_settled(self):
        return getattr(self.optimizer, "settled", ()) if isinstance(self.optimizer, Stateful) else ()

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "optimizer" not in self.__dict__.get("_cells", ()):
                raise
            return getattr(self.optimizer, name)

    @property
    def state(self) -> Mapping[str, Mapping[str, Tensor]]:
        """The state of the optimizer, where it tells it, and the average as slot "ema", by parameter."""
        inner = dict(getattr(self.optimizer, "state", {}).items())
        return MappingProxyType(
            {name: MappingProxyType({**inner.get(name, {}), **slots}) for name, slots in self._averages.items()}
        )

    @property
    def _averages(self):
        return State(self.tracked, {"ema": self.averages})

    def present_names(self) -> dict[int, str]:
        """What the averages are called in checkpoints, by their `id`."""
        self._refuse_grown()
        return self._averages.names

    def _kept(self):
        return [*self.optimizer._kept(), *self.averages, self._decay, self._step]

    def _told(self):
        self._refuse_foreign("state_dict")
        self._refuse_grown()
        averages = {name: Tensor(as_it_is(slots["ema"]).asnumpy().copy()) for name, slots in self._averages.items()}
        numbers = {"decay": self._decay.asnumpy().item(), "step": int(self._step.asnumpy().item())}
        return {**self.optimizer.state_dict(), "ema": {**numbers, "averages": averages}}

    def changes(self, state_dict: Mapping) -> list[Change]:
        """What `load_state_dict` does, one call for each thing that it writes; none of them is made.

        The averages, how many steps there were, and the decay are in "ema"; all else is the optimizer's.

        Raises:
            TypeError, ValueError: As `load_state_dict`.
        """
        self._refuse_foreign("load_state_dict")
        self._refuse_grown()
        given = state_dict.get("ema") if isinstance(state_dict, Mapping) else None
        names = [param.name for param in self.tracked]
        if (
            not isinstance(given, Mapping)
            or given.keys() != {"averages", "decay", "step"}
            or not isinstance(given["averages"], Mapping)
            or given["averages"].keys() != set(names)
        ):
            raise ValueError(
                f"For 'EMA', 'state_dict' must hold as 'ema' 'averages' of {names}, 'decay' and 'step', "
                f"but got {sorted(given, key=str) if isinstance(given, Mapping) else given!r}."
            )
        decay = COMMON["decay"].check("EMA", "decay", plain(given["decay"], "For 'EMA', 'decay'"))
        step = as_number(given["step"], "For 'EMA', 'step'", whole=True)
        averages = [
            change
            for i, name in enumerate(names)
            for change in self._averages.changes(i, {"ema": given["averages"][name]}, "EMA")
        ]
        inner = self.optimizer.changes({key: value for key, value in state_dict.items() if key != "ema"})
        numbers = [
            partial(write, kept, Tensor(value, kept.dtype))
            for kept, value in ((self._decay, decay), (self._step, step))
        ]
        return [*inner, *averages, *numbers]

    def legacy_values(self, saved: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """What the Parameters are that it shares with the optimizer, where an older version did not have them."""
        inner: dict[str, Tensor] = getattr(self.optimizer, "legacy_values", lambda *_: {})(saved, prefix)
        return {name: value for name, value in inner.items() if name == f"{prefix}learning_rate"}

    def _made_of(self):
        self._refuse_foreign("copy")
        return (self.optimizer,), self.made_with

    @property
    def constants(self) -> tuple | None:
        """What a compiled step holds besides its Parameters, as `Optimizer.constants`."""
        inner = getattr(self.optimizer, "constants", None)
        return inner and (
            EMA,
            self.schedule,
            self.on_host,
            self.update_after_step,
            self.update_every,
            self.copied,
            self.fused,
            *inner,
        )

    def add_param_group(self, group: dict) -> None:
        """Raise: an average has the parameters that it was made with.

        Raises:
            TypeError: Always; it says what to do.
        """
        raise TypeError(
            "For 'EMA', 'add_param_group' must be called on its optimizer, around which a new EMA is made "
            "then, but was called on the EMA."
        )

    def _refuse_foreign(self, method):
        if not isinstance(self.optimizer, Stateful):
            raise TypeError(
                f"For 'EMA', the optimizer must be one of ms_optim for '{method}', but got "
                f"{type(self.optimizer).__name__}."
            )

    def __call__(self, gradients=None):
        """Take one step: by the kernels on the tensors' own memory where that can be, or else compiled."""
        self.refuse_inside("no step can be taken")
        self._refuse_grown()
        self.give_memory()
        if isinstance(self.optimizer, Stateful):
            if not self.why_compiled and self._step_at_once(gradients):
                return self.optimizer.present
            self.optimizer.refuse_changed("EMA")
            gradients = self.optimizer.checked("EMA", gradients)
            self.optimizer.follow_requires_grad()
            with self._compiled_call():
                return _compiled.step(self, gradients, self._step_in_pieces if self.parted else None)
        gradients = check_gradients("EMA", gradients, self.parameters)
        if any(grad is None for grad in gradients):
            raise ValueError(f"For 'EMA' of '{type(self.optimizer).__name__}', no gradient must be None.")
        with self._compiled_call():
            return _compiled.call(self, ms.mutable(gradients))

    def _refuse_grown(self):
        if self.optimizer.global_step is not self.global_step:
            raise RuntimeError(
                "For 'EMA', the optimizer must have the parameters that it had, but a group was added "
                "to it: make a new EMA around it."
            )

    def describe(self) -> str:
        """What each parameter got of the optimizer, as a table: its group, shape, state and arguments.

        Raises:
            TypeError: If the optimizer is none of this library.
        """
        if not isinstance(self.optimizer, Stateful):
            raise TypeError(
                f"For 'EMA', the optimizer must be of this library to be described, but is mindspore's "
                f"{type(self.optimizer).__name__}."
            )
        return table_of(self.optimizer, self.why_compiled)

    @property
    def why_compiled(self) -> str | None:
        """Why a direct call compiles; None if it does not, but runs the kernels at once."""
        inner = getattr(self.optimizer, "why_compiled", f"it is around mindspore's {type(self.optimizer).__name__}")
        return self._changed() or inner

    def _changed(self):
        """What a subclass does in another way, which no step but that of `construct` follows."""
        return _direct.changed(type(self), EMA, "construct", "weight_of_step", "average_part", "ema_weight")

    def _step_at_once(self, gradients):
        """Take a step without a graph, and say whether it was taken: all of it or nothing.

        Ctrl-C is raised where a kernel returns: what belongs to it follows all the same.
        """
        stepper = self.optimizer.stepper
        with self.launch.lock, stepper.launch.lock:
            read = self.launch.read(self.tracked) if self.launch.find() else None
            step, decay = self.on_memory.arrays()
            weight = self._weight(step, decay)
            stepper.launch.begin()
            try:
                if read is not None:
                    stepper(self.optimizer, "EMA", gradients)
            finally:
                if stepper.launch.has_run:
                    try:
                        _direct.average(self.launch, self.tracked, weight, read)
                    finally:
                        if self.launch.has_run:
                            step += 1
            return stepper.launch.has_run

    @np.errstate(all="ignore")
    def _weight(self, step, decay):
        """What `ema_weight` gives for the step that is taken, after this one, on the host."""
        given = (step + 1, decay, *self.on_host)
        step, decay, *warmup = (vector(number).reshape(1) for number in given)
        return self.weight_at(step, decay, warmup)

    def weight_at(self, step, decay, warmup):
        """What `ema_weight` gives for the schedule that it was made with."""
        given = self.schedule, self.update_after_step, self.update_every, self.copying
        return self.ema_weight(step, decay, warmup, *given)

    def construct(self, gradients, present=None):
        """One step of the optimizer, then one of the average."""
        done = self.optimizer(gradients) if present is None else self.optimizer(gradients, present)
        weight, due = self.weight_of_step()
        self.average_part(weight, due, self.laid_out)
        return done

    def weight_of_step(self):
        """What the averages take of the values at the step that comes, which is counted, and whether they do."""
        step = self._step + 1
        weight, due = self.weight_at(step, self._decay, self.warmup)
        ops.assign(self._step, step)
        return weight, due

    def average_part(self, weight, due, laid_out):
        """One step of the averages that are laid out."""
        averages, tracked, ways = laid_out
        if self.fused:
            _compiled.check_again(self.check_averages)
            self.kernel(weight, due, ways, *averages, *tracked)
        else:
            self.hyper_map(ops.partial(average, sides(weight), due), averages, tracked, ways)
        return True

    def lay_out(self, begin: int, end: int) -> tuple:
        """What a graph reads of the averages from one place to another: them, their values, and how each is taken."""
        averages, tracked, copied = (column[begin:end] for column in (self.averages, self.tracked, self.copied))
        return averages, tracked, ways(self.fused, averages, copied)

    def _step_in_pieces(self, gradients, present):
        """The same as `construct`, in several graphs."""
        if self.pieces is None:
            self._hold("pieces", _pieces.Averages(self))
        done = self.optimizer.in_pieces()(gradients, present)
        self.pieces()
        return done

    @contextlib.contextmanager
    def average_parameters(self) -> Iterator[None]:
        """Put the averages into the network, graphs that are already compiled included, until the block is left.

        A checkpoint of the network that is saved inside holds the averages as the parameters. At the end, also by an
        exception, the parameters are what they were before; this takes one copy of them.

        Raises:
            RuntimeError: If a block is inside another, if a group was added to `optimizer`, or, at its end, if a
                compiled training step ran inside.
        """
        self._refuse_grown()
        counts = self._step, self.global_step
        before = [int(count.asnumpy().item()) for count in counts]
        with super().average_parameters():
            yield
        if before != [int(count.asnumpy().item()) for count in counts]:
            raise RuntimeError(
                "For 'EMA', a training step ran inside 'average_parameters': the parameters are what "
                "they were before, but the optimizer's state and the averages are not."
            )

    def ema_update(self) -> bool:
        """Do nothing, for trainers that call this after the step of the optimizer, which has averaged."""
        return True
