"""Draws what the READMEs tell: learning rates, averages, the ways of the optimizers, and trainings of scripts/nfnet.

`python -m parity.report.pictures FOLDER` writes four pictures there, with `--runs` a fifth, of what `train.py` of
scripts/nfnet has left in other folders, such as one with clipping and one without.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

import ms_optim
from ms_optim import EMA, SGD, lr_scheduler
from ms_optim.ema.schedules import SCHEDULES
from ms_optim.lr_scheduler import table
from parity.cases import ENTRIES

matplotlib.use("Agg")
from matplotlib import pyplot as plt

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
    "cosine with warm-up": lambda o: lr_scheduler.get_cosine_schedule_with_warmup(o, 15, STEPS),
    "linear with warm-up": lambda o: lr_scheduler.get_linear_schedule_with_warmup(o, 15, STEPS),
}


def rates() -> dict[str, list[float]]:
    """The learning rates of each schedule by step."""
    return {name: table(schedule, 1.0, STEPS) for name, schedule in DRAWN.items()}


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


def best_way(name: str, function: Callable, start: Sequence[float], steps: int = STEPS) -> tuple[float, np.ndarray]:
    """The learning rate of `RATES` by which an optimizer ends at the lowest value, and its way there."""

    def end(rate):
        value = function(found[rate][-1])[0]
        return value if np.isfinite(value) else np.inf

    found = ways(name, function, start, steps)
    best = min(found, key=end)
    return best, found[best]


def followed() -> list[str]:
    """The optimizers that take one gradient in a step; LBFGS, which evaluates often, cannot be drawn beside them."""
    return [name for name, entry in ENTRIES.items() if entry.dense]


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
        plot.set(title=name, ylim=(0, 1.05), xlabel="step")
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
    x, y = np.meshgrid(np.linspace(-1.6, 1.6, 200), np.linspace(-0.6, 1.9, 200))
    height = np.log10((1 - x) ** 2 + 100 * (y - x**2) ** 2 + 1e-3)
    for plot, name in zip(axes, followed()):
        lr, points = best_way(name, rosenbrock, (-1.2, 1.0))
        plot.contour(x, y, height, 15, linewidths=0.4, cmap="gray")
        plot.plot(*points.T, marker=".", markersize=3, linewidth=1, color="tab:red")
        plot.plot(1, 1, marker="*", color="tab:blue")
        plot.set(title=f"{name}, lr {lr:.2g}: {rosenbrock(points[-1])[0]:.1e}", xlim=(-1.6, 1.6), ylim=(-0.6, 1.9))
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


PICTURES = {"rates": draw_rates, "averages": draw_averages, "square": draw_square, "rosenbrock": draw_rosenbrock}


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
