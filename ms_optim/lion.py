"""Lion (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms")."""

import mindspore as ms

from ms_optim._learning_rate import LearningRate
from ms_optim.optimizer import Optimizer, Params
from ms_optim.slot import Slot


def lion_scalars(step, lr, beta1, beta2, weight_decay):
    """The step's numbers."""
    return 1 - lr * weight_decay, lr, beta1, 1 - beta1, beta2, 1 - beta2


def lion(param, grad, slots, keep, lr, beta1, take1, beta2, take2, maximize):
    """Compute param <- (1 - lr*weight_decay)*param - lr*sign(beta1*m + (1-beta1)*grad); m <- lerp(grad, m, beta2)."""
    (exp_avg,) = slots
    grad = -grad if maximize else grad
    direction = (beta1 * exp_avg + take1 * grad).sign()
    return param * keep - lr * direction, (beta2 * exp_avg + take2 * grad,)


class Lion(Optimizer):
    """Steps of one size along the sign of a momentum, by algorithm 2 of the paper; torch has no such optimizer.

    Its steps are larger than AdamW's: the paper takes a learning rate of a third to a tenth, and so much more weight
    decay. State: `exp_avg`, once the parameters.

    Args:
        params (Union[list[Parameter], list[tuple[str, Parameter]], list[dict]]): The parameters, alone or each with a
            name, or groups of them: dicts with the key "params" and any of the arguments below but `fused`,
            `loss_scale`, `state_dtype` and `master_weights`. Other keys of a group are kept, unless they seem to mean
            an argument. A dict with the one key "order_params" gives the order in which the gradients come.
        lr (Union[float, list[float], Tensor, LearningRateSchedule]): The learning rate, in [0, inf); a list or 1-d
            Tensor has one for each step of the optimizer, which is one for n batches where gradients of n are
            accumulated, and holds its last. Default: ``1e-4`` .
        betas (tuple[float, float]): What the step and what the moment keep of the last moment, in
            [0, 1). Default: ``(0.9, 0.99)`` .
        weight_decay (Union[float, list[float]]): Each step scales the parameters by 1 - lr * weight_decay, in [0, inf),
            or one for each step. Default: ``0.0`` .
        maximize (bool): Ascend instead of descend. Default: ``False`` .
        fused (Union[None, bool]): There is no native kernel: None or False. Default: ``None`` .
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
        >>> optimizer = ms_optim.Lion(net.trainable_params(), lr=1e-4, weight_decay=0.1)
    """

    elementwise = True
    scalars, update, slots = lion_scalars, lion, (Slot("exp_avg"),)

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float | list[float] = 0.0,
        *,
        maximize: bool = False,
        fused: bool | None = None,
        loss_scale: float = 1.0,
        state_dtype: ms.dtype.Type | None = None,
        master_weights: bool = False,
    ):
        defaults = dict(lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize)
        super().__init__(params, defaults, loss_scale, fused, state_dtype, master_weights)
