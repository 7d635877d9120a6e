"""How the decay of an average starts."""

from mindspore import Tensor


def constant(n, steps, decay, warmup):
    """Keep decay from the start, which is the initial parameters: timm's ModelEmaV2, BYOL, "Mean teachers"."""
    return decay


def averaged_model(n, steps, decay, warmup):
    """Copy once, then keep decay: torch's AveragedModel, timm's ModelEmaV3 without warm-up."""
    return decay.where(n > 1, 0)


def timm(n, steps, decay, warmup):
    """Copy once, then approach decay by a power of the steps since: timm's ModelEmaV3 with warm-up, ema-pytorch."""
    min_decay, gamma, power = warmup
    value = 1 - (1 + (steps - 1) / gamma) ** -power
    return value.minimum(decay).maximum(min_decay).where(steps > 1, 0)


def torch_ema(n, steps, decay, warmup):
    """Keep at most (1 + n)/(10 + n): TensorFlow's ExponentialMovingAverage with num_updates, torch-ema."""
    return ((1 + n) / (10 + n)).minimum(decay)


def yolov5(n, steps, decay, warmup):
    """Keep decay*(1 - exp(-n/2000)): YOLOv5, MindCV and others of MindSpore's model zoo."""
    return decay * (1 - (n / -2000).exp())


def zero_start(n, steps, decay, warmup):
    """Go through y/(1 - decay^n) for y <- decay*y + (1 - decay)*param, y = 0 at first; decay 1 is the plain mean."""
    return 1 - ((1 - decay) / (1 - decay**n)).where(decay < 1, 1 / n)


SCHEDULES = {
    schedule.__name__: schedule for schedule in (constant, averaged_model, timm, torch_ema, yolov5, zero_start)
}


def always(step):
    """True, as a comparison of the step is; in a graph a constant, which no device computes."""
    return Tensor(True) if isinstance(step, Tensor) else step > 0


def ema_weight(step, decay, warmup, schedule, update_after_step, update_every):
    """The parameters' weight in the average at a step, counted from 1, and whether this step averages."""
    steps = step - update_after_step if update_after_step else step
    if update_every == 1:
        n, due = steps, always(step)
    else:
        before = step - 1
        rounds = before // update_every
        n = rounds - (update_after_step - 1) // update_every
        due = rounds * update_every == before  # GPUs have no remainder of float64
    weight = 1 - schedule(n, steps, decay, warmup)
    return weight.where(steps > 0, 1) if update_after_step else weight, due
