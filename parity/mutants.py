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
    ("the sign of the decay follows maximize", _DECAY,
     "grad = decay_gradient(grad, param, -weight_decay if maximize else weight_decay)"),
    ("decay of the gradient dropped", _DECAY, "grad = grad + 0"),
    ("maximize ignored", _NEGATE, "grad = grad if maximize else grad"),
    ("amsgrad forgets the maximum", "max_exp_avg_sq.maximum(exp_avg_sq)", "exp_avg_sq"),
    ("amsgrad divides by the last maximum", "largest = max_exp_avg_sq = max_exp_avg_sq.maximum(exp_avg_sq)",
     "largest, max_exp_avg_sq = max_exp_avg_sq, max_exp_avg_sq.maximum(exp_avg_sq)"),
)
_DECOUPLED_MISTAKES = (
    ("decay coupled for decoupled", "param = param * keep", _DECAY),
    ("decay after the step", "param = param - step_size * exp_avg / (largest.sqrt() / root + eps)",
     "param = (param / keep - step_size * exp_avg / (largest.sqrt() / root + eps)) * keep"),
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
    ("lr inside the momentum buffer", "momentum_buffer = momentum * momentum_buffer + take * grad",
     "momentum_buffer = momentum * momentum_buffer + lr * take * grad"),
    ("nesterov ignored", "grad + momentum * momentum_buffer if nesterov", "momentum_buffer if nesterov"),
    ("nesterov without the momentum", "grad + momentum * momentum_buffer if", "grad + momentum_buffer if"),
    ("momentum averages", "1 - dampening * (step > 1)", "1 - momentum * (step > 1)"),
    ("decay after the momentum", _SGD_BODY, _SGD_BODY.partition("\n")[2] + " - lr * weight_decay * param"),
    ("decay dropped", _DECAY, "grad = grad + 0"),
    ("maximize turns the decay around",
     f"    {_NEGATE}\n    {_DECAY}", f"    {_DECAY}\n    {_NEGATE}"),
)
_CLIPPING_MISTAKES = (
    ("clip after the decay", "clip_adaptively(grad, param, clipping, clip_eps, unit)",
     "clip_adaptively(grad + weight_decay * param, param, clipping, clip_eps, unit) - weight_decay * param"),
    ("eps added and no floor", "clip_adaptively(grad, param, clipping, clip_eps, unit)",
     "clip_adaptively(grad, param.abs() + clip_eps, clipping, clip_eps * 0, unit)"),
    ("no floor under the weight's norm", "param, clipping, clip_eps, unit)", "param, clipping, clip_eps * 0, unit)"),
    ("clipping twice as much", "param, clipping, clip_eps, unit)", "param, clipping / 2, clip_eps, unit)"),
    ("the other unit", "clip_eps, unit)", 'clip_eps, "squeezed" if unit == "output" else "output")'),
    ("exempt ignored", "if not exempt:", "if exempt or not exempt:"),
    ("everything exempt", "if not exempt:", "if exempt and not exempt:"),
    ("gradient and weight swapped", "clip_adaptively(grad, param,", "clip_adaptively(param, grad,"),
)
_EMA_STEP = """        done = self.optimizer(gradients) if present is None else self.optimizer(gradients, present)
"""
_EMA_AVERAGE = """        step = self._step + 1
        weight, due = self.ema_weight(step, self._decay, self.warmup, self.schedule, self.update_after_step,
                                      self.update_every)
        self.hyper_map(ops.partial(_average, weight, due), self.averages, self.tracked, self.copied)
"""
_AVERAGE_MISTAKES = (
    ("averages before the step", _EMA_STEP + _EMA_AVERAGE, _EMA_AVERAGE + _EMA_STEP),
    ("1 - decay in float32", "schedule(n, steps, decay, warmup)).where",
     "schedule(n, steps, decay, warmup).float().double()).where"),
    ("no copy at first", "decay.where(n > 1, 0)", "decay.where(n > 0, 0)"),
    ("timm's warm-up one step ahead", "(steps - 1) / gamma", "steps / gamma"),
    ("timm's floor ignored", ".maximum(min_decay)", ".maximum(min_decay * 0)"),
    ("torch_ema one step ahead", "((1 + n) / (10 + n))", "((2 + n) / (11 + n))"),
    ("yolov5 one step behind", "(-n / 2000)", "((1 - n) / 2000)"),
    ("no bias correction of the zero start", "1 - ((1 - decay) / (1 - decay**n)).where(decay < 1, 1 / n)",
     "decay.where(n > 0, 0)"),
    ("update_every ignored", "return weight, (step - 1) % update_every == 0", "return weight, step > 0"),
    ("one step too late after update_after_step", ".where(steps > 0, 1)", ".where(steps >= 0, 1)"),
    ("update_after_step ignored", "steps = step - update_after_step", "steps = step - 0 * update_after_step"),
)


def _of(optimizer, mistakes):
    return tuple(Mutant(optimizer, *mistake) for mistake in mistakes)


MUTANTS = (*_of("Adam", _ADAM_MISTAKES), *_of("AdamW", _DECOUPLED_MISTAKES), *_of("EMA", _AVERAGE_MISTAKES),
           *_of("MomentumAGC", _CLIPPING_MISTAKES), *_of("SGD", _MOMENTUM_MISTAKES))


def breed(mutant: Mutant, folder: Path) -> type[nn.Optimizer]:
    """The optimizer with the mistake, its edited source in a file of `folder` because the compiler reads sources."""
    right = getattr(ms_optim, mutant.optimizer)
    source = Path(inspect.getsourcefile(getattr(right, "update", right))).read_text()
    if source.count(mutant.right) != 1:
        raise ValueError(f"For '{mutant}', 'right' must occur once in the source, but got {source.count(mutant.right)} "
                         f"occurrences of {mutant.right!r}.")
    name = "mutant_" + re.sub(r"\W+", "_", str(mutant))
    path = folder / f"{name}.py"
    path.write_text(source.replace(mutant.right, mutant.wrong))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    if hasattr(module, mutant.optimizer):
        return getattr(module, mutant.optimizer)
    rules = {role: getattr(module, getattr(right, role).__name__) for role in ("scalars", "update")}
    return type(mutant.optimizer, (right,), rules)
