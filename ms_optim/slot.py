"""The state that an optimizer declares: one kind of it for all parameters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import mindspore as ms
from mindspore import Parameter
from mindspore.common.initializer import Constant, Zero

from ms_optim._clones import beside
from ms_optim.arguments import Kind

HALVES = (ms.float16, ms.bfloat16)
# No names of slots: the kinds of state of a trace and of an average, and what an optimizer has if it runs a kernel.
TAKEN = (
    "ema",
    "parameter",
    "check_state",
    "kernel",
    "layout",
    "master_param",
    "stepper",
)


def vector_shape(shape):
    """The shape of a vector or scalar; of a matrix None."""
    return shape if len(shape) < 2 else None


# What gives a tensor the shape of its parameter, if it gives one.
FOLLOWING = (tuple, vector_shape)


@dataclass(frozen=True)
class Slot:
    """One kind of state: a tensor for each parameter, or one float64 number for each.

    Args:
        name: torch's key for it in `state_dict()["state"]`, and of the tensors that the optimizer's attribute, a tuple
            with one entry for each parameter.
        when: The argument that must be nonzero or true for a parameter to have this slot; None is always.
        scalar: Whether it is a number: an entry of a vector over parameters, which `scalars` reads and writes.
        init: The argument that the tensor is filled with at first; None is zero.
        shape: A function from the shape of a parameter to that of its tensor, or to None if it has none; what MindSpore
            slices with the parameter is that of the default, and of `vector_shape`, alone.

    Raises:
        ValueError: When a class is defined or made, if `name` is that of something else.
    """

    name: str
    when: str | None = None
    scalar: bool = False
    init: str | None = None
    shape: Callable[[tuple[int, ...]], tuple[int, ...] | None] = tuple

    @property
    def follows(self) -> bool:
        """Whether the tensor is of the parameter's shape by declaration, and so sliced with it."""
        return self.shape in FOLLOWING

    def first(self, group: Mapping, kinds: Mapping[str, Kind]) -> float:
        """What the tensor is filled with at first, in a group with these arguments, which are of these kinds."""
        return kinds[self.init].number(group[self.init], self.init, group) if self.init else 0.0

    def allocate(
        self, param: Parameter, group: Mapping, kinds: Mapping[str, Kind], dtype: ms.dtype.Type | None = None
    ) -> Parameter | None:
        """The state of a parameter of a group with these arguments, if it has this slot.

        Its dtype is that of the parameter, or of a float16 or bfloat16 one the dtype that is given.
        """
        shape = self.shape(param.shape)
        if shape is None or (self.when and not group[self.when]):
            return None
        first, own = self.first(group, kinds), (param.dtype in HALVES and dtype) or param.dtype
        init = Constant(first) if first else Zero()
        return beside(param, f"{self.name}.{param.name}", own, init, None if self.follows else shape)


class Master(Slot):
    """The float32 copy of a float16 or bfloat16 parameter that the steps go on from.

    It starts as zero: where it does not round to the parameter, which was written since, a step starts from that.
    """

    def allocate(
        self, param: Parameter, group: Mapping, kinds: Mapping[str, Kind], dtype: ms.dtype.Type | None = None
    ) -> Parameter | None:
        """A float32 tensor, for a parameter of half its precision."""
        return super().allocate(param, group, kinds, ms.float32) if param.dtype in HALVES else None


MASTER = Master("master_param")
