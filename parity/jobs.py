"""What `python -m parity` has to do, cut into pieces that processes share."""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial

from parity import suite
from parity.cases import CASES, ENTRIES, MINIMIZERS, RECIPES
from parity.cases.losses import losses
from parity.cases.problems import synthetic
from parity.workers import SOON, deferred, interruptible, start, start_worker

Outcomes = list[suite.Outcome | suite.FreeRun]
# How a pool runs jobs: their places come with their outcomes, in the order in which they are done.
Runner = Callable[["Iterable[Job]", bool], Iterator[tuple[int, Outcomes]]]
# What says how many threads a process has.
THREADS = "OMP_NUM_THREADS"
# Where the average is trained that NFNet is trained with.
AVERAGED = "MomentumAGC"


@dataclass(frozen=True)
class Job:
    """Comparisons that one process makes, one after the other."""

    name: str
    parts: tuple[Callable[[], suite.Outcome | suite.FreeRun], ...]

    def run(self, keep: bool) -> Outcomes:
        """The outcomes; what only plots need is dropped unless it is kept."""
        outcomes = [part() for part in self.parts]
        return outcomes if keep else [outcome.brief for outcome in outcomes]


def first_answer(names: Iterable[str], modes: Iterable[str], steps: int, free_steps: int) -> list[Job]:
    """A job for each optimizer, on its quietest case and its loudest as users run it; the longest is first.

    That is the training of a network by momentum with adaptive gradient clipping, and its average, if one is named.
    """
    problem, found = synthetic(steps, absent=False), []
    for name in names:
        cases = tuple(dict.fromkeys(ENTRIES[name].cases[end] for end in (0, -1)))
        if name in MINIMIZERS:
            parts = [partial(suite.minimized, case, losses()[0], modes) for case in cases]
        else:
            parts = [partial(suite.as_users_run, case, problem, modes) for case in cases]
        found.append(Job(name, tuple(parts)))
    if {AVERAGED, "EMA"} & {*names}:
        case, network = replace(ENTRIES["EMA"].training, inner=ENTRIES[AVERAGED].training), ENTRIES[AVERAGED].network
        found.insert(0, Job(f"{network}, trained", (partial(suite.free_run, case, network, free_steps, modes),)))
    return found


def comparisons(names: Iterable[str], modes: Iterable[str], steps: int, free_steps: int) -> list[Job]:
    """A job for each training, which take longest; then one for each optimizer, whose graphs it compiles once."""
    problem, found = synthetic(steps), []
    for name in names:
        cases = CASES.get(name, ())
        parts = [
            *(partial(suite.verify, case, problem, modes) for case in cases),
            *(partial(suite.resumed, case, problem, modes) for case in cases[-1:]),
            *(partial(suite.minimized, case, loss, modes) for case in MINIMIZERS.get(name, ()) for loss in losses()),
        ]
        found.append(Job(name, tuple(parts)))
    trained = [
        Job(
            f"{network}, trained by {case.optimizer}",
            (
                partial(suite.teacher_forced, case, network, steps, modes),
                partial(suite.free_run, case, network, free_steps, modes),
            ),
        )
        for network, case in RECIPES
        if case.optimizer in names
    ]
    return trained + found


def threads(workers: int) -> str | None:
    """How many threads each of some processes has; None are as many as the libraries choose."""
    given = os.environ.get(THREADS)
    return given or (None if workers == 1 else str(max(1, (os.cpu_count() or 1) // workers)))


@contextlib.contextmanager
def pool(workers: int) -> Iterator[Runner]:
    """A function that runs jobs in processes that share the cores, or in this one if one is enough."""
    if workers == 1:
        start()
        with interruptible() as check:

            def run_here(jobs, keep):
                for i, job in enumerate(jobs):
                    yield i, job.run(keep)
                    check()

            yield run_here
        return
    given = os.environ.get(THREADS)
    os.environ[THREADS] = str(threads(workers))
    # Neither framework survives a fork.
    processes = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker)

    try:
        with deferred() as check:

            def run_all(jobs, keep):
                places = {processes.submit(job.run, keep): i for i, job in enumerate(jobs)}
                left = {*places}
                while left:
                    done, left = wait(left, SOON, FIRST_COMPLETED)
                    check()  # before what is done, which is an error where the keys have ended the workers too
                    for job in done:
                        yield places[job], job.result()

            yield run_all
        processes.shutdown()
    except BaseException:
        processes.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        if given is None:
            del os.environ[THREADS]
