"""Rprop (Riedmiller and Braun 1993, "A direct adaptive method for faster backpropagation learning")."""

import mindspore as ms

from ms_optim._learning_rate import LearningRate
from ms_optim._math import is_positive
from ms_optim.arguments import Number, Numbers
from ms_optim.optimizer import Optimizer, Params
from ms_optim.slot import Slot


def rprop_scalars(step, lr, etaminus, etaplus, step_size_min, step_size_max):
    """The step's numbers; the first step starts at lr, which means nothing later."""
    return (step == 1).double(), lr, etaminus, etaplus, step_size_min, step_size_max


def rprop(param, grad, slots, first, lr, etaminus, etaplus, step_size_min, step_size_max, begins, maximize):
    """Scale step_size by etaplus or etaminus as grad keeps or turns its sign; param <- param - sign(grad)*step_size.

    Where it turns, grad counts as zero, now and as the next step's prev.
    """
    prev, step_size = slots
    grad = -grad if maximize else grad
    step_size = lr.where(begins, step_size)
    turn = grad * prev
    step_size = step_size * etaplus.where(turn > 0, etaminus.where(turn < 0, 1))
    step_size = step_size.maximum(step_size_min).minimum(step_size_max)
    grad = grad.where((turn < 0).logical_not(), 0)
    return param - grad.sign() * step_size, (grad, step_size)


class Rprop(Optimizer):
    """Resilient backpropagation, as `torch.optim.Rprop` (2.13) computes it.

    It moves each element by a step of its own and reads only the signs of gradients, which must be those of full
    batches. State: `prev` and `step_size`, twice the parameters.

    Args:
        params (Union[list[Parameter], list[tuple[str, Parameter]], list[dict]]): The parameters, alone or each with a
            name, or groups of them: dicts with the key "params" and any of the arguments below but `fused`,
            `loss_scale`, `state_dtype` and `master_weights`. Other keys of a group are kept, unless they seem to mean
            an argument. A dict with the one key "order_params" gives the order in which the gradients come.
        lr (Union[float, list[float], Tensor, LearningRateSchedule]): The learning rate, in [0, inf); a list or 1-d
            Tensor has one for each step of the optimizer, which is one for n batches where gradients of n are
            accumulated, and holds its last. Default: ``1e-2`` .
        etas (tuple[float, float]): What scales a step where the sign turns, in (0, 1), and where it stays, in (1, inf).
            Default: ``(0.5, 1.2)`` .
        step_sizes (tuple[float, float]): The smallest step, in [0, inf), and the largest, in [0, inf].
            Default: ``(1e-6, 50.0)`` .
        maximize (bool): Ascend instead of descend. Default: ``False`` .
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
            parameter occurs twice, or the gradients do not fit the parameters.

    Supported Platforms:
        ``CPU``. For ``Ascend`` and ``GPU`` a step is compiled and was not run; README says what is known.

    Examples:
        >>> import ms_optim
        >>> from mindspore import nn
        >>> net = nn.Dense(2, 3)
        >>> optimizer = ms_optim.Rprop(net.trainable_params(), lr=1e-3, step_sizes=(1e-6, 1.0))
    """

    elementwise = True
    scalars, update = rprop_scalars, rprop
    slots = (Slot("step", scalar=True), Slot("prev"), Slot("step_size"))
    conditions = {"begins": ("first", is_positive)}
    arguments = {
        "etas": Numbers({"etaminus": Number("(0, 1)"), "etaplus": Number("(1, inf)")}),
        "step_sizes": Numbers({"step_size_min": Number("[0, inf)"), "step_size_max": Number("[0, inf]")}),
    }

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        maximize: bool = False,
        fused: bool | None = None,
        loss_scale: float = 1.0,
        state_dtype: ms.dtype.Type | None = None,
        master_weights: bool = False,
    ):
        defaults = dict(lr=lr, etas=etas, step_sizes=step_sizes, maximize=maximize)
        super().__init__(params, defaults, loss_scale, fused, state_dtype, master_weights)
