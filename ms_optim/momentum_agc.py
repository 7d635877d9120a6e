"""Momentum with adaptive gradient clipping (Brock et al. 2021, "High-Performance Large-Scale Image Recognition").

The networks are normalizer-free; the clipping takes the place of batch normalization.
"""

from collections.abc import Callable
from fnmatch import fnmatchcase

from mindspore import Parameter

from ms_optim._math import clip_adaptively
from ms_optim._optimizer import Optimizer, Slot
from ms_optim.sgd import sgd, sgd_scalars


def momentum_agc_scalars(step, lr, momentum, dampening, weight_decay, clipping, clip_eps):
    """The step's numbers: those of SGD, and two of clipping."""
    return (*sgd_scalars(step, lr, momentum, dampening, weight_decay), clipping, clip_eps)


def momentum_agc(param, grad, slots, lr, momentum, take, weight_decay, clipping, clip_eps, nesterov, maximize, unit,
                 exempt):
    """Scale each unit of grad to at most clipping*max(|unit of param|, clip_eps), then do as SGD."""
    if not exempt:
        grad = clip_adaptively(grad, param, clipping, clip_eps, unit)
    return sgd(param, grad, slots, lr, momentum, take, weight_decay, nesterov, maximize)


class MomentumAGC(Optimizer):
    """SGD with momentum whose gradient is clipped unit by unit, as normalizer-free networks need."""

    scalars, update = momentum_agc_scalars, momentum_agc
    slots = (Slot("momentum_buffer", when="momentum"),)

    def __init__(self, params, lr=1e-3, momentum=0.9, dampening=0.0, weight_decay=0.0, nesterov=False, *,
                 clipping=0.01, clip_eps=1e-3, exempt=(), unit="output", maximize=False, fused=None, loss_scale=1.0):
        patterns, predicate = _exemption(exempt)
        defaults = dict(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov,
                        clipping=clipping, clip_eps=clip_eps, exempt=predicate, unit=unit, maximize=maximize)
        super().__init__(params, defaults, loss_scale, fused)
        names = [param.name for param in self.parameters]
        idle = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]
        if idle:
            raise ValueError(f"For 'MomentumAGC', each pattern of 'exempt' must match one of {names}, but got {idle}.")

    @property
    def group_clipping_tuple(self) -> tuple[float, ...]:
        """The clipping of each parameter, in the order of `parameters`; 0.0 is none."""
        groups = self.param_groups
        return tuple(0.0 if groups[i]["exempt"](param) else groups[i]["clipping"]
                     for param, i in zip(self.parameters, self.group_of))


def _exemption(exempt) -> tuple[tuple[str, ...], Callable[[Parameter], bool]]:
    """The patterns to check against the names, and the predicate on parameters."""
    if callable(exempt):
        return (), exempt
    patterns = (exempt,) if isinstance(exempt, str) else exempt
    if not isinstance(patterns, (tuple, list)) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError("For 'MomentumAGC', 'exempt' must be name patterns or a function of a Parameter, but got "
                        f"{exempt!r}.")
    return tuple(patterns), lambda param: any(fnmatchcase(param.name, pattern) for pattern in patterns)
