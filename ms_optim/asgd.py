"""Averaged SGD (Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging")."""

import mindspore as ms

from ms_optim._learning_rate import LearningRate
from ms_optim._math import decay_gradient, is_applied, is_one
from ms_optim._native import power
from ms_optim.arguments import Number
from ms_optim.optimizer import Optimizer, Params
from ms_optim.slot import Slot


def asgd_scalars(step, eta, mu, lr, lambd, alpha, t0, weight_decay):
    """The step's numbers: its learning rate eta and weight mu, which the step before has set, and the next ones."""
    eta, mu = lr.where(step == 1, eta), mu.where(step > 1, 1)
    next_eta = lr / power(1 + lambd * lr * step, alpha)
    since = step - t0
    next_mu = 1 / since.where(since > 1, 1)
    return next_eta, next_mu, eta, mu, 1 - lambd * eta, weight_decay


def asgd(param, grad, slots, eta, mu, keep, weight_decay, copied, decays, maximize):
    """Compute param <- (1 - lambd*eta)*param - eta*grad; ax <- ax + mu*(param - ax)."""
    (ax,) = slots
    grad = -grad if maximize else grad
    grad = decay_gradient(grad, param, weight_decay, decays)
    param = param * keep - eta * grad
    return param, (param.where(copied, ax + (param - ax) * mu),)


class ASGD(Optimizer):
    """Averaged stochastic gradient descent, as `torch.optim.ASGD` (2.13) computes it.

    The average of the parameters is `optimizer.ax`, one for each. State: `ax`, once the parameters.

    Args:
        params (Union[list[Parameter], list[tuple[str, Parameter]], list[dict]]): The parameters, alone or each with a
            name, or groups of them: dicts with the key "params" and any of the arguments below but `fused`,
            `loss_scale`, `state_dtype` and `master_weights`. Other keys of a group are kept, unless they seem to mean
            an argument. A dict with the one key "order_params" gives the order in which the gradients come.
        lr (Union[float, list[float], Tensor, LearningRateSchedule]): The learning rate, in [0, inf); a list or 1-d
            Tensor has one for each step of the optimizer, which is one for n batches where gradients of n are
            accumulated, and holds its last. Default: ``1e-2`` .
        lambd (float): The decay of the parameters, times the step's learning rate, in [0, inf). Default: ``1e-4`` .
        alpha (float): The learning rate falls as (1 + lambd * lr * step) ** -alpha, in [0, inf). Default: ``0.75`` .
        t0 (float): The step after which parameters are averaged and not copied, in (-inf, inf). Default: ``1e6`` .
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
        >>> optimizer = ms_optim.ASGD(net.trainable_params(), lr=0.1, t0=100)
    """

    elementwise = True
    scalars, update = asgd_scalars, asgd
    slots = (Slot("step", scalar=True), Slot("eta", scalar=True), Slot("mu", scalar=True), Slot("ax"))
    conditions = {"copied": ("mu", is_one), "decays": ("weight_decay", is_applied)}
    arguments = {"alpha": Number("[0, inf)"), "lambd": Number("[0, inf)"), "t0": Number("(-inf, inf)")}

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float | list[float] = 0.0,
        *,
        maximize: bool = False,
        fused: bool | None = None,
        loss_scale: float = 1.0,
        state_dtype: ms.dtype.Type | None = None,
        master_weights: bool = False,
    ):
        defaults = dict(lr=lr, lambd=lambd, alpha=alpha, t0=t0, weight_decay=weight_decay, maximize=maximize)
        super().__init__(params, defaults, loss_scale, fused, state_dtype, master_weights)
