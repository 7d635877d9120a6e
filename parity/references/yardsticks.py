"""Steps on torch tensors that optimizers are timed against where torch has no such optimizer, as others write them."""

from collections.abc import Callable, Iterable

import torch


def timm_agc(
    params: Iterable[torch.nn.Parameter], clipping: float = 0.01, clip_eps: float = 1e-3, **kwargs
) -> Callable:
    """Adaptive clipping as timm writes it, one parameter after another, then torch's fused SGD with the `kwargs`."""
    params = list(params)
    optimizer = torch.optim.SGD(params, **kwargs, fused=True)

    def step():
        with torch.no_grad():
            for param in params:
                _clip(param, clipping, clip_eps)
        optimizer.step()

    return step


def _clip(param, clipping, clip_eps):
    """Scale the gradient of a parameter; the norm of each unit is `torch.norm`."""
    norms = [
        tensor.norm(2.0) if tensor.ndim <= 1 else tensor.norm(2.0, dim=tuple(range(1, tensor.ndim)), keepdim=True)
        for tensor in (param.detach(), param.grad.detach())
    ]
    most = norms[0].clamp(min=clip_eps).mul(clipping)
    clipped = param.grad * (most / norms[1].clamp(min=1e-6))
    param.grad.copy_(torch.where(norms[1] < most, param.grad, clipped))


def foreach_lerp(params: Iterable[torch.nn.Parameter]) -> Callable:
    """An average of all parameters in one call."""
    values = [param.detach() for param in params]
    averages = [value.clone() for value in values]
    return lambda: torch._foreach_lerp_(averages, values, 1 - 0.9999)
