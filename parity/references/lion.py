"""Lion from algorithm 2 of Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms"."""

from collections.abc import Iterable

import torch


class Lion(torch.optim.Optimizer):
    """The sign of an interpolation between momentum and gradient, with decoupled weight decay."""

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize))

    @torch.no_grad()
    def step(self, closure=None):
        """Update the parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for param in group["params"]:
                if param.grad is None:
                    continue
                grad = param.grad.neg() if group["maximize"] else param.grad
                state = self.state[param]
                momentum = state.setdefault("exp_avg", torch.zeros_like(param))
                direction = momentum.mul(beta1).add(grad.mul(1 - beta1)).sign()
                param.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction.mul(group["lr"]))
                momentum.mul_(beta2).add_(grad.mul(1 - beta2))
        return loss
