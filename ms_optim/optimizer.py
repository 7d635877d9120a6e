"""What every optimizer is built on: the declaration of its state and the lift of its rule into a compiled graph."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.ops import MultitypeFuncGraph

from ms_optim import _native, _state
from ms_optim._groups import ParamGroup
from ms_optim._learning_rate import Constant, float64_parameter, learning_rate_source
from ms_optim.arguments import FLOATS, NOTES, check, check_gradients, flag_of, is_flag, number_of, parse_groups

Params = Iterable[Parameter] | Iterable[dict]


def _short(value):
    """A number, flag or schedule in a table."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_short, value))})"
    return f"{value:g}" if isinstance(value, float) else getattr(value, "cls_name", None) or str(value)


def run_compiled(optimizer: nn.Optimizer, gradients: tuple[Tensor | None, ...]):
    """Run one compiled step; each pattern of absent gradients compiles once, for which are present is a constant."""
    present = tuple(grad is not None and param.requires_grad for grad, param in zip(gradients, optimizer.parameters))
    absent = Tensor(0.0, ms.float32)
    gradients = tuple(grad if here else absent for grad, here in zip(gradients, present))
    return optimizer.compile_and_run(ms.mutable(gradients), present)


@dataclass(frozen=True)
class Slot:
    """One kind of state: a tensor for each parameter, or one float64 number for each.

    Args:
        name: torch's key for it in `state_dict()["state"]`.
        when: The argument that must be nonzero or true for a parameter to have this slot; None is always.
        scalar: Whether it is a number: an entry of a vector over parameters, which `scalars` reads and writes.
        init: The argument that the tensor is filled with at first; None is zero.
        shape: A function from the shape of a parameter to that of its tensor, or to None if it has none.
    """

    name: str
    when: str | None = None
    scalar: bool = False
    init: str | None = None
    shape: Callable[[tuple[int, ...]], tuple[int, ...] | None] = tuple

    def allocate(self, param: Parameter, options: dict) -> Parameter | None:
        """The state of a parameter of a group with these arguments, if it has this slot."""
        shape = self.shape(param.shape)
        if shape is None or (self.when and not options[self.when]):
            return None
        first = options[self.init] if self.init else 0.0
        return Parameter(
            Tensor(np.full(shape, first), param.dtype), name=f"{self.name}.{param.name}", requires_grad=False
        )


fits = MultitypeFuncGraph("fits")


@fits.register("Tensor", "Tensor", "Bool")
def _fits(param, grad, present):
    """Refuse a gradient of another shape, or of integers, when a step is compiled."""
    if present and (grad.shape != param.shape or grad.dtype not in FLOATS):
        raise ValueError("For 'Optimizer', 'gradients' must have the shapes of the parameters and be floats.")
    return True


SPARSE_KINDS = ("RowTensor", "COOTensor", "CSRTensor", "Tuple", "List")


def _refuse_sparse(param, grad, present):
    """Name the optimizer of such gradients, when a step is compiled."""
    raise TypeError("For 'Optimizer', 'gradients' must be dense Tensors. SparseAdam takes sparse ones.")


for _kind in SPARSE_KINDS:
    fits.register("Tensor", _kind, "Bool")(_refuse_sparse)


@functools.cache
def lift(update: Callable, scaled: bool) -> MultitypeFuncGraph:
    """The rule of one tensor as a graph of fixed arity that `HyperMap` applies to every parameter.

    It computes in float64 for float64 parameters and in float32 for all others, and rounds once, on store. If `scaled`,
    the last number of the row multiplies the gradient first.
    """
    lifted = MultitypeFuncGraph(update.__name__)

    @lifted.register("Tensor", "Tensor", "Tensor", "Tuple", "Tuple", "Bool")
    def apply(param, grad, numbers, slots, flags, present):
        if not present:
            return True
        fits(param, grad, present)
        dtype = ms.float64 if param.dtype == ms.float64 else ms.float32
        numbers = numbers.to(dtype).unbind()
        grad = grad.to(dtype)
        if scaled:
            grad = grad * numbers[-1]
            numbers = numbers[:-1]
        state = ()
        for slot in slots:
            state = (*state, None if slot is None else slot.to(dtype))
        new_param, new_state = update(param.to(dtype), grad, state, *numbers, *flags)
        ops.assign(param, new_param.to(param.dtype))
        for slot, new in zip(slots, new_state):
            if slot is not None:
                ops.assign(slot, new.to(slot.dtype))
        return True

    def refuse(param, grad, numbers, slots, flags, present):
        return fits(param, grad, present)

    for kind in SPARSE_KINDS:
        lifted.register("Tensor", kind, "Tensor", "Tuple", "Tuple", "Bool")(refuse)
    return lifted


class Optimizer(nn.Optimizer):
    """An optimizer made of two pure functions and the state that a subclass declares.

    A subclass sets `scalars` (the numbers of the step, in float64, from `step`, the scalar slots, `lr` and the
    hyperparameters that its signature names; the new scalar slots come first), `update` (the rule for one tensor:
    parameter, gradient, slots, these numbers, flags) and `slots`.
    Every number is a vector with one entry per parameter, so groups, schedules and live changes never recompile.

    Args:
        params (Union[Iterable[Parameter], Iterable[dict]]): Parameters, or groups: dicts with the key "params" and any
            of the keys of `defaults`; a last dict with the one key "order_params" gives the order of the gradients.
        defaults (dict): What each group has unless it says otherwise, by argument name.
        loss_scale (float): The gradients are divided by it first. Range (0, inf). Default: ``1.0`` .
        fused (Union[None, bool]): True runs the rule's native kernel on CPU, False MindSpore's operators, None the
            kernel where there is one. Default: ``None`` .

    Inputs:
        - **gradients** (tuple[Tensor]) - One per parameter, in the order of `parameters` and of the same shapes. In a
          direct call an entry may be None: this parameter, its state and its step count stand still. (A gradient that
          is computed inside the same graph is never absent, it is zero.) So does a parameter that is frozen by
          ``requires_grad = False`` ; a direct call follows a change of it and compiles once more, while a graph that
          has compiled, as of a training cell, does not: build the cell anew around the same optimizer.

    Outputs:
        tuple[bool], True for each parameter.

    Raises:
        TypeError: If `params` is not an iterable of Parameters or dicts, or an argument is of the wrong kind.
        ValueError: If an argument is out of range, a parameter occurs twice, `params` is empty, a group has an unknown
            key, or the gradients do not match the parameters.
    """

    scalars: Callable
    update: Callable
    slots: tuple[Slot, ...] = ()

    def __init_subclass__(cls):
        super().__init_subclass__()
        cls.scalars, cls.update = staticmethod(cls.scalars), staticmethod(cls.update)

    def __init__(self, params: Params, defaults: dict, loss_scale: float = 1.0, fused: bool | None = None):
        owner = type(self).__name__
        fused = check(owner, "fused", fused)
        loss_scale = check(owner, "loss_scale", loss_scale)
        groups, parameters, group_of = parse_groups(owner, params, defaults)
        super().__init__(0.0, parameters, 0.0, loss_scale)
        self.defaults, self.fused_as_asked = defaults, fused
        self.options = groups
        self.group_of = group_of
        self.group_index = Tensor(np.array(group_of, np.int32))
        self.is_group = len(groups) > 1
        self._set_learning_rate()
        self._set_slots()
        self._set_hyperparameters()
        self.reciprocal = Tensor(np.full(len(parameters), 1.0 / loss_scale))
        self.rule = lift(type(self).update, self.need_scale)
        self._set_path(fused)
        kept = {id(param) for param in self.get_parameters()}
        lost = [param.name for param in parameters if id(param) not in kept or param is self.global_step]
        if lost:
            raise ValueError(
                f"For '{owner}', 'params' must have other names than what the optimizer keeps, but got {lost}."
            )

    def _set_learning_rate(self):
        """Lay out `learning_rate` as the base class does, so that its methods and MindSpore's callbacks find it."""
        self.is_group_lr = self.is_group
        sources = []
        for i, group in enumerate(self.options):
            name = f"learning_rate_group_{i}" if self.is_group_lr else "learning_rate"
            sources.append(learning_rate_source(type(self).__name__, group["lr"], name))
        self.dynamic_lr = any(isinstance(source, nn.Cell) for source in sources)
        if self.dynamic_lr:
            sources = [source if isinstance(source, nn.Cell) else Constant(source) for source in sources]
        collect = functools.partial(nn.CellList, auto_prefix=False) if self.dynamic_lr else ParameterTuple
        self.group_learning_rates = collect(sources)
        del self.learning_rate  # the base's; a Cell does not replace a Parameter by a list of cells
        self.learning_rate = collect([sources[i] for i in self.group_of]) if self.is_group_lr else sources[0]

    def _set_hyperparameters(self):
        """Every number is a float64 Parameter with one entry per group, every flag a constant of each parameter."""
        names = tuple(inspect.signature(type(self).scalars).parameters)[2 + len(self.scalar_state) :]
        self.hyperparameter_names = names  # not those of the Parameters, which a Cell around this one may rename
        columns = [[number_of(group, name) for group in self.options] for name in names]
        self.hyperparameters = ParameterTuple(
            [float64_parameter(column, f"optimizer.{name}") for name, column in zip(names, columns)]
        )
        self.flag_names = tuple(name for name in inspect.signature(type(self).update).parameters if is_flag(name))
        self.flags = tuple(
            tuple(flag_of(self.options[i], name, param) for name in self.flag_names)
            for param, i in zip(self.parameters, self.group_of)
        )

    def _set_slots(self):
        """Allocate the state: Parameters, else it would train and never reach a checkpoint."""
        count = len(self.parameters)
        self.step = float64_parameter(np.zeros(count), "optimizer.step")
        self.scalar_state = ParameterTuple(
            [
                float64_parameter(np.zeros(count), f"optimizer.{slot.name}")
                for slot in self.slots
                if slot.scalar and slot.name != "step"
            ]
        )
        self.tensor_slots = tuple(slot for slot in self.slots if not slot.scalar)
        columns = []
        for slot in self.tensor_slots:
            column = [slot.allocate(param, self.options[i]) for param, i in zip(self.parameters, self.group_of)]
            columns.append(column)
            setattr(self, slot.name, ParameterTuple([state for state in column if state is not None]))
        self.slot_table = tuple(zip(*columns)) if columns else ((),) * count

    def _set_path(self, fused):
        """Choose the native kernel or MindSpore's operators."""
        owner, update = type(self).__name__, type(self).update
        obstacle = "" if fused is False else _native.obstacle(owner, update)
        if fused and obstacle is not None:
            raise ValueError(f"For '{owner}', 'fused' must be None or False here, because {obstacle}, but got True.")
        self.fused = obstacle is None
        if self.fused:
            kernel = _native.kernel_of(owner, update, self.tensor_slots, self.flag_names)
            self.check_state = _native.checked_when_compiled(
                _native.check_state, owner, self.parameters, self.tensor_slots, self.slot_table
            )
            self.kernel = kernel.primitive()
            self.layout = kernel.layout(owner, self.slot_table, self.flags)
            self.kernel_slots = tuple(state for states in self.slot_table for state in states if state is not None)

    @property
    def trainable(self) -> tuple[bool, ...]:
        """Which parameters are not frozen: a constant of a graph that is compiled now."""
        return tuple(param.requires_grad for param in self.parameters)

    @property
    def scalar_slots(self) -> dict[str, Parameter]:
        """The float64 vectors over parameters that torch has as numbers, by name."""
        kept = iter(self.scalar_state)
        return {slot.name: self.step if slot.name == "step" else next(kept) for slot in self.slots if slot.scalar}

    @property
    def state(self) -> dict[str, dict[str, Tensor]]:
        """The state as torch keys it: by parameter (its name), then by slot."""
        numbers = {name: vector.asnumpy() for name, vector in self.scalar_slots.items()}
        return {
            param.name: {name: Tensor(vector[i]) for name, vector in numbers.items()}
            | {slot.name: kept for slot, kept in zip(self.tensor_slots, self.slot_table[i]) if kept is not None}
            for i, param in enumerate(self.parameters)
        }

    @property
    def param_groups(self) -> tuple[ParamGroup, ...]:
        """The groups: read their arguments, or set a number of theirs between steps, as in torch."""
        return tuple(ParamGroup(self, i) for i in range(len(self.options)))

    @property
    def state_bytes(self) -> int:
        """The memory of the state: every tensor, and 8 bytes for each number and step count."""
        tensors = [kept for states in self.slot_table for kept in states if kept is not None]
        return sum(kept.nbytes for kept in [*tensors, *self.scalar_state, self.step])

    def state_dict(self, *args, **kwargs) -> dict:
        """The state in the layout of torch's optimizers, as copies; and, as "global_step", the place in schedules.

        With the arguments of `mindspore.nn.Cell.state_dict` it is that, as a Cell around this one needs it.
        """
        return super().state_dict(*args, **kwargs) if args or kwargs else _state.state_dict(self)

    def load_state_dict(self, state_dict: Mapping):
        """Take over what `state_dict` of an optimizer of this class, or of torch's, has given.

        The next step goes on from there, in a step that has compiled too. Values may be Tensors of MindSpore or torch,
        arrays or numbers. Arguments of the groups that are missing stay as they are; so does a learning rate that is on
        a schedule, whose place is "global_step", or else the largest step.

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
        return _state.assignments(self, state_dict)

    def add_param_group(self, group: dict):
        """Add a group of parameters, as to torch's optimizers; they come last. All others keep their state.

        The next call compiles once more. A training cell that was built around the optimizer, and the weights of a
        `value_and_grad`, still have the old parameters: build them anew.

        Args:
            group (dict): "params", and arguments where they are not those that the optimizer was made with.

        Raises:
            TypeError, ValueError: As at construction; nothing is changed then.
        """
        groups, parameters, _ = parse_groups(type(self).__name__, [*self.options, group], self.defaults)
        state, known = self.state_dict(), inspect.signature(type(self)).parameters
        state["param_groups"].append({"params": list(range(len(self.parameters), len(parameters)))})
        order = {"order_params": [*self.parameters, *groups[-1]["params"]]}
        groups = [*map(dict, self.param_groups), groups[-1], order]
        for optimizer in (type(self).__new__(type(self)), self):  # what does not fit is to show in one that is not used
            optimizer.__init__(
                groups,
                fused=self.fused_as_asked,
                loss_scale=self.loss_scale,
                **{name: value for name, value in self.defaults.items() if name in known},
            )
            optimizer.load_state_dict(state)

    def describe(self) -> str:
        """What each parameter got, as a table: its group, shape, state and arguments."""
        groups = self.param_groups
        arguments = [name for name in groups[0] if name not in ("params", *NOTES)]
        rows = [("parameter", "group", "shape", "state", *arguments)]
        for i, param in enumerate(self.parameters):
            group = groups[self.group_of[i]]
            state = [slot.name for slot, kept in zip(self.tensor_slots, self.slot_table[i]) if kept is not None]
            decided = dict(zip(self.flag_names, self.flags[i]))
            values = [decided[name] if name in decided else group[name] for name in arguments]
            rows.append((param.name, str(self.group_of[i]), str(param.shape), " ".join(state), *map(_short, values)))
        widths = [max(map(len, column)) for column in zip(*rows)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

    def __call__(self, gradients):
        """Run one compiled step in both modes; `@jit` would cost four times as much in PYNATIVE."""
        return run_compiled(self, self.checked(type(self).__name__, gradients))

    def checked(self, owner: str, gradients) -> tuple:
        """The gradients as a step takes them; what does not fit raises in the name of `owner`."""
        return check_gradients(owner, gradients, self.parameters)

    def construct(self, gradients, present=None):
        """One step: the numbers of all parameters first, then the rule on each."""
        if len(gradients) != len(self.parameters):
            raise ValueError("For 'Optimizer', 'gradients' must hold one entry for each parameter.")
        if present is None:
            present = self.trainable
        present_now = Tensor(present)
        step = self.step + present_now
        hyper = ()
        for parameter in self.hyperparameters:
            hyper = (*hyper, parameter.gather(self.group_index, 0))
        numbers = self.scalars(step, *self.scalar_state, self._learning_rates(), *hyper)
        for kept, new in zip(self.scalar_state, numbers):
            ops.assign(kept, new.where(present_now, kept))
        numbers = numbers[len(self.scalar_state) :]
        if self.fused:
            self.check_state()
            done = self.hyper_map(fits, self.parameters, tuple(gradients), present)
            rows = ops.stack((*numbers, self.reciprocal), 1)
            self.kernel(rows, present_now, self.layout, *self.parameters, *gradients, *self.kernel_slots)
        else:
            if self.need_scale:
                numbers = (*numbers, self.reciprocal)
            rows = ops.unbind(ops.stack(numbers, 1))
            done = self._apply(tuple(gradients), rows, present)
        ops.assign(self.step, step)
        ops.assign_add(self.global_step, self.global_step_increase_tensor)
        return done

    def _apply(self, gradients, rows, present):
        """The rule on each parameter, in MindSpore's operators."""
        return self.hyper_map(self.rule, self.parameters, gradients, rows, self.slot_table, self.flags, present)

    def _learning_rates(self):
        """This step's learning rates, a float64 vector over parameters."""
        rates = self.group_learning_rates
        if self.dynamic_lr:
            rates = ()
            for schedule in self.group_learning_rates:
                rates = (*rates, schedule(self.global_step).reshape(()).double())
        return ops.stack(rates).gather(self.group_index, 0)
