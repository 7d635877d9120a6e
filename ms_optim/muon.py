"""Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks")."""

import mindspore as ms

from ms_optim._exact import exact
from ms_optim._learning_rate import LearningRate
from ms_optim._math import is_near, lerp, total
from ms_optim._shards import (
    WHOLE,
    Wholes,
    adder,
    own_rows,
    rows_of_all,
    shape_of_whole,
    wanted_of_rows,
    wanted_of_slice,
)
from ms_optim.arguments import Choice, Devices, Number, Numbers, Whole
from ms_optim.optimizer import Optimizer, Params
from ms_optim.slot import Slot


def rounded(x):
    """The nearest bfloat16 numbers, as numbers of x's own dtype: not every device multiplies bfloat16 matrices."""
    return x.bfloat16().to(x.dtype)


def orthogonalized(x, a, b, c, eps, steps, tall):
    """A matrix with the singular vectors of x and singular values near 1, by a quintic Newton-Schulz iteration.

    It is rounded to bfloat16 wherever torch's is. `tall` is whether it has more rows than columns.
    """
    x = rounded(x.mT if tall else x)
    squares = x.float() * x.float()  # as torch's, infinite beyond 1.8e19: the update is then zero
    norm = rounded(total(squares, adder()).float().sqrt().to(x.dtype))
    x = rounded(x / rounded(eps).where(norm < eps, norm))
    for _ in range(steps):
        gram = rounded(x @ x.mT)
        x = rounded(a * x + rounded(b * gram + c * (gram @ gram)) @ x)
    return x.mT if tall else x


def muon_scalars(step, lr, weight_decay, momentum, ns_a, ns_b, ns_c, eps):
    """The step's numbers."""
    return lr, 1 - lr * weight_decay, momentum, 1 - momentum, ns_a, ns_b, ns_c, eps


def muon(
    param,
    grad,
    slots,
    lr,
    keep,
    momentum,
    take,
    ns_a,
    ns_b,
    ns_c,
    eps,
    near,
    near_momentum,
    nesterov,
    ns_steps,
    adjust_lr_fn,
    matrix_group,
):
    """Compute buf <- lerp(buf, grad, 1-momentum); param <- (1 - lr*weight_decay)*param - lr*ratio*orthogonalized."""
    (momentum_buffer,) = slots
    momentum_buffer = lerp(momentum_buffer, grad, take, near)
    update = lerp(grad, momentum_buffer, momentum, near_momentum) if nesterov else momentum_buffer
    rows, columns = shape_of_whole(param, matrix_group)
    update = rows_of_all(update, matrix_group, rows)
    update = own_rows(orthogonalized(update, ns_a, ns_b, ns_c, eps, ns_steps, rows > columns), matrix_group)
    if adjust_lr_fn == "match_rms_adamw":
        ratio = exact(max(rows, columns), 25, lr).sqrt()
    else:
        ratio = exact(max(rows, columns), columns, lr).sqrt()
    return param * keep - lr * ratio * update, (momentum_buffer,)


class Muon(Optimizer):
    """Momentum whose matrices are orthogonalized, as `torch.optim.Muon` (2.13) computes it.

    It is for the matrices of hidden layers; embeddings, the output layer, biases and gains belong to another optimizer,
    such as AdamW. State: `momentum_buffer`, once the parameters.

    Args:
        params (Union[list[Parameter], list[tuple[str, Parameter]], list[dict]]): The parameters, alone or each with a
            name, or groups of them: dicts with the key "params" and any of the arguments below but `fused`,
            `loss_scale`, `state_dtype` and `master_weights`. Other keys of a group are kept, unless they seem to mean
            an argument. A dict with the one key "order_params" gives the order in which the gradients come. Each must
            be a matrix.
        lr (Union[float, list[float], Tensor, LearningRateSchedule]): The learning rate, in [0, inf); a list or 1-d
            Tensor has one for each step of the optimizer, which is one for n batches where gradients of n are
            accumulated, and holds its last. Default: ``1e-3`` .
        weight_decay (Union[float, list[float]]): Each step scales the parameters by 1 - lr * weight_decay, in [0, inf),
            or one for each step. Default: ``0.1`` .
        momentum (Union[float, list[float]]): How much of the last step's buffer is kept, in [0, inf), or one for each
            step. Default: ``0.95`` .
        nesterov (bool): Use Nesterov's momentum. Default: ``True`` .
        ns_coefficients (tuple[float, float, float]): Those of the Newton-Schulz iteration, in (-inf, inf).
            Default: ``(3.4445, -4.775, 2.0315)`` .
        eps (float): The floor of the norm that a matrix is divided by, in [0, inf). Default: ``1e-7`` .
        ns_steps (int): How often the iteration is repeated, in [0, 100). Default: ``5`` .
        adjust_lr_fn (Union[None, str]): "original" scales the learning rate by sqrt(max(1, rows/columns));
            "match_rms_adamw" by 0.2*sqrt(max(rows, columns)), so that rates tuned for AdamW fit. None is "original".
            Default: ``None`` .
        matrix_group (Union[None, str]): Where tensors are sliced over devices: "whole" if all of a matrix is on each
            device that holds some of it, or the name of the communication group of the devices that hold its rows, as
            many each, in the order of their ranks: each gathers them all and computes the whole update, which is NaN if
            they are not so many. In semi_auto_parallel and auto_parallel None, which does not say, is refused, and so
            is "whole" for what MindSpore may slice with the optimizer: unless it is small, its rows cannot be shared,
            or its `parallel_optimizer` is False; and, when a step is compiled, what MindSpore then cuts along another
            axis, or into other than as many parts as the group has devices. Default: ``None`` .
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
            parameter occurs twice, or the gradients do not fit the parameters. Also if a parameter is no matrix.

    Supported Platforms:
        ``CPU``. For ``Ascend`` and ``GPU`` a step is compiled and was not run; README says what is known.

    Examples:
        >>> import ms_optim
        >>> from mindspore import nn
        >>> net = nn.Dense(2, 3)
        >>> optimizer = ms_optim.Muon([net.weight], lr=0.02)
    """

    scalars, update = muon_scalars, muon
    slots = (Slot("momentum_buffer"),)
    conditions = {"near": ("take", is_near), "near_momentum": ("momentum", is_near)}
    arguments = {
        "adjust_lr_fn": Choice(None, "original", "match_rms_adamw"),
        "matrix_group": Devices(WHOLE),
        "ns_coefficients": Numbers({name: Number("(-inf, inf)") for name in ("ns_a", "ns_b", "ns_c")}),
        "ns_steps": Whole(0, below=100),
    }

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-3,
        weight_decay: float | list[float] = 0.1,
        momentum: float | list[float] = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        matrix_group: str | None = None,
        fused: bool | None = None,
        loss_scale: float = 1.0,
        state_dtype: ms.dtype.Type | None = None,
        master_weights: bool = False,
    ):
        defaults = dict(
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_coefficients=ns_coefficients,
            eps=eps,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
            matrix_group=matrix_group,
        )
        super().__init__(params, defaults, loss_scale, fused, state_dtype, master_weights)
        for param in self.parameters:
            if param.ndim != 2:
                raise ValueError(
                    f"For 'Muon', 'params' must be matrices, but got '{param.name}' of shape {param.shape}."
                )

    def wanted_for_parts(self, wholes: Wholes | None = None) -> str | None:
        """That it is said of all parameters which devices hold the rows of a matrix, and can be so."""
        wanted = wanted_of_rows(self, wholes)
        for place, param in enumerate(self.parameters):
            if not wanted and wholes and param.name in wholes:
                wanted = self.wanted_for_slice(place, wholes[param.name], param.shape)
        return wanted

    def wanted_for_slice(self, place: int, whole: tuple[int, ...], part: tuple[int, ...]) -> str | None:
        """That it is rows that are cut, and that the group is that of the devices which have them."""
        group = self.flags[place][self.flag_names.index("matrix_group")]
        return wanted_of_slice(group, self.parameters[place].name, whole, part, copies=False)
