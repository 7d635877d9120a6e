"""Draws a verdict: how far a run is from the truth, and of what is allowed."""

import io

import matplotlib
import numpy as np

from parity.judge.compare import Verdict
from parity.sides.trace import PARAMETER

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# What is exact is drawn at the foot of a logarithmic axis.
FLOOR = 2.0**-3


def drawn(verdict: Verdict) -> bytes:
    """A PNG: errors by step, of each kind the worst; the share of what is allowed; and of each parameter by step."""
    figure, (curves, shares, heat) = plt.subplots(1, 3, figsize=(15, 3.6), layout="constrained")
    for kind in verdict.scores:
        ours, reference = (_per_step(run, kind) for run in (verdict.ours, verdict.reference))
        steps = range(len(ours))
        # The reference is wide and pale, so that it is seen where ours is the same.
        (line,) = curves.plot(steps, ours.clip(FLOOR), marker=".", markersize=4, linewidth=1, label=f"{kind}, ours")
        curves.plot(steps, reference.clip(FLOOR), color=line.get_color(), alpha=0.3, linewidth=5, label="torch float32")
        shares.plot(steps, _shares(verdict, kind), marker=".", markersize=4, linewidth=1, label=kind)
    curves.set(xlabel="step", ylabel="ulps of the largest magnitude", yscale="log", title="worst error, from float64")
    shares.axhline(1.0, color="red", linewidth=1.5, label="the limit")
    shares.set(xlabel="step", ylabel="error / what is allowed", yscale="log", title="the tensor that is nearest to it")
    if verdict.divergence:
        for axes in (curves, shares):
            axes.axvline(verdict.divergence.step, color="red", linestyle=":")
        shares.annotate(
            f" parts at step {verdict.divergence.step}:\n {verdict.divergence.kind} of {verdict.divergence.parameter}",
            (verdict.divergence.step, 1.0),
            fontsize=8,
            color="red",
        )
    for axes in (curves, shares):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    rows = [key for key in verdict.ours if key[0] == PARAMETER]
    grid = np.array(
        [[float(step.max(initial=0.0)) / verdict.allowed[key] for step in verdict.ours[key]] for key in rows]
    )
    image = heat.imshow(
        np.nan_to_num(grid, posinf=2.0).clip(0, 2), aspect="auto", interpolation="nearest", vmin=0, vmax=1
    )
    heat.set_yticks(range(len(rows)), [name for _, name in rows], fontsize=6)
    heat.set(xlabel="step", title="parameters: error / what is allowed")
    figure.colorbar(image)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=72)
    plt.close(figure)
    return file.getvalue()


def _per_step(run, kind):
    return np.max(
        [[float(step.max(initial=0.0)) for step in steps] for key, steps in run.items() if key[0] == kind], axis=0
    )


def _shares(verdict, kind):
    """Of the tensors of a kind, at each step the largest share of what it may be off."""
    of_tensors = [
        [float(step.max(initial=0.0)) / verdict.allowed[key] for step in steps]
        for key, steps in verdict.ours.items()
        if key[0] == kind
    ]
    return np.max(of_tensors, axis=0).clip(FLOOR / 100)
