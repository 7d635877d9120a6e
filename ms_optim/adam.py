"""Adam (Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization")."""

from ms_optim._math import lerp
from ms_optim._optimizer import Optimizer, Slot


def adam_scalars(step, lr, beta1, beta2, eps, weight_decay):
    """The step's numbers."""
    return (1 - lr * weight_decay, weight_decay, 1 - beta1, beta2, 1 - beta2, lr / (1 - beta1**step),
            (1 - beta2**step).sqrt(), eps)


def adam(param, grad, slots, keep, weight_decay, take1, beta2, take2, step_size, root, eps, decoupled_weight_decay,
         maximize):
    """Compute param <- param - lr*m_hat / (sqrt(v_hat) + eps), after decaying param (decoupled) or grad."""
    exp_avg, exp_avg_sq, max_exp_avg_sq = slots
    grad = -grad if maximize else grad
    if decoupled_weight_decay:
        param = param * keep
    else:
        grad = grad + weight_decay * param
    exp_avg = lerp(exp_avg, grad, take1)
    exp_avg_sq = beta2 * exp_avg_sq + take2 * grad * grad
    if max_exp_avg_sq is None:
        largest = exp_avg_sq
    else:
        largest = max_exp_avg_sq = max_exp_avg_sq.maximum(exp_avg_sq)
    param = param - step_size * exp_avg / (largest.sqrt() / root + eps)
    return param, (exp_avg, exp_avg_sq, max_exp_avg_sq)


class Adam(Optimizer):
    """Adam, with the weight decay added to the gradient unless it is decoupled."""

    scalars, update = adam_scalars, adam
    slots = (Slot("step", scalar=True), Slot("exp_avg"), Slot("exp_avg_sq"), Slot("max_exp_avg_sq", when="amsgrad"))

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, *,
                 maximize=False, fused=None, decoupled_weight_decay=False, loss_scale=1.0):
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize,
                        decoupled_weight_decay=decoupled_weight_decay)
        super().__init__(params, defaults, loss_scale, fused)
