"""Searches for the mistake of one rule that a trajectory follows, on the gradients of one run.

Each is run on the gradients of the run, on arrays of NumPy, in float32 and float64, and the trajectory judged by it as
by torch: what it fits is named, if the rule of torch does not fit.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial, reduce
from pathlib import Path

import numpy as np
from mindspore import nn

from ms_optim import OPTIMIZERS
from parity.cases import ENTRIES, Mutant
from parity.hunt.mistakes import Alter, Mistake, breaks, is_whole, mistakes, norm_of, scaled_gradients, scaled_rates
from parity.hunt.mutants import breed, differs_in_rule_alone
from parity.hunt.unknowns import solved, unknowns
from parity.hunt.whole import NEAR, Followed, as_precise
from parity.judge.compare import RATIO, Divergence, Standard, errors
from parity.runs.files import Run
from parity.runs.follow import begun, by_the_rule, counterpart, retold, rewind
from parity.sides.trace import PARAMETER, Trace

# How many mistakes may have been made together; after how many steps the nearest of them are chosen, and how many of
# these are run to the end.
TOGETHER, GLANCE, NEAREST = 4, 3, 6
PRECISIONS = ("float32", "float64")
# To be said, the nearest of them must be so many times nearer than the right rule is, for it then explains all but a
# tenth, and leave no more than so many roundings: about a ten-thousandth of a tensor.
TELLING, LEFT = 10, 1000


@dataclass(frozen=True)
class Diagnosis:
    """What a run follows.

    Attributes:
        optimizer (str): Whose rule it should follow.
        right (float): How far it is from that, in errors of the rule in float32; infinite if its state is another.
        divergence (Divergence): Where it first leaves that rule.
        fits (tuple[tuple[str, float], ...]): The mistakes that it follows, with the same of each, the nearest first.
        tried (int): How many were tried.
        nearest (tuple[str, float]): If it follows none of them, the one that it is nearest to, if that is ten times
            nearer than the right rule is, and within a thousand errors.
        hidden (tuple[str, ...]): The mistakes that these gradients do not show.
        steps (int): In how many steps it was looked at.
        tensors (int): Of how many parameters.
        untold (tuple[str, ...]): The arguments that the run does not tell, and that were taken to be the defaults.
        refuted (tuple[Divergence, ...]): Where the run leaves mistakes that only the part of it follows which is looked
            at.
    """

    optimizer: str
    right: float
    divergence: Divergence | None = None
    fits: tuple[tuple[str, float], ...] = ()
    tried: int = 0
    nearest: tuple[str, float] | None = None
    hidden: tuple[str, ...] = field(default=(), repr=False)
    steps: int = 0
    tensors: int = 0
    untold: tuple[str, ...] = ()
    refuted: tuple[Divergence, ...] = field(default=(), repr=False)

    @property
    def is_right(self) -> bool:
        """Whether it follows the right rule."""
        return self.right <= RATIO

    def __str__(self) -> str:
        if self.is_right:
            looked = f"in {self.steps} steps of {self.tensors} parameters"
            return f"it follows the rule of {self.optimizer}: ratio {self.right:.2f}, {looked}"
        return self._said + (
            f"\nthe run does not tell {', '.join(self.untold)}: what these are by default was taken; 'arguments' of "
            "parity.record say them"
            if self.untold
            else ""
        )

    @property
    def _said(self):
        if not self.tried:
            where = self.divergence or "in its state, which is another"
            return f"it leaves the rule of {self.optimizer} beyond what is looked at to tell what for: {where}"
        hidden = f"\ncannot be told on these gradients: {', '.join(self.hidden)}" if self.hidden else ""
        if not self.fits:
            near = f"; the nearest is {self.nearest[0]} (ratio {self.nearest[1]:.4g})" if self.nearest else ""
            none = f"it follows none of {self.tried} known mistakes of {self.optimizer}"
            leaves = f"; it leaves the rule at {self.divergence}" if self.divergence else ""
            return f"{none}; without any {self._without}{near}{leaves}{hidden}"
        found = " or ".join(f"{words} (ratio {ratio:.2f})" for words, ratio in self.fits)
        return f"it follows {self.optimizer} with this mistake: {found}; without it {self._without}{hidden}"

    @property
    def _without(self):
        return "its state is another" if np.isinf(self.right) else f"ratio {self.right:.4g}"


class Search:
    """The mistakes of one rule, on the gradients of one run.

    Args:
        run: Whose gradients.
        name: Whose rule.
        folder: Where wrong rules may be written.
        norms: Those of all gradients of each step, if the run is a part of another.
    """

    def __init__(self, run: Run, name: str, folder: Path, norms: Sequence[float] | None = None):
        self.run, self.name, self._folder = run, name, folder
        self._norms = [norm_of(step.gradients) for step in run.steps] if norms is None else norms
        self._noise = ENTRIES[name].cases[0].noise
        self._classes: dict[tuple[Mutant, ...], type] = {}
        self._optimizers: dict[Alter | None, nn.Optimizer] = {}
        taken = by_the_rule(run, begun(run, counterpart(run, OPTIMIZERS[name])), PRECISIONS)
        self._right, self._dtypes = self._standard(taken), {key: steps[0].dtype for key, steps in taken[0].items()}

    def diagnosis(
        self, ours: Trace, together: int | None = None, confirmed: Callable[[Mistake], Followed] | None = None
    ) -> Diagnosis:
        """What a trajectory follows, of so many mistakes together at most: TOGETHER, if not fewer.

        `confirmed` judges once more by a mistake that fits, or nearly so: by more than this part of a run, and by what
        rounding may do otherwise.
        """
        again = cache(confirmed) if confirmed else None

        def judged(led):
            for mistake, standard in led:
                ratio = self._ratio(ours, standard)
                if again and RATIO < ratio <= NEAR and again(mistake).ratio <= RATIO:  # its float32 may have been lucky
                    ratio = RATIO
                yield mistake, ratio

        ours = {
            key: [as_precise(step, self._dtypes.get(key, step.dtype)) for step in steps] for key, steps in ours.items()
        }
        verdict = self._right.judge(ours, told=True)
        of_right, divergence = self._ratio_of(verdict), verdict.divergence
        if of_right <= RATIO:
            return Diagnosis(self.name, of_right)
        led = [*self.shown, *self._lead(self._of_constants(ours)), *self._lead(self._of_breaks(divergence))]
        fits = [*judged(led)]
        if not any(ratio <= RATIO for _, ratio in fits):
            numbers = [*self._lead(self._of_numbers(ours, verdict))]
            led += numbers
            fits += judged(numbers)
        # A constant that is not whole is a guess, which misleads beside others.
        shown = best = [mistake for mistake, _ in led if not mistake.guessed]
        tried, everything, now = len(led), [*fits], np.inf
        for _ in range(1, together or TOGETHER):
            if any(ratio <= RATIO for _, ratio in fits):
                break
            pairs = (one.with_(other) for one in best for other in shown)
            several = {frozenset(both.words): both for both in pairs if both}
            tried += len(several)
            far = {words: self._glance(ours, mistake) for words, mistake in several.items()}
            best = [several[words] for words in sorted(far, key=far.get)[:NEAREST]]
            before, now = now, min(far.values(), default=np.inf)
            if not now < before:  # what is no nearer than before leads nowhere
                break
            fits = [*judged(self._lead(best))]
            everything += fits
        refuted: Iterable[Divergence] = ()
        if again:
            followed = [(mistake, again(mistake)) for mistake, ratio in everything if ratio <= RATIO]
            everything = [fit for fit in everything if fit[1] > RATIO] + [(one, found.ratio) for one, found in followed]
            refuted = [found.divergence for _, found in followed if found.ratio > RATIO and found.divergence]
        everything.sort(key=lambda fit: fit[1])
        fits = tuple((str(mistake), ratio) for mistake, ratio in everything if ratio <= RATIO)
        far = of_right if np.isfinite(of_right) else self._ratio(self._parameters(ours), self._right)
        most = min(far / TELLING, LEFT)
        nearest = next(((str(mistake), ratio) for mistake, ratio in everything if ratio <= most), None)
        hidden = tuple(str(mistake) for mistake in self._known if mistake.known and mistake not in self._shows)
        nearest, refuted = None if fits else nearest, tuple(refuted)
        return Diagnosis(self.name, of_right, divergence, fits, tried, nearest, hidden, refuted=refuted)

    def again(self, mistake: Mistake, run: Run, norms: Sequence[float]) -> Mistake:
        """The mistake as it would be made in another run, of which this one is a part."""
        known = {one.words: one for one in mistakes(self.name, run, norms)}
        return reduce(Mistake.with_, (known.get(one.words, one) for one in mistake.made_of or (mistake,)))

    def _of_breaks(self, divergence):
        """Mistakes by what may have come over a run where it leaves the right rule."""
        if divergence is None:
            return []
        return [*breaks(self.name, divergence.parameter, divergence.step, len(self.run.steps))]

    @cached_property
    def shown(self) -> list[tuple[Mistake, Standard]]:
        """What is known and can be told from the right rule on these gradients, and where it leads."""
        led = ((mistake, taken, self._standard(taken)) for mistake, taken in self._taken(self._known))
        return [
            (mistake, standard) for mistake, (single, _), standard in led if self._ratio(single, self._right) > RATIO
        ]

    @cached_property
    def _known(self):
        return [*mistakes(self.name, self.run, self._norms)]

    @property
    def _shows(self):
        return [mistake for mistake, _ in self.shown]

    def _lead(self, some):
        """Each mistake that can be made, and what follows it is judged by."""
        return ((mistake, self._standard(taken)) for mistake, taken in self._taken(some))

    def _taken(self, some):
        """Each mistake that can be made, and where it leads in each precision."""
        for mistake in some:
            taken = self._trajectory(mistake)
            if taken is not None:
                yield mistake, taken

    def _trajectory(self, mistake, steps=None, dtypes=PRECISIONS):
        """Where a mistake leads; None if it cannot be made."""
        try:
            cls = self.class_of(mistake)
            run, optimizer = self._begun(mistake.alter, cls)
        except (ValueError, TypeError):  # two edits of one place, numbers that do not go together
            return None
        run = replace(run, steps=run.steps[:steps])
        taken = by_the_rule(run, optimizer, dtypes, mistake.prepare, cls)
        rewind(run, optimizer)
        if optimizer is self._optimizers.get(None):
            retold(run, self.run, optimizer)
        return taken

    def class_of(self, mistake: Mistake) -> type[nn.Optimizer]:
        """The optimizer with what a mistake makes of its rule."""
        made = self._classes.get(mistake.mutants)
        if made is None:
            made = breed(self._folder, *mistake.mutants) if mistake.mutants else OPTIMIZERS[self.name]
            self._classes[mistake.mutants] = made
        return mistake.change(made) if mistake.change else made

    def _begun(self, alter, cls):
        """The run with other numbers, and an optimizer of a class, or of one that differs in its functions alone."""
        run, right = alter(self.run) if alter else self.run, OPTIMIZERS[self.name]
        if not differs_in_rule_alone(cls, right):
            return run, begun(run, counterpart(run, cls))
        if None in self._optimizers and retold(self.run, run, self._optimizers[None]):
            return run, self._optimizers[None]
        if alter not in self._optimizers:
            self._optimizers[alter] = begun(run, counterpart(run, right))
        return run, self._optimizers[alter]

    def _standard(self, taken):
        """What is judged by a rule that leads somewhere."""
        return Standard(*taken, noise=self._noise, initial=self.run.initial)

    def _ratio(self, ours, standard):
        """How far a trajectory is, by what it tells: all of its state, or some, or none."""
        return self._ratio_of(standard.judge(ours, told=True))

    @staticmethod
    def _parameters(ours):
        return {key: steps for key, steps in ours.items() if key[0] == PARAMETER}

    @staticmethod
    def _ratio_of(verdict):
        return np.inf if verdict.problems else max(score.ratio for score in verdict.scores.values())

    def _glance(self, ours, mistake):
        """How far a trajectory is from where a mistake leads after a few steps: the mean of binary digits of ulps.

        So what is right of most tensors is nearer than what is right of none, however far the others are.
        """
        taken = self._trajectory(mistake, GLANCE, ("float64",))
        if taken is None or not (ours.keys() <= taken[0].keys()):
            return np.inf
        sizes = {(PARAMETER, name): float(np.abs(value).max(initial=0)) for name, value in self.run.initial.items()}
        off = [
            max(step.max(initial=0) for step in errors(steps[:GLANCE], taken[0][key], "float32", sizes.get(key, 0.0)))
            for key, steps in ours.items()
        ]
        return float(np.mean(np.log2(1 + np.array(off))))

    def _of_numbers(self, ours, verdict):
        """Mistakes by a number of an argument that is not what the run says, which is solved for."""
        parted = {key[1] for key, off in verdict.ours.items() if off.max(initial=0.0) > verdict.allowed[key]}
        last = verdict.divergence.step + GLANCE if verdict.divergence else GLANCE
        for unknown in unknowns(self.name, self.run, parted):
            number = solved(unknown, partial(self._distance, ours, unknown, last + 1))
            if number is not None:
                yield replace(unknown.at(number), guessed=True)

    def _distance(self, ours, unknown, steps, number):
        """How far a trajectory is, in some steps, from where a number leads, in parts of the largest of each tensor."""
        mistake = unknown.at(number)
        taken = self._trajectory(mistake, steps, ("float64",))
        if mistake.alter:  # which no other has
            self._optimizers.pop(mistake.alter, None)
        if taken is None:
            return None
        off = []
        for key, told in ours.items():
            own = np.array(told[:steps], np.float64)
            finite = np.isfinite(own)
            size = np.abs(own, where=finite, out=np.zeros(own.shape)).max(initial=0.0)
            if size:
                lead = np.array(taken[0][key]) if key in taken[0] else np.zeros(own.shape)  # state comes as zeros
                off.append(((lead - own)[finite] / size).ravel())
        found = np.concatenate(off) if off else np.zeros(0)
        return found if np.isfinite(found).all() else None

    def _of_constants(self, ours):
        """Mistakes by a constant that the first step tells."""
        for words, wrong in (("gradients", scaled_gradients), ("lr", scaled_rates)):
            for factor in self._factors(ours, wrong):
                whole = f"1/{round(1 / factor)}" if is_whole(1 / factor) else f"{factor:.6g}"
                yield replace(
                    wrong(f"{words} times {whole}", factor), guessed=not (is_whole(factor) or is_whole(1 / factor))
                )

    def _factors(self, ours, wrong):
        """The constants by which a mistake leads, in the first step, to where the run went: what is linear in them."""
        once, twice = (self._trajectory(wrong("", factor), 1, ("float64",))[0] for factor in (1.0, 2.0))
        found: list[float] = []
        for key, steps in ours.items():
            if key not in once or key[0] == "step":
                continue
            start = self.run.initial[key[1]] if key[0] == PARAMETER else 0.0
            base, way = once[key][0], twice[key][0] - once[key][0]
            off = steps[0] - base
            if not (np.isfinite(off).all() and np.isfinite(way).all() and np.abs(way).max(initial=0.0) > 0):
                continue
            far, size = float((off * way).sum() / (way * way).sum()), np.abs(base - start).max()
            rounding = 1e-6 * max(np.abs(steps[0]).max(), size)
            if np.abs(way).max() > 0.1 * size and np.abs(off - far * way).max() <= rounding and 1 + far > 0:
                found.append(1 + far)
        factors: list[float] = []
        for factor in found:
            whole = [float(round(factor))] * is_whole(factor) + [1 / max(round(1 / factor), 1)] * is_whole(1 / factor)
            for one in whole or [factor]:
                if abs(one - 1) > 1e-4 and not any(abs(one / known - 1) < 1e-4 for known in factors):
                    factors.append(one)
        return factors
