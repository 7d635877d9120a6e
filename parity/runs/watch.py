"""Watches what a loop of torch does to gradients before a step, while a block records: clipping, and loss scales.

However a loop has imported them, `clip_grad_norm_`, `clip_grads_with_norm_` and `clip_grad_value_` sort the gradients
by `_group_tensors_by_device_and_dtype`, which they look up in their module each time, and `scaler.step` is looked up in
the class. Both are others while a block is open; the loop stays as it is. A torch without the first notes no clipping.
"""

import functools
import sys
from typing import Any, Protocol

import torch
from torch.amp import GradScaler
from torch.nn.utils import clip_grad

_SORT = "_group_tensors_by_device_and_dtype"
_sort, _step = getattr(clip_grad, _SORT, None), GradScaler.step


class Watcher(Protocol):
    """What is told of all that is seen."""

    def clipped(self, gradients: list[torch.Tensor], kind: str, told: dict[str, Any]) -> None:
        """Some gradients are about to be clipped: the name of the function, and its numbers."""

    def scaled(self, optimizer: torch.optim.Optimizer, scale: float) -> None:
        """A scaler is about to step, or to skip the step."""

    def stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """It is done, whether it has or not."""


_watching: list[Watcher] = []


def watch(watcher: Watcher) -> None:
    """Tell a watcher from now on."""
    if not _watching:
        if _sort is not None:
            setattr(clip_grad, _SORT, _sort_seen)
        GradScaler.step = _step_seen
    _watching.append(watcher)


def leave(watcher: Watcher) -> None:
    """Tell it no more; without any, both are what they were, unless somebody else has put others there since."""
    _watching.remove(watcher)
    if not _watching:
        if getattr(clip_grad, _SORT, None) is _sort_seen:
            setattr(clip_grad, _SORT, _sort)
        if GradScaler.step is _step_seen:
            GradScaler.step = _step


def _sort_seen(tensors, *args, **kwargs):
    told = _numbers(sys._getframe(1), tensors[0])
    if told:
        for watcher in [*_watching]:
            watcher.clipped(tensors[0], *told)
    return _sort(tensors, *args, **kwargs)


def _numbers(frame, gradients):
    """What the function clips by that a frame is of, and those that have called it; None while the norm is sought.

    Their variables have the names of torch 2.13.
    """
    found = {}
    while frame is not None and frame.f_globals is vars(clip_grad):
        found = {**frame.f_locals, **found}
        frame = frame.f_back
    if "clip_value" in found:
        largest = max((float(grad.abs().max()) for grad in gradients if grad.numel()), default=0.0)
        return "clip_grad_value", {"clip_value": found["clip_value"], "largest": largest}
    if not {"max_norm", "total_norm"} <= found.keys():
        return None
    kind = float(found.get("norm_type", 2.0))
    told = {"max_norm": float(found["max_norm"]), "norm": float(found["total_norm"])}
    return "clip_grad_norm", told if kind == 2.0 else {**told, "norm_type": kind}


@functools.wraps(_step)
def _step_seen(scaler, optimizer, *args, **kwargs):
    if not scaler.is_enabled():
        return _step(scaler, optimizer, *args, **kwargs)
    watching, scale = [*_watching], scaler.get_scale()
    for watcher in watching:
        watcher.scaled(optimizer, scale)
    done = _step(scaler, optimizer, *args, **kwargs)
    for watcher in watching:
        watcher.stepped(optimizer)
    return done
