"""Wrong rules, each of which the suite must catch: a suite that lets one live proves nothing."""

import importlib.util
import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from mindspore import nn

import ms_optim


@dataclass(frozen=True)
class Mutant:
    """One edit of the module that holds an optimizer's rule.

    Args:
        optimizer: The name in `ms_optim`.
        mistake: What the edit gets wrong, in words.
        right: Text that occurs once in the module of the rule.
        wrong: What takes its place.
    """

    optimizer: str
    mistake: str
    right: str
    wrong: str

    def __str__(self) -> str:
        return f"{self.optimizer}: {self.mistake}"


_DECAY = "grad = decay_gradient(grad, param, weight_decay)"
_NEGATE = "grad = -grad if maximize else grad"
_DENOMINATOR = "(largest.sqrt() / root + eps)"
_ADAM_MISTAKES = (
    ("eps inside the root", _DENOMINATOR, "((largest / (root * root) + eps).sqrt())"),
    ("eps before the bias correction", _DENOMINATOR, "((largest.sqrt() + eps) / root)"),
    ("eps squared inside the root", _DENOMINATOR, "((largest / (root * root) + eps * eps).sqrt())"),
    ("eps ten times too large", "(1 - beta2**step).sqrt(), eps)", "(1 - beta2**step).sqrt(), eps * 10)"),
    ("no bias correction of the first moment", "lr / (1 - beta1**step)", "lr / (1 - beta1 * 0)"),
    ("no bias correction of the second moment", "(1 - beta2**step).sqrt()", "(1 - beta2 * 0).sqrt()"),
    ("bias correction one step ahead", "lr / (1 - beta1**step)", "lr / (1 - beta1**(step + 1))"),
    ("second bias correction one step ahead", "(1 - beta2**step).sqrt()", "(1 - beta2**(step + 1)).sqrt()"),
    ("1 - beta1 in float32", ", 1 - beta1, ", ", 1 - beta1.float().double(), "),
    ("1 - beta2 in float32", ", 1 - beta2, ", ", 1 - beta2.float().double(), "),
    ("bias corrections in float32", "(1 - beta2**step).sqrt()", "(1 - beta2.float()**step.float()).double().sqrt()"),
    ("betas swapped", "lerp(exp_avg, grad, take1)", "lerp(exp_avg, grad, take2)"),
    ("second moment of exp_avg", "take2 * grad * grad", "take2 * exp_avg * exp_avg"),
    (
        "the sign of the decay follows maximize",
        _DECAY,
        "grad = decay_gradient(grad, param, -weight_decay if maximize else weight_decay)",
    ),
    ("decay of the gradient dropped", _DECAY, "grad = grad + 0"),
    ("maximize ignored", _NEGATE, "grad = grad if maximize else grad"),
    ("amsgrad forgets the maximum", "max_exp_avg_sq.maximum(exp_avg_sq)", "exp_avg_sq"),
    (
        "amsgrad divides by the last maximum",
        "largest = max_exp_avg_sq = max_exp_avg_sq.maximum(exp_avg_sq)",
        "largest, max_exp_avg_sq = max_exp_avg_sq, max_exp_avg_sq.maximum(exp_avg_sq)",
    ),
)
_DECOUPLED_MISTAKES = (
    ("decay coupled for decoupled", "param = param * keep", _DECAY),
    (
        "decay after the step",
        "param = param - step_size * exp_avg / (largest.sqrt() / root + eps)",
        "param = (param / keep - step_size * exp_avg / (largest.sqrt() / root + eps)) * keep",
    ),
    ("decay without the learning rate", "1 - lr * weight_decay", "1 - 0.1 * weight_decay"),
    ("decay dropped", "param = param * keep", "param = param * 1"),
)
_SGD_BODY = f"""    {_DECAY}
    if momentum_buffer is not None:
        momentum_buffer = momentum * momentum_buffer + take * grad
        grad = grad + momentum * momentum_buffer if nesterov else momentum_buffer
    return param - lr * grad"""
_MOMENTUM_MISTAKES = (
    ("first step dampened", "1 - dampening * (step > 1)", "1 - dampening"),
    ("dampening dropped", "1 - dampening * (step > 1)", "1 - dampening * 0"),
    (
        "lr inside the momentum buffer",
        "momentum_buffer = momentum * momentum_buffer + take * grad",
        "momentum_buffer = momentum * momentum_buffer + lr * take * grad",
    ),
    ("nesterov ignored", "grad + momentum * momentum_buffer if nesterov", "momentum_buffer if nesterov"),
    ("nesterov without the momentum", "grad + momentum * momentum_buffer if", "grad + momentum_buffer if"),
    ("momentum averages", "1 - dampening * (step > 1)", "1 - momentum * (step > 1)"),
    ("decay after the momentum", _SGD_BODY, _SGD_BODY.partition("\n")[2] + " - lr * weight_decay * param"),
    ("decay dropped", _DECAY, "grad = grad + 0"),
    ("maximize turns the decay around", f"    {_NEGATE}\n    {_DECAY}", f"    {_DECAY}\n    {_NEGATE}"),
)
# Of a rule whose decay goes into the gradient, and of one where a flag says whether it does.
_COUPLED_MISTAKES = (
    ("decay dropped", _DECAY, "grad = grad + 0"),
    ("maximize ignored", _NEGATE, "grad = grad if maximize else grad"),
    ("maximize turns the decay around", f"    {_NEGATE}\n    {_DECAY}", f"    {_DECAY}\n    {_NEGATE}"),
)
_FLAGGED_MISTAKES = (
    (
        "decay coupled for decoupled",
        "if decoupled_weight_decay:",
        "if decoupled_weight_decay and not decoupled_weight_decay:",
    ),
    (
        "decay decoupled for coupled",
        "if decoupled_weight_decay:",
        "if decoupled_weight_decay or not decoupled_weight_decay:",
    ),
    ("decoupled decay without the learning rate", "1 - lr * weight_decay, ", "1 - 0.1 * weight_decay, "),
    ("decay dropped", _DECAY, "grad = grad + 0"),
    ("maximize ignored", _NEGATE, "grad = grad if maximize else grad"),
    (
        "the sign of the decay follows maximize",
        _DECAY,
        "grad = decay_gradient(grad, param, -weight_decay if maximize else weight_decay)",
    ),
)
_ADAGRAD_MISTAKES = (
    ("lr_decay one step ahead", "lr / (1 + (step - 1) * lr_decay)", "lr / (1 + step * lr_decay)"),
    ("eps inside the root", "(total.sqrt() + eps)", "((total + eps).sqrt())"),
    ("eps squared inside the root", "(total.sqrt() + eps)", "((total + eps * eps).sqrt())"),
    ("initial_accumulator_value ignored", 'Slot("sum", init="initial_accumulator_value")', 'Slot("sum")'),
    ("the sum starts at 0.1", "initial_accumulator_value: float = 0.0", "initial_accumulator_value: float = 0.1"),
    ("lr_decay compounds", "lr / (1 + (step - 1) * lr_decay)", "lr / (1 + lr_decay)**(step - 1)"),
    ("lr_decay dropped", "lr / (1 + (step - 1) * lr_decay)", "lr + 0 * lr_decay"),
    (
        "the sum is that of the gradients without decay",
        f"    {_DECAY}\n    total = total + grad * grad\n",
        f"    total = total + grad * grad\n    {_DECAY}\n",
    ),
    ("decay decoupled for coupled", _DECAY, "param = param - step_size * weight_decay * param"),
)
_ADADELTA_RATIO = "(acc_delta + eps).sqrt() / (square_avg + eps).sqrt()"
_ADADELTA_MISTAKES = (
    ("1 - rho in float32", "lr, rho, 1 - rho, ", "lr, rho, 1 - rho.float().double(), "),
    ("eps outside the roots", _ADADELTA_RATIO, "(acc_delta.sqrt() + eps) / (square_avg.sqrt() + eps)"),
    ("eps outside the lower root", _ADADELTA_RATIO, "(acc_delta + eps).sqrt() / (square_avg.sqrt() + eps)"),
    ("no eps in the upper root", _ADADELTA_RATIO, "acc_delta.sqrt() / (square_avg + eps).sqrt()"),
    ("lr inside the average of steps", "take * delta * delta", "take * lr * delta * lr * delta"),
    ("the average of steps is that of gradients", "take * delta * delta", "grad * grad * take"),
    ("rho and 1 - rho swapped", "lr, rho, 1 - rho, ", "lr, 1 - rho, rho, "),
    ("lr ignored, as in the paper", "param - lr * delta", "param - delta"),
    ("decay decoupled for coupled", _DECAY, "param = param - lr * weight_decay * param"),
)
_ADAMAX_NORM = "exp_inf = maximum(beta2 * exp_inf, grad.abs() + eps)"
_ADAMAX_MISTAKES = (
    (
        "eps beside the norm and not in it",
        f"    {_ADAMAX_NORM}\n    return param - step_size * exp_avg / exp_inf",
        "    exp_inf = maximum(beta2 * exp_inf, grad.abs())\n    return param - step_size * exp_avg / (exp_inf + eps)",
    ),
    ("eps added after the maximum", _ADAMAX_NORM, "exp_inf = maximum(beta2 * exp_inf, grad.abs()) + eps"),
    ("no eps", _ADAMAX_NORM, "exp_inf = maximum(beta2 * exp_inf, grad.abs())"),
    ("the norm never decays", _ADAMAX_NORM, "exp_inf = maximum(exp_inf, grad.abs() + eps)"),
    ("no bias correction", "lr / (1 - beta1**step)", "lr / (1 - beta1 * 0)"),
    ("bias correction one step ahead", "lr / (1 - beta1**step)", "lr / (1 - beta1**(step + 1))"),
    (
        "the norm is corrected as Adam's second moment",
        "lr / (1 - beta1**step)",
        "lr / (1 - beta1**step) * (1 - beta2**step)",
    ),
    ("1 - beta1 in float32", ", 1 - beta1, beta2, ", ", 1 - beta1.float().double(), beta2, "),
    ("betas swapped", ", 1 - beta1, beta2, ", ", 1 - beta2, beta1, "),
    ("decay decoupled for coupled", _DECAY, "param = param - step_size * weight_decay * param"),
)
_RMSPROP_VARIANCE = """        grad_avg = lerp(grad_avg, grad, take)
        variance = square_avg - grad_avg * grad_avg
"""
_RMSPROP_BUFFER = "momentum * momentum_buffer + grad / deviation"
_RMSPROP_MISTAKES = (
    (
        "lr inside the momentum buffer",
        f"{_RMSPROP_BUFFER}\n    return param - lr * momentum_buffer",
        "momentum * momentum_buffer + lr * grad / deviation\n    return param - momentum_buffer",
    ),
    ("eps inside the root", "variance.sqrt() + eps", "(variance + eps).sqrt()"),
    (
        "the mean square starts at 1",
        "square_avg = alpha * square_avg",
        "square_avg = alpha * square_avg.where(square_avg > 0, 1)",
    ),
    ("centered ignored", "variance = square_avg - grad_avg * grad_avg", "variance = square_avg + 0"),
    (
        "centered by the mean of the last step",
        _RMSPROP_VARIANCE,
        "".join(reversed(_RMSPROP_VARIANCE.splitlines(keepends=True))),
    ),
    (
        "the buffer holds gradients that are not divided yet",
        f"{_RMSPROP_BUFFER}\n    return param - lr * momentum_buffer",
        "momentum * momentum_buffer + grad\n    return param - lr * momentum_buffer / deviation",
    ),
    ("momentum averages", _RMSPROP_BUFFER, "momentum * momentum_buffer + (1 - momentum) * grad / deviation"),
    ("alpha and 1 - alpha swapped", "lr, alpha, 1 - alpha, ", "lr, 1 - alpha, alpha, "),
    ("1 - alpha in float32", "lr, alpha, 1 - alpha, ", "lr, alpha, 1 - alpha.float().double(), "),
    ("decay decoupled for coupled", _DECAY, "param = param - lr * weight_decay * param"),
)
_ASGD_NUMBERS = "return next_eta, next_mu, eta, mu, 1 - lambd * eta, "
_ASGD_STEP = """    param = param * keep - eta * grad
    return param, (param.where(mu == 1, ax + (param - ax) * mu),)"""
_ASGD_MISTAKES = (
    ("t0 off by one", "since = step - t0", "since = step - t0 + 1"),
    ("eta one step ahead", _ASGD_NUMBERS, "return next_eta, next_mu, next_eta, mu, 1 - lambd * next_eta, "),
    ("eta one step behind", "lr / (1 + lambd * lr * step)", "lr / (1 + lambd * lr * (step - 1))"),
    ("eta starts at 0", "lr.where(step == 1, eta)", "eta.where(step > 0, lr)"),
    ("alpha ignored", ") ** alpha", ") ** 0.75"),
    ("mu one step ahead", _ASGD_NUMBERS, "return next_eta, next_mu, eta, next_mu, 1 - lambd * eta, "),
    ("the average starts at once", "since = step - t0", "since = step - 0 * t0"),
    (
        "the average is of the parameters before the step",
        _ASGD_STEP,
        _ASGD_STEP.replace("param = ", "new = ", 1).replace("return param,", "return new,"),
    ),
    ("lambd without eta", "1 - lambd * eta", "1 - lambd"),
    ("lambd times lr and not eta", "1 - lambd * eta", "1 - lambd * lr"),
    ("lambd after the gradient", "param * keep - eta * grad", "(param - eta * grad) * keep"),
    ("decay decoupled for coupled", _DECAY, "param = param - eta * weight_decay * param"),
)
_RPROP_CLAMP = "step_size.maximum(step_size_min).minimum(step_size_max)"
_RPROP_FACTOR = "etaplus.where(turn > 0, etaminus.where(turn < 0, 1))"
_RPROP_TURN = "grad = grad.where((turn < 0).logical_not(), 0)"
_RPROP_STEP = "return param - grad.sign() * step_size, (grad, step_size)"
_RPROP_MISTAKES = (
    (
        "prev is kept where the sign turns",
        f"    {_RPROP_TURN}\n    {_RPROP_STEP}",
        f"    kept = {_RPROP_TURN.removeprefix('grad = ')}\n    {_RPROP_STEP.replace('grad', 'kept', 1)}",
    ),
    ("it steps where the sign turns", _RPROP_TURN, "grad = grad + 0"),
    (
        "it steps back where the sign turns",
        _RPROP_STEP,
        _RPROP_STEP.replace("step_size,", "step_size + (prev.sign() * slots[1]).where(turn < 0, 0),", 1),
    ),
    ("no smallest step", _RPROP_CLAMP, "step_size.minimum(step_size_max)"),
    ("no largest step", _RPROP_CLAMP, "step_size.maximum(step_size_min)"),
    ("etas swapped", _RPROP_FACTOR, "etaminus.where(turn > 0, etaplus.where(turn < 0, 1))"),
    ("a gradient of zero keeps its sign", _RPROP_FACTOR, "etaplus.where(turn >= 0, etaminus)"),
    ("the first step is not lr", "lr.where(first > 0, step_size)", "step_size.where(first >= 0, lr)"),
    ("lr is the second step too", "(step == 1).double()", "(step <= 2).double()"),
    ("prev is a sign", _RPROP_STEP, "return param - grad.sign() * step_size, (grad.sign(), step_size)"),
    ("steps along the gradient", _RPROP_STEP, "return param - grad * step_size, (grad, step_size)"),
    _COUPLED_MISTAKES[1],
)
# That 0.96 is rounded to float32 moves nothing by more than an ulp: it is no mutant.
_NADAM_DENOMINATOR = "(exp_avg_sq / correction2).sqrt() + eps"
_NADAM_PRODUCT = "mu_product.where(step > 1, 1) * mu"
_NADAM_MISTAKES = (
    ("mu_next is this step's", "((step + 1) * momentum_decay)", "(step * momentum_decay + 0)"),
    ("mu_product one step ahead", _NADAM_PRODUCT, f"{_NADAM_PRODUCT}_next"),
    ("mu_product not multiplied", _NADAM_PRODUCT, "mu_product * 0 + mu"),
    ("momentum_decay ignored", "(step * momentum_decay)", "(step * 0.004)"),
    ("momentum_decay one step behind", "(step * momentum_decay)", "((step - 1) * momentum_decay)"),
    ("the gradient is corrected as Adam's", "(1 - mu) / (1 - mu_product)", "(1 - mu) / (1 - beta1**step)"),
    ("no Nesterov", "lr * mu_next / (1 - mu_product * mu_next)", "lr * mu / (1 - mu_product)"),
    ("eps inside the root", _NADAM_DENOMINATOR, "(exp_avg_sq / correction2 + eps).sqrt()"),
    ("eps before the bias correction", _NADAM_DENOMINATOR, "(exp_avg_sq.sqrt() + eps) / correction2.sqrt()"),
    ("1 - beta2 in float32", ", 1 - beta2, ", ", 1 - beta2.float().double(), "),
)
_RADAM_DENOMINATOR = "root / (exp_avg_sq.sqrt() + eps)"
_RADAM_RHO = "2 * step * beta2**step / correction2"
_RADAM_MISTAKES = (
    ("rectified from rho 4", "rho > 5", "rho > 4"),
    ("rho of the next step", _RADAM_RHO, "2 * (step + 1) * beta2**(step + 1) / (1 - beta2**(step + 1))"),
    ("rho_inf without its 1", "2 / (1 - beta2) - 1", "2 / (1 - beta2)"),
    ("rectified without the root", "rect.where(rectified, 1).sqrt()", "rect.where(rectified, 1)"),
    ("rectified without the bias correction", "correction2.sqrt(),", "(correction2 * 0 + 1).sqrt(),"),
    ("never rectified", " * adaptive * rect", " * adaptive"),
    ("adaptive before it is rectified", ".where(rectified > 0, 1)", ".where(rectified >= 0, 1)"),
    ("no step before it is rectified", ".where(rectified > 0, 1)", ".where(rectified > 0, 0)"),
    ("no bias correction of the first moment", "exp_avg / correction1 * lr", "exp_avg * lr"),
    ("bias correction one step ahead", "1 - beta1**step", "1 - beta1**(step + 1)"),
    ("eps inside the root", _RADAM_DENOMINATOR, "root / (exp_avg_sq + eps).sqrt()"),
    ("eps after the bias correction", _RADAM_DENOMINATOR, "1 / (exp_avg_sq.sqrt() / root + eps)"),
    ("1 - beta2 in float32", ", 1 - beta2, ", ", 1 - beta2.float().double(), "),
)
_ADAFACTOR_SCALE = "larger(mean_square(param, None).sqrt().to(param.dtype), eps2)"
_ADAFACTOR_STEP = "param = param * keep - alpha / larger(rms / d, 1 + 0 * d) * update"
_ADAFACTOR_MISTAKES = (
    ("beta2_decay one step ahead", "step**beta2_decay", "(step + 1)**beta2_decay"),
    ("eps1 not squared", "eps1 * eps1", "eps1"),
    ("no floor under the mean of the rows", "eps1.where(mean < eps1, mean)", "mean"),
    ("eps1 added and no floor", "eps1_square.where(estimate < eps1_square, estimate)", "(estimate + eps1_square)"),
    ("sum for mean", "row_var.double().mean(-2, True)", "row_var.double().sum(-2, True)"),
    ("the mean of the whole stack", "row_var.double().mean(-2, True)", "row_var.double().mean()"),
    ("the new gradient's share taken for the old one's", "step**beta2_decay", "1 - step**beta2_decay"),
    ("d ignored", "rms / d", "rms"),
    ("updates not clipped", "larger(rms / d, 1 + 0 * d)", "(1 + 0 * d)"),
    ("no scale of the parameter", _ADAFACTOR_SCALE, "(1 + 0 * eps2)"),
    ("eps2 added and no floor", _ADAFACTOR_SCALE, "(mean_square(param, None).sqrt().to(param.dtype) + eps2)"),
    ("the scale of the decayed parameter", "mean_square(param, None)", "mean_square(param * keep, None)"),
    ("lr without the limit", "lr.where(lr < limit, limit)", "lr"),
    ("the limit is a floor", "lr.where(lr < limit, limit)", "lr.where(lr > limit, limit)"),
    (
        "decay with the limited lr",
        "return 1 - lr * weight_decay",
        "return 1 - lr.where(lr < limit, limit) * weight_decay",
    ),
    ("decay after the step", _ADAFACTOR_STEP, "param = (param - alpha / larger(rms / d, 1 + 0 * d) * update) * keep"),
    ("decay dropped", "param * keep - alpha", "param - alpha"),
    _COUPLED_MISTAKES[1],
)
# A tall matrix that is not transposed gives the same in exact numbers, and the rounding to bfloat16 left out or an eps
# that is added stays inside the noise of the cases: they are no mutants.
_MUON_BUFFER = "momentum_buffer = lerp(momentum_buffer, grad, take)"
_MUON_UPDATE = "lerp(grad, momentum_buffer, momentum) if nesterov else momentum_buffer"
_MUON_MISTAKES = (
    ("one iteration too few", "range(steps)", "range(steps - 1)"),
    ("nesterov ignored", _MUON_UPDATE, "momentum_buffer"),
    ("nesterov always", _MUON_UPDATE, "lerp(grad, momentum_buffer, momentum)"),
    ("nesterov from the gradient's side", _MUON_UPDATE, _MUON_UPDATE.replace("momentum)", "take)")),
    ("momentum sums", _MUON_BUFFER, "momentum_buffer = momentum * momentum_buffer + grad"),
    ("momentum and 1 - momentum swapped", _MUON_BUFFER, _MUON_BUFFER.replace("take", "momentum")),
    ("coefficients swapped", "b * gram + c * (gram @ gram)", "c * gram + b * (gram @ gram)"),
    ("no floor under the norm", "rounded(eps).where(norm < eps, norm)", "norm"),
    ("not normalized", "x / rounded(eps).where(norm < eps, norm)", "x"),
    (
        "rows and columns swapped in the ratio",
        "exact(max(rows, columns), columns, lr)",
        "exact(max(rows, columns), rows, lr)",
    ),
    ("ratio below 1", "exact(max(rows, columns), columns, lr)", "exact(rows, columns, lr)"),
    ("the shorter side", "exact(max(rows, columns), 25, lr)", "exact(min(rows, columns), 25, lr)"),
    ("adjust_lr_fn ignored", 'if adjust_lr_fn == "match_rms_adamw"', 'if adjust_lr_fn == "nothing"'),
    ("decay after the step", "param * keep - lr * ratio * update", "(param - lr * ratio * update) * keep"),
    (
        "decay with the adjusted lr",
        "param * keep - lr * ratio * update",
        "param * (1 - (1 - keep) * ratio) - lr * ratio * update",
    ),
    ("decay dropped", "param * keep - lr", "param - lr"),
)
_CLIPPING_MISTAKES = (
    (
        "clip after the decay",
        "clip_adaptively(grad, param, clipping, clip_eps, unit)",
        "clip_adaptively(grad + weight_decay * param, param, clipping, clip_eps, unit) - weight_decay * param",
    ),
    (
        "eps added and no floor",
        "clip_adaptively(grad, param, clipping, clip_eps, unit)",
        "clip_adaptively(grad, param.abs() + clip_eps, clipping, clip_eps * 0, unit)",
    ),
    ("no floor under the weight's norm", "param, clipping, clip_eps, unit)", "param, clipping, clip_eps * 0, unit)"),
    ("clipping twice as much", "param, clipping, clip_eps, unit)", "param, clipping / 2, clip_eps, unit)"),
    ("the other unit", "clip_eps, unit)", 'clip_eps, "squeezed" if unit == "output" else "output")'),
    ("exempt ignored", "if not exempt:", "if exempt or not exempt:"),
    ("everything exempt", "if not exempt:", "if exempt and not exempt:"),
    ("gradient and weight swapped", "clip_adaptively(grad, param,", "clip_adaptively(param, grad,"),
)
_SPARSE_MISTAKES = (
    ("eps after the bias correction", "(1 - beta1**step), eps", "(1 - beta1**step), eps * (1 - beta2**step).sqrt()"),
    ("eps inside the root", "(exp_avg_sq.sqrt() + eps)", "(exp_avg_sq + eps).sqrt()"),
    ("no first bias correction", "/ (1 - beta1**step)", "/ (1 - beta1 * 0)"),
    ("no second bias correction", "(1 - beta2**step).sqrt()", "(1 - beta2 * 0).sqrt()"),
    ("bias correction one step ahead", "(1 - beta2**step).sqrt()", "(1 - beta2**(step + 1)).sqrt()"),
    ("1 - beta1 in float32", "return 1 - beta1,", "return 1 - beta1.float().double(),"),
    ("1 - beta2 in float32", " 1 - beta2, lr", " 1 - beta2.float().double(), lr"),
    ("betas swapped", "take1 * (grad - exp_avg)", "take2 * (grad - exp_avg)"),
    ("second moment of exp_avg", "(grad * grad - exp_avg_sq)", "(exp_avg * exp_avg - exp_avg_sq)"),
    ("maximize ignored", "-grad if maximize", "grad if maximize"),
    (
        "duplicates are not summed",
        "grad = sum_duplicates(indices, values.to(dtype), param.shape)",
        "grad = values.to(dtype)",
    ),
    (
        "the moments of all rows decay",
        "        state = read(",
        "        ops.assign(exp_avg, exp_avg * (1 - numbers[0]))\n        state = read(",
    ),
    ("the second moment is not kept", ", write(exp_avg_sq, indices, state[1])", ","),
)
_EMA_STEP = """        done = self.optimizer(gradients) if present is None else self.optimizer(gradients, present)
"""
_EMA_AVERAGE = """        step = self._step + 1
        weight, due = self.ema_weight(
            step, self._decay, self.warmup, self.schedule, self.update_after_step, self.update_every
        )
        if self.fused:
            self.kernel(weight, due, self.layout, *self.averages, *self.tracked)
        else:
            self.hyper_map(ops.partial(_average, weight, due), self.averages, self.tracked, self.copied)
"""
_AVERAGE_MISTAKES = (
    (
        "1 - decay in float32",
        "schedule(n, steps, decay, warmup)).where",
        "schedule(n, steps, decay, warmup).float().double()).where",
    ),
    ("averages before the step", _EMA_STEP + _EMA_AVERAGE, _EMA_AVERAGE + _EMA_STEP),
    ("no copy at first", "decay.where(n > 1, 0)", "decay.where(n > 0, 0)"),
    ("timm's warm-up one step ahead", "(steps - 1) / gamma", "steps / gamma"),
    ("timm's floor ignored", ".maximum(min_decay)", ".maximum(min_decay * 0)"),
    ("torch_ema one step ahead", "((1 + n) / (10 + n))", "((2 + n) / (11 + n))"),
    ("yolov5 one step behind", "(-n / 2000)", "((1 - n) / 2000)"),
    (
        "no bias correction of the zero start",
        "1 - ((1 - decay) / (1 - decay**n)).where(decay < 1, 1 / n)",
        "decay.where(n > 0, 0)",
    ),
    ("update_every ignored", "return weight, (step - 1) % update_every == 0", "return weight, step > 0"),
    ("one step too late after update_after_step", ".where(steps > 0, 1)", ".where(steps >= 0, 1)"),
    ("update_after_step ignored", "steps = step - update_after_step", "steps = step - 0 * update_after_step"),
)


def _of(optimizer, mistakes):
    return tuple(Mutant(optimizer, *mistake) for mistake in mistakes)


MUTANTS = (
    *_of("ASGD", _ASGD_MISTAKES + _COUPLED_MISTAKES),
    *_of("Adadelta", _ADADELTA_MISTAKES + _COUPLED_MISTAKES),
    *_of("Adafactor", _ADAFACTOR_MISTAKES),
    *_of("Adagrad", _ADAGRAD_MISTAKES + _COUPLED_MISTAKES),
    *_of("Adam", _ADAM_MISTAKES),
    *_of("Adamax", _ADAMAX_MISTAKES + _COUPLED_MISTAKES),
    *_of("AdamW", _DECOUPLED_MISTAKES),
    *_of("EMA", _AVERAGE_MISTAKES),
    *_of("MomentumAGC", _CLIPPING_MISTAKES),
    *_of("Muon", _MUON_MISTAKES),
    *_of("NAdam", _NADAM_MISTAKES + _FLAGGED_MISTAKES),
    *_of("RAdam", _RADAM_MISTAKES + _FLAGGED_MISTAKES),
    *_of("RMSprop", _RMSPROP_MISTAKES + _COUPLED_MISTAKES),
    *_of("Rprop", _RPROP_MISTAKES),
    *_of("SGD", _MOMENTUM_MISTAKES),
    *_of("SparseAdam", _SPARSE_MISTAKES),
)


def _spaced(text):
    """A pattern that finds code however its lines are broken; the indentation that it begins with is exact."""
    indent = text[: len(text) - len(text.lstrip())]
    code = re.sub(r"(?:\\ |\\?\n)+", r"\\s+", re.escape(text[len(indent) :].rstrip()))
    code = code.replace(r"\(", r"\(\s*").replace(r"\)", r"(?:,?\s*)\)")  # where a formatter breaks lines
    return (r"\s+" if indent == " " else indent) + code + (r"\s*" if text[-1].isspace() else "")


def breed(mutant: Mutant, folder: Path) -> type[nn.Optimizer]:
    """The optimizer with the mistake, its edited source in a file of `folder` because the compiler reads sources."""
    right = getattr(ms_optim, mutant.optimizer)
    source = Path(inspect.getsourcefile(getattr(right, "update", right))).read_text()
    places = re.findall(_spaced(mutant.right), source)
    if len(places) != 1:
        raise ValueError(
            f"For '{mutant}', 'right' must occur once in the source, but got {len(places)} occurrences of "
            f"{mutant.right!r}."
        )
    name = "mutant_" + re.sub(r"\W+", "_", str(mutant))
    path = folder / f"{name}.py"
    path.write_text(source.replace(places[0], mutant.wrong))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    if hasattr(module, mutant.optimizer):
        return getattr(module, mutant.optimizer)
    rules = {role: getattr(module, getattr(right, role).__name__) for role in ("scalars", "update")}
    return type(mutant.optimizer, (right,), rules)
