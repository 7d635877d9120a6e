"""What `python -m parity` has to do, cut into pieces that processes share."""

import contextlib
import gc
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from parity import suite
from parity.cases import CASES, MINIMIZERS, RECIPES
from parity.cases.losses import losses
from parity.cases.problems import synthetic

Job = list[Callable[[], suite.Outcome | suite.FreeRun]]


def comparisons(names: Iterable[str], modes: Iterable[str], steps: int, free_steps: int) -> list[Job]:
    """A job for each optimizer on what is made up, whose graphs it compiles once; then one for each training."""
    problem, found = synthetic(steps), []
    for name in names:
        cases = CASES.get(name, ())
        found.append(
            [partial(suite.verify, case, problem, modes) for case in cases]
            + [partial(suite.resumed, case, problem, modes) for case in cases[-1:]]
            + [partial(suite.minimized, case, loss, modes) for case in MINIMIZERS.get(name, ()) for loss in losses()]
        )
    return found + [
        [
            partial(suite.teacher_forced, case, network, steps, modes),
            partial(suite.free_run, case, network, free_steps, modes),
        ]
        for network, case in RECIPES
        if case.optimizer in names
    ]


def run_job(job: Job, keep: bool) -> list[suite.Outcome | suite.FreeRun]:
    """The outcomes of a job; what only plots need is dropped unless it is kept."""
    outcomes = [comparison() for comparison in job]
    return outcomes if keep else [outcome.brief for outcome in outcomes]


def start():
    """Take what is loaded out of the collector, which MindSpore calls whenever it compiles."""
    gc.freeze()


@contextlib.contextmanager
def pool(workers: int) -> Iterator[Callable]:
    """A function like `map`, over processes, or in this one if one is enough."""
    if workers == 1:
        start()
        yield map
        return
    context = multiprocessing.get_context("spawn")  # neither framework survives a fork
    with ProcessPoolExecutor(workers, context, start) as processes:
        yield processes.map
