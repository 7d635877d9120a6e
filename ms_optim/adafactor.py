"""Adafactor (Shazeer and Stern 2018, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost")."""

import mindspore as ms

from ms_optim._learning_rate import LearningRate
from ms_optim._math import is_near, larger, lerp
from ms_optim._native import power
from ms_optim._shards import (
    WHOLE,
    Wholes,
    length_of_whole,
    mean_of_slices,
    mean_square_of_slices,
    own_slices,
    root_mean_square_of_slices,
    slices_of_all,
    wanted_of_rows,
    wanted_of_slice,
)
from ms_optim.arguments import Devices, Number, Numbers, machine_epsilon
from ms_optim.optimizer import Optimizer, Params
from ms_optim.slot import Slot, vector_shape


def row_shape(shape):
    """The shape of a matrix, or a stack of them, without its columns; of a vector None."""
    return (*shape[:-1], 1) if len(shape) > 1 else None


def column_shape(shape):
    """The shape of a matrix, or a stack of them, without its rows; of a vector None."""
    return (*shape[:-2], 1, shape[-1]) if len(shape) > 1 else None


def adafactor_scalars(step, lr, beta2_decay, eps1, eps2, d, weight_decay):
    """The step's numbers."""
    limit = 1 / step.sqrt()
    return 1 - lr * weight_decay, power(step, beta2_decay), lr.where(lr < limit, limit), eps1, eps1 * eps1, eps2, d


def adafactor(param, grad, slots, keep, take, rho, eps1, eps1_square, eps2, d, near, maximize, matrix_group):
    """Compute u <- grad/sqrt(v); param <- (1 - lr*weight_decay)*param - max(eps2, rms(param))*rho*u / max(1, rms(u)/d).

    v is the mean square of the gradient: of a matrix, the product of those of its rows and of its columns over their
    mean. Means are taken in float64 on CPU.
    """
    row_var, col_var, variance = slots
    grad = -grad if maximize else grad
    length = length_of_whole(grad, matrix_group)
    alpha = larger(root_mean_square_of_slices(param, matrix_group, length), eps2) * rho
    if variance is None:
        rows = mean_square_of_slices(grad, -1, matrix_group, length)
        columns = mean_square_of_slices(grad, -2, matrix_group, length)
        row_var = lerp(row_var, slices_of_all(rows, row_var, matrix_group), take, near)
        col_var = lerp(col_var, slices_of_all(columns, col_var, matrix_group), take, near)
        rows, columns = own_slices(row_var, rows, matrix_group), own_slices(col_var, columns, matrix_group)
        overall = mean_of_slices(rows, -2, matrix_group, length)
        estimate = rows * columns / eps1.where(overall < eps1, overall)
    else:
        estimate = variance = lerp(variance, grad * grad, take, near)
    update = grad / eps1_square.where(estimate < eps1_square, estimate).sqrt()
    rms = root_mean_square_of_slices(update, matrix_group, length)
    param = param * keep - alpha / larger(rms / d, 1 + 0 * d) * update
    return param, (row_var, col_var, variance)


class Adafactor(Optimizer):
    """Adafactor, which keeps rows and columns of second moments, as `torch.optim.Adafactor` (2.13) computes it.

    State: of a matrix `row_var` and `col_var`, together 0.002 of a parameter of 1000 x 1000; of a vector or scalar
    `variance`, once the parameter. The last two axes are the matrix and any others a stack of matrices: a convolution
    of 3 x 3 costs two thirds of itself, and one of 1 x 1 twice. Where MindSpore slices tensors, `row_var` and `col_var`
    are whole on each device.

    Args:
        params (Union[list[Parameter], list[tuple[str, Parameter]], list[dict]]): The parameters, alone or each with a
            name, or groups of them: dicts with the key "params" and any of the arguments below but `fused`,
            `loss_scale`, `state_dtype` and `master_weights`. Other keys of a group are kept, unless they seem to mean
            an argument. A dict with the one key "order_params" gives the order in which the gradients come.
        lr (Union[float, list[float], Tensor, LearningRateSchedule]): The learning rate, in [0, inf); a list or 1-d
            Tensor has one for each step of the optimizer, which is one for n batches where gradients of n are
            accumulated, and holds its last. Default: ``1e-2`` .
        beta2_decay (float): The second moments take step ** beta2_decay of the new gradient, in (-inf, 0].
            Default: ``-0.8`` .
        eps (tuple[Union[None, float], float]): The floor of the root of the second moment, and that of the parameter's
            root mean square, in [0, inf). None is the machine epsilon of the group's first parameter.
            Default: ``(None, 1e-3)`` .
        d (float): The largest root mean square of an update, before the learning rate, in [1, inf). Default: ``1.0`` .
        weight_decay (Union[float, list[float]]): Each step scales the parameters by 1 - lr * weight_decay, in [0, inf),
            or one for each step. Default: ``0.0`` .
        maximize (bool): Ascend instead of descend. Default: ``False`` .
        matrix_group (Union[None, str]): Where tensors are sliced over devices: "whole" if all of one is on each device
            that holds some of it, or the name of the communication group of the devices that hold its slices along the
            first axis, the rows of a matrix, in the order of their ranks: means are taken over all of these. A tensor
            that each of them has all of may be among those of a group. Their sums are float32. In semi_auto_parallel
            and auto_parallel None, which does not say, is refused but for a scalar, and so is "whole" for what
            MindSpore may slice with the optimizer: unless it is small, its rows cannot be shared, or its
            `parallel_optimizer` is False; and, when a step is compiled, what MindSpore then cuts along another axis,
            or into other than as many parts as the group has devices. Default: ``None`` .
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
        >>> optimizer = ms_optim.Adafactor(net.trainable_params(), lr=1e-2, weight_decay=0.1)
    """

    scalars, update = adafactor_scalars, adafactor
    slots = (
        Slot("step", scalar=True),
        Slot("row_var", shape=row_shape),
        Slot("col_var", shape=column_shape),
        Slot("variance", shape=vector_shape),
    )
    conditions = {"near": ("take", is_near)}
    arguments = {
        "beta2_decay": Number("(-inf, 0]"),
        "d": Number("[1, inf)"),
        "eps": Numbers({"eps1": Number("[0, inf)", none=machine_epsilon), "eps2": Number("[0, inf)")}),
        "matrix_group": Devices(WHOLE),
    }

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float | list[float] = 0.0,
        *,
        maximize: bool = False,
        matrix_group: str | None = None,
        fused: bool | None = None,
        loss_scale: float = 1.0,
        state_dtype: ms.dtype.Type | None = None,
        master_weights: bool = False,
    ):
        defaults = dict(
            lr=lr,
            beta2_decay=beta2_decay,
            eps=eps,
            d=d,
            weight_decay=weight_decay,
            maximize=maximize,
            matrix_group=matrix_group,
        )
        super().__init__(params, defaults, loss_scale, fused, state_dtype, master_weights)

    def wanted_for_parts(self, wholes: Wholes | None = None) -> str | None:
        """That it is said of all parameters which devices hold their slices, and can be so."""
        return wanted_of_rows(self, wholes)

    def wanted_for_slice(self, place: int, whole: tuple[int, ...], part: tuple[int, ...]) -> str | None:
        """That it is rows that are cut, and that the group is that of the devices which have them."""
        group = self.flags[place][self.flag_names.index("matrix_group")]
        return wanted_of_slice(group, self.parameters[place].name, whole, part, copies=True)
