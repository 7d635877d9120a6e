"""`python -m parity` from the command line."""

import json
import os
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from parity import jobs, report, suite
from parity.__main__ import arguments, main
from parity.cases import CASES, ENTRIES, networks
from parity.cases.draws import Draw
from parity.cases.problems import PART, synthetic
from parity.hunt.causes import SAME
from parity.hunt.rules import hunt
from parity.judge.compare import Verdict, compare
from parity.report import files
from parity.verbs import budget

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("full", "cases"), [([], CASES["SGD"][:: len(CASES["SGD"]) - 1]), (["--full"], CASES["SGD"])])
def test_lists_cases(full, cases, capsys):
    """Each case that is run is a line, and names select."""
    assert main(["SGD", "--list", *full]) == 0
    assert capsys.readouterr().out.splitlines() == [str(case) for case in cases]


CASE = str(Draw("SGD", {"a": ((2,), 1.0, "normal")}, 2))


def drawn(**changed):
    """The command line of a draw in which something is changed."""
    return ["--case", json.dumps({**json.loads(CASE), **changed})]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["AdmW"], "unknown optimizer 'AdmW', which has no entry; did you mean 'AdamW'?"),
        (["sgd"], "did you mean 'SGD'?"),
        (["--workers", "0"], "--workers must be at least 1, but got 0"),
        (["--steps", "1"], "--steps must be at least 2, but got 1"),
        (["--steps", "many"], "invalid int value: 'many'"),
        (["--mode", "eager"], "invalid choice: 'eager'"),
        (["SGD", "--junit", "."], "--junit must be such as can be written, but got '.': it is a folder"),
        (["SGD", "--record", "none", "--report", "none"], "--record must be without --report, which it does nothing"),
        (["SGD", "--record", "none", "--mode", "both"], "--record must be without --mode, which it does nothing with"),
        (["SGD", "--mutants", "--junit", "none"], "--mutants must be without --junit, which it does nothing with"),
        (["SGD", "--list", "--report", "none"], "--list must be without --report, which it does nothing with"),
        (["SGD", "--list", "--mutants"], "--list must be without --mutants, which it does nothing with"),
        (["SGD", "--list", "--steps", "5"], "--list must be without --steps, which it does nothing with"),
        (["SGD", "--list", "--workers", "2"], "--list must be without --workers, which it does nothing with"),
        (["SGD", "--mutants", "--workers", "2"], "--mutants must be without --workers, which it does nothing with"),
        (["--case", CASE, "--mode", "both"], "--case must be without --mode, which it does nothing with"),
        (["Adam", "--case", CASE], "--case must be without names, because it has its own, but got ['Adam']"),
        (drawn(optimizer="Foo"), "--case: the optimizer of a case must be one of ASGD, Adadelta, "),
        (drawn(optimizer="LBFGS"), "--case: the optimizer of a case must be one of ASGD, Adadelta, "),
        (drawn(parameters={}), "--case: the parameters of a case must be an object with at least one, but got {}"),
        (drawn(parameters={"a": ((2,), 1.0, "odd")}), "--case: the regime of a case must be one of normal, "),
        (drawn(absent={"b": (0,)}), "--case: the absent gradients of a case must be of its parameters and steps, "),
        (drawn(absent={"a": (99,)}), "--case: the absent gradients of a case must be of its parameters and steps, "),
        (drawn(kwargs={"foo": 1}), "--case: the arguments of SGD must be in ['dampening', "),
        (drawn(groups=(("a", {"fused": True}),)), "'weight_decay'], but got ['fused']"),
        (["audit", "--json", "/dev/null/x"], "--json must be such as can be written, but got '/dev/null/x'"),
    ],
)
def test_bad_arguments(argv, message, capsys):
    """They exit with 2 and say what is allowed."""
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not os.path.exists("none")


def test_what_a_comparison_allows_is_said(capsys):
    """In its help, and the same in the README."""
    for verb in ("compare", "replay"):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        said = " ".join(capsys.readouterr().out.split())
        assert (budget() in said) == (verb == "compare")
    assert f"of a loss or a gradient {SAME:g}, or" in budget()
    assert budget() in " ".join((ROOT / "parity" / "README.md").read_text().replace("`", "").split())


def test_a_name_is_taken_once():
    """Though it was given twice."""
    assert arguments(["SGD", "Adam", "SGD"]).names == ["SGD", "Adam"]


def test_report_must_be_a_folder(tmp_path, capsys):
    """A file in its place, or above it, is told before the run."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "report"):
        with pytest.raises(SystemExit):
            main(["SGD", "--report", str(folder)])
        assert "--report must be such as can be written, but got" in capsys.readouterr().err


def test_what_has_no_gradients_is_not_recorded(tmp_path, capsys):
    """It is named with why; and if there is nothing else, nothing is made."""
    assert main(["LBFGS", "--record", str(tmp_path / "cases")]) == 2
    assert capsys.readouterr().out.startswith("LBFGS cannot be recorded: its step evaluates a closure as often")
    assert not (tmp_path / "cases").exists()


@pytest.fixture
def part(monkeypatch):
    """Run on some parameters of the problem, and with a network of one block."""
    monkeypatch.setattr(jobs, "synthetic", lambda *args, **kwargs: synthetic(*args, **kwargs).part(PART))
    monkeypatch.setattr(networks, "BLOCKS", networks.BLOCKS[:1])


def test_runs_and_reports(tmp_path, monkeypatch, capsys, part):
    """The table names the case, the JSON holds the scores, and each mode has a plot."""
    monkeypatch.setattr("parity.__main__.STEPS", 3)
    monkeypatch.setattr("parity.__main__.FREE_STEPS", 12)
    monkeypatch.setitem(CASES, "SGD", CASES["SGD"][-1:])
    folder, junit = tmp_path / "new" / "report", tmp_path / "junit.xml"
    assert (
        main(["SGD", "--full", "--mode", "graph", "--workers", "1", "--report", str(folder), "--junit", str(junit)])
        == 0
    )
    count = len(CASES["SGD"]) + 3
    output = capsys.readouterr().out
    assert (
        f"{count} of {count} comparisons are as near to the truth as PyTorch: mode graph, 3 steps, 12 where" in output
    )
    assert all(f"passed  {part} compared" in output for part in ("SGD, 2", "nfnet, trained by SGD, 2"))
    told = json.loads((folder / "parity.json").read_text())
    outcomes, about = told["outcomes"], told["about"]
    assert {"mindspore", "torch", "processor", "cores", "command", "seed"} <= {*about}
    assert [outcome["case"] for outcome in outcomes[:-3]] == [str(case) for case in CASES["SGD"]]
    assert outcomes[-3]["case"].startswith(f"EMA({CASES['SGD'][-1]}, ")
    assert [outcome["problem"] for outcome in outcomes[-3:]] == ["synthetic, resumed", "nfnet", "nfnet"]
    accuracy = outcomes[-1]["accuracy"]
    assert accuracy["graph"] == pytest.approx(accuracy["torch"], abs=0.01) and accuracy["torch"] > 0.1
    assert all(
        leg["scores"]["parameter"]["ratio"] <= (suite.FREE_RATIO if "accuracy" in outcome else 3)
        for outcome in outcomes
        for name, leg in outcome["legs"].items()
        if "graph" in name
    )
    assert set(outcomes[0]["legs"]) == {"maths", "graph composed", "graph native", "graph direct"}
    assert set(outcomes[-3]["legs"]) == {
        "graph from torch",
        "torch from graph",
        "graph from .ckpt",
        "graph from .safetensors",
    }
    page = (folder / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * count - 1 and "http" not in page
    assert f"{count} of\n{count}</span> comparisons" in page and about["processor"] in page
    assert all(page.count(f"<code>{outcome['case']}</code>".replace("'", "&#39;")) for outcome in outcomes)
    suite_of_tests = ElementTree.parse(junit).getroot()
    legs = sum(len(outcome["legs"]) for outcome in outcomes)
    assert suite_of_tests.get("tests") == str(legs) == str(len(suite_of_tests.findall("testcase")))
    assert suite_of_tests.get("failures") == "0"


def test_a_failure_is_red(monkeypatch, capsys):
    """Exit code 1, and the leg and its reason."""
    case = CASES["SGD"][0]
    failed = suite.Outcome(case, "synthetic", Verdict(), {"graph": Verdict(problems=("exp_avg of 'x' is missing",))})
    monkeypatch.setattr(suite, "as_users_run", lambda *_: failed)
    assert main(["SGD", "--workers", "1"]) == 1
    output = capsys.readouterr().out
    assert "SGD() on synthetic, graph: failed: exp_avg of 'x' is missing" in output
    assert "0 of" in output
    assert report.failures([failed])


def test_a_failure_is_drawn(tmp_path):
    """Where it parts, in the page and in JUnit's XML; and its section is open."""
    case, problem = CASES["SGD"][1], synthetic(6, absent=False)
    (fate,) = hunt(ENTRIES["SGD"].mutants[:1], problem)
    failed = suite.Outcome(case, problem.name, Verdict(), {"graph": fate.verdict})
    files.write([failed], tmp_path)
    files.write_junit([failed], tmp_path / "junit.xml")
    page = (tmp_path / "index.html").read_text()
    assert '<details id="case1" open>' in page and "first leaves the reference at step" in page
    assert page.count("data:image/png;base64,") == 1 and '<tr class="failed">' in page
    (failure,) = ElementTree.parse(tmp_path / "junit.xml").getroot().iter("failure")
    assert "first leaves the reference at step" in failure.get("message")


def test_what_is_not_finite_is_a_string_in_json(tmp_path):
    """Of which a reader elsewhere would understand neither NaN nor Infinity."""
    runs = (np.nan, "f4"), (2, "f4"), (2, "f8")
    verdict = compare(*({("parameter", "w"): [np.array([1, value], dtype)]} for value, dtype in runs))
    files.write([suite.Outcome(CASES["SGD"][0], "synthetic", None, {"graph": verdict})], tmp_path)

    def refused(constant):
        raise ValueError(constant)

    told = json.loads((tmp_path / "parity.json").read_text(), parse_constant=refused)
    divergence = told["outcomes"][0]["legs"]["graph"]["first_divergence"]
    assert (divergence["ours"], divergence["reference"], divergence["ulps"]) == ("nan", 2.0, "inf")


def test_a_first_answer(monkeypatch, capsys, part):
    """Of some optimizers: a line as each is done and a row for each, and how strictly they were compared."""
    monkeypatch.setattr("parity.__main__.FIRST_FREE_STEPS", 3)
    assert main(["Lion", "LBFGS", "MomentumAGC", "--workers", "1", "--steps", "5"]) == 0
    output = capsys.readouterr().out
    lines, _, rest = output.partition("parameters / state")
    found = [re.fullmatch(r"(\d)/4 +\d+ s  passed  (.*), (\d) compared", line).groups() for line in lines.splitlines()]
    assert found == [("1", "nfnet, trained", "1"), ("2", "Lion", "2"), ("3", "LBFGS", "2"), ("4", "MomentumAGC", "2")]
    ways = {"Lion": "composed", "MomentumAGC": "native, graph direct", "LBFGS": "", "nfnet, trained": ""}
    for name, way in ways.items():
        assert re.search(rf"{name} +│ graph ?{way} +│", rest)
    assert "7 of 7 comparisons are as near to the truth as PyTorch: mode graph, 5 steps, 3 where" in rest
    assert "the share of equal bits is beside it" in " ".join(rest.split())


def test_every_optimizer_is_in_the_first_answer():
    """Its quietest and its loudest case, and the network that the average is trained with."""
    found = jobs.first_answer(ENTRIES, ("graph",), 3, 3)
    assert [job.name for job in found] == ["nfnet, trained", *ENTRIES]
    for job in found[1:]:
        cases = ENTRIES[job.name].cases
        assert [part.args[0] for part in job.parts] == [cases[0], cases[-1]]


# By a signal to a process that waits for others, to one of its threads that is not the one that waits, or, as by the
# keys, to all processes.
INTERRUPTED = """
import ctypes, os, signal, sys, threading
from parity import jobs
from parity.__main__ import main

def stuck(keep):
    parent = os.getppid()
    if sys.argv[1] == "process":
        os.kill(parent, signal.SIGINT)
    elif sys.argv[1] == "all":
        os.killpg(os.getpgid(parent), signal.SIGINT)
    else:
        ctypes.CDLL(None).tgkill(parent, max(map(int, os.listdir(f"/proc/{parent}/task"))), signal.SIGINT)
    threading.Event().wait()

class Stuck:
    name = "Adam"
    run = staticmethod(stuck)

if __name__ == "__main__":
    first = jobs.first_answer
    # a job that is done would wake up the one that waits
    jobs.first_answer = lambda *asked: [*([Stuck()] if sys.argv[1] == "thread" else first(*asked)), Stuck()]
    raise SystemExit(main(["SGD", "--workers", "2", "--steps", "2"]))
"""
# In one process: where MindSpore has compiled, which takes the signal for itself, and while it compiles.
ALONE = """
import os, signal, sys, threading
from parity import jobs
from parity.__main__ import main

def kill():
    os.kill(os.getpid(), signal.SIGINT)

class Stuck:
    name = "Adam"
    def run(self, keep):
        kill()
        threading.Event().wait(60)

class Compiling:
    name = "Adam"
    def run(self, keep):
        from mindspore import Tensor, nn
        from mindspore.ops.primitive import constexpr
        killed = constexpr(kill)
        class Net(nn.Cell):
            def construct(self, x):
                killed()
                return x
        Net()(Tensor(1.0))
        return []

first = jobs.first_answer
jobs.first_answer = lambda *asked: [*first(*asked), {"stuck": Stuck, "compiling": Compiling}[sys.argv[1]](), Stuck()]
raise SystemExit(main(["SGD", "--workers", "1", "--steps", "2"]))
"""


@pytest.mark.parametrize(
    ("script", "done", "way"),
    [
        (INTERRUPTED, "[01]", "process"),
        (INTERRUPTED, "0", "thread"),
        (INTERRUPTED, "[01]", "all"),
        (ALONE, "1", "stuck"),
        (ALONE, "[12]", "compiling"),
    ],
)
def test_stopped_it_prints_what_is_done(script, done, way, forks, tmp_path):
    """And ends with the code of Ctrl-C, leaving no process behind."""
    file = tmp_path / "interrupted.py"
    file.write_text(script)
    ended = forks.started(ROOT, file, way).ended()
    assert ended.returncode == 130, ended.stderr
    assert re.search(rf"stopped after {done} of \d parts", ended.stdout)
    assert "comparisons are as near to the truth as PyTorch" in ended.stdout
    assert "Traceback" not in ended.stderr
