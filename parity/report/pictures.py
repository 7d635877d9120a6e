"""Draws what the READMEs tell: learning rates, averages, the ways of the optimizers, and clipping on and off.

`python -m parity.report.pictures FOLDER` writes five pictures there, with `--runs` a sixth, of what `train.py` of
scripts/nfnet has left in other folders, such as one with clipping and one without.
"""

import argparse
import json
import textwrap
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

import ms_optim
from ms_optim import EMA, SGD, MomentumAGC, lr_scheduler
from ms_optim.ema.schedules import SCHEDULES
from ms_optim.lr_scheduler import table
from parity.cases import ENTRIES
from parity.cases.networks import batches

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# What is shown of the plane.
FRAME = (-1.6, 1.6), (-0.6, 1.9)
STEPS, RATES = 120, [10.0**-power for power in np.arange(0, 3.5, 0.5)]
# What a schedule is drawn with; an `lr` of 1 is what it multiplies.
DRAWN: dict[str, Callable] = {
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.3, 30),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=60),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 30, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [20, 70], 0.3),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.97),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 100, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 100, 0.05),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 20, 2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, 20, mode="triangular2", cycle_momentum=False),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=STEPS, cycle_momentum=False),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.6 + 0.4 * np.cos(step / 10)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.99 if step % 40 else 0.6),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=20), lr_scheduler.ExponentialLR(o, 0.97)], [20]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, 0.1, total_iters=20), lr_scheduler.ExponentialLR(o, 0.97)]
    ),
    "SWALR": lambda o: lr_scheduler.SWALR(o, 0.2, anneal_epochs=60),
    "get_constant_schedule": lr_scheduler.get_constant_schedule,
    "get_constant_schedule_with_warmup": lambda o: lr_scheduler.get_constant_schedule_with_warmup(o, 15),
    "get_linear_schedule_with_warmup": lambda o: lr_scheduler.get_linear_schedule_with_warmup(o, 15, STEPS),
    "get_cosine_schedule_with_warmup": lambda o: lr_scheduler.get_cosine_schedule_with_warmup(o, 15, STEPS),
    "get_cosine_with_hard_restarts_schedule_with_warmup": lambda o: (
        lr_scheduler.get_cosine_with_hard_restarts_schedule_with_warmup(o, 15, STEPS, 3)
    ),
}
# The metric that a plateau is drawn of falls up to this step.
FALLS = 30


def plateau() -> list[float]:
    """The learning rates of ReduceLROnPlateau by step."""
    optimizer, found = SimpleNamespace(param_groups=[{"lr": 1.0}]), []
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=15)
    for step in range(STEPS):
        found.append(float(optimizer.param_groups[0]["lr"]))
        scheduler.step(max(0.0, 1 - step / FALLS))
    return found


def rates() -> dict[str, list[float]]:
    """The learning rates of each schedule by step."""
    return {**{name: table(schedule, 1.0, STEPS) for name, schedule in DRAWN.items()}, "ReduceLROnPlateau": plateau()}


def shares(decay: float, schedule: str, steps: int = STEPS) -> np.ndarray:
    """What an EMA has of the values of each step, the first of which are the initial ones; they sum up to 1."""
    values = np.eye(steps + 1)
    param = Parameter(Tensor(values[0]), name="value")
    ema = EMA(SGD([param], lr=0.0), decay, schedule=schedule)
    for value in values[1:]:
        param.set_data(Tensor(value))
        ema((Tensor(0 * value),))
    return ema.averages[0].asnumpy()


@np.errstate(over="ignore", invalid="ignore")
def square(point: np.ndarray) -> tuple[float, np.ndarray]:
    """4*x*x of the first number, and its gradient."""
    return float(4 * point[0] ** 2), np.array([8 * point[0], 0.0])


@np.errstate(over="ignore", invalid="ignore")
def rosenbrock(point: np.ndarray) -> tuple[float, np.ndarray]:
    """A curved valley with its lowest point at (1, 1), and its gradient."""
    x, y = point
    valley = y - x**2
    return float((1 - x) ** 2 + 100 * valley**2), np.array([-2 * (1 - x) - 400 * x * valley, 200 * valley])


def ways(name: str, function: Callable, start: Sequence[float], steps: int = STEPS) -> dict[float, np.ndarray]:
    """Where an optimizer goes by learning rate, with its other defaults: the start, and the point after each step.

    One is made, and begins anew for each rate: another would compile another step. Past the largest numbers it ends.
    """
    shape = (*(1,) * ((ENTRIES[name].rank or 1) - 1), 2)
    param = Parameter(Tensor(np.reshape(start, shape), ms.float64), name="point")
    optimizer = ms_optim.OPTIMIZERS[name]([param])
    begin, found = optimizer.state_dict(), {}
    for rate in RATES:
        param.set_data(Tensor(np.reshape(start, shape), ms.float64))
        optimizer.load_state_dict(begin)
        optimizer.param_groups[0]["lr"] = rate
        points = [np.array(start, float)]
        while len(points) <= steps and np.isfinite(points[-1]).all():
            optimizer((Tensor(function(points[-1])[1].reshape(shape)),))
            points.append(param.asnumpy().ravel().copy())
        found[rate] = np.array([*points, *[points[-1]] * (steps + 1 - len(points))])
    return found


def seen(points: np.ndarray) -> bool:
    """Whether at least nine tenths of a way are in `FRAME`."""
    low, high = np.transpose(FRAME)
    return bool(((points >= low) & (points <= high)).all(1).mean() >= 0.9)


def best_way(
    name: str,
    function: Callable,
    start: Sequence[float],
    steps: int = STEPS,
    among: Callable[[np.ndarray], bool] = lambda points: True,
) -> tuple[float, np.ndarray]:
    """The learning rate of `RATES` by which an optimizer ends at the lowest value, and its way there.

    Args:
        name: The optimizer.
        function: What is minimized: gives a value and its gradient.
        start: The point to begin at.
        steps: How many are taken.
        among: Whether a way is wanted, if any is.
    """

    def rank(rate):
        value = function(found[rate][-1])[0]
        return not among(found[rate]), value if np.isfinite(value) else np.inf

    found = ways(name, function, start, steps)
    best = min(found, key=rank)
    return best, found[best]


def followed() -> list[str]:
    """The optimizers that take one gradient in a step; LBFGS, which evaluates often, cannot be drawn beside them."""
    return [name for name, entry in ENTRIES.items() if entry.dense]


@np.errstate(divide="ignore", over="ignore", invalid="ignore")
def slopes(weights: Sequence[np.ndarray], images: np.ndarray, labels: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """The cross entropy of a network with ReLU between its layers, which has no biases, and its gradients."""
    seen_by = [images]
    for i, weight in enumerate(weights):
        out = seen_by[-1] @ weight.T
        seen_by.append(out if i == len(weights) - 1 else np.maximum(out, 0))
    shares, rows = np.exp(seen_by[-1] - seen_by[-1].max(1, keepdims=True)), np.arange(len(labels))
    shares /= shares.sum(1, keepdims=True)
    loss = -np.log(shares[rows, labels]).mean()
    shares[rows, labels] -= 1
    back, found = shares / len(labels), []
    for weight, before in zip(reversed(weights), reversed(seen_by[:-1])):
        found.append(back.T @ before)
        back = back @ weight * (before > 0)
    return float(loss), found[::-1]


def clipped(
    clippings: Sequence[float], lrs: Sequence[float], steps: int = STEPS, layers: int = 9
) -> dict[tuple[float, float], list[float]]:
    """The losses of a narrow network without normalization on scikit-learn's digits, by clipping and learning rate.

    Each is trained by MomentumAGC, whose clipping of 0 is plain momentum, from the same weights on the same batches, up
    to the first loss that is not finite.
    """
    given = [(images.reshape(len(images), -1).astype(float), labels) for images, labels in batches(steps)]
    sizes, rng = [given[0][0].shape[1], *[32] * (layers - 1), 10], np.random.default_rng(0)
    begin = [rng.normal(0, (2 / size) ** 0.5, (units, size)) for size, units in pairwise(sizes)]
    params = [Parameter(Tensor(weight), name=f"{i}.weight") for i, weight in enumerate(begin)]
    optimizer = MomentumAGC(params, nesterov=True, exempt=params[-1].name)
    state, found = optimizer.state_dict(), {}
    for clipping in clippings:
        for lr in lrs:
            for param, weight in zip(params, begin):
                param.set_data(Tensor(weight))
            optimizer.load_state_dict(state)
            optimizer.param_groups[0].update(lr=lr, clipping=clipping)
            losses = found[clipping, lr] = []
            for images, labels in given:
                loss, gradients = slopes([param.asnumpy() for param in params], images, labels)
                losses.append(loss)
                if not np.isfinite(loss):
                    break
                optimizer(tuple(map(Tensor, gradients)))
    return found


def history(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What a training of scripts/nfnet has left: pairs of a step and a number, by what it is.

    Raises:
        OSError: If the folder has no `history.jsonl`.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    for line in (folder / "history.jsonl").read_text().splitlines():
        told = json.loads(line)
        step = told.pop("step")
        for name, value in told.items():
            found.setdefault(name, []).append((step, value))
    return found


def _tiled(count, columns, size):
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(size * columns, size * 0.8 * rows), layout="constrained")
    for unused in axes.ravel()[count:]:
        unused.set_axis_off()
    return figure, axes.ravel()[:count]


def draw_rates():
    """A plot for each schedule."""
    drawn = rates()
    figure, axes = _tiled(len(drawn), 4, 3)
    for plot, (name, values) in zip(axes, drawn.items()):
        plot.plot(values)
        plot.set(ylim=(0, 1.05), xlabel="step")
        plot.set_title("\n".join(textwrap.wrap(name.replace("_", " "), 30)).replace(" ", "_"), fontsize=9)
        if name == "ReduceLROnPlateau":
            plot.set(xlabel=f"step, of a loss that falls up to step {FALLS}")
    axes[0].set(ylabel="learning rate")
    return figure


def draw_averages():
    """What an average has of each value, by decay and by how it starts."""
    figure, (by_decay, by_schedule) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    for decay in (0.8, 0.9, 0.95, 0.99):
        by_decay.plot(shares(decay, "constant"), label=f"decay {decay:g}")
    for schedule in SCHEDULES:
        by_schedule.plot(shares(0.95, schedule, 30), marker=".", label=schedule)
    by_decay.set(title=f"share of each step's value in the average after {STEPS} steps", xlabel="step", yscale="log")
    by_schedule.set(title="after 30 steps, decay 0.95, by `schedule`; step 0 is the start", xlabel="step", yscale="log")
    for axes in (by_decay, by_schedule):
        axes.set(ylim=(1e-4, 1.3))
        axes.legend(fontsize=8)
    return figure


def draw_square():
    """X by step on 4*x*x, of each optimizer."""
    figure, axes = _tiled(len(followed()), 5, 2.8)
    for plot, name in zip(axes, followed()):
        lr, points = best_way(name, square, (1.0, 0.0), 40)
        plot.plot(points[:, 0], marker=".", markersize=3)
        plot.axhline(0, color="black", linewidth=0.5)
        plot.set(title=f"{name}, lr {lr:.2g}", ylim=(-1.1, 1.1))
    return figure


def draw_rosenbrock():
    """The way of each optimizer in the valley."""
    figure, axes = _tiled(len(followed()), 5, 3)
    x, y = np.meshgrid(*(np.linspace(*ends, 200) for ends in FRAME))
    height = np.log10((1 - x) ** 2 + 100 * (y - x**2) ** 2 + 1e-3)
    for plot, name in zip(axes, followed()):
        lr, points = best_way(name, rosenbrock, (-1.2, 1.0), among=seen)
        plot.contour(x, y, height, 15, linewidths=0.4, cmap="gray")
        plot.plot(*points.T, marker=".", markersize=3, linewidth=1, color="tab:red")
        plot.plot(1, 1, marker="*", color="tab:blue")
        plot.set(title=f"{name}, lr {lr:.2g}: {rosenbrock(points[-1])[0]:.1e}", xlim=FRAME[0], ylim=FRAME[1])
    return figure


def draw_clipping():
    """Losses with clipping and without it, by step and by learning rate."""
    clippings, lrs, shown = (0.01, 0.0), [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0], (0.05, 0.2)
    found = clipped(clippings, lrs)
    figure, (by_step, by_rate) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    for clipping, style in zip(clippings, ("-", "--")):
        name = f"clipping {clipping:g}" if clipping else "plain momentum"
        for lr, color in zip(shown, ("tab:blue", "tab:red")):
            losses = found[clipping, lr]
            ended = "" if np.isfinite(losses[-1]) else f", not finite at step {len(losses)}"
            by_step.plot(losses, style, color=color, linewidth=1, label=f"{name}, lr {lr:g}{ended}")
        ends = [np.mean(found[clipping, lr][-10:]) for lr in lrs]
        by_rate.plot(lrs, [end if np.isfinite(end) else np.nan for end in ends], f"{style}o", label=name)
    by_step.set(title="loss on digits, 9 layers without normalization", xlabel="step", ylim=(0, 5))
    by_rate.set(title=f"after {STEPS} steps; no point where it is not finite", xlabel="learning rate", ylim=(0, 3))
    by_rate.set_xscale("log")
    for axes in (by_step, by_rate):
        axes.legend(fontsize=8)
    return figure


def draw_runs(folders: Sequence[Path]):
    """Loss and accuracy of several trainings."""
    figure, (losses, accuracies) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    for folder in folders:
        told = history(folder)
        (line,) = losses.plot(*zip(*told["loss"]), label=folder.name, linewidth=1, marker=".", markersize=3)
        for name, style in (("accuracy", "-"), ("average", "--")):
            if name in told:  # one that came to no number has none, if that was in its first epoch
                points, label = zip(*told[name]), f"{folder.name}, {'weights' if name == 'accuracy' else name}"
                accuracies.plot(*points, color=line.get_color(), linestyle=style, label=label, marker=".")
    losses.set(title="loss of a batch", xlabel="step", yscale="log")
    accuracies.set(title="accuracy of what is held out", xlabel="step", ylim=(0, 1))
    for axes in (losses, accuracies):
        axes.legend(fontsize=8)
    return figure


PICTURES = {
    "rates": draw_rates,
    "averages": draw_averages,
    "square": draw_square,
    "rosenbrock": draw_rosenbrock,
    "clipping": draw_clipping,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(prog="parity.report.pictures", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures are written")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="folders of trainings")
    given = parser.parse_args(arguments)
    missing = [str(run) for run in given.runs if not (run / "history.jsonl").is_file()]
    if missing:
        parser.error(f"--runs must be folders that train.py has written, with history.jsonl, but got {missing}")
    given.folder.mkdir(parents=True, exist_ok=True)
    drawn = dict(PICTURES)
    if given.runs:
        drawn["runs"] = lambda: draw_runs(given.runs)
    for name, draw in drawn.items():
        figure = draw()
        figure.savefig(given.folder / f"{name}.png", dpi=110)
        plt.close(figure)
        print(given.folder / f"{name}.png")


if __name__ == "__main__":
    main()
