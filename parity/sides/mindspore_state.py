"""What a Parameter, and the state of an optimizer of MindSpore, is in arrays: all that recording needs of a side."""

from collections.abc import Iterable, Mapping

import numpy as np
from mindspore import Parameter, Tensor, nn


def values(params: Iterable[Parameter]) -> dict[str, np.ndarray]:
    """What Parameters hold, by name."""
    return {param.name: array_of(param) for param in params}


def array_of(tensor: Tensor) -> np.ndarray:
    """A copy of what a tensor holds; bfloat16 as float32."""
    array = np.array(tensor.asnumpy())
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def state(optimizer: nn.Optimizer, slots: Mapping[str, str] | None = None) -> dict[str, dict[str, np.ndarray]]:
    """State by parameter and slot, of an optimizer that tells it; any other is compared by its parameters alone.

    `slots` has, by what stands before the name of a parameter in those of its tensors, what torch calls the slot.
    """
    if slots is not None:
        kept = {param.name: param for param in optimizer.get_parameters()}
        return {
            param.name: {
                slot: array_of(kept[key])
                for prefix, slot in slots.items()
                for key in (f"{prefix}.{param.name}", f"{prefix}{param.name}")
                if key in kept
            }
            for param in optimizer.parameters
        }
    state = getattr(optimizer, "state", {})
    return {name: {slot: array_of(value) for slot, value in slots.items()} for name, slots in state.items()}
