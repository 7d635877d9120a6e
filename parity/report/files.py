"""Writes outcomes into files: a page that needs nothing else, JSON with the same, and JUnit."""

import base64
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import jinja2

from parity.command_line import write_json
from parity.judge.compare import Verdict
from parity.report import WORDS, failures
from parity.report.plots import drawn
from parity.suite import FreeRun, Outcome

# How many tensors of a leg are shown, those that are nearest to what is allowed.
TENSORS = 8


def about(threads: str | None) -> dict[str, str]:
    """What a run was made with; of threads None are as many as there were by themselves."""
    packages = {name: version(name) for name in ("mindspore", "torch", "numpy")}
    return {
        "command": " ".join(["python -m parity", *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **packages,
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads": threads or "as many as the libraries choose",
        "system": platform.system(),
        "seed": "0",
    }


def _processor():
    """What Linux calls it, or Python."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def write(outcomes: Iterable[Outcome | FreeRun], folder: Path, threads: str | None = None) -> list[Path]:
    """Write `index.html` and `parity.json` into a folder that is made if need be; each process had so many threads."""
    folder.mkdir(parents=True, exist_ok=True)
    outcomes, made_with = list(outcomes), about(threads)
    page, data = folder / "index.html", folder / "parity.json"
    write_json(data, {"about": made_with, "outcomes": [_outcome_as_dict(outcome) for outcome in outcomes]})
    page.write_text(_page(outcomes, made_with), encoding="utf-8")
    return [page, data]


def write_junit(outcomes: Iterable[Outcome | FreeRun], file: Path, threads: str | None = None) -> None:
    """Write a test case for each leg, as JUnit has it; each process had so many threads."""
    outcomes = list(outcomes)
    legs = [
        (f"{outcome.case} on {outcome.problem}", leg, verdict)
        for outcome in outcomes
        for leg, verdict in outcome.verdicts.items()
    ]
    failed = sum(not verdict.passed for _, _, verdict in legs)
    suite = ElementTree.Element("testsuite", name="parity", tests=str(len(legs)), failures=str(failed))
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in about(threads).items():
        ElementTree.SubElement(properties, "property", name=name, value=value)
    for case, leg, verdict in legs:
        element = ElementTree.SubElement(suite, "testcase", classname=case, name=leg)
        if not verdict.passed:
            ElementTree.SubElement(element, "failure", message=str(verdict))
    ElementTree.ElementTree(suite).write(file, encoding="utf-8", xml_declaration=True)


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


def _page(outcomes: list[Outcome | FreeRun], made_with: Mapping[str, str]) -> str:
    environment = jinja2.Environment(loader=jinja2.PackageLoader("parity", "report"), autoescape=True, trim_blocks=True)
    sections = [
        {
            "title": str(outcome.case),
            "problem": outcome.problem + (", trained freely" if isinstance(outcome, FreeRun) else ""),
            "passed": outcome.passed,
            "accuracy": outcome.accuracy if isinstance(outcome, FreeRun) else {},
            "legs": [
                {
                    "name": leg,
                    "passed": verdict.passed,
                    "says": str(verdict),
                    "scores": verdict.scores,
                    "tensors": _tensors(verdict),
                    "plot": _embedded(verdict),
                }
                for leg, verdict in outcome.verdicts.items()
            ],
        }
        for outcome in outcomes
    ]
    return environment.get_template("page.html").render(
        sections=sections,
        passed=sum(outcome.passed for outcome in outcomes),
        failures=failures(outcomes),
        about=made_with,
        words=WORDS,
    )


def _tensors(verdict: Verdict) -> list[dict]:
    """The tensors that are nearest to what they may be off, or beyond it."""
    if not (verdict.allowed and verdict.reference):
        return []

    def worst(steps):
        return max((float(step.max(initial=0.0)) for step in steps), default=0.0)

    rows = [
        {
            "kind": kind,
            "name": name,
            "ours": worst(steps),
            "torch": worst(verdict.reference[kind, name]),
            "allowed": verdict.allowed[kind, name],
        }
        for (kind, name), steps in verdict.ours.items()
    ]
    return sorted(rows, key=lambda row: -row["ours"] / row["allowed"])[:TENSORS]


def _embedded(verdict: Verdict) -> str:
    """A plot, as the page holds it; of bits there is nothing to draw."""
    if not (verdict.allowed and verdict.reference):
        return ""
    return base64.b64encode(drawn(verdict)).decode("ascii")
