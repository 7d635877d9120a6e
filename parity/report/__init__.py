"""Shows outcomes: a table for the terminal, JSON and plots for a folder."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib
import numpy as np
from rich.table import Table

from parity.judge.compare import FREE_RATIO, RATIO, RELATIVE, Verdict
from parity.sides.trace import PARAMETER
from parity.suite import Fate, FreeRun, Outcome

matplotlib.use("Agg")
from matplotlib import pyplot as plt

VERDICT = {True: "[green]passed[/]", False: "[red]FAILED[/]"}


# How strictly what is compared is judged, and what the words in the tables mean.
_JUDGED = (
    f"What passes is no further from torch in float64 than {RATIO:g} times what torch in float32 is (the oracle ratio; "
    f"{FREE_RATIO:g} where a network trains freely), which is not equality: the share of equal bits is beside it."
)
_WAYS = (
    "graph, pynative: the modes of MindSpore. composed: its operators. native: the CPU kernel of the library. direct: "
    "the same called outside of a graph, with the same bits."
)
WORDS = f"{_JUDGED} maths: the rule in float64 on the host, equal to {RELATIVE:g}. {_WAYS}"


def first_words(trained: bool) -> str:
    """The same, and what was compared, for the first answer; whether a network was trained among it."""
    network = ", and a small NFNet on handwritten digits that MomentumAGC trains, with an average" if trained else ""
    return (
        "Compared are, of each optimizer, the quietest and the loudest case on gradients, or a loss, that are made up"
        f"{network}: every parameter and slot at every step. {_JUDGED} {_WAYS}"
    )


def job_line(name: str, outcomes: Iterable[Outcome | FreeRun], done: int, total: int, seconds: float) -> str:
    """What is printed when a part is done."""
    passed = [outcome.passed for outcome in outcomes]
    return f"{done:{len(str(total))}}/{total} {seconds:4.0f} s  {VERDICT[all(passed)]}  {name}, {len(passed)} compared"


def summary_table(done: Mapping[str, Iterable[Outcome | FreeRun]]) -> Table:
    """One row for each part, with the worst of its comparisons: parameters first, then the state."""
    result = Table(title="parameters / state, against torch in float64", title_justify="left")
    for heading in ("", "run as"):
        result.add_column(heading, overflow="fold")
    for heading in ("oracle ratio", "worst ulps", "bit-equal", "verdict"):
        result.add_column(heading, justify="right", no_wrap=True)
    for name, outcomes in done.items():
        legs = [(leg, verdict) for outcome in outcomes for leg, verdict in outcome.modes.items()]
        judged = [verdict for leg, verdict in legs if not leg.endswith("direct")]
        result.add_row(
            name,
            ", ".join(dict.fromkeys(leg for leg, _ in legs)),
            _pair(judged, "ratio", "{:.2f}"),
            _pair(judged, "ulps", "{:.3g}"),
            _pair(judged, "bit_equal", "{:.1%}", min),
            VERDICT[all(outcome.passed for outcome in outcomes)],
        )
    return result


def case_table(outcomes: Iterable[Outcome]) -> Table:
    """One row for each case, problem and mode: parameters first, then the worst of the state."""
    result = Table(title="parameters / state, against torch in float64", title_justify="left")
    for heading in ("case", "problem"):
        result.add_column(heading, overflow="fold")
    for heading in ("maths", "mode", "oracle ratio", "worst ulps", "bit-equal", "verdict"):
        result.add_column(heading, justify="right", no_wrap=True)
    for outcome in outcomes:
        exact = _worst(outcome.maths.scores.values(), "ulps") * np.finfo(np.float64).eps
        exact = f"{exact:.0e}" if outcome.maths.scores else ""
        first = str(outcome.case), outcome.problem, exact if outcome.maths.passed else VERDICT[False]
        for mode, verdict in outcome.modes.items():
            cells = [
                _pair([verdict], "ratio", "{:.2f}"),
                _pair([verdict], "ulps", "{:.3g}"),
                _pair([verdict], "bit_equal", "{:.1%}", min),
            ]
            result.add_row(*first, mode, *cells, VERDICT[verdict.passed and outcome.maths.passed])
            first = "", "", ""
    return result


def free_table(runs: Iterable[FreeRun]) -> Table:
    """One row for each network that was trained by both frameworks, and mode."""
    result = Table(
        title=f"trained freely: the weights part by at most {FREE_RATIO:g} times what torch float32 parts from float64",
        title_justify="left",
    )
    for heading in ("case", "network"):
        result.add_column(heading, overflow="fold")
    for heading in ("mode", "divergence ratio", "worst ulps", "accuracy", "torch's accuracy", "verdict"):
        result.add_column(heading, justify="right", no_wrap=True)
    for run in runs:
        first = str(run.case), run.problem
        for mode, verdict in run.modes.items():
            result.add_row(
                *first,
                mode,
                _pair([verdict], "ratio", "{:.2f}"),
                _pair([verdict], "ulps", "{:.3g}"),
                f"{run.accuracy[mode]:.1%}",
                f"{run.accuracy['torch']:.1%}",
                VERDICT[verdict.passed],
            )
            first = "", ""
    return result


def _worst(scores, field, pick=max):
    return pick((getattr(score, field) for score in scores), default=float("nan"))


def _pair(verdicts, field, form, pick=max):
    """The worst figure of the parameters and that of the slots; an optimizer may have no state."""
    scores = [item for verdict in verdicts for item in verdict.scores.items()]
    parts = [[score for kind, score in scores if (kind == PARAMETER) == wanted] for wanted in (True, False)]
    return " / ".join(form.format(_worst(part, field, pick)) if part else "-" for part in parts)


def failures(outcomes: Iterable[Outcome | FreeRun]) -> list[str]:
    """A sentence for each leg that failed: what is missing, or where it first leaves the reference."""
    return [
        f"{outcome.case} on {outcome.problem}, {leg}: {verdict}"
        for outcome in outcomes
        for leg, verdict in outcome.verdicts.items()
        if not verdict.passed
    ]


def mutant_table(fates: Iterable[Fate]) -> Table:
    """One row for each mutant: the case that caught it, what was judged (rule or graph) and by how much it is off."""
    result = Table(title="mutants", title_justify="left")
    for heading in ("optimizer", "mistake", "caught by", "judged", "oracle ratio", "verdict"):
        result.add_column(heading, overflow="fold")
    for fate in fates:
        ratio = _worst(fate.verdict.scores.values(), "ratio") if fate.caught else float("nan")
        result.add_row(
            fate.mutant.optimizer,
            fate.mutant.mistake,
            str(fate.case or ""),
            fate.leg or "",
            f"{ratio:.3g}",
            "[green]caught[/]" if fate.caught else "[red]ALIVE[/]",
        )
    return result


def write(outcomes: Iterable[Outcome | FreeRun], folder: Path) -> list[Path]:
    """Write `parity.json`, and one figure for each leg that has a budget, into a folder that is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "parity.json"]
    outcomes = list(outcomes)
    written[0].write_text(json.dumps([_outcome_as_dict(outcome) for outcome in outcomes], indent=1) + "\n")
    for i, outcome in enumerate(outcomes):
        for mode, verdict in outcome.modes.items():
            if verdict.ours and verdict.reference:
                name = re.sub(r"\W+", "-", f"{outcome.case}")[:60].strip("-")
                how = f"{outcome.problem}-free" if isinstance(outcome, FreeRun) else outcome.problem
                written.append(folder / f"{i:03d}-{name}-{how}-{mode}.png")
                plot(verdict, f"{outcome.case}\n{how}, {mode}", written[-1])
    return written


def _outcome_as_dict(outcome: Outcome | FreeRun) -> dict:
    result = {
        "case": str(outcome.case),
        "problem": outcome.problem,
        "passed": outcome.passed,
        "legs": {leg: _verdict_as_dict(verdict) for leg, verdict in outcome.verdicts.items()},
    }
    return result | ({"accuracy": outcome.accuracy} if isinstance(outcome, FreeRun) else {})


def _verdict_as_dict(verdict: Verdict) -> dict:
    divergence = verdict.divergence
    return {
        "passed": verdict.passed,
        "problems": list(verdict.problems),
        "first_divergence": divergence and vars(divergence),
        "scores": {kind: vars(score) for kind, score in verdict.scores.items()},
    }


def plot(verdict: Verdict, title: str, path: Path):
    """Draw error against step, the histogram of errors, and the heat map of parameter by step."""
    figure, (curves, histogram, heat) = plt.subplots(1, 3, figsize=(18, 5), layout="constrained")
    figure.suptitle(title, fontsize=9)
    for kind in verdict.scores:
        ours, reference = (_per_step(run, kind) for run in (verdict.ours, verdict.reference))
        (line,) = curves.plot(ours, label=f"{kind}, ours")
        curves.plot(reference, "--", color=line.get_color(), label=f"{kind}, torch float32")
    curves.set(xlabel="step", ylabel="worst error, ulps", yscale="symlog", title="distance from torch float64")
    curves.legend(fontsize=7)
    sizes = {"ours": _log_sizes(verdict.ours), "torch float32": _log_sizes(verdict.reference)}
    bins = np.arange(-7.0, np.ceil(max(values.max(initial=1.0) for values in sizes.values())) + 1)
    for label, values in sizes.items():
        histogram.hist(values.clip(bins[0]), bins, histtype="step", label=label)
    histogram.set(xlabel="log2 of the error in ulps", ylabel="elements", yscale="log", title="errors that are not zero")
    histogram.legend(fontsize=7)
    rows = [key for key in verdict.ours if key[0] == PARAMETER]
    grid = np.array([[float(step.max(initial=0.0)) for step in verdict.ours[key]] for key in rows])
    image = heat.imshow(np.log2(1 + np.nan_to_num(grid, posinf=2.0**24)), aspect="auto", interpolation="nearest")
    heat.set_yticks(range(len(rows)), [name for _, name in rows], fontsize=6)
    heat.set(xlabel="step", title="parameters: log2 of 1 + worst ulps")
    figure.colorbar(image)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _log_sizes(run):
    values = np.concatenate([step.ravel() for steps in run.values() for step in steps])
    return np.log2(values[np.isfinite(values) & (values > 0)])


def _per_step(run, kind):
    return np.max(
        [[float(step.max(initial=0.0)) for step in steps] for key, steps in run.items() if key[0] == kind], axis=0
    )
