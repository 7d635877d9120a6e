"""Momentum with adaptive gradient clipping (Brock et al. 2021, "High-Performance Large-Scale Image Recognition").

The networks are normalizer-free; the clipping takes the place of batch normalization.
"""

from collections.abc import Callable, Mapping

import mindspore as ms
from mindspore import Parameter

from ms_optim._learning_rate import LearningRate
from ms_optim._math import clip_adaptively, is_applied, unit_axes
from ms_optim._shards import (
    CUT,
    SLICED,
    WHOLE,
    Wholes,
    group_of_parts,
    is_group,
    listed,
    may_be_cut,
    named_for,
    norm_of_units,
    parts_of,
)
from ms_optim.arguments import Choice, Devices, Number, Predicate
from ms_optim.optimizer import Optimizer, Params
from ms_optim.sgd import check_nesterov, sgd, sgd_scalars
from ms_optim.slot import Slot

Exempt = str | tuple[str, ...] | list[str] | Callable[[Parameter], bool]


def momentum_agc_scalars(step, lr, momentum, dampening, weight_decay, clipping, clip_eps):
    """The step's numbers: those of SGD, and two of clipping."""
    return (*sgd_scalars(step, lr, momentum, dampening, weight_decay), clipping, clip_eps)


def momentum_agc(
    param,
    grad,
    slots,
    lr,
    momentum,
    take,
    weight_decay,
    clipping,
    clip_eps,
    clips,
    decays,
    nesterov,
    maximize,
    unit,
    exempt,
    unit_group,
):
    """Scale each unit of grad to at most clipping*max(|unit of param|, clip_eps), then do as SGD."""
    if not exempt:
        grad = clip_adaptively(grad, param, clipping, clip_eps, unit, clips, norm_of_units(unit_group))
    return sgd(param, grad, slots, lr, momentum, take, weight_decay, decays, nesterov, maximize)


class MomentumAGC(Optimizer):
    """SGD with momentum whose gradient is clipped unit by unit, as normalizer-free networks need.

    Where the norm of a unit of the gradient exceeds clipping * max(norm of the unit of the weight, clip_eps), it is
    scaled down to it (Brock et al. 2021, equation 3); weight decay and momentum follow, as in :class:`SGD`. Norms are
    accumulated in float64, on a CPU that holds a unit as a whole. State: `momentum_buffer`, once the parameters, where
    momentum is not zero.

    Args:
        params (Union[list[Parameter], list[tuple[str, Parameter]], list[dict]]): The parameters, alone or each with a
            name, or groups of them: dicts with the key "params" and any of the arguments below but `fused`,
            `loss_scale`, `state_dtype` and `master_weights`. Other keys of a group are kept, unless they seem to mean
            an argument. A dict with the one key "order_params" gives the order in which the gradients come.
        lr (Union[float, list[float], Tensor, LearningRateSchedule]): The learning rate, in [0, inf); a list or 1-d
            Tensor has one for each step of the optimizer, which is one for n batches where gradients of n are
            accumulated, and holds its last. Default: ``1e-3`` .
        momentum (Union[float, list[float]]): How much of the last step's buffer is kept, in [0, inf), or one for each
            step. Default: ``0.9`` .
        dampening (float): How much of the gradient the buffer does not take, but for the first, in (-inf, inf).
            Default: ``0.0`` .
        weight_decay (Union[float, list[float]]): The L2 penalty, added to the clipped gradient, in [0, inf), or one for
            each step. Default: ``0.0`` .
        nesterov (bool): Use Nesterov's momentum; needs momentum and no dampening. Default: ``False`` .
        clipping (float): The largest norm of a unit's gradient relative to its weight's, in [0, inf); 0 is no clipping.
            Default: ``0.01`` .
        clip_eps (float): The floor of the norm of a unit's weight, in [0, inf). Default: ``1e-3`` .
        exempt (Union[str, tuple[str], Callable]): fnmatch patterns on the names of parameters that are not clipped
            (the classifier's weight, in NFNets), or a function from a Parameter to bool. Default: ``()`` .
        unit (str): "output", the convention of timm: a unit is a slice along axis 0, and a vector or scalar is one;
            or "squeezed", that of DeepMind and optax: what is a vector or scalar without its axes of size 1 is one unit
            too, and a unit of a 3-d weight spans axis 1 alone. Default: ``"output"`` .
        maximize (bool): Ascend instead of descend. Default: ``False`` .
        unit_group (Union[None, str]): Where tensors are sliced over devices: "whole" if all of a unit is on each device
            that holds some of it, or the name of the communication group of the devices that hold the parts of a unit,
            over which its norm is summed in float32. In semi_auto_parallel and auto_parallel None, which does not say,
            is refused unless the parameter is exempt, and so is "whole" for units of several rows that MindSpore may
            slice with the optimizer: unless the parameter is small, its rows cannot be shared, or its
            `parallel_optimizer` is False; and, when a step is compiled, what does not fit the slices that MindSpore has
            then cut. Default: ``None`` .
        fused (Union[None, bool]): True computes with the native CPU kernel, False with MindSpore's operators, None with
            the kernel where there is one. Default: ``None`` .
        loss_scale (float): The gradients are divided by it first, in (0, inf). Default: ``1.0`` .
        state_dtype (Union[None, mindspore.dtype]): ``mindspore.float32`` keeps the state of float16 and bfloat16
            parameters in float32, None in the dtype of the parameter. Default: ``None`` .
        master_weights (bool): Keep a float32 copy of float16 and bfloat16 parameters, `master_param` in the state, from
            which the steps go on; the parameter is the copy, rounded. Default: ``False`` .

    Inputs:
        - **gradients** (tuple[Tensor]) - One for each parameter, of its shape, in the order of `optimizer.parameters`.
          In a direct call an entry may be None: that parameter, its state and its step stand still. In any step so do
          those of a parameter that is frozen, from `freeze` to `unfreeze`.

    Outputs:
        tuple[bool], True for each parameter.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument is out of its range, a group has a key that seems to mean an argument and is none, a
            parameter occurs twice, or the gradients do not fit the parameters. Also if `nesterov` is asked for without
            momentum, or with dampening, or a pattern of `exempt` matches no name.

    Supported Platforms:
        ``CPU``. For ``Ascend`` and ``GPU`` a step is compiled and was not run; README says what is known.

    Examples:
        >>> import ms_optim
        >>> from mindspore import nn
        >>> net = nn.Dense(2, 3)
        >>> optimizer = ms_optim.MomentumAGC(net.trainable_params(), lr=0.1, exempt="weight")
        >>> optimizer.group_clipping_tuple
        (0.0, 0.01)
    """

    scalars, update = momentum_agc_scalars, momentum_agc
    slots = (Slot("momentum_buffer", when="momentum"),)
    conditions = {"clips": ("clipping", is_applied), "decays": ("weight_decay", is_applied)}
    arguments = {
        "clip_eps": Number("[0, inf)"),
        "clipping": Number("[0, inf)"),
        "exempt": Predicate(),
        "unit": Choice("output", "squeezed"),
        "unit_group": Devices(WHOLE),
    }

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-3,
        momentum: float | list[float] = 0.9,
        *,
        dampening: float = 0.0,
        weight_decay: float | list[float] = 0.0,
        nesterov: bool = False,
        clipping: float = 0.01,
        clip_eps: float = 1e-3,
        exempt: Exempt = (),
        unit: str = "output",
        maximize: bool = False,
        unit_group: str | None = None,
        fused: bool | None = None,
        loss_scale: float = 1.0,
        state_dtype: ms.dtype.Type | None = None,
        master_weights: bool = False,
    ):
        defaults = dict(
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            clipping=clipping,
            clip_eps=clip_eps,
            exempt=exempt,
            unit=unit,
            maximize=maximize,
            unit_group=unit_group,
        )
        super().__init__(params, defaults, loss_scale, fused, state_dtype, master_weights)

    @classmethod
    def check_group(cls, group: Mapping) -> None:
        """Raise unless nesterov has a momentum, and no dampening, to go with."""
        check_nesterov(cls.__name__, group)

    def wanted_for_parts(self, wholes: Wholes | None = None) -> str | None:
        """That it is said of all parameters where their units are, and can be so, or that they are exempt."""
        exempt, group, unit = map(self.flag_names.index, ("exempt", "unit_group", "unit"))
        clipped = [
            (param, flags[group], flags[unit]) for param, flags in zip(self.parameters, self.flags) if not flags[exempt]
        ]
        if wholes is None:
            unsaid = [param.name for param, said, _ in clipped if said is None]
            if unsaid:
                return (
                    f"'unit_group' must be {self.kinds['unit_group']} for {listed(unsaid)} where MindSpore slices "
                    "tensors, which may cut their units"
                )
            unnamed = [
                param.name
                for param, said, kind in clipped
                if said == WHOLE and unit_axes(param.shape, kind) is None and may_be_cut(param)
            ]
            return named_for("unit_group", unnamed, SLICED) if unnamed else None
        narrow = [
            param.name
            for param, said, kind in clipped
            if is_group(said) and param.ndim > 1 and unit_axes(param.shape, kind) is None
        ]
        if narrow:
            return f"'unit' must be 'output' for {listed(narrow)}, whose parts do not tell which axes of a whole are 1"
        cut = [
            (param.name, said, self._cuts_units(param, wholes[param.name], kind))
            for param, said, kind in clipped
            if param.name in wholes
        ]
        idle = [name for name, said, cuts in cut if is_group(said) and not cuts]
        if idle:
            return f"'unit_group' must be 'whole' for {listed(idle)}, whose units are not cut"
        unnamed = [name for name, said, cuts in cut if cuts and not is_group(said)]
        return named_for("unit_group", unnamed, CUT) if unnamed else None

    def wanted_for_slice(self, place: int, whole: tuple[int, ...], part: tuple[int, ...]) -> str | None:
        """That the group is that of the devices which have the parts of a unit, or that there are none."""
        exempt, group, unit = (
            self.flags[place][self.flag_names.index(name)] for name in ("exempt", "unit_group", "unit")
        )
        axes, name = unit_axes(whole, unit), self.parameters[place].name
        axes = range(len(whole)) if axes is None else axes
        parts = parts_of(*(tuple(shape[axis] for axis in axes) for shape in (whole, part)))
        if exempt:
            return None
        if parts == 1:
            return f"'unit_group' must be 'whole' for ['{name}'], whose units are not cut" if is_group(group) else None
        return group_of_parts("unit_group", group, name, parts)

    @staticmethod
    def _cuts_units(param, whole, unit):
        """Whether units are not whole where of a whole there is this."""
        axes = unit_axes(whole, unit)
        return axes is None or len(param.shape) != len(whole) or any(param.shape[axis] != whole[axis] for axis in axes)

    @property
    def group_clipping_tuple(self) -> tuple[float, ...]:
        """The clipping of each parameter, in the order of `parameters`; 0.0 is none."""
        groups, exempt = self.param_groups, self.flag_names.index("exempt")
        return tuple(0.0 if flags[exempt] else groups[i]["clipping"] for flags, i in zip(self.flags, self.group_of))
