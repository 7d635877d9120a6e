"""Parameters beside others: MindSpore slices them over devices, and gives them memory, as it does with these."""

import contextlib
import weakref
from collections.abc import Iterable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor
from mindspore.common.initializer import Initializer
from mindspore.nn.utils import no_init_parameters

from ms_optim._math import product
from ms_optim._shards import slicing_mode

# Up to so many elements a tensor is filled here: MindSpore takes three times as long for that, however few they are.
SMALL = 4096
# As what a tensor of a dtype is filled.
FILLED = {ms.float64: np.float64, ms.float32: np.float32, ms.float16: np.float16, ms.bfloat16: np.float32}


def beside(
    param: Parameter, name: str, dtype: ms.dtype.Type, init: Initializer, shape: tuple[int, ...] | None = None
) -> Parameter:
    """A Parameter that goes with another; of the same shape it is what `Parameter.clone` makes, without copying values.

    It has no memory yet if the parameter has none. Until `release` the parameter keeps a clone: what is sliced with the
    parameter is found there.

    Args:
        param: The other.
        name: What it is called.
        dtype: Its own.
        init: What it holds at first.
        shape: Its own, which is not sliced; None is that of the parameter.
    """
    # Inside the block it takes no memory, and an initializer that belongs to the network stays there.
    with no_init_parameters() if param.has_init else contextlib.nullcontext():
        made = Parameter(_first(param.shape if shape is None else shape, dtype, init, param.has_init or slicing_mode()))
    if shape is None:
        of_param = param.param_info
        info = of_param.clone()
        info.obj, made.param_info = made, info
        of_param.cloned_obj = [*getattr(of_param, "cloned_obj", ()), made]
    made.name, made.requires_grad = name, False
    device = param._get_user_data("parameter_device")
    if device is not None:
        made._set_user_data("parameter_device", device)
    return made


def _first(shape, dtype, init, later):
    """What a Parameter holds at first, if not later than now."""
    if later or product(shape) > SMALL or dtype not in FILLED:
        return Tensor(shape=shape, dtype=dtype, init=init)
    filled = np.zeros(shape, FILLED[dtype])
    init(filled)
    return Tensor(filled, dtype)


def release(params: Sequence[Parameter], clones: Sequence[Parameter]) -> None:
    """Let parameters no longer keep these clones."""
    gone = {id(made) for made in clones}
    for made in clones:
        made.param_info.obj = None  # each would hold the other
    for param in params:
        info = param.param_info
        info.cloned_obj = [made for made in getattr(info, "cloned_obj", ()) if id(made) not in gone]


def release_with(owner: object, params: Iterable[Parameter], clones: Iterable[Parameter]) -> weakref.finalize:
    """Let parameters keep clones as long as there is an owner, or until what is returned is called."""
    finalizer = weakref.finalize(owner, release, tuple(params), tuple(clones))
    finalizer.atexit = False
    return finalizer
