"""Adamax (Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization", section 7.1)."""

import mindspore as ms

from ms_optim._learning_rate import LearningRate
from ms_optim._math import decay_gradient, is_applied, is_near, lerp, maximum
from ms_optim._native import power
from ms_optim.optimizer import Optimizer, Params
from ms_optim.slot import Slot


def adamax_scalars(step, lr, beta1, beta2, eps, weight_decay):
    """The step's numbers."""
    return lr / (1 - power(beta1, step)), 1 - beta1, beta2, eps, weight_decay


def adamax(param, grad, slots, step_size, take, beta2, eps, weight_decay, near, decays, maximize):
    """Compute exp_inf <- max(beta2*exp_inf, |grad| + eps); param <- param - lr*m_hat / exp_inf."""
    exp_avg, exp_inf = slots
    grad = -grad if maximize else grad
    grad = decay_gradient(grad, param, weight_decay, decays)
    exp_avg = lerp(exp_avg, grad, take, near)
    exp_inf = maximum(beta2 * exp_inf, grad.abs() + eps)
    return param - step_size * exp_avg / exp_inf, (exp_avg, exp_inf)


class Adamax(Optimizer):
    """Adamax, Adam with the infinity norm, as `torch.optim.Adamax` (2.13) computes it.

    State: `exp_avg` and `exp_inf`, twice the parameters.

    Args:
        params (Union[list[Parameter], list[tuple[str, Parameter]], list[dict]]): The parameters, alone or each with a
            name, or groups of them: dicts with the key "params" and any of the arguments below but `fused`,
            `loss_scale`, `state_dtype` and `master_weights`. Other keys of a group are kept, unless they seem to mean
            an argument. A dict with the one key "order_params" gives the order in which the gradients come.
        lr (Union[float, list[float], Tensor, LearningRateSchedule]): The learning rate, in [0, inf); a list or 1-d
            Tensor has one for each step of the optimizer, which is one for n batches where gradients of n are
            accumulated, and holds its last. Default: ``2e-3`` .
        betas (tuple[float, float]): The decays of the first moment and of the norm, in [0, 1).
            Default: ``(0.9, 0.999)`` .
        eps (float): Added to the magnitude of the gradient, in [0, inf). Default: ``1e-8`` .
        weight_decay (Union[float, list[float]]): The L2 penalty, added to the gradient, in [0, inf), or one for each
            step. Default: ``0.0`` .
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
        >>> optimizer = ms_optim.Adamax(net.trainable_params(), betas=(0.9, 0.99))
    """

    elementwise = True
    scalars, update = adamax_scalars, adamax
    slots = (Slot("step", scalar=True), Slot("exp_avg"), Slot("exp_inf"))
    conditions = {"near": ("take", is_near), "decays": ("weight_decay", is_applied)}

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float | list[float] = 0.0,
        *,
        maximize: bool = False,
        fused: bool | None = None,
        loss_scale: float = 1.0,
        state_dtype: ms.dtype.Type | None = None,
        master_weights: bool = False,
    ):
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize)
        super().__init__(params, defaults, loss_scale, fused, state_dtype, master_weights)
