"""Adagrad (Duchi et al. 2011, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization")."""

import mindspore as ms

from ms_optim._learning_rate import LearningRate
from ms_optim._math import decay_gradient, is_applied
from ms_optim.arguments import Number
from ms_optim.optimizer import Optimizer, Params
from ms_optim.slot import Slot


def adagrad_scalars(step, lr, lr_decay, weight_decay, eps):
    """The step's numbers."""
    return lr / (1 + (step - 1) * lr_decay), weight_decay, eps


def adagrad(param, grad, slots, step_size, weight_decay, eps, decays, maximize):
    """Compute sum <- sum + grad^2; param <- param - lr/(1 + (t-1)*lr_decay) * grad / (sqrt(sum) + eps)."""
    (total,) = slots
    grad = -grad if maximize else grad
    grad = decay_gradient(grad, param, weight_decay, decays)
    total = total + grad * grad
    return param - step_size * grad / (total.sqrt() + eps), (total,)


class Adagrad(Optimizer):
    """Adagrad, as `torch.optim.Adagrad` (2.13) computes it.

    State: `sum`, once the parameters.

    Args:
        params (Union[list[Parameter], list[tuple[str, Parameter]], list[dict]]): The parameters, alone or each with a
            name, or groups of them: dicts with the key "params" and any of the arguments below but `fused`,
            `loss_scale`, `state_dtype` and `master_weights`. Other keys of a group are kept, unless they seem to mean
            an argument. A dict with the one key "order_params" gives the order in which the gradients come.
        lr (Union[float, list[float], Tensor, LearningRateSchedule]): The learning rate, in [0, inf); a list or 1-d
            Tensor has one for each step of the optimizer, which is one for n batches where gradients of n are
            accumulated, and holds its last. Default: ``1e-2`` .
        lr_decay (float): The learning rate is divided by 1 + (step - 1) * lr_decay, in [0, inf). Default: ``0.0`` .
        weight_decay (Union[float, list[float]]): The L2 penalty, added to the gradient, in [0, inf), or one for each
            step. Default: ``0.0`` .
        initial_accumulator_value (float): What `sum` starts at, in [0, inf). A group may have its own, which torch
            accepts and ignores. Default: ``0.0`` .
        eps (float): Added to the root of the sum of squares, in [0, inf). Default: ``1e-10`` .
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
        >>> optimizer = ms_optim.Adagrad(net.trainable_params(), lr=1e-2, lr_decay=1e-4)
    """

    elementwise = True
    scalars, update = adagrad_scalars, adagrad
    slots = (Slot("step", scalar=True), Slot("sum", init="initial_accumulator_value"))
    conditions = {"decays": ("weight_decay", is_applied)}
    arguments = {"initial_accumulator_value": Number("[0, inf)"), "lr_decay": Number("[0, inf)")}

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float | list[float] = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        fused: bool | None = None,
        loss_scale: float = 1.0,
        state_dtype: ms.dtype.Type | None = None,
        master_weights: bool = False,
    ):
        defaults = dict(
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            maximize=maximize,
        )
        super().__init__(params, defaults, loss_scale, fused, state_dtype, master_weights)
