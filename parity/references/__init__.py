"""References for what torch lacks: SGD with adaptive gradient clipping, and moving averages of parameters.

Written from the papers and from what the published implementations do, to disagree with a mistake, not to share it.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor


def unit_dims(shape: Sequence[int], unit: str) -> tuple[int, ...]:
    """The dimensions over which one unit of a weight in torch's layout is summed.

    "output": `unitwise_norm` of timm. "squeezed": `unitwise_norm` of DeepMind and of optax, whose (in, out) and
    HWIO layouts put the summed axes first; they raise on 5-d weights, which are read here as 3-d convolutions.
    """
    match unit, len(shape), len([size for size in shape if size != 1]):
        case ("output", 0 | 1, _) | ("squeezed", _, 0 | 1):
            return tuple(range(len(shape)))
        case "squeezed", 2 | 3, _:
            return (1,)
        case "output" | "squeezed", ndim, _:
            return tuple(range(1, ndim))
    raise ValueError(f"'unit' must be 'output' or 'squeezed', but got {unit!r}.")


def clip_adaptively(grad: Tensor, param: Tensor, clipping: float, eps: float, unit: str) -> Tensor:
    """Scale each unit of a gradient to at most clipping * max(|unit of param|, eps) (Brock et al. 2021, equation 3).

    The norms are float64 whatever the dtype: torch's float32 norm of a million elements is off by 1e-5.
    """
    dims = unit_dims(grad.shape, unit)
    param_norm, grad_norm = (
        torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.float64) if dims else x.double().abs()
        for x in (param, grad)
    )
    max_norm = param_norm.clamp(min=eps) * clipping
    clipped = grad * (max_norm / grad_norm.clamp(min=1e-6)).to(grad.dtype)
    return torch.where(grad_norm < max_norm, grad, clipped)


class SGDAGC(torch.optim.SGD):
    """`torch.optim.SGD` on adaptively clipped gradients: clip, then weight decay, then momentum.

    Args:
        params: As for `torch.optim.SGD`; given as (name, parameter) where `exempt` is used.
        lr: The learning rate.
        momentum: The momentum factor.
        dampening: The dampening of momentum.
        weight_decay: The L2 penalty, added to the clipped gradient.
        nesterov: Whether momentum is Nesterov's.
        clipping: The largest norm of a unit's gradient, relative to that of its weights; 0 is no clipping.
        clip_eps: The floor of the weights' norms.
        exempt: Patterns, or a predicate, on the names of the parameters that are not clipped.
        unit: "output" (timm) or "squeezed" (DeepMind, optax).
        maximize: Whether to ascend.
    """

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        momentum: float = 0.9,
        *,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        clipping: float = 0.01,
        clip_eps: float = 1e-3,
        exempt: str | Iterable[str] | Callable[[str], bool] = (),
        unit: str = "output",
        maximize: bool = False,
    ):
        self.agc = dict(clipping=clipping, clip_eps=clip_eps, exempt=exempt, unit=unit)
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, maximize=maximize)

    def add_param_group(self, param_group: dict):
        """Add a group, whose own clipping arguments go first."""
        super().add_param_group({**self.agc, **param_group})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None):
        """Take one step. The gradients of the caller are left as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        grads = [(param, param.grad) for group in self.param_groups for param in group["params"]]
        try:
            for group in self.param_groups:
                for param in _clipped_params(group):
                    param.grad = clip_adaptively(param.grad, param, group["clipping"], group["clip_eps"], group["unit"])
            super().step()
        finally:
            for param, grad in grads:
                param.grad = grad
        return loss


def _clipped_params(group):
    params, exempt = group["params"], group["exempt"]
    if not callable(exempt):
        patterns = (exempt,) if isinstance(exempt, str) else tuple(exempt)
        exempt = (lambda name: any(fnmatchcase(name, pattern) for pattern in patterns)) if patterns else None
    if exempt is not None and "param_names" not in group:
        raise ValueError("'exempt' goes by name: give the parameters as (name, parameter).")
    names = group.get("param_names", params)
    return [
        param
        for name, param in zip(names, params, strict=True)
        if group["clipping"] != 0 and param.grad is not None and not (exempt and exempt(name))
    ]


def ema_decay(
    schedule: str,
    step: int,
    decay: float,
    gamma: float = 1.0,
    power: float = 2 / 3,
    min_decay: float = 0.0,
    update_after_step: int = 0,
) -> float:
    """The decay of an average at its `step`-th update, the first being 1.

    Args:
        schedule: "constant" and "zero_start" (with bias correction): `decay`; "averaged_model": `AveragedModel` of
            torch; "timm": the warm-up of `ModelEmaV3`; "torch_ema": `ExponentialMovingAverage` of torch-ema and
            TensorFlow; "yolov5": `ModelEMA`.
        step: The number of this update.
        decay: The decay in the limit.
        gamma: `warmup_gamma` of timm.
        power: `warmup_power` of timm.
        min_decay: The floor, of timm alone.
        update_after_step: The number of updates that copy, and of the one more that timm takes, of timm alone.
    """
    match schedule:
        case "constant" | "zero_start":
            return decay
        case "averaged_model":
            return decay if step > 1 else 0.0
        case "timm":
            warm = max(0, step - update_after_step - 1)
            return max(min(1 - (1 + warm / gamma) ** -power, decay), min_decay) if warm else 0.0
        case "torch_ema":
            return min(decay, (1 + step) / (10 + step))
        case "yolov5":
            return decay * (1 - math.exp(-step / 2000))
    raise ValueError(f"'schedule' must be a schedule named in this function, but got {schedule!r}.")


class EMA:
    """An exponential moving average of parameters: average <- average + (1 - decay) * (param - average).

    Args:
        params: The tensors to follow, which an optimizer changes in place.
        decay: The decay in the limit.
        schedule: As for `ema_decay`, and so are the rest.
        gamma: See there.
        power: See there.
        min_decay: See there.
        update_after_step: See there; the other schedules copy up to this step and count from it.
        update_every: Take in the parameters at steps 1, 1 + update_every, ...; timm's warm-up counts all steps, the
            other schedules those.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        decay: float = 0.9999,
        schedule: str = "constant",
        *,
        gamma: float = 1.0,
        power: float = 2 / 3,
        min_decay: float = 0.0,
        update_after_step: int = 0,
        update_every: int = 1,
    ):
        self.params = list(params)
        self.decay, self.schedule, self.update_every = decay, schedule, update_every
        self.step = self.updates = 0
        self.warmup = dict(gamma=gamma, power=power, min_decay=min_decay, update_after_step=update_after_step)
        self.shadow = [param.detach().clone() for param in self.params]
        if schedule == "zero_start":
            torch._foreach_zero_(self.shadow)

    @torch.no_grad()
    def update(self):
        """Take in the parameters as they are now: call it after each step of the optimizer."""
        self.step += 1
        if (self.step - 1) % self.update_every:
            return
        weight = 1.0
        if self.step > self.warmup["update_after_step"]:
            self.updates += 1
            count = self.step if self.schedule == "timm" else self.updates
            weight = 1 - ema_decay(self.schedule, count, self.decay, **self.warmup)
        torch._foreach_lerp_(self.shadow, self.params, weight)

    def restore(self, step: int, averages: Iterable[Tensor]):
        """Go on after so many steps from these averages."""
        self.step = step
        due = range(1, step + 1, self.update_every)
        self.updates = sum(now > self.warmup["update_after_step"] for now in due)
        unit = 1 - self.decay**self.updates if self.schedule == "zero_start" else 1.0
        self.shadow = [average * unit for average in averages]

    @property
    def average(self) -> list[Tensor]:
        """The averaged parameters; of a zero start, the shadow divided by 1 - decay**n (Kingma and Ba 2015)."""
        if self.schedule == "zero_start":
            return [shadow / (1 - self.decay**self.updates) for shadow in self.shadow]
        return [shadow.clone() for shadow in self.shadow]
