"""SparseAdam (after Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization").

The rule is one of tensors, as any other: of the rows of the parameter, and of its state, that a sparse gradient has.
"""

import functools
from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import COOTensor, Parameter, Tensor, ops
from mindspore.common.sparse_tensor import RowTensorInner
from mindspore.ops import MultitypeFuncGraph
from mindspore.ops.primitive import constexpr

from ms_optim._composed import latest, scaling
from ms_optim._gradients import check_gradients
from ms_optim._learning_rate import LearningRate
from ms_optim._native import power
from ms_optim.arguments import FLOATS, Number
from ms_optim.optimizer import Optimizer, Params
from ms_optim.slot import MASTER, Slot

KINDS = "RowTensors, COOTensors, pairs of indices and values"


def sparse_adam_scalars(step, lr, beta1, beta2, eps):
    """The step's numbers."""
    return 1 - beta1, 1 - beta2, lr * (1 - power(beta2, step)).sqrt() / (1 - power(beta1, step)), eps


def sparse_adam(param, grad, slots, take1, take2, step_size, eps, maximize):
    """Compute param <- param - lr*sqrt(1-beta2^t)/(1-beta1^t) * m/(sqrt(v) + eps), where Adam corrects v before eps."""
    exp_avg, exp_avg_sq = slots
    grad = -grad if maximize else grad
    exp_avg = exp_avg + take1 * (grad - exp_avg)
    exp_avg_sq = exp_avg_sq + take2 * (grad * grad - exp_avg_sq)
    return param - step_size * (exp_avg / (exp_avg_sq.sqrt() + eps)), (exp_avg, exp_avg_sq)


def read(tensor, indices):
    """The rows of a tensor, or its elements."""
    return tensor.gather(indices, 0) if indices.ndim == 1 else tensor.gather_nd(indices)


def write(parameter, indices, values):
    """Replace rows, in place, or elements, for which MindSpore copies the whole on CPU.

    The result stands for what is written: where the gradient is a RowTensor, the compiler drops what no result needs.
    """
    if indices.ndim == 1:
        return ops.scatter_update(parameter, indices, values.to(parameter.dtype))
    return ops.scatter_nd_update(parameter, indices, values.to(parameter.dtype))


def sum_duplicates(indices, values, shape):
    """At each index, the sum of the values of all that are the same: no shape depends on how many there are."""
    key = indices
    if indices.ndim > 1:
        key = indices[:, 0].long()
        for axis in range(1, indices.shape[1]):
            key = key * shape[axis] + indices[:, axis]
    _, group = ops.unique(key)
    return ops.tensor_scatter_add(ops.zeros_like(values), group.reshape(-1, 1), values).gather(group, 0)


@constexpr
def _refuse_misfit(said, whole, *got):
    """Refuse a gradient of other kinds or shapes, by what the compiler knows."""
    kind, shape, other, others = got
    axes = shape[-1] if len(shape) == 2 else 1
    fits = kind in (ms.int32, ms.int64) and other in FLOATS and len(shape) in (1, 2) and 1 <= axes <= len(whole)
    if not fits or others != (shape[0], *whole[axes:]):
        raise ValueError(
            f"{said}, and have int32 or int64 indices, but got indices of {kind} and shape {shape}, and values of "
            f"{other} and shape {others}."
        )
    return True


@constexpr
def _dense(said):
    raise TypeError(f"{said}, and sparse, but got a dense Tensor. Adam takes those.")


@functools.cache
def lift_rows(update: Callable, scaled: bool, masters: bool = False) -> MultitypeFuncGraph:
    """The rule as a graph that reads and writes what a sparse gradient has, with the numbers and dtypes of `lift`.

    What occurs more than once is written as often, with the same values. With `masters` the slot after the moments is
    what is rounded to the parameter, or the parameter itself where it needs none.
    """
    lifted, scale = MultitypeFuncGraph(update.__name__), scaling(scaled)

    def apply(param, indices, values, numbers, moves, exp_avg, exp_avg_sq, master, flags, dtype, said):
        _refuse_misfit(said, param.shape, indices.dtype, indices.shape, values.dtype, values.shape)
        if indices.shape[0] == 0:
            return True
        if indices.ndim == 2 and indices.shape[1] == 1:
            indices = indices.reshape(-1)
        grad = sum_duplicates(indices, ops.cast(values, dtype), param.shape)
        grad, numbers = scale(grad, ops.unbind(numbers))
        rounded = read(param, indices)
        old_param = ops.cast(rounded, dtype)
        if masters:
            old_param = latest(read(master, indices), rounded, old_param)
        old1, old2 = ops.cast(read(exp_avg, indices), dtype), ops.cast(read(exp_avg_sq, indices), dtype)
        new_param, (new1, new2) = update(old_param, grad, (old1, old2), *numbers, *flags)
        new_param = ops.where(moves, new_param, old_param)
        written = (
            write(param, indices, new_param),
            write(exp_avg, indices, ops.where(moves, new1, old1)),
            write(exp_avg_sq, indices, ops.where(moves, new2, old2)),
        )
        if masters:
            written = (*written, write(master, indices, new_param))
        return ops.depend(True, written)

    def apply_pair(param, grad, numbers, moves, exp_avg, exp_avg_sq, master, flags, dtype, said):
        return apply(param, grad[0], grad[1], numbers, moves, exp_avg, exp_avg_sq, master, flags, dtype, said)

    def apply_sparse(param, grad, numbers, moves, exp_avg, exp_avg_sq, master, flags, dtype, said):
        return apply(param, grad.indices, grad.values, numbers, moves, exp_avg, exp_avg_sq, master, flags, dtype, said)

    def refuse(param, grad, numbers, moves, exp_avg, exp_avg_sq, master, flags, dtype, said):
        _dense(said)
        return True

    def skip(param, grad, numbers, moves, exp_avg, exp_avg_sq, master, flags, dtype, said):
        return True

    rest = "Tensor", "Tensor", "Tensor", "Tensor", "Tensor", "Tuple", "TypeType"
    kinds = {"Tuple": apply_pair, "RowTensor": apply_sparse, "COOTensor": apply_sparse, "Tensor": refuse}
    for kind, function in kinds.items():
        lifted.register("Tensor", kind, *rest, "String")(function)
    lifted.register("Tensor", "Tensor", *rest, "None")(skip)
    return lifted


def fit_rows(owner: str, grad: Any, param: Parameter) -> tuple[Tensor, Tensor]:
    """The indices and values of a sparse gradient that fits a parameter.

    Raises:
        TypeError, ValueError: As `SparseAdam` says, naming what does not fit.
    """
    said, of = f"For '{owner}', 'gradients' must", f"for '{param.name}' of shape {param.shape}"
    if isinstance(grad, Tensor):
        raise TypeError(
            f"{said} be a tuple of {KINDS} or None, but got a dense Tensor of shape {grad.shape} {of}. "
            "Adam takes dense gradients; in PYNATIVE_MODE, that of a lookup lacks its indices."
        )
    if isinstance(grad, (RowTensorInner, COOTensor)):
        grad = grad.indices, grad.values, tuple(grad.dense_shape if isinstance(grad, RowTensorInner) else grad.shape)
    if isinstance(grad, tuple) and len(grad) == 3 and isinstance(grad[2], tuple):  # what a graph makes of a RowTensor
        if grad[2] != param.shape:
            raise ValueError(f"{said} have the shapes of the parameters, but got {grad[2]} {of}.")
        grad = grad[:2]
    if not isinstance(grad, (tuple, list)) or len(grad) != 2 or not all(isinstance(part, Tensor) for part in grad):
        raise TypeError(f"{said} be a tuple of {KINDS} or None, but got {type(grad).__name__} for '{param.name}'.")
    indices, values = grad
    if indices.dtype not in (ms.int32, ms.int64) or values.dtype not in FLOATS:
        raise TypeError(
            f"{said} have int32 or int64 indices and float values, but got {indices.dtype} and "
            f"{values.dtype} for '{param.name}'."
        )
    axes = indices.shape[1] if indices.ndim == 2 else 1
    if indices.ndim not in (1, 2) or not 1 <= axes <= param.ndim:
        raise ValueError(f"{said} have indices of shape (n,) or (n, axes), but got {indices.shape} {of}.")
    expected = (indices.shape[0], *param.shape[axes:])
    if values.shape != expected:
        raise ValueError(f"{said} have values of shape {expected}, but got {values.shape} {of}.")
    places = indices.asnumpy().reshape(-1, axes)
    outside = ((places < 0) | (places >= param.shape[:axes])).any(1)
    if outside.any():
        raise ValueError(f"{said} have indices within the parameters, but got {places[outside][0].tolist()} {of}.")
    return indices, values


def widen(grad: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
    """The same gradient with more indices: the first once more, with zeros. NumPy, because eager operators are slow."""
    indices, values = (part.asnumpy() for part in grad)
    missing = count - len(indices)
    if not missing:
        return grad
    zeros = np.zeros((missing, *values.shape[1:]), values.dtype)
    again = np.broadcast_to(indices[:1], (missing, *indices.shape[1:]))
    return Tensor(np.concatenate((indices, again))), Tensor(np.concatenate((values, zeros)))


class SparseAdam(Optimizer):
    """Adam that moves only what a sparse gradient touches, as `torch.optim.SparseAdam` (2.13) computes it.

    Rows that a gradient does not have keep their moments, which do not decay. An index that occurs more than once has
    the sum of its values for a gradient. A gradient without any index counts as a step, and nothing moves. The work of
    a step depends on the number of indices, and not on the size of the parameters.

    State: `exp_avg` and `exp_avg_sq`, twice the parameters. A `master_param` is 0 where no gradient has been.

    Args:
        params (Union[list[Parameter], list[tuple[str, Parameter]], list[dict]]): The parameters, alone or each with a
            name, or groups of them: dicts with the key "params" and any of the arguments below but `fused`,
            `loss_scale`, `state_dtype` and `master_weights`. Other keys of a group are kept, unless they seem to mean
            an argument. A dict with the one key "order_params" gives the order in which the gradients come. Each must
            have an axis.
        lr (Union[float, list[float], Tensor, LearningRateSchedule]): The learning rate, in [0, inf); a list or 1-d
            Tensor has one for each step of the optimizer, which is one for n batches where gradients of n are
            accumulated, and holds its last. Default: ``1e-3`` .
        betas (tuple[float, float]): The decays of the two moments, in [0, 1). Default: ``(0.9, 0.999)`` .
        eps (float): Added to the root of the second moment before it is corrected, in (0, inf). Default: ``1e-8`` .
        maximize (bool): Ascend instead of descend. Default: ``False`` .
        fused (Union[None, bool]): There is no native kernel: None or False. Default: ``None`` .
        loss_scale (float): The gradients are divided by it first, in (0, inf). Default: ``1.0`` .
        state_dtype (Union[None, mindspore.dtype]): ``mindspore.float32`` keeps the state of float16 and bfloat16
            parameters in float32, None in the dtype of the parameter. Default: ``None`` .
        master_weights (bool): Keep a float32 copy of float16 and bfloat16 parameters, `master_param` in the state, from
            which the steps go on; the parameter is the copy, rounded. Default: ``False`` .

    Inputs:
        - **gradients** (tuple) - One for each parameter, in the order of `optimizer.parameters`. For a parameter of
          shape (N, ...), a pair (indices, values) of Tensors, int32 or int64 and float, of shapes (n,) and (n, ...); or
          a RowTensor, which is that pair and what the gradient of `nn.EmbeddingLookup` is in a compiled graph; or, for
          elements of a matrix, a COOTensor or pair of shapes (n, 2) and (n,), which copies the matrix.
          In a direct call an entry may be None: that parameter, its state and its step stand still. In any step so do
          those of a parameter that is frozen, from `freeze` to `unfreeze`.

    Outputs:
        tuple[bool], True for each parameter.

    Note:
        The gradient of `nn.Embedding` and `ops.gather` is dense. That of `nn.EmbeddingLookup` is a RowTensor in
        GRAPH_MODE and inside `mindspore.jit`, if the graph looks the table up once. Outside, in PYNATIVE_MODE, take the
        gradient of what a lookup returns, and give it with the indices, as in the second example.
        torch refuses a learning rate of zero; here a warm-up may start from it.

    Raises:
        TypeError: If an argument is of the wrong kind. Also if a gradient is dense.
        ValueError: If an argument is out of its range, a group has a key that seems to mean an argument and is none, a
            parameter occurs twice, or the gradients do not fit the parameters. Also if a parameter has no axis, and in
            a direct call if an index is out of range; in a graph, MindSpore raises a RuntimeError then.

    Supported Platforms:
        ``CPU``. For ``Ascend`` and ``GPU`` a step is compiled and was not run; README says what is known.

    Examples:
        >>> import mindspore as ms
        >>> import ms_optim
        >>> from mindspore import Tensor, nn
        >>> net = nn.EmbeddingLookup(1000, 4)
        >>> optimizer = ms_optim.SparseAdam(net.trainable_params(), lr=1e-3)
        >>> tokens = Tensor([3, 7, 3], ms.int32)
        >>> train_step = nn.TrainOneStepCell(net, optimizer)
        >>> loss = train_step(tokens)
        >>> gradient = ms.grad(nn.MSELoss())(net(tokens), Tensor([[1.0, 0.0, 0.0, 0.0]]))
        >>> done = optimizer(((tokens, gradient),))
    """

    scalars, update = sparse_adam_scalars, sparse_adam
    slots = Slot("step", scalar=True), Slot("exp_avg"), Slot("exp_avg_sq")
    arguments = {"eps": Number("(0, inf)")}

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
        *,
        fused: bool | None = None,
        loss_scale: float = 1.0,
        state_dtype: ms.dtype.Type | None = None,
        master_weights: bool = False,
    ):
        defaults = dict(lr=lr, betas=betas, eps=eps, maximize=maximize)
        super().__init__(params, defaults, loss_scale, fused, state_dtype, master_weights)
        for param in self.parameters:
            if not param.ndim:
                raise ValueError(f"For 'SparseAdam', 'params' must have an axis, but got '{param.name}' of shape ().")
        self.rule = lift_rows(type(self).update, self.need_scale, self.exact is not None)
        self.widest = [0] * len(self.parameters)

    def _set_slots(self):
        super()._set_slots()
        copies = self.state.slots.get(MASTER.name)
        self.exact = copies and tuple(param if kept is None else kept for param, kept in zip(self.parameters, copies))

    def lay_out(self, begin: int, end: int) -> tuple:
        """The same, without tuples of slots, whose elements the compiler replaces by 0 beside a RowTensor."""
        of_all, states, *columns = super().lay_out(begin, end)
        exact = (self.exact or tuple(self.parameters))[begin:end]
        return of_all, (*tuple(zip(*states))[:2], exact), *columns

    def _apply(self, gradients, given, parameters, wanted, columns):
        """Map the rule."""
        rows, _, moves = given
        slots, flags, _, dtypes = columns
        return self.hyper_map(self.rule, parameters, gradients, rows, moves, *slots, flags, dtypes, wanted)

    def checked(self, owner, gradients):
        """Pairs of indices and values. A step compiles for the numbers of indices.

        So they are filled up to the largest that there was so far, a power of two: a step seldom compiles.
        """
        gradients = check_gradients(owner, gradients, self.parameters, KINDS, fit_rows)
        for i, grad in enumerate(gradients):
            count = grad[0].shape[0] if grad else 0
            if count > self.widest[i]:
                self.widest[i] = 1 << (count - 1).bit_length()
        return tuple(
            widen(grad, widest) if grad and grad[0].shape[0] else grad for grad, widest in zip(gradients, self.widest)
        )
