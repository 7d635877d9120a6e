"""RMSprop (Tieleman and Hinton 2012, "Lecture 6.5: rmsprop"; centered: Graves 2013)."""

import mindspore as ms

from ms_optim._learning_rate import LearningRate
from ms_optim._math import decay_gradient, is_applied, is_near, lerp, way_of
from ms_optim.arguments import Flag, Number
from ms_optim.optimizer import Optimizer, Params
from ms_optim.slot import Slot


def rmsprop_scalars(step, lr, alpha, eps, weight_decay, momentum):
    """The step's numbers."""
    return lr, alpha, 1 - alpha, eps, weight_decay, momentum


def rmsprop(param, grad, slots, lr, alpha, take, eps, weight_decay, momentum, decays, maximize):
    """Compute buf <- momentum*buf + grad / (sqrt(square_avg [- grad_avg^2]) + eps); param <- param - lr*buf."""
    square_avg, momentum_buffer, grad_avg = slots
    grad = -grad if maximize else grad
    grad = decay_gradient(grad, param, weight_decay, decays)
    square_avg = alpha * square_avg + take * grad * grad
    variance = square_avg
    if grad_avg is not None:
        grad_avg = lerp(grad_avg, grad, way_of(take), is_near(take))
        variance = square_avg - grad_avg * grad_avg
    deviation = variance.sqrt() + eps
    if momentum_buffer is None:
        return param - lr * grad / deviation, (square_avg, None, grad_avg)
    momentum_buffer = momentum * momentum_buffer + grad / deviation
    return param - lr * momentum_buffer, (square_avg, momentum_buffer, grad_avg)


class RMSprop(Optimizer):
    """RMSprop, as `torch.optim.RMSprop` (2.13) computes it.

    State: `square_avg`, once the parameters; where momentum is not zero `momentum_buffer` and where it is centered
    `grad_avg`, each once more.

    Args:
        params (Union[list[Parameter], list[tuple[str, Parameter]], list[dict]]): The parameters, alone or each with a
            name, or groups of them: dicts with the key "params" and any of the arguments below but `fused`,
            `loss_scale`, `state_dtype` and `master_weights`. Other keys of a group are kept, unless they seem to mean
            an argument. A dict with the one key "order_params" gives the order in which the gradients come.
        lr (Union[float, list[float], Tensor, LearningRateSchedule]): The learning rate, in [0, inf); a list or 1-d
            Tensor has one for each step of the optimizer, which is one for n batches where gradients of n are
            accumulated, and holds its last. Default: ``1e-2`` .
        alpha (float): The decay of the mean square, in [0, inf). Default: ``0.99`` .
        eps (float): Added to the root of the mean square, in [0, inf). Default: ``1e-8`` .
        weight_decay (Union[float, list[float]]): The L2 penalty, added to the gradient, in [0, inf), or one for each
            step. Default: ``0.0`` .
        momentum (Union[float, list[float]]): How much of the last step's buffer is kept, in [0, inf), or one for each
            step. Default: ``0.0`` .
        centered (bool): Divide by the deviation from the mean of the gradient. Default: ``False`` .
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
        >>> optimizer = ms_optim.RMSprop(net.trainable_params(), alpha=0.9, momentum=0.9)
    """

    elementwise = True
    scalars, update = rmsprop_scalars, rmsprop
    slots = (
        Slot("step", scalar=True),
        Slot("square_avg"),
        Slot("momentum_buffer", when="momentum"),
        Slot("grad_avg", when="centered"),
    )
    conditions = {"decays": ("weight_decay", is_applied)}
    arguments = {"alpha": Number("[0, inf)"), "centered": Flag()}

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float | list[float] = 0.0,
        momentum: float | list[float] = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        fused: bool | None = None,
        loss_scale: float = 1.0,
        state_dtype: ms.dtype.Type | None = None,
        master_weights: bool = False,
    ):
        defaults = dict(
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            maximize=maximize,
        )
        super().__init__(params, defaults, loss_scale, fused, state_dtype, master_weights)
