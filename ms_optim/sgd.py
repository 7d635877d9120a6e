"""SGD with momentum (Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning")."""

from collections.abc import Mapping

import mindspore as ms

from ms_optim._learning_rate import LearningRate
from ms_optim._math import decay_gradient, is_applied
from ms_optim.optimizer import Optimizer, Params
from ms_optim.slot import Slot


def sgd_scalars(step, lr, momentum, dampening, weight_decay):
    """The step's numbers. The first step seeds the momentum buffer with the gradient itself, undampened."""
    return lr, momentum, (1 - dampening).where(step > 1, 1), weight_decay


def sgd(param, grad, slots, lr, momentum, take, weight_decay, decays, nesterov, maximize):
    """Compute buf <- momentum*buf + take*(grad + weight_decay*param); param <- param - lr*buf."""
    (momentum_buffer,) = slots
    grad = -grad if maximize else grad
    grad = decay_gradient(grad, param, weight_decay, decays)
    if momentum_buffer is not None:
        momentum_buffer = momentum * momentum_buffer + take * grad
        grad = grad + momentum * momentum_buffer if nesterov else momentum_buffer
    return param - lr * grad, (momentum_buffer,)


def check_nesterov(owner, group):
    """Raise unless nesterov has a momentum, and no dampening, to go with."""
    if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
        raise ValueError(
            f"For '{owner}', 'nesterov' must be False unless 'momentum' > 0 and 'dampening' is 0, but got 'momentum' "
            f"{group['momentum']} and 'dampening' {group['dampening']}."
        )


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, as `torch.optim.SGD` (2.13) computes it.

    State: `momentum_buffer`, once the parameters, where momentum is not zero.

    Args:
        params (Union[list[Parameter], list[tuple[str, Parameter]], list[dict]]): The parameters, alone or each with a
            name, or groups of them: dicts with the key "params" and any of the arguments below but `fused`,
            `loss_scale`, `state_dtype` and `master_weights`. Other keys of a group are kept, unless they seem to mean
            an argument. A dict with the one key "order_params" gives the order in which the gradients come.
        lr (Union[float, list[float], Tensor, LearningRateSchedule]): The learning rate, in [0, inf); a list or 1-d
            Tensor has one for each step of the optimizer, which is one for n batches where gradients of n are
            accumulated, and holds its last. Default: ``1e-3`` .
        momentum (Union[float, list[float]]): How much of the last step's buffer is kept, in [0, inf), or one for each
            step. Default: ``0.0`` .
        dampening (float): How much of the gradient the buffer does not take, but for the first, in (-inf, inf).
            Default: ``0.0`` .
        weight_decay (Union[float, list[float]]): The L2 penalty, added to the gradient, in [0, inf), or one for each
            step. Default: ``0.0`` .
        nesterov (bool): Use Nesterov's momentum; needs momentum and no dampening. Default: ``False`` .
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
            parameter occurs twice, or the gradients do not fit the parameters. Also if `nesterov` is asked for without
            momentum, or with dampening.

    Supported Platforms:
        ``CPU``. For ``Ascend`` and ``GPU`` a step is compiled and was not run; README says what is known.

    Examples:
        >>> import ms_optim
        >>> from mindspore import nn
        >>> net = nn.Dense(2, 3)
        >>> optimizer = ms_optim.SGD(net.trainable_params(), lr=0.1, momentum=0.9, nesterov=True)
    """

    elementwise = True
    scalars, update = sgd_scalars, sgd
    slots = (Slot("momentum_buffer", when="momentum"),)
    conditions = {"decays": ("weight_decay", is_applied)}

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-3,
        momentum: float | list[float] = 0.0,
        dampening: float = 0.0,
        weight_decay: float | list[float] = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
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
            maximize=maximize,
        )
        super().__init__(params, defaults, loss_scale, fused, state_dtype, master_weights)

    @classmethod
    def check_group(cls, group: Mapping) -> None:
        """Raise unless nesterov has a momentum, and no dampening, to go with."""
        check_nesterov(cls.__name__, group)
