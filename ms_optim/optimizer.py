"""What every optimizer is built on: the declaration of its state and its arguments, from which it is made."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, log

from ms_optim import _compiled, _composed, _direct, _host, _math, _native, _pieces, _shards, _state, _torch_layout
from ms_optim._declaration import Declared, arguments_of
from ms_optim._describing import table_of
from ms_optim._freezing import Freezing, warn_unseen
from ms_optim._gradients import check_gradients, refuse_count, wanted
from ms_optim._groups import MEMBERS, Groups, ParamGroup, by_step
from ms_optim._learning_rate import Rates
from ms_optim._step import Step, note_graph
from ms_optim._values import float64_parameter
from ms_optim.arguments import COMMON, Devices
from ms_optim.slot import HALVES, MASTER, TAKEN, Slot

Params = Iterable[Parameter] | Iterable[tuple[str, Parameter]] | Iterable[dict]


class Optimizer(Declared, Freezing, Step, _state.Stateful):
    """An optimizer made of two pure functions and the state that a subclass declares.

    A subclass sets `scalars` (the numbers of the step, in float64, from `step`, the scalar slots, `lr` and the
    hyperparameters that its signature names; the new scalar slots come first), `update` (the rule for one tensor:
    parameter, gradient, slots, these numbers, flags), `slots`, and as `arguments` the kinds of those that are not in
    the common vocabulary, or mean something else there.
    Where the rule chooses by a number, `conditions` may have under the name of the choice the name of the number and a
    function, no lambda, from a vector of it to one of bools: so it is decided once and not for each parameter. The rule
    takes the choice between the numbers and the flags.
    `elementwise` says that a step on slices of tensors is the slices of a step, as MindSpore takes it in
    semi_auto_parallel and auto_parallel; a class that does not say so is refused there.
    Every number is a vector with one entry per parameter, so groups, schedules and live changes never recompile.

    Args:
        params (Union[Iterable[Parameter], Iterable[tuple[str, Parameter]], Iterable[dict]]): Parameters, alone or each
            with a name, or groups: dicts with the key "params" and any of the keys of `defaults`; a last dict with the
            one key "order_params" gives the order of the gradients. Other keys of a group are kept, unless they seem to
            mean an argument.
        defaults (dict): What each group has unless it says otherwise, by argument name.
        loss_scale (float): The gradients are divided by it first, in (0, inf). Default: ``1.0`` .
        fused (Union[None, bool]): True runs the rule's native kernel on CPU, False MindSpore's operators, None the
            kernel where there is one. Default: ``None`` .
        state_dtype (Union[None, mindspore.dtype]): ``mindspore.float32`` keeps the state of float16 and bfloat16
            parameters in float32, None in the dtype of the parameter. Default: ``None`` .
        master_weights (bool): Keep a float32 copy of float16 and bfloat16 parameters, `master_param` in the state, from
            which the steps go on; the parameter is the copy, rounded. Default: ``False`` .

    Inputs:
        - **gradients** (tuple[Tensor]) - One per parameter, in the order of `parameters` and of the same shapes. In a
          direct call an entry may be None: this parameter, its state and its step count stand still. (A gradient that
          is computed inside the same graph is never absent, it is zero.) In any step so do
          those of a parameter that is frozen, from `freeze` to `unfreeze`.

    Outputs:
        tuple[bool], True for each parameter.

    Raises:
        TypeError: If `params` is not an iterable of Parameters or dicts, or an argument is of the wrong kind.
        ValueError: If an argument is out of range, a parameter occurs twice, `params` is empty, a group has a key that
            seems to mean an argument and is none, or the gradients do not match the parameters.

    Examples:
        >>> from mindspore import nn
        >>> from ms_optim import Optimizer, Slot
        >>> def heavy_ball_scalars(step, lr, momentum):
        ...     return lr, momentum
        >>> def heavy_ball(param, grad, slots, lr, momentum, maximize):
        ...     (velocity,) = slots
        ...     velocity = momentum * velocity - lr * (-grad if maximize else grad)
        ...     return param + velocity, (velocity,)
        >>> class HeavyBall(Optimizer):
        ...     scalars, update, slots = heavy_ball_scalars, heavy_ball, (Slot("velocity"),)
        ...
        ...     def __init__(self, params, lr=1e-3, momentum=0.9, maximize=False):
        ...         super().__init__(params, dict(lr=lr, momentum=momentum, maximize=maximize))
        >>> optimizer = HeavyBall(nn.Dense(2, 3).trainable_params(), lr=0.1)
        >>> [velocity.name for velocity in optimizer.velocity]
        ['velocity.weight', 'velocity.bias']
    """

    slots: ClassVar[tuple[Slot, ...]] = ()
    # Whether each element of a step comes of the same element of parameter, gradient and slots alone, so that it may be
    # taken on slices of them.
    elementwise: ClassVar[bool] = False
    # Whether MindSpore is known to have cut a parameter, in the graph that is compiled.
    is_cut = False

    def __init_subclass__(cls):
        super().__init_subclass__()
        for name in ("scalars", "update"):  # functions, and no methods
            if name in cls.__dict__:
                function = cls.__dict__[name]
                function = function.__func__ if isinstance(function, staticmethod) else function
                if not callable(function):
                    raise TypeError(f"For '{cls.__name__}', '{name}' must be a function, but got {function!r}.")
                setattr(cls, name, staticmethod(function))
        if "update" in cls.__dict__:  # what another class says is not said of this rule
            cls.elementwise = cls.__dict__.get("elementwise", False)
            cls._keep_conditions()
        names = [slot.name for slot in cls.slots]
        taken = {name for name in names if names.count(name) > 1 or name in TAKEN}
        cls._refuse_names(taken | {name for name in cls._own_names() if hasattr(Optimizer, name)})

    def __init__(
        self,
        params: Params,
        defaults: dict[str, Any],
        loss_scale: float = 1.0,
        fused: bool | None = None,
        state_dtype: ms.dtype.Type | None = None,
        master_weights: bool = False,
    ):
        owner = type(self).__name__
        for name in ("settled", "has_memory"):  # of an optimizer that is made anew
            self.__dict__.pop(name, None)
        whole = dict(loss_scale=loss_scale, fused=fused, state_dtype=state_dtype, master_weights=master_weights)
        whole = {name: COMMON[name].check(owner, name, value) for name, value in whole.items()}
        kinds = {name: self.kind_of(name) for name in defaults}
        defaults = {name: kinds[name].check(owner, name, value) for name, value in defaults.items()}
        self._check_declaration(kinds)
        groups = Groups(owner, params, defaults, kinds)
        for group in groups:
            self.check_group(group)
        self._refuse_idle(groups, kinds)
        self._refuse_idle_patterns(owner, groups, kinds)
        for slot in (*self.slots, MASTER):
            self.__dict__.pop(slot.name, None)
        own = {"loss_scale", *self._own_names(), *defaults}
        self._refuse_parameters(groups.parameters, lambda param: param.name in own or hasattr(type(self), param.name))
        super().__init__(0.0, groups.parameters, 0.0, whole["loss_scale"])
        self.kinds, self.defaults, self.of_whole = kinds, defaults, whole
        self.groups, self.group_of = groups, groups.group_of
        self.group_index = Tensor(np.array(self.group_of, np.int32))
        self.is_group = len(groups) > 1
        self._set_learning_rate()
        self._set_numbers()
        self.reciprocal = Tensor(np.full(len(self.parameters), 1.0 / self.loss_scale))
        self.present = (True,) * len(self.parameters)
        self.wanted = wanted(owner, self.parameters)
        self.dtypes = [param.dtype for param in self.parameters]
        self.shapes = [param.shape for param in self.parameters]
        _native.prepare_power(owner)
        _composed.prepare_sums()
        halves = [param.name for param in self.parameters if param.dtype in HALVES]
        self.widened = [name for name in ("state_dtype", "master_weights") if halves and whole[name]]
        self.rule = _composed.lift(type(self).update, self.need_scale, "master_weights" in self.widened)
        self.computed_in = tuple(ms.float64 if dtype == ms.float64 else ms.float32 for dtype in self.dtypes)
        self.precisions = tuple({*self.computed_in})
        self.is_mixed = len(self.precisions) > 1
        self._set_slots()
        self.places = tuple(range(len(self.parameters)))
        self.refuse_parts, self.refuse_slice = _shards.parts_refused(self), _shards.slice_refused(self)
        self._set_path(whole["fused"])
        self._name_slots()
        kept = {id(param) for param in self.get_parameters()}
        self._refuse_parameters(self.parameters, lambda param: id(param) not in kept or param is self.global_step)
        self.settled = {*whole, *defaults, "weight_decay", "learning_rate", "state", "step_counts", "trainable"}

    def _keep(self, key, param):
        """Have a Parameter of this Cell that is no attribute: it is in `get_parameters()`, and so in checkpoints."""
        self._params[key] = param
        return param

    def _keep_vector(self, name, value):
        return self._keep(f"optimizer.{name}", float64_parameter(value, f"optimizer.{name}"))

    def _set_learning_rate(self):
        """Lay out `learning_rate` as the base class does, so that its methods and MindSpore's callbacks find it."""
        own = self.groups.own_rates
        self.rates = Rates(type(self).__name__, self.kinds["lr"].each, self.groups, own, self.global_step)
        self.check_rate = _compiled.Check(self.rates.check_shape)
        self.is_group_lr, self.dynamic_lr = any(own), self.rates.is_dynamic
        del self.learning_rate  # the base's; a Cell does not replace a Parameter by a list of cells
        self.learning_rate = self.rates.learning_rate(self.group_of)
        self.rate_sources = tuple(self.rates.sources)
        self._hold("later_rates", None if self.rates.later is None else self._keep("optimizer.lr", self.rates.later))

    def _set_numbers(self):
        """Every number is a float64 vector with one entry per group, or one for each step; flags are constants."""
        count = len(self.parameters)
        self._hold("step_counts", self._keep("step", float64_parameter(np.zeros(count), "optimizer.step")))
        self.scalar_state = tuple(self._keep_vector(name, np.zeros(count)) for name in self._scalar_slots())
        self.has_scalars = bool(self.scalar_state)
        argument = {member: name for name, kind in self.kinds.items() for member in kind.members(name)}
        read = self._numbers_read()
        members = [member for name in read for member in self.kinds[argument[name]].members(argument[name])]
        self.hyperparameters = {}
        for name in dict.fromkeys((*read, *members)):  # and of an argument that is read in part the rest
            kind = self.kinds[argument[name]]
            columns = [kind.number(group[argument[name]], name, group) for group in self.groups]
            self.hyperparameters[name] = self._keep_vector(name, by_step(columns))
        self.numbers = tuple(self.hyperparameters[name] for name in read)
        self.has_tables = any(kept.ndim > 1 for kept in self.numbers)
        taken, conditions = self._taken_by_update(), self._conditions_taken()
        self.flag_names = self._flags_taken(self.kinds)
        self.conditions_read = tuple((taken.index(name), condition) for name, condition in conditions.values())
        weights = [name for name, condition in conditions.values() if condition is _math.is_near]
        numbers = self._numbers_taken(self.kinds)
        # What `is_near` is of is a weight of `lerp`, and the rule takes its way.
        scale = [False] if self.need_scale else []  # which follows the numbers
        self.lerp_weights = Tensor([name in weights for name in numbers] + scale) if weights else None
        self.flags = tuple(
            tuple(
                self.kinds[name].decided(type(self).__name__, name, self.groups[i][name], param)
                for name in self.flag_names
            )
            for param, i in zip(self.parameters, self.group_of)
        )
        moves = np.array([param.requires_grad for param in self.parameters])
        trainable = Parameter(Tensor(moves), name="optimizer.trainable", requires_grad=False)
        self._hold("trainable", self._keep("optimizer.trainable", trainable))
        self.requires_grad_seen = moves.tolist()
        self.has_single = not all(param.ndim for param in self.parameters)
        checks = refuse_count, note_graph, warn_unseen, type(self)._check_numbers
        self.refuse_count, self.note_graph, self.warn_unseen, self.check_numbers = (
            _compiled.check_of(self, check) for check in checks
        )

    def _set_slots(self):
        """Allocate the state: Parameters of this Cell, else it would train and never reach a checkpoint."""
        self.slots = (*type(self).slots, *((MASTER,) if "master_weights" in self.widened else ()))
        slots, dtype = {}, self.of_whole["state_dtype"]
        for slot in self.slots:
            if slot.scalar:
                continue
            column = tuple(
                slot.allocate(param, self.groups[i], self.kinds, dtype)
                for param, i in zip(self.parameters, self.group_of)
            )
            slots[slot.name] = column
            for kept in column:
                if kept is not None:
                    self._keep(kept.name, kept)
        scalars = iter(self.scalar_state)
        vectors = {
            slot.name: self.step_counts if slot.name == "step" else next(scalars) for slot in self.slots if slot.scalar
        }
        self.state = _state.State(self.parameters, slots, vectors)
        self._own_clones(self.parameters, self.state.tensors)
        self.slot_table = tuple(zip(*slots.values())) if slots else ((),) * len(self.parameters)

    def _name_slots(self):
        """Make each slot an attribute, once the optimizer has all others."""
        self._refuse_names({name for name in self._own_names() if hasattr(self, name)})
        # nn.Optimizer has a weight decay too, for which there is no other name
        self._refuse_names({name for name in self.defaults if hasattr(self, name)} - {"weight_decay"}, "defaults")
        for name, column in self.state.slots.items():
            everywhere = all(kept is not None for kept in column)
            setattr(self, name, ParameterTuple(column) if everywhere else column)

    def wanted_for_parts(self, wholes: _shards.Wholes | None = None) -> str | None:
        """What must be, and is not, for steps where tensors are in parts; None if they may be taken.

        Args:
            wholes: The shapes that parameters had, by name, before they were cut by hand; None is where MindSpore
                slices tensors.
        """
        if wholes is not None:
            cut = wholes and not self.elementwise
            return f"{_shards.listed([*wholes])} must be whole, because its step looks at all of one" if cut else None
        own = [slot.name for slot in self.slots if not slot.follows]
        if own:
            return _shards.unsliced(f"{own} of the state have shapes of their own", self.parameters)
        return None if self.elementwise else _shards.unsliced("its step looks at whole tensors", self.parameters)

    def wanted_for_slice(self, place: int, whole: tuple[int, ...], part: tuple[int, ...]) -> str | None:
        """What must be, and is not, for a step on a slice that MindSpore has cut; None if it may be taken.

        Args:
            place: That of the parameter among all.
            whole: The shape before it was cut.
            part: The shape of the slice.
        """
        return None

    def _set_path(self, fused):
        """Choose the native kernel or MindSpore's operators."""
        owner, update = type(self).__name__, type(self).update
        devices = [name for name in self.flag_names if isinstance(self.kinds[name], Devices)]
        named = [name for name in devices if any(_shards.is_group(group[name]) for group in self.groups)]
        if fused is False:
            obstacle = ""
        elif self.widened:
            obstacle = f"no kernel takes float16 or bfloat16 parameters with '{self.widened[0]}'"
        elif named:
            obstacle = f"no kernel sums over the devices of '{named[0]}'"
        elif self._has_own_conditions():
            obstacle = f"the class decides 'conditions' of the rule {update.__name__!r} in its own way"
        else:
            obstacle = _native.obstacle(owner, update)
        if fused and obstacle is not None:
            raise ValueError(f"For '{owner}', 'fused' must be None or False here, because {obstacle}, but got True.")
        self._hold("fused", obstacle is None)  # which is settled, as an attribute
        changed = _direct.changed(
            type(self), Optimizer, "construct", "numbers_of_step", "apply_rule", "_learning_rates"
        )
        if not self.fused:
            self.no_launch = obstacle or "fused is False"
        elif not changed and not type(self).scalars.__module__.startswith(f"{__package__}."):
            self.no_launch = "the class has a 'scalars' of its own"
        else:
            self.no_launch = changed
        unwritten = [param.name for param in self.parameters if param.dtype == ms.bfloat16]
        if not self.fused and unwritten and ms.get_context("device_target") == "CPU":
            raise TypeError(
                f"For '{owner}', 'params' must not be bfloat16 on CPU where MindSpore's operators compute, which "
                f"cannot write it there, because {obstacle or 'fused is False'}, but got {unwritten}."
            )
        if self.fused:
            slots = [slot for slot in self.slots if not slot.scalar]
            flags = [name for name in self.flag_names if name not in devices]
            kernel = _native.kernel_of(owner, update, slots, flags, {*self.conditions, *devices})
            of_state = owner, self.parameters, self.dtypes, slots, self.slot_table
            self.check_state = _compiled.checked(_native.check_state, *of_state)
            self.kernel = kernel.primitive()
            self.layout = kernel.layout(owner, self.slot_table, self.flags)
        self.has_reciprocal, self.takes_wholes = self.fused or self.need_scale, not self.elementwise
        self.laid_out = self.lay_out(0, len(self.parameters))
        if self.fused:
            self.stepper = _direct.Stepper(self, kernel)
        self.parted = [] if changed else _pieces.parts(len(self.parameters))
        self._hold("pieces", None)

    def lay_out(self, begin: int, end: int) -> tuple:
        """What a graph reads of the parameters from one place to another, and of their state."""
        some = slice(begin, end)
        parameters, states = tuple(self.parameters[some]), self.slot_table[some]
        of_all = parameters, self.wanted[some], self.places[some]
        if self.fused:
            slots = tuple(state for slots in states for state in slots if state is not None)
            return of_all, Tensor(self.layout.asnumpy()[some]), slots
        axes = tuple(True if param.ndim else None for param in parameters)
        return of_all, states, self.flags[some], axes, self.computed_in[some]

    def in_pieces(self) -> _pieces.Steps | None:
        """What takes a compiled step in several graphs, if it is; not made before, because it holds the optimizer."""
        if self.parted and self.pieces is None:
            self._hold("pieces", _pieces.Steps(self))  # a child would have its parent as a child
        return self.pieces

    @property
    def param_groups(self) -> tuple[ParamGroup, ...]:
        """The groups: read their arguments, or set a number of theirs between steps, as in torch."""
        return tuple(ParamGroup(self, i) for i in range(len(self.groups)))

    def legacy_parameters(self, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What Parameters of this optimizer are that checkpoints of version 0.1 do not have, by name."""
        return self.legacy_values(saved, self.global_step.name.removesuffix("global_step"))

    def legacy_values(self, saved: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """The same by names, or keys, that begin with a prefix.

        Which parameters move was not in a checkpoint, and each of several groups had a `learning_rate_group_i`.
        """
        found = {"optimizer.trainable": Tensor(self.trainable.asnumpy())}
        rates: list[Any] = [saved.get(f"{prefix}learning_rate_group_{i}") for i in self.rates.sharing]
        if rates and all(rate is not None for rate in rates):
            found["learning_rate"] = rates[0]
            if self.later_rates is not None:
                later = np.full(len(self.groups), np.nan)
                for i, rate in zip(self.rates.sharing, rates):
                    later[i] = np.nan if rate.asnumpy() == rates[0].asnumpy() else rate.asnumpy()
                found["optimizer.lr"] = Tensor(later)
        return {prefix + name: value for name, value in found.items() if prefix + name not in saved}

    def numbers_given(self, saved: Mapping[str, Tensor]) -> dict[str, tuple[list, list]]:
        """Arguments that values by name would change before the first step, but for the learning rate: as is, to be."""
        if self.step_counts.asnumpy().any():
            return {}
        pairs = {name: (kept.asnumpy(), saved[kept.name].asnumpy()) for name, kept in self.hyperparameters.items()}
        return {
            name: (now.tolist(), new.tolist()) for name, (now, new) in pairs.items() if not np.array_equal(now, new)
        }

    def present_names(self) -> dict[int, str]:
        """What the tensors of the state are called in checkpoints, by their `id`."""
        return self.state.names

    def _kept(self):
        return [*self.state.tensors, *self.scalar_state, self.step_counts]

    def _told(self):
        self.follow_requires_grad()
        return _torch_layout.told(self)

    def changes(self, state_dict: Mapping) -> list[_state.Change]:
        """What `load_state_dict` does, one call for each thing that it writes; none of them is made.

        Arguments of the groups that are missing stay as they are; so does a learning rate that is on a schedule, whose
        place is "global_step", or else the largest step.

        Raises:
            TypeError, ValueError: As `load_state_dict`.
        """
        return _torch_layout.changes(self, state_dict)

    def _made_of(self):
        own = {id(param) for group in self.groups for param in group["params"]}
        others = [param.name for param in self.parameters if id(param) not in own]
        if others:
            raise RuntimeError(
                f"For '{type(self).__name__}', 'parameters' must hold those of the groups, but others, {others}, were "
                "put in their place: no copy can be made, and no group added."
            )
        groups = []
        for group, own in zip(self.param_groups, self.rates.own):
            groups.append({name: group[name] for name in group if name != "lr" or own})
        given, taken = {**self.defaults, **self.of_whole}, arguments_of(type(self))
        known = [name for name, one in taken.items() if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
        unknown = [name for name in known if name not in ("params", *given)]
        if unknown:
            raise TypeError(
                f"For '{type(self).__name__}', the constructor must take no arguments but those of groups, because "
                f"what else it was given cannot be told, but takes {unknown}: no copy can be made, and no group added."
            )
        if self.rates.sharing and isinstance(self.defaults["lr"], list):  # which a checkpoint may have changed
            given["lr"] = self.rates.given(self.rates.sharing[0])
        arguments = {name: given[name] for name in known if name != "params"}
        return ([*groups, {"order_params": list(self.parameters)}],), arguments

    def add_param_group(self, group: dict) -> None:
        """Add a group of parameters, as to torch's optimizers; they come last. All others keep their state.

        The next call compiles once more. A training cell that was built around the optimizer, and the weights of a
        `value_and_grad`, still have the old parameters: build them anew.

        Args:
            group (dict): "params", and arguments where they are not those that the optimizer was made with.

        Raises:
            TypeError, ValueError: As at construction; nothing is changed then.
            RuntimeError: If averages, or other Parameters, are in the place of the parameters, or MindSpore has sliced
                them.
        """
        self.refuse_inside("no group can be added")
        if _shards.why_sliced(self.parameters) and any(param.sliced for param in self.parameters):
            raise RuntimeError(
                f"For '{type(self).__name__}', no group can be added once MindSpore has sliced the parameters: make an "
                "optimizer of all of them before the first compilation."
            )
        ((*groups, _),), arguments = self._made_of()
        made = Groups(type(self).__name__, [*groups, group], self.defaults, self.kinds)[-1]
        added, members = made["params"], {name: made[name] for name in MEMBERS if name in made}
        state, places = self._told(), range(len(self.parameters), len(self.parameters) + len(added))
        state["param_groups"].append({"params": list(places)})
        state["frozen"] += [place for place, param in zip(places, added) if not param.requires_grad]
        order = {"order_params": [*self.parameters, *added]}
        for optimizer in (type(self).__new__(type(self)), self):  # what does not fit is to show in one that is not used
            type(self).__init__(optimizer, [*groups, {**group, **members}, order], **arguments)
            optimizer.load_state_dict(state)
        if self.is_in_graph:
            self._hold("is_in_graph", False)
            log.warning(
                f"For '{type(self).__name__}', steps that were compiled before a group was added, as of a training "
                "cell, go on with the parameters that there were, and with their state: make the cell anew."
            )

    def describe(self) -> str:
        """What each parameter got, as a table: its group, shape, state and arguments."""
        return table_of(self, self.why_compiled)

    @property
    def constants(self) -> tuple | None:
        """What a compiled step holds besides its Parameters: two with the same are one. None if it is not known.

        A schedule of the learning rate is not.
        """
        if self.dynamic_lr:
            return None
        return (
            type(self),
            self.fused,
            self.flags,
            *self.of_whole.values(),
            tuple(self.group_of),
            tuple(self.rates.own),
            _math.sums_in_float64,
            tuple(kept.shape for kept in self.numbers),
            tuple(tuple(kept is not None for kept in row) for row in self.slot_table),
        )

    @property
    def _columns(self):
        return self.state.slots

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "parameters" and self.settled:
            self._follow_parameters()

    def _follow_parameters(self):
        """Step the Parameters that were put in the place of those that it was made with.

        Trainers that shard state by hand do so with clones, of which each process keeps a part as of the state.
        """
        self.wanted = wanted(type(self).__name__, self.parameters)
        self._set_path(self.of_whole["fused"])

    def __call__(self, gradients=None):
        """Take one step: by the kernel on the tensors' own memory where that can be, or else compiled."""
        owner = type(self).__name__
        self.refuse_inside("no step can be taken")
        self.give_memory()
        if not self.why_compiled and self.stepper(self, owner, gradients):
            return self.present
        self.refuse_changed(owner)
        gradients = self.checked(owner, gradients)
        self.follow_requires_grad()
        return _compiled.step(self, gradients, self.in_pieces())

    @property
    def why_compiled(self) -> str | None:
        """Why a direct call compiles; None if it does not, but runs the kernel at once."""
        return self.no_launch or _host.obstacle()

    def checked(self, owner: str, gradients: Any) -> tuple[Any, ...]:
        """The gradients as a step takes them; what does not fit raises in the name of `owner`."""
        return check_gradients(owner, gradients, self.parameters)

    def refuse_changed(self, owner: str) -> None:
        """Raise if parameters were cast, which a compiled step goes on writing as before, or their shapes changed."""
        cast = [param.name for param, dtype in zip(self.parameters, self.dtypes) if param.dtype != dtype]
        if cast:
            raise TypeError(
                f"For '{owner}', 'params' must have the dtypes that they had when it was made, but {cast} were cast: "
                "after a cast of the network an optimizer must be made anew."
            )
        other = [
            param.name
            for param, shape, slots in zip(self.parameters, self.shapes, self.slot_table)
            if param.shape != shape and any(kept is not None and kept.shape == shape for kept in slots)
        ]
        if other:
            raise ValueError(
                f"For '{owner}', 'params' must have the shapes that they had when it was made, as their state has, "
                f"but {other} have others: an optimizer must be made anew."
            )
