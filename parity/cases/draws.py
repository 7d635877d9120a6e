"""A draw of the fuzzer: one optimizer on one small problem, written as JSON that anyone can run again."""

import json
import shlex
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property

import numpy as np

from parity.cases import CASES, ENTRIES, Case
from parity.cases.formats import rounded_to
from parity.cases.problems import SYNTHETIC, Problem


def _constant(rng, shape, step):
    """The same at every step: moving averages of it cancel."""
    return np.linspace(-1.0, 2.0, int(np.prod(shape))).reshape(shape)


def _sparse(rng, shape, step):
    return rng.standard_normal(shape) * (rng.random(shape) < 0.2)


def _growing(rng, shape, step):
    return rng.standard_normal(shape) * 3.0**step


def _infinite(rng, shape, step):
    """An infinity and a NaN, one time each, where there are enough elements to leave the others alone."""
    grad = np.asarray(rng.standard_normal(shape))
    if grad.size > 3:
        grad.flat[1] = np.inf if step == 2 else grad.flat[1]
        grad.flat[2] = np.nan if step == 3 else grad.flat[2]
    return grad


# Those of the suite that suit any shape, and more.
REGIMES = {
    regime.__name__.strip("_"): regime
    for _, _, regime in SYNTHETIC.values()
    if regime.__name__ not in ("_breaking", "_late")
}
REGIMES |= {"constant": _constant, "sparse": _sparse, "growing": _growing, "infinite": _infinite}
PATHS = ("direct", "native", "composed")
DTYPES = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True)
class Draw:
    """One case and what it is run on.

    Args:
        optimizer: The name in `ms_optim`.
        parameters: The shape, the scale of the initial weights and the regime of the gradients, by name.
        steps: How many steps.
        kwargs: The arguments of the optimizer.
        groups: fnmatch patterns on names and what the group overrides, as in `Case`.
        absent: The steps at which a parameter has no gradient, by name.
        seed: Of the weights and the gradients.
        dtype: What the parameters are stored in.
        mode: "graph" or "pynative".
        path: "direct" or "native", the kernel without and within a graph where there is one, or "composed".
        inner: The optimizer that this one wraps, which has the groups; "" is none.
        inner_kwargs: Its arguments.
    """

    optimizer: str
    parameters: dict[str, tuple[tuple[int, ...], float, str]]
    steps: int
    kwargs: dict = field(default_factory=dict)
    groups: tuple[tuple[str, dict], ...] = ()
    absent: dict[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0
    dtype: str = "float32"
    mode: str = "graph"
    path: str = "native"
    inner: str = ""
    inner_kwargs: dict = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Draw":
        """The draw that was written by `str`.

        Raises:
            ValueError: If the text is not one.
        """
        plain = json.loads(text)
        names = {item.name for item in fields(cls)}
        if not isinstance(plain, dict) or not {"optimizer", "parameters", "steps"} <= plain.keys() <= names:
            raise ValueError(f"a case is a JSON object with the keys {sorted(names)}")
        draw = cls(**_tuples(plain))
        if not isinstance(draw.parameters, dict) or not draw.parameters:
            raise ValueError(f"the parameters of a case must be an object with at least one, but got {draw.parameters}")
        averages = draw.optimizer in ENTRIES and ENTRIES[draw.optimizer].averages
        for kind, value, known in [
            ("optimizer", draw.optimizer, CASES),
            ("dtype", draw.dtype, DTYPES),
            ("mode", draw.mode, ("graph", "pynative")),
            ("path", draw.path, PATHS),
            ("inner", draw.inner, CASES if averages else ("",)),
            *(("regime", regime, REGIMES) for _, _, regime in draw.parameters.values()),
        ]:
            if value not in known:
                raise ValueError(f"the {kind} of a case must be one of {', '.join(known)}, but got {value!r}")
        steps = {*range(draw.steps)}
        odd = [name for name, absent in draw.absent.items() if name not in draw.parameters or not {*absent} <= steps]
        if odd:
            raise ValueError(f"the absent gradients of a case must be of its parameters and steps, but not so {odd}")
        return draw

    def __str__(self) -> str:
        return json.dumps({key: value for key, value in asdict(self).items() if value not in ({}, (), "")})

    @property
    def command(self) -> str:
        """The command line that runs it alone."""
        return f"python -m parity --case {shlex.quote(str(self))}"

    @property
    def case(self) -> Case:
        """The case, its reference and its noise being those of the optimizer's other cases."""
        known = ENTRIES[self.inner or self.optimizer].cases[0]
        kwargs = self.inner_kwargs if self.inner else self.kwargs
        case = replace(known, kwargs=kwargs, groups=self.groups)
        return replace(ENTRIES[self.optimizer].cases[0], kwargs=self.kwargs, inner=case) if self.inner else case

    @cached_property
    def problem(self) -> Problem:
        """The weights and gradients, in the dtype of the parameters, as the optimizer takes them."""
        rng = np.random.default_rng(self.seed)
        with np.errstate(over="ignore"):
            initial = {
                name: rounded_to(scale * rng.standard_normal(shape), self.dtype)
                for name, (shape, scale, _) in self.parameters.items()
            }
            gradients = [
                {
                    name: rounded_to(REGIMES[regime](rng, shape, step), self.dtype)
                    for name, (shape, _, regime) in self.parameters.items()
                }
                for step in range(self.steps)
            ]
        for name, steps in self.absent.items():
            for step in steps:
                gradients[step][name] = None
        dtype = None if hasattr(np, self.dtype) else self.dtype
        return Problem(f"{self.dtype} of seed {self.seed}", initial, gradients, dtype).fitting(self.case)


def _tuples(value):
    """Lists as tuples, at any depth."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
