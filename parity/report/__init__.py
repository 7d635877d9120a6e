"""Shows outcomes: tables for the terminal here; a page, JSON and JUnit in `parity.report.files`."""

from collections.abc import Iterable, Mapping

import numpy as np
from rich.table import Table

from parity.hunt.mutants import Fate
from parity.hunt.naming import Named
from parity.judge.compare import FREE_RATIO, RATIO, RELATIVE
from parity.sides.trace import PARAMETER
from parity.suite import FreeRun, Outcome

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
        told, right = "", outcome.maths is None or outcome.maths.passed
        if outcome.maths:
            exact = _worst(outcome.maths.scores.values(), "ulps") * np.finfo(np.float64).eps
            told = f"{exact:.0e}" if right else VERDICT[False]
        first = str(outcome.case), outcome.problem, told
        for mode, verdict in outcome.modes.items():
            cells = [
                _pair([verdict], "ratio", "{:.2f}"),
                _pair([verdict], "ulps", "{:.3g}"),
                _pair([verdict], "bit_equal", "{:.1%}", min),
            ]
            result.add_row(*first, mode, *cells, VERDICT[verdict.passed and right])
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


def named_table(named: Iterable[Named]) -> Table:
    """One row for each optimizer: how many of its mutants the diagnosis names, alone or among others, or wrongly."""
    result = Table(title="mutants, diagnosed where they show", title_justify="left")
    for heading in ("optimizer", "named alone", "among others", "show in no case", "something else is named"):
        result.add_column(heading, overflow="fold")
    for row in named:
        counts = row.alone, row.among, row.hidden
        result.add_row(row.optimizer, *map(str, counts), "; ".join(row.wrongly))
    return result


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
