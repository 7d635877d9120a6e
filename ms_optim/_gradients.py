"""Gradients: what a direct call is given, and what a graph is compiled for, fits the parameters."""

from collections.abc import Callable, Sequence
from typing import Any

from mindspore import COOTensor, CSRTensor, Parameter, Tensor
from mindspore.common.sparse_tensor import RowTensorInner
from mindspore.ops import MultitypeFuncGraph
from mindspore.ops.primitive import constexpr

from ms_optim.arguments import FLOATS

# What a gradient may be that has not all of the elements; a tuple is one of indices and values.
SPARSE = (RowTensorInner, COOTensor, CSRTensor, tuple, list)
# The same, as a graph names them.
SPARSE_KINDS = ("RowTensor", "COOTensor", "CSRTensor", "Tuple", "List")


def check_gradients(
    owner: str,
    gradients: Any,
    parameters: Sequence[Parameter],
    kinds: str = "float Tensors",
    fit: Callable | None = None,
) -> tuple:
    """The gradients as a tuple: for each parameter what `fit` makes of its gradient, or None.

    Raises:
        TypeError, ValueError: As `Optimizer` says, naming what does not fit.
    """
    if gradients is None:
        raise TypeError(
            f"For '{owner}', 'gradients' must be given to a step, as optimizer.step(gradients): no tensor of MindSpore "
            "keeps its own, 'mindspore.value_and_grad' returns them; but got none."
        )
    if not isinstance(gradients, (tuple, list)):
        raise TypeError(
            f"For '{owner}', 'gradients' must be a tuple of {kinds} or None, but got {type(gradients).__name__}."
        )
    if len(gradients) != len(parameters):
        raise _miscounted(owner, len(parameters), len(gradients))
    fit = fit or _fit_dense
    return tuple(None if grad is None else fit(owner, grad, param) for grad, param in zip(gradients, parameters))


def _miscounted(owner, count, got):
    return ValueError(f"For '{owner}', 'gradients' must hold {count} entries, one for each parameter, but got {got}.")


def refuse_count(optimizer: Any, got: int) -> None:
    """Raise, when a step is compiled, of gradients that are more or fewer than the parameters."""
    if got != len(optimizer.parameters):
        raise _miscounted(type(optimizer).__name__, len(optimizer.parameters), got)


def _fit_dense(owner, grad, param):
    """The gradient, if it is a float Tensor of the parameter's shape."""
    if not isinstance(grad, Tensor) or grad.dtype not in FLOATS:
        kind = str(grad.dtype) if isinstance(grad, Tensor) else type(grad).__name__
        other = " SparseAdam takes sparse gradients." if isinstance(grad, SPARSE) else ""
        raise TypeError(
            f"For '{owner}', 'gradients' must be a tuple of float Tensors or None, but got {kind} for "
            f"'{param.name}'.{other}"
        )
    if grad.shape != param.shape:
        raise ValueError(
            f"For '{owner}', 'gradients' must have the shapes of the parameters, but got {grad.shape} "
            f"for '{param.name}' of shape {param.shape}."
        )
    return grad.init_data() if grad.has_init else grad


@constexpr
def _refuse_misfit(said, whole, dtype, shape):
    """Refuse a gradient of another shape, or of integers, by what the compiler knows.

    One call for each parameter, because MindSpore takes as long for a condition as for several operators.
    """
    if shape != whole or dtype not in FLOATS:
        raise ValueError(f"{said}, but got {dtype} of shape {shape}.")
    return True


@constexpr
def _no_tensor(said):
    raise TypeError(f"{said}, but got a sparse gradient. SparseAdam takes those.")


def wanted(owner: str, parameters: Sequence[Parameter]) -> tuple[str, ...]:
    """How a message begins that refuses the gradient of each parameter."""
    return tuple(
        f"For '{owner}', 'gradients' must be floats of the shapes of the parameters, for '{param.name}' {param.shape}"
        for param in parameters
    )


@constexpr
def wanted_of(wanted, present):
    """The same of those whose gradients are there, and None of the others: the rest goes by the types of these."""
    return tuple(said if here else None for said, here in zip(wanted, present))


fits = MultitypeFuncGraph("fits")


@fits.register("Tensor", "Tensor", "String")
def _fits(param, grad, said):
    """Refuse what does not fit, when a step is compiled."""
    return _refuse_misfit(said, param.shape, grad.dtype, grad.shape)


@fits.register("Tensor", "Tensor", "None")
def _is_absent(param, grad, said):
    return True


def _refuse_sparse(param, grad, said):
    """Refuse it by name, when a step is compiled."""
    _no_tensor(said)
    return True


for _kind in SPARSE_KINDS:
    fits.register("Tensor", _kind, "String")(_refuse_sparse)
