"""Adadelta (Zeiler 2012, "ADADELTA: An Adaptive Learning Rate Method")."""

import mindspore as ms

from ms_optim._learning_rate import LearningRate
from ms_optim._math import decay_gradient, is_applied
from ms_optim.arguments import Number
from ms_optim.optimizer import Optimizer, Params
from ms_optim.slot import Slot


def adadelta_scalars(step, lr, rho, eps, weight_decay):
    """The step's numbers."""
    return lr, rho, 1 - rho, eps, weight_decay


def adadelta(param, grad, slots, lr, rho, take, eps, weight_decay, decays, maximize):
    """Compute delta <- sqrt(acc_delta + eps) / sqrt(square_avg + eps) * grad; param <- param - lr*delta."""
    square_avg, acc_delta = slots
    grad = -grad if maximize else grad
    grad = decay_gradient(grad, param, weight_decay, decays)
    square_avg = rho * square_avg + take * grad * grad
    delta = (acc_delta + eps).sqrt() / (square_avg + eps).sqrt() * grad
    acc_delta = rho * acc_delta + take * delta * delta
    return param - lr * delta, (square_avg, acc_delta)


class Adadelta(Optimizer):
    """Adadelta, as `torch.optim.Adadelta` (2.13) computes it.

    State: `square_avg` and `acc_delta`, twice the parameters.

    Args:
        params (Union[list[Parameter], list[tuple[str, Parameter]], list[dict]]): The parameters, alone or each with a
            name, or groups of them: dicts with the key "params" and any of the arguments below but `fused`,
            `loss_scale`, `state_dtype` and `master_weights`. Other keys of a group are kept, unless they seem to mean
            an argument. A dict with the one key "order_params" gives the order in which the gradients come.
        lr (Union[float, list[float], Tensor, LearningRateSchedule]): The learning rate, in [0, inf); a list or 1-d
            Tensor has one for each step of the optimizer, which is one for n batches where gradients of n are
            accumulated, and holds its last. Default: ``1.0`` .
        rho (float): The decay of both averages, of squared gradients and of squared steps, in [0, 1].
            Default: ``0.9`` .
        eps (float): Added to both averages inside their roots, in [0, inf). Default: ``1e-6`` .
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
        >>> optimizer = ms_optim.Adadelta(net.trainable_params(), rho=0.95)
    """

    elementwise = True
    scalars, update = adadelta_scalars, adadelta
    slots = (Slot("step", scalar=True), Slot("square_avg"), Slot("acc_delta"))
    conditions = {"decays": ("weight_decay", is_applied)}
    arguments = {"rho": Number("[0, 1]")}

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float | list[float] = 0.0,
        *,
        maximize: bool = False,
        fused: bool | None = None,
        loss_scale: float = 1.0,
        state_dtype: ms.dtype.Type | None = None,
        master_weights: bool = False,
    ):
        defaults = dict(lr=lr, rho=rho, eps=eps, weight_decay=weight_decay, maximize=maximize)
        super().__init__(params, defaults, loss_scale, fused, state_dtype, master_weights)
