"""Diagnoses a run that parts from the rule that it should follow: which known mistake it follows instead."""

import itertools
import weakref
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ms_optim import OPTIMIZERS
from ms_optim._declaration import arguments_of
from ms_optim.arguments import Devices
from parity.cases import ENTRIES
from parity.hunt.mistakes import norm_of
from parity.hunt.search import Diagnosis, Search
from parity.hunt.whole import Whole
from parity.judge.compare import RATIO
from parity.runs.files import Run, Step
from parity.runs.follow import Unjudged, of_what_moves
from parity.runs.problems import OF_ALL
from parity.sides.trace import Recorder, Trace

# What of a run mistakes are tried on: so many elements and steps tell them apart, and take seconds.
ELEMENTS, TENSORS, STEPS = 20_000, 6, 20
# Of a run that leaves its rule later so many steps beyond, but no more than so many in all.
BEYOND, MOST_STEPS = 4, 300
# How many elements times steps, of the parameters that leave their rule, mistakes are tried on at most.
MOST = 4_000_000
# How often more is looked at, because what a part of a run follows the whole does not.
AGAIN = 3


def is_known(optimizer: str) -> bool:
    """Whether there are mistakes of this optimizer that a trajectory may follow."""
    return optimizer in ENTRIES and not (ENTRIES[optimizer].closure or ENTRIES[optimizer].averages)


def diagnose(run: Run, ours: Trace | None = None, optimizer: str | None = None, parts: str | None = None) -> Diagnosis:
    """Say what a trajectory follows, given the gradients that it was taken by.

    Args:
        run (Run): Whose gradients and numbers it had.
        ours (Trace): The trajectory, of parameters alone or of all state, at each step of the run.
            Default: ``None`` , that of the run itself.
        optimizer (str): Whose rule it should follow. Default: ``None`` , that of the run.
        parts (str): A parameter that is known to go another way, to be looked at among others. Default: ``None`` .

    Raises:
        Unjudged: If there is no such rule, or the run has no steps or parameters of 16 bits.
    """
    return Suspects(run, optimizer, parts).diagnosis(ours)


class Suspects:
    """What a trajectory may follow that was taken by the gradients of a run: made once, to diagnose several by.

    The arguments and what is raised are those of `diagnose`.
    """

    def __init__(self, run: Run, optimizer: str | None = None, parts: str | None = None):
        name = optimizer or run.header["optimizer"]
        if run.halves:
            raise Unjudged(
                f"For 'diagnose', the parameters of 'run' must be float32 or float64, but not so {run.halves}."
            )
        if not is_known(name):
            raise Unjudged(
                f"For 'diagnose', 'optimizer' must be one of {[*filter(is_known, ENTRIES)]}, but got {name!r}."
            )
        if not run.steps:
            raise Unjudged("For 'diagnose', 'run' must have steps, but got none.")
        if not all("lr" in group for groups in (run.header["groups"], run.steps[0].groups) for group in groups):
            raise Unjudged("For 'diagnose', 'run' must tell the learning rate of each group, as 'lr', but got none.")
        self.name, self._parts, self._whole = name, parts, Whole(run, name)
        self._untold = tuple(
            key
            for key in arguments_of(OPTIMIZERS[name])
            if key not in ("params", *OF_ALL) and not isinstance(OPTIMIZERS[name].kind_of(key), Devices)
            if any(key not in group for group in run.header["groups"])
        )
        self._folder = TemporaryDirectory()
        weakref.finalize(self, self._folder.cleanup)
        self._searches: dict[tuple[tuple[str, ...], int], tuple[Trace, Search]] = {}

    def diagnosis(self, ours: Trace | None = None) -> Diagnosis:
        """What a trajectory follows, or that of the run itself: the right rule in all of it, or a mistake in a part."""
        run, whole = self._whole.run, self._whole
        ours = None if ours is None else whole.of(ours)
        looked: dict[str, Any] = {"steps": len(run.steps), "tensors": len(run.initial), "untold": self._untold}
        followed = whole.follow(ours)
        parted = followed.divergence
        parts = tuple(filter(None, [parted.parameter if parted else self._parts]))
        steps = self._until([parted])
        if followed.ratio <= RATIO or self._is_too_much(parts, steps):
            return Diagnosis(self.name, followed.ratio, parted, **looked)
        found = self._found(ours, parts, steps)
        if found.is_right:  # as far as was looked
            return Diagnosis(self.name, followed.ratio, parted, **looked)
        for _ in range(AGAIN):
            more = tuple(dict.fromkeys((*parts, *(where.parameter for where in found.refuted))))
            further = max(steps, self._until(found.refuted))
            if found.fits or (more, further) == (parts, steps) or self._is_too_much(more, further):
                break
            parts, steps = more, further
            found = self._found(ours, parts, steps)
        return replace(found, right=followed.ratio, divergence=parted, **looked)

    def _found(self, ours, parts, steps):
        """What is followed in a part of the run, and in all of it."""
        own, search = self._search(parts, steps)

        def confirmed(mistake):
            again = search.again(mistake, self._whole.outline, self._whole.norms)
            return self._whole.follow(ours, search.class_of(mistake), again.alter, again.prepare)

        return search.diagnosis(own if ours is None else _of(search.run, ours), confirmed=confirmed)

    @staticmethod
    def _until(where):
        """How many steps are looked at, so that places are among them."""
        return min(max([STEPS, *(place.step + BEYOND for place in where if place)]), MOST_STEPS)

    def _is_too_much(self, parts, steps):
        return sum(self._whole.run.initial[name].size for name in parts) * steps > MOST

    def _search(self, parts, steps):
        """Where a part of the run went, and the search for what it follows."""
        if (parts, steps) not in self._searches:
            own, part, norms = _part(self._whole.run, parts, steps, self._whole.norms)
            self._searches[parts, steps] = own, Search(part, self.name, Path(self._folder.name), norms)
        return self._searches[parts, steps]


def _of(part, ours):
    """What a trajectory has of a part of a run."""
    return of_what_moves(part, {key: steps[: len(part.steps)] for key, steps in ours.items() if key[1] in part.initial})


def _part(run, parts, count, known):
    """What is looked at: the parameters that part, and the smallest of each group and rank; and some of the steps.

    The norms of the first steps may be known. Of more steps fewer elements are looked at.

    Returns:
        Where the run went there, the part of it, and the norms of all gradients of each step.
    """
    sizes = {name: value.size for name, value in run.initial.items()}
    kinds: dict[Any, list[str]] = {}
    for number, group in enumerate(run.header["groups"]):
        for name in sorted(group["params"], key=sizes.get):
            kinds.setdefault((number, min(run.ranks[name], 2)), []).append(name)
    chosen = [*parts]
    for name in (name for names in itertools.zip_longest(*kinds.values()) for name in names if name is not None):
        of_chosen = sum(sizes[name] for name in chosen)
        fits = of_chosen + sizes[name] <= ELEMENTS * STEPS / max(count, STEPS)
        if name not in chosen and (not chosen or fits) and len(chosen) < TENSORS:
            chosen.append(name)
    kept = {*chosen}
    groups = [{**group, "params": [name for name in group["params"] if name in kept]} for group in run.header["groups"]]
    left = [i for i, group in enumerate(groups) if group["params"]]

    def of(mapping):
        return {name: value for name, value in mapping.items() if name in kept}

    steps, norms, recorder = [], [], Recorder()
    for i in range(min(count, len(run.steps))):  # each of which holds all that there is
        step = run.steps[i]
        norms.append(known[i] if i < len(known) else norm_of(step.gradients))
        recorder.add(of(step.parameters), of(step.state))
        numbers = [step.groups[i] for i in left]
        steps.append(Step(numbers, of(step.gradients), {}, {}, before=of(step.before)))
    header = {**run.header, "groups": [groups[i] for i in left]}
    part = Run(header, {name: run.initial[name] for name in sizes if name in kept}, of(run.initial_state), steps)
    return of_what_moves(part, recorder.trace()), part, norms
