"""AdamW (Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization")."""

from ms_optim._optimizer import Optimizer, Slot
from ms_optim.adam import adam, adam_scalars


class AdamW(Optimizer):
    """Adam, with the weight decay applied to the parameters themselves."""

    scalars, update = adam_scalars, adam
    slots = (Slot("step", scalar=True), Slot("exp_avg"), Slot("exp_avg_sq"), Slot("max_exp_avg_sq", when="amsgrad"))

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, *,
                 maximize=False, fused=None, loss_scale=1.0):
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize,
                        decoupled_weight_decay=True)
        super().__init__(params, defaults, loss_scale, fused)
