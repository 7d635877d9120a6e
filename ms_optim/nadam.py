"""NAdam (Dozat 2016, "Incorporating Nesterov Momentum into Adam")."""

import mindspore as ms

from ms_optim._at_once import complements, now_and_next
from ms_optim._exact import exact
from ms_optim._learning_rate import LearningRate
from ms_optim._math import decay_gradient, is_applied, is_near, lerp
from ms_optim._native import power
from ms_optim.arguments import Number
from ms_optim.optimizer import Optimizer, Params
from ms_optim.slot import Slot


def nadam_scalars(step, mu_product, lr, beta1, beta2, eps, weight_decay, momentum_decay):
    """The step's numbers; mu_product is the product of the momentums so far."""

    def momentum(step):
        return beta1 * (1 - power(exact(24, 25, step), step * momentum_decay) / 2)

    mu, mu_next = now_and_next(momentum, step)
    mu_product = mu_product.where(step > 1, 1) * mu
    keep, take1, take2, correction2, gradient, correction, next_correction = complements(
        lr * weight_decay, beta1, beta2, power(beta2, step), mu, mu_product, mu_product * mu_next
    )
    grad_size, momentum_size = lr * gradient / correction, lr * mu_next / next_correction
    return mu_product, keep, weight_decay, take1, beta2, take2, correction2, eps, grad_size, momentum_size


def nadam(
    param,
    grad,
    slots,
    keep,
    weight_decay,
    take1,
    beta2,
    take2,
    correction2,
    eps,
    grad_size,
    momentum_size,
    near1,
    decays,
    decoupled_weight_decay,
    maximize,
):
    """Compute param <- param - lr*((1-mu)/(1-mu_product)*grad + mu_next/(1-next product)*m) / (sqrt(v_hat) + eps)."""
    exp_avg, exp_avg_sq = slots
    grad = -grad if maximize else grad
    if decoupled_weight_decay:
        param = param * keep
    else:
        grad = decay_gradient(grad, param, weight_decay, decays)
    exp_avg = lerp(exp_avg, grad, take1, near1)
    exp_avg_sq = beta2 * exp_avg_sq + take2 * grad * grad
    denominator = (exp_avg_sq / correction2).sqrt() + eps
    param = param - grad_size * grad / denominator
    return param - momentum_size * exp_avg / denominator, (exp_avg, exp_avg_sq)


class NAdam(Optimizer):
    """Adam with Nesterov momentum, as `torch.optim.NAdam` (2.13) computes it.

    State: `exp_avg` and `exp_avg_sq`, twice the parameters.

    Args:
        params (Union[list[Parameter], list[tuple[str, Parameter]], list[dict]]): The parameters, alone or each with a
            name, or groups of them: dicts with the key "params" and any of the arguments below but `fused`,
            `loss_scale`, `state_dtype` and `master_weights`. Other keys of a group are kept, unless they seem to mean
            an argument. A dict with the one key "order_params" gives the order in which the gradients come.
        lr (Union[float, list[float], Tensor, LearningRateSchedule]): The learning rate, in [0, inf); a list or 1-d
            Tensor has one for each step of the optimizer, which is one for n batches where gradients of n are
            accumulated, and holds its last. Default: ``2e-3`` .
        betas (tuple[float, float]): The decays of the two moments, in [0, 1). Default: ``(0.9, 0.999)`` .
        eps (float): Added to the root of the corrected second moment, in [0, inf). Default: ``1e-8`` .
        weight_decay (Union[float, list[float]]): The L2 penalty, added to the gradient; if decoupled, each step scales
            the parameters by 1 - lr * weight_decay. In [0, inf), or one for each step. Default: ``0.0`` .
        momentum_decay (float): How fast the momentum grows to betas[0], in [0, inf). Default: ``4e-3`` .
        decoupled_weight_decay (bool): Decay the parameters, as AdamW does, and not the gradient. Default: ``False`` .
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
        >>> optimizer = ms_optim.NAdam(net.trainable_params(), lr=2e-3, betas=(0.9, 0.99))
    """

    elementwise = True
    scalars, update = nadam_scalars, nadam
    slots = (Slot("step", scalar=True), Slot("mu_product", scalar=True), Slot("exp_avg"), Slot("exp_avg_sq"))
    conditions = {"near1": ("take1", is_near), "decays": ("weight_decay", is_applied)}
    arguments = {"momentum_decay": Number("[0, inf)")}

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float | list[float] = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        fused: bool | None = None,
        loss_scale: float = 1.0,
        state_dtype: ms.dtype.Type | None = None,
        master_weights: bool = False,
    ):
        defaults = dict(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            momentum_decay=momentum_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
        )
        super().__init__(params, defaults, loss_scale, fused, state_dtype, master_weights)
