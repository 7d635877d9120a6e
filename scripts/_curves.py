"""Train the network of scripts/nfnet and timm's by one recipe, and draw both: loss, accuracy, and how far they part.

Both begin with the same weights and see the same images, augmented, in the same order. timm's network is trained in
PyTorch: in float64, which is the truth here, and in float32 three times, of which two have the images of a batch in
other orders. How far these part from the truth is what rounding does, and three times the farthest is what the training
in MindSpore is allowed, at every step. The picture also has both without clipping, for as long as the loss is finite.
"""

import argparse
import io
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
NFNET = ROOT / "scripts" / "nfnet"
sys.path[:0] = [str(NFNET), str(ROOT)]

import matplotlib  # noqa: E402
import mindspore as ms  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from _timm import Training, distance, networks, twin  # noqa: E402
from mindspore import nn  # noqa: E402
from src import dataset, training  # noqa: E402
from src.config import Recipe  # noqa: E402
from src.nfnet import ARCHITECTURES  # noqa: E402

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

HERE, TIMM, TRUTH = "MindSpore", "timm, float32", "timm, float64"
# timm's in float32 once more, with the images of a batch in an order that a seed draws
AGAIN = {f"{TIMM}, order {seed}": seed for seed in range(2)}
ALLOWED = 3
# Where rounding alone has parted timm's float32 from its float64 so far, runs are no longer the same to the eye.
PARTED = 1e-4
# What the twin is not asked to do, and why.
ALIKE = {
    "dropout": (0.0, "each framework draws by itself"),
    "drop_path": (0.0, "each framework draws by itself"),
    "approximate": (False, "timm computes the exact form"),
    "amp_level": ("O0", "float32 is compared"),
    "nesterov": (True, "timm's training is written with it"),
    "exempt": (("head.fc.*",), "timm's training is written with it"),
    "ema_schedule": ("timm", "it is the average of timm"),
}


class Ours:
    """The training of scripts/nfnet, by the step."""

    def __init__(self, recipe, steps_per_epoch):
        self.network, self.ema = training.build(recipe, steps_per_epoch)
        loss = nn.WithLossCell(self.network, training.Loss(recipe.label_smoothing))
        self.cell = nn.TrainOneStepCell(loss, self.ema).set_train()

    def step(self, images, targets, lr):
        """Take a step, which knows its learning rate, and give its loss."""
        return float(self.cell(ms.Tensor(images), ms.Tensor(targets)).asnumpy())

    def parameters(self, average=False):
        """Give the parameters, or their averages, in float64."""
        params = self.ema.averages if average else self.ema.parameters
        return {param.name.removeprefix("ema."): param.asnumpy().astype(np.float64) for param in params}

    def logits(self, images, average=False):
        """Give the logits of images, by the parameters or by their averages."""
        self.network.set_train(False)
        if average:
            with self.ema.average_parameters():
                logits = self.network(ms.Tensor(images)).asnumpy()
        else:
            logits = self.network(ms.Tensor(images)).asnumpy()
        self.cell.set_train()
        return logits


def begin(timm, recipe, steps_per_epoch, seeds):
    """All trainings by name, from the weights of the first.

    Args:
        timm (module): That of the networks.
        recipe (Recipe): How they are trained.
        steps_per_epoch (int): What the learning rates go by.
        seeds (dict[str, int]): Those of float32 that have other orders.
    """
    ms.set_seed(recipe.seed)
    ours = Ours(recipe, steps_per_epoch)
    weights = {name: torch.tensor(value) for name, value in ours.parameters().items()}

    def theirs(dtype, seed=None):
        network = twin(timm, ARCHITECTURES[recipe.model], recipe.in_channels, recipe.num_classes)
        network.load_state_dict(weights)
        said = recipe.weight_decay, recipe.clipping, recipe.ema_decay, recipe.momentum, recipe.label_smoothing
        return Training(network, dtype, *said, seed=seed)

    float32 = {TIMM: theirs(torch.float32), **{name: theirs(torch.float32, seed) for name, seed in seeds.items()}}
    return {HERE: ours, **float32, TRUTH: theirs(torch.float64)}


def compared(timm, recipe, tell=print):
    """Train all of them side by side.

    Args:
        timm (module): That of the networks.
        recipe (Recipe): How.
        tell (Callable): Is given a line for each epoch. Default: ``print`` .

    Returns:
        dict, by name of a training: of "loss" a number for each step, of "parted" and "average parted" how far it is
        from the truth at each step, of "accuracy" and "average" pairs of a step and a number.
    """
    pairs = dataset.read(recipe)
    batches, held = dataset.Batches(recipe, *pairs[0]), dataset.Held(recipe, *pairs[1])
    images, labels = (np.stack(parts) for parts in zip(*(held[i] for i in range(len(held)))))
    runs, rates = begin(timm, recipe, batches.per_epoch, AGAIN), training.rates(recipe, batches.per_epoch)
    kinds = {"parted": False, "average parted": True}
    told = {kind: {name: [] for name in runs} for kind in ("loss", *kinds, "accuracy", "average")}
    for step, lr in enumerate(rates):
        batch = batches[step]
        for name, run in runs.items():
            told["loss"][name].append(run.step(*batch, lr))
        for kind, average in kinds.items():
            truth = runs[TRUTH].parameters(average)
            for name, run in runs.items():
                told[kind][name].append(distance(run.parameters(average), truth))
        if (step + 1) % batches.per_epoch:
            continue
        for name, run in runs.items():
            for kind, average in (("accuracy", False), ("average", True)):
                right = np.concatenate(
                    [
                        run.logits(images[some : some + recipe.eval_batch_size], average).argmax(1)
                        for some in range(0, len(images), recipe.eval_batch_size)
                    ]
                )
                told[kind][name].append((step + 1, float((right == labels).mean())))
        losses = ", ".join(f"{name} {told['loss'][name][-1]:.6f}" for name in (HERE, TIMM, TRUTH))
        tell(f"step {step + 1}/{len(rates)}: {losses}")
    return told


def plain(timm, recipe):
    """The losses without clipping, up to the first that is not finite, by name of a training."""
    recipe = replace(recipe, clipping=0.0)
    batches = dataset.Batches(recipe, *dataset.read(recipe)[0])
    runs = begin(timm, recipe, batches.per_epoch, {})
    losses = {name: [] for name in runs}
    for step, lr in enumerate(training.rates(recipe, batches.per_epoch)):
        going = [name for name in runs if not losses[name] or math.isfinite(losses[name][-1])]
        if not going:
            break
        for name in going:
            losses[name].append(runs[name].step(*batches[step], lr))
    return losses


def allowed(parted):
    """How far a training may part at each step: three times as far as the farthest of timm's in float32."""
    return [ALLOWED * max(found) for found in zip(parted[TIMM], *(parted[name] for name in AGAIN))]


def findings(told, without):
    """What the picture shows, in numbers.

    Args:
        told (dict): What `compared` gives.
        without (dict): What `plain` gives.

    Returns:
        list[str], the lines.
    """
    lines, steps = [], len(told["loss"][HERE])
    for kind, what in (("parted", "weights"), ("average parted", "averages")):
        limit, found = allowed(told[kind]), told[kind][HERE]
        over = [step for step, (far, most) in enumerate(zip(found, limit), 1) if far > most]
        shares = [far / (most / ALLOWED) if far else 0.0 for far, most in zip(found, limit)]
        worst = int(np.argmax(shares))
        lines.append(
            f"{what}: within {ALLOWED} times float32's own error at {steps - len(over)} of {steps} steps; at most "
            f"{shares[worst]:.2f} times, at step {worst + 1}" + (f"; outside first at step {over[0]}" if over else "")
        )
        far = {name: told[kind][name] for name in (HERE, TIMM, *AGAIN)}
        for name, values in far.items():
            ticks = [f"{values[step - 1]:.1e} at {step}" for step in sorted({1, steps // 4, steps // 2, steps})]
            lines.append(f"  {name}: {', '.join(ticks)}")
        beyond = [step for step, most in enumerate(limit, 1) if most / ALLOWED > PARTED]
        if beyond:
            lines.append(f"  rounding alone parts timm's by {PARTED:g} from step {beyond[0]} on")
    for kind in ("accuracy", "average"):
        ends = ", ".join(f"{name} {told[kind][name][-1][1]:.2%}" for name in (HERE, TIMM, *AGAIN, TRUTH))
        lines.append(f"{kind}: {ends}")
    for name, losses in without.items():
        end = f"the loss is {losses[-1]}" if not math.isfinite(losses[-1]) else f"the loss is {losses[-1]:.4f}"
        lines.append(f"without clipping, {name}: {end} at step {len(losses)}")
    return lines


STYLES = {
    HERE: {"color": "tab:red", "linewidth": 2.5, "alpha": 0.6},
    TIMM: {"color": "tab:blue", "linewidth": 1},
    TRUTH: {"color": "black", "linewidth": 0.8, "linestyle": "--"},
    **{name: {"color": "tab:blue", "linewidth": 0.6, "alpha": 0.6} for name in AGAIN},
}


def draw(told, without, title):
    """Loss and accuracy, how far the weights are from the truth, and the loss without clipping."""
    figure, ((losses, accuracies), (parted, clipping)) = plt.subplots(2, 2, figsize=(12, 8), layout="constrained")
    steps = np.arange(1, len(told["loss"][HERE]) + 1)
    for name in (HERE, TIMM, TRUTH):
        losses.plot(steps, told["loss"][name], label=name, **STYLES[name])
        accuracies.plot(*zip(*told["accuracy"][name]), label=f"{name}, weights", **STYLES[name])
        style = {**STYLES[name], "linestyle": ":"}
        accuracies.plot(*zip(*told["average"][name]), label=f"{name}, average", **style)
    for name in (HERE, TIMM, *AGAIN):
        parted.plot(steps, np.maximum(told["parted"][name], 1e-9), label=name, **STYLES[name])
    limit = np.maximum(allowed(told["parted"]), 1e-9)
    parted.plot(steps, limit, color="tab:green", linewidth=1, linestyle="--", label=f"{ALLOWED} times the farthest")
    shown = 2 * max(map(len, without.values()))
    for name in (HERE, TIMM, TRUTH):
        clipping.plot(steps[:shown], told["loss"][name][:shown], label=f"{name}, clipped", **STYLES[name])
        drawn = [(step, loss) for step, loss in enumerate(without[name], 1) if math.isfinite(loss)]
        label = f"{name}, without: {without[name][-1]:.3g} at step {len(without[name])}"
        clipping.plot(*zip(*drawn), label=label, **{**STYLES[name], "linestyle": ":"})
    losses.set(title=title, xlabel="step", ylabel="loss of a batch", yscale="log")
    accuracies.set(title="what is held out", xlabel="step", ylabel="accuracy", ylim=(0, 1))
    parted.set(title=f"weights: distance from {TRUTH}, relative to their norm", xlabel="step", yscale="log")
    lowest = min(told["loss"][HERE][:shown])
    clipping.set(title="with and without clipping", xlabel="step", yscale="log", ylim=(lowest / 2, 1e4))
    for axes in (losses, accuracies, parted, clipping):
        axes.legend(fontsize=8)
    return figure


def main(arguments=None):
    """Train, print what came of it, and draw it."""
    parser = argparse.ArgumentParser(
        prog="pictures --timm", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where curves.svg is written")
    parser.add_argument("recipe", nargs="?", type=Path, default=NFNET / "configs" / "digits.yaml", help="the YAML")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="what is otherwise")
    given = parser.parse_args(arguments)
    try:
        recipe = Recipe.read(given.recipe, [f"ema_schedule={ALIKE['ema_schedule'][0]}", *given.set])
        for name, (value, why) in ALIKE.items():
            if getattr(recipe, name) != value:
                raise ValueError(
                    f"For 'curves', '{name}' must be {value!r}, because {why}, but got {getattr(recipe, name)!r}."
                )
        timm = networks()
    except ImportError:
        parser.error("For 'curves', timm must be installed, as `scripts/pictures --timm FOLDER` sees to it.")
    except (OSError, TypeError, ValueError) as error:
        parser.error(str(error))
    training.prepare(recipe)
    torch.set_num_threads(1)
    told, without = compared(timm, recipe), plain(timm, recipe)
    print("\n".join(findings(told, without)))
    given.folder.mkdir(parents=True, exist_ok=True)
    # text stays text, and the file is the same each time
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "curves"})
    figure = draw(told, without, f"{given.recipe.stem}, learning rate {recipe.lr:g}")
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    file = given.folder / "curves.svg"
    # a tenth of a point is not to be seen, and what follows it is a third of the file
    file.write_text(re.sub(r"(\.\d)\d+", r"\1", text.getvalue()), encoding="utf-8")
    print(file)


if __name__ == "__main__":
    main()
