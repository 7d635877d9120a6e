"""What is known of an optimizer that is compared: its cases, mutants, cost, and what it is timed against."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass(frozen=True, eq=False)
class Case:
    """One optimizer with one set of arguments, which both sides get.

    Args:
        optimizer: The name in `ms_optim`.
        reference: Where the PyTorch class is, such as "torch.optim.SGD".
        kwargs: The arguments of both.
        groups: fnmatch patterns on parameter names and what the group overrides; the rest is the first group.
        inner: The case whose optimizer this one wraps.
        rank: How many axes the parameters have that it takes; None is any.
        sparse: Whether it takes sparse gradients, and no others.
        noise: What the rule's own rounding may do to the parameters, relative to the largest magnitude.
    """

    optimizer: str
    reference: str
    kwargs: dict
    groups: tuple[tuple[str, dict], ...] = ()
    inner: "Case | None" = None
    rank: int | None = None
    sparse: bool = False
    noise: float = 0.0

    def __str__(self) -> str:
        arguments = [str(self.inner)] if self.inner else []
        arguments += [f"{key}={value}" for key, value in self.kwargs.items()]
        arguments += [f"{pattern!r}: {overrides}" for pattern, overrides in self.groups]
        return f"{self.optimizer}({', '.join(arguments)})"

    def split(self, names: Iterable[str]) -> list[tuple[list[str], dict]]:
        """The names of each group and what it overrides; a name goes to the first pattern that it matches."""
        members = [([], overrides) for overrides in ({}, *(overrides for _, overrides in self.groups))]
        for name in names:
            hits = [i for i, (pattern, _) in enumerate(self.groups, 1) if fnmatchcase(name, pattern)]
            members[min(hits, default=0)][0].append(name)
        return [(group, overrides) for group, overrides in members if group]


@dataclass(frozen=True)
class Mutant:
    """One edit of the source of an optimizer, which the suite must catch.

    Args:
        optimizer: The name in `ms_optim`.
        mistake: What the edit gets wrong, in words.
        right: Text that occurs once in the module of the rule, or in the package of the optimizer.
        wrong: What takes its place.
        leg: Who must catch it: "rule", which compiles nothing, or "graph" where only a compiled step can tell. Of a
            native kernel, "kernel", or "bits" where the numbers are no further off.
    """

    optimizer: str
    mistake: str
    right: str
    wrong: str
    leg: str = "rule"

    def __str__(self) -> str:
        return f"{self.optimizer}: {self.mistake}"


def _nothing(options):
    return {}


def _as_they_are(options, eps, group=False):
    return options


@dataclass(frozen=True)
class Entry:
    """All that the suite knows of one optimizer.

    Args:
        name: The name in `ms_optim`.
        cases: A grid in which every argument is once at a value where getting it wrong shows.
        mutants: Wrong versions of it, each of which some case must catch.
        kernel_mutants: Wrong versions of its native kernel, if it has one of its own, by text that occurs once in the
            functor, or in all of `ms_optim/kernels/rules.h`.
        kernels: Arguments, and how many operators MindSpore then compiles a step to at most, without a native kernel:
            for each parameter, for the step, and of the latter in float64. The defaults come first; in one way or
            another each flag is set and each slot is there. None are counted if its step takes a closure.
        memory: Arguments, and what the state then costs in multiples of a float32 matrix of 1000 x 1000 elements: each
            way to pay, the least and the most among them. Stated by hand, to disagree with what the class declares.
        network: The network in `parity.cases.networks` that it trains for real; "" is none.
        training: The case that does.
        closure: Whether its step takes a closure, which makes it evaluate a loss and not take gradients.
        state: The names of its tensors, where the class does not declare `slots`.
        nn: The optimizer of `mindspore.nn` that it is timed against.
        experimental: That of `mindspore.experimental.optim`.
        yardstick: The name and the place of a step that it is timed against, where torch has no such optimizer.
        timed: Its arguments where it is timed: a step so small that the parameters stay what they are.
        spans: The decades from which the fuzzer draws an argument, if not from those of all.
        within: What the numbers of an argument must satisfy in a draw besides their range.
        ungrouped: The arguments that torch takes in a group and does not read there.
        choices: Numbers from which the fuzzer draws an argument that is compiled into a step.
        explicit: A function from arguments, and the gap of a dtype after 1, to what they mean in this dtype; `group`
            says that they are those that a group overrides.
        mend: A function from drawn arguments to those that must be others for the optimizer to accept them all.
    """

    name: str
    cases: tuple[Case, ...]
    mutants: tuple[Mutant, ...]
    memory: tuple[tuple[dict, float], ...]
    kernel_mutants: tuple[Mutant, ...] = ()
    kernels: tuple[tuple[dict, int, int, int], ...] = ()
    network: str = ""
    training: Case | None = None
    closure: bool = False
    state: tuple[str, ...] = ()
    nn: str = ""
    experimental: str = ""
    yardstick: tuple[str, str] | None = None
    timed: dict = field(default_factory=lambda: {"lr": 1e-6})
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    within: dict[str, Callable[[tuple], bool]] = field(default_factory=dict)
    ungrouped: tuple[str, ...] = ()
    choices: dict[str, tuple] = field(default_factory=dict)
    explicit: Callable[..., dict] = _as_they_are
    mend: Callable[[dict], dict] = _nothing

    @property
    def averages(self) -> bool:
        """Whether it wraps another optimizer."""
        return self.cases[0].inner is not None

    @property
    def rank(self) -> int | None:
        """How many axes the parameters have that it takes."""
        return self.cases[0].rank

    @property
    def sparse(self) -> bool:
        """Whether it takes sparse gradients."""
        return self.cases[0].sparse

    @property
    def dense(self) -> bool:
        """Whether it is one rule for each parameter, of a gradient that is all there."""
        return not (self.averages or self.closure or self.sparse)


def grid(optimizer: str, *kwargs: dict, reference: str = "", **options) -> tuple[Case, ...]:
    """A case for each set of arguments; the reference is the optimizer of torch with that name unless it is given."""
    return tuple(Case(optimizer, reference or f"torch.optim.{optimizer}", each, **options) for each in kwargs)


def kernel_mutants(optimizer: str, *mistakes: tuple[str, ...]) -> tuple[Mutant, ...]:
    """A mutant of the native kernel for each mistake, as in `mutants`; numbers must catch it unless it says "bits"."""
    return tuple(Mutant(optimizer, *mistake[:3], *(mistake[3:] or ("kernel",))) for mistake in mistakes)


def mutants(optimizer: str, *mistakes: tuple[str, ...]) -> tuple[Mutant, ...]:
    """A mutant for each mistake: its name, what is right, what is wrong, and who must catch it if not the rule."""
    return tuple(Mutant(optimizer, *mistake) for mistake in mistakes)
