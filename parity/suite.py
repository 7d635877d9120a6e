"""The parity suite: the three legs on each case."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import ms_optim
from ms_optim._native import obstacle
from parity.cases import Case
from parity.cases.losses import MINIMIZING_STEPS, Loss
from parity.cases.networks import initial_weights
from parity.cases.problems import PART, Problem
from parity.judge.compare import FREE_RATIO, Verdict, compare, compare_bits, compare_exactly
from parity.sides import mindspore as mindspore_side
from parity.sides import mindspore_networks, rules, torch_networks
from parity.sides import torch as torch_side
from parity.sides.trace import Recorder

# What a resumed run has besides its optimizer: a schedule of the host, by its name in both frameworks, and an average.
SCHEDULE = ("CosineAnnealingLR", {"T_max": 12})
AVERAGE = {"decay": 0.9, "schedule": "timm"}


@dataclass(frozen=True)
class Outcome:
    """What the legs say of one case: the mathematics in float64, and the arithmetic in each mode and path."""

    case: Case
    problem: str
    maths: Verdict | None
    modes: dict[str, Verdict]

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """Each verdict, by the name of its leg."""
        return {**({"maths": self.maths} if self.maths else {}), **self.modes}

    @property
    def passed(self) -> bool:
        """Whether every leg stands."""
        return all(verdict.passed for verdict in self.verdicts.values())

    @property
    def brief(self) -> "Outcome":
        """The same without the errors of each element, which only plots show."""
        return replace(
            self, maths=self.maths and self.maths.brief, modes={mode: leg.brief for mode, leg in self.modes.items()}
        )


def verify(
    case: Case,
    problem: Problem,
    modes: Iterable[str],
    on: Iterable[str] = ("composed", "native"),
    maths: bool = True,
) -> Outcome:
    """Run the legs on a case: the mathematics, and the arithmetic in each mode on those of the paths that there are.

    Native kernels are compared with torch's own where torch has fused ones. Direct calls must have the bits of a
    compiled step, or are judged in its place where `on` has "direct" and not "native". The mathematics are left out,
    where they are judged on more parameters, if not `maths`.
    """
    problem = problem.fitting(case)
    double = torch_side.run(torch_side.factory(case), problem, "float64")
    exact = None
    if maths:
        exact = compare_exactly(rules.run(mindspore_side.factory(case), problem), double, case.noise, problem.initial)
    verdicts = {}
    for path, fused in paths(case).items():
        compiled = path in on
        if not compiled and not (fused and "direct" in on):
            continue
        single = torch_side.run(torch_side.factory(case, fused), problem, "float32")
        for mode in modes:
            build = mindspore_side.factory(case, fused=fused)
            ours = mindspore_side.run(build, problem, mode, compiled=compiled)
            leg = f"{mode} {path if compiled else 'direct'}"
            verdicts[leg] = compare(ours, single, double, noise=case.noise, initial=problem.initial)
            if compiled and fused:
                verdicts[f"{mode} direct"] = compare_bits(mindspore_side.run(build, problem, mode), ours)
    return Outcome(case, problem.name, exact, verdicts)


def as_users_run(case: Case, problem: Problem, modes: Iterable[str]) -> Outcome:
    """The legs on the path that a step takes if nothing is asked for: the native kernel where there is one.

    Where there is none, each parameter takes a second to compile, so that it is a part of the problem that is solved.
    """
    *_, path = paths(case)
    return verify(case, problem if path == "native" else problem.part(PART), modes, [path])


def paths(case: Case) -> dict[str, bool]:
    """What a compiled step of a case can run here, and the argument `fused` of each."""
    optimizer = getattr(ms_optim, (case.inner or case).optimizer)
    return {"composed": False} | ({} if obstacle(optimizer.__name__, optimizer.update) else {"native": True})


def resumed(case: Case, problem: Problem, modes: Iterable[str]) -> Outcome:
    """Stop a run after a third of its steps, with a schedule and an average of the parameters, and take it up again.

    The legs "... from torch" are ours after torch's steps, "torch from ..." torch after ours: from weights and state
    dicts alone. The two go on side by side and are judged by torch in float64, which goes on from there too, and by the
    error of torch in float32. Ours is compiled in GRAPH and called directly in PYNATIVE. The legs "... from .ckpt" are
    ours from a checkpoint of ours in a new optimizer, those "... from .safetensors" in the one that has gone on: both
    must have the bits of the run that was not stopped.
    """
    problem = problem.fitting(case)
    if not case.inner:
        case = Case(
            "EMA", "parity.references.EMA", AVERAGE, inner=case, rank=case.rank, sparse=case.sparse, noise=case.noise
        )
    cut = max(1, len(problem.gradients) // 3)
    begun, rest = problem.gradients[:cut], problem.gradients[cut:]
    theirs, ours = (
        functools.partial(side.Session, side.factory(case), schedule=SCHEDULE) for side in (torch_side, mindspore_side)
    )

    def judge(start, follow, mode):
        sessions = {start: start(problem.initial, mode[start])}
        sessions[start].steps(begun)
        values, state = sessions[start].stop()
        sessions[follow], exact = follow(values, mode[follow]), theirs(values, "float64")
        for session in (sessions[follow], exact):
            session.take_up(state)
        return compare(
            sessions[ours].steps(rest),
            sessions[theirs].steps(rest),
            exact.steps(rest),
            noise=case.noise,
            initial=values,
        )

    def from_file(mode, suffix, anew):
        with TemporaryDirectory() as folder:
            file = Path(folder, f"stopped{suffix}")
            session = ours(problem.initial, mode)
            session.steps(begun)
            schedule = session.save(file)
            expected = session.steps(rest)
            if anew:
                zeros = {name: np.zeros_like(value) for name, value in problem.initial.items()}
                session = ours(zeros, mode, anew=True)
            session.restore(file, schedule)
            return compare_bits(session.steps(rest), expected)

    verdicts = {}
    for mode in modes:
        how = {theirs: "float32", ours: mode}
        verdicts[f"{mode} from torch"] = judge(theirs, ours, how)
        verdicts[f"torch from {mode}"] = judge(ours, theirs, how)
        verdicts[f"{mode} from .ckpt"] = from_file(mode, ".ckpt", True)
        verdicts[f"{mode} from .safetensors"] = from_file(mode, ".safetensors", False)
    return Outcome(case, f"{problem.name}, resumed", None, verdicts)


def teacher_forced(case: Case, model: str, steps: int, modes: Iterable[str]) -> Outcome:
    """Run the legs on the gradients of a real network: torch trains it with the case, and its gradients drive all."""
    gradients, _ = torch_networks.record(model, torch_side.factory(case), steps, rank=case.rank)
    return verify(case, Problem(model, initial_weights(model), gradients), modes)


@dataclass(frozen=True)
class FreeRun:
    """A network trained by each framework on its own: how far the weights part, and what the network has learned."""

    case: Case
    problem: str
    modes: dict[str, Verdict]
    accuracy: dict[str, float]

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """Each verdict, by its mode."""
        return self.modes

    @property
    def brief(self) -> "FreeRun":
        """The same without the errors of each element."""
        return replace(self, modes={mode: leg.brief for mode, leg in self.modes.items()})

    @property
    def passed(self) -> bool:
        """Whether no mode parts from torch in float64 by more than FREE_RATIO times what torch in float32 does."""
        return all(verdict.passed for verdict in self.modes.values())


def free_run(case: Case, model: str, steps: int, modes: Iterable[str]) -> FreeRun:
    """Train a real network in torch, float32 and float64, and in MindSpore, each with its own gradients."""
    single, learned = _trained(
        lambda watch: torch_networks.train(model, torch_side.factory(case), steps, watch, rank=case.rank)
    )
    double, _ = _trained(
        lambda watch: torch_networks.train(
            model, torch_side.factory(case), steps, watch, dtype="float64", rank=case.rank
        )
    )
    accuracy, verdicts = {"torch": learned}, {}
    for mode in modes:
        mindspore_side.set_mode(mode)
        ours, accuracy[mode] = _trained(
            lambda watch: mindspore_networks.train(model, mindspore_side.factory(case), steps, watch, rank=case.rank)
        )
        verdicts[mode] = compare(ours, single, double, FREE_RATIO, case.noise, initial_weights(model))
    return FreeRun(case, model, verdicts, accuracy)


def minimized(case: Case, loss: Loss, modes: Iterable[str]) -> Outcome:
    """Compare an optimizer that takes a closure where it goes by itself: evaluations must be as many as torch's."""
    build = torch_side.factory(case)
    single, double = (torch_side.minimize(build, loss, MINIMIZING_STEPS, dtype) for dtype in ("float32", "float64"))
    verdicts = {
        mode: compare(
            mindspore_side.minimize(mindspore_side.factory(case), loss, MINIMIZING_STEPS, mode),
            single,
            double,
            FREE_RATIO,
        )
        for mode in modes
    }
    return Outcome(case, loss.name, None, verdicts)


def _trained(train):
    """The trace of the weights, and the accuracy, of a training run."""
    recorder = Recorder()
    run = train(lambda step, weights, gradients: recorder.add(weights, {}))
    return recorder.trace(), run.accuracy
