"""How the decay of an average starts: the weight of the parameters, which is 1 - decay, for whole numbers of steps."""

from mindspore import Tensor
from mindspore.ops import FloorMod


def constant(n, steps, decay, warmup):
    """Keep decay from the start, which is the initial parameters: timm's ModelEmaV2, BYOL, "Mean teachers"."""
    return 1 - decay


def averaged_model(n, steps, decay, warmup):
    """Copy once, then keep decay: torch's AveragedModel, timm's ModelEmaV3 without warm-up."""
    return (1 - decay).where(n > 1, 1)


def timm(n, steps, decay, warmup):
    """Copy once, then approach decay by a power of the steps since: timm's ModelEmaV3 with warm-up, ema-pytorch."""
    min_decay, gamma, power = warmup
    value = 1 - (1 + (steps - 1).double() / gamma) ** -power
    return (1 - value.minimum(decay).maximum(min_decay)).where(steps > 1, 1)


def torch_ema(n, steps, decay, warmup):
    """Keep at most (1 + n)/(10 + n): TensorFlow's ExponentialMovingAverage with num_updates, torch-ema."""
    return 1 - ((1 + n).double() / (10 + n).double()).minimum(decay)


def yolov5(n, steps, decay, warmup):
    """Keep decay*(1 - exp(-n/2000)): YOLOv5, MindCV and others of MindSpore's model zoo."""
    return 1 - decay * (1 - (n.double() / -2000).exp())


def zero_start(n, steps, decay, warmup):
    """Go through y/(1 - decay^n) for y <- decay*y + (1 - decay)*param, y = 0 at first; decay 1 is the plain mean."""
    n = n.double()
    return ((1 - decay) / (1 - decay**n)).where(decay < 1, 1 / n)


SCHEDULES = {
    schedule.__name__: schedule for schedule in (constant, averaged_model, timm, torch_ema, yolov5, zero_start)
}
# Those whose first average is a copy whatever n and steps are before it.
COPYING = (averaged_model, timm)


def always(step):
    """True, as a comparison of the step is; in a graph a constant, which no device computes."""
    return Tensor(True) if isinstance(step, Tensor) else step > 0


def is_multiple(whole, of):
    """Whether an int32 number is a multiple of another: GPUs have this remainder, and none for the sign of Python's."""
    return FloorMod()(whole, of) == 0 if isinstance(whole, Tensor) else whole % of == 0


def ema_weight(step, decay, warmup, schedule, update_after_step, update_every, copying=False):
    """The parameters' weight in the average at a step, counted from 1, and whether this step averages.

    Whether the schedule is a copying one may be left out: then it is copied once more, to the same numbers. Where
    steps are counted anew, they are int32, which devices compute as they do float32, and not as float64.
    """
    count = step.int() if update_after_step or update_every > 1 else step
    steps = count - update_after_step if update_after_step else count
    if update_every == 1:
        n, due = steps, always(step)
    else:
        before = count - 1
        n = before // update_every - (update_after_step - 1) // update_every
        due = is_multiple(before, update_every)
    weight = schedule(n, steps, decay, warmup)
    return weight.where(steps > 0, 1) if update_after_step and not copying else weight, due
