"""Runs, and their files, written with NumPy alone; `parity.runs` says what is in them."""

import json
import os
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

FORMAT = "parity run 1"
# What the files of a run are called.
HELD = r"run\.json|(initial|\d{6,})(\.safetensors|\.npz|)"

Arrays = Mapping[str, np.ndarray]
State = Mapping[str, Arrays]  # by parameter, then by slot


@dataclass(frozen=True)
class Step:
    """What a step left behind, by name of the parameter; gradients are a pair of rows and values if they are sparse.

    `groups` has the arguments of each group as the step read them, `before` the parameters that were changed since the
    step before, `notes` what else there is to say of it, in values of JSON.
    """

    groups: list[dict[str, Any]]
    gradients: Mapping[str, np.ndarray | tuple[np.ndarray, np.ndarray]]
    parameters: Arrays
    state: State
    double_parameters: Arrays = field(default_factory=dict)
    double_state: State = field(default_factory=dict)
    before: Arrays = field(default_factory=dict)
    loss: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run that was recorded: what its header says, what there was before the first step, and its steps."""

    header: dict[str, Any]
    initial: Arrays
    initial_state: State
    steps: Sequence[Step]

    @property
    def halves(self) -> list[str]:
        """The parameters of 16 bits, each step of which is rounded by more than most mistakes are."""
        return [name for name, dtype in self.header["dtypes"].items() if dtype in ("float16", "bfloat16")]

    @property
    def ranks(self) -> dict[str, int]:
        """How many axes each parameter has, though only some of its elements may be here."""
        shapes = self.header.get("sample", {}).get("shapes", {})
        return {name: len(shapes.get(name, value.shape)) for name, value in self.initial.items()}


class Mapped(Sequence):
    """Steps as a function makes them of others, each when it is asked for.

    Args:
        steps: The others.
        change: What makes one, of its number and the other.
        count: How many of the first there are. Default: ``None`` , all.
    """

    def __init__(self, steps: Sequence[Step], change: Callable[[int, Step], Step], count: int | None = None):
        self._steps, self._change = steps, change
        self._count = len(steps) if count is None else count

    def __len__(self):
        return self._count

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        return self._change(i, self._steps[i])


@dataclass(frozen=True)
class Sample:
    """Some elements of each tensor, the same wherever the seed and the name of its parameter are."""

    elements: int
    seed: int = 0
    _known: dict[tuple[str, int], np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        _check_whole("elements", self.elements, 1)
        _check_whole("seed", self.seed, 0)

    def of(self, name: str, value: np.ndarray, size: int) -> np.ndarray:
        """Those of a tensor that goes with a parameter of some size, as a vector; any other is whole, and a smaller."""
        if size <= self.elements or np.size(value) != size:
            return value
        if (name, size) not in self._known:  # the same at each step
            rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
            self._known[name, size] = np.sort(rng.choice(size, self.elements, replace=False))
        return np.ravel(value)[self._known[name, size]]


class Writer:
    """Writes a run, step by step.

    Args:
        folder (Path): Where; it is made, and must not hold a run.
        optimizer (str): The name of the class.
        groups (list[dict]): For each group "params", names, and its arguments.
        initial (Mapping[str, np.ndarray]): The parameters before the first step, by name, in order.
        state (Mapping[str, Mapping[str, np.ndarray]]): What state there is already, by parameter and slot.
        bfloat16 (Sequence[str]): The parameters that are bfloat16, whose arrays are float32 here.
        notes (Mapping[str, Any]): What else the header is to say.
        elements (Union[None, int]): Of a larger tensor only so many elements are written, drawn by the name of its
            parameter and `seed`, in [1, inf). Default: ``None`` .
        seed (int): That of the draw, in [0, inf). Default: ``0`` .
        every (int): How many steps there are from one that is written to the next, in [1, inf). Default: ``1`` .

    Raises:
        FileExistsError: If the folder holds a run.
        ValueError: If a group names a parameter that is not in `initial`, or a number is out of range; in a step, if
            elements are asked for and a gradient is sparse.

    Examples:
        >>> import numpy as np
        >>> from parity.runs import Step, Writer, read
        >>> weight = np.ones(2, np.float32)
        >>> writer = Writer("run", "SGD", [{"params": ["w"], "lr": 0.5}], {"w": weight})
        >>> writer.add(Step([{"lr": 0.5}], {"w": weight}, {"w": weight / 2}, {}, {"w": np.array([0.5, 0.5])}))
        >>> read("run").steps[0].parameters["w"].tolist()
        [0.5, 0.5]
    """

    def __init__(
        self,
        folder: str | Path,
        optimizer: str,
        groups: Sequence[Mapping[str, Any]],
        initial: Arrays,
        state: State | None = None,
        bfloat16: Sequence[str] = (),
        notes: Mapping[str, Any] | None = None,
        elements: int | None = None,
        seed: int = 0,
        every: int = 1,
    ):
        _check_whole("every", every, 1)
        self._sample = None if elements is None else Sample(elements, seed)
        self._every, self._seen = every, 0
        self._sizes = {name: np.size(value) for name, value in initial.items()}
        self._folder, self._count, self._bfloat16 = Path(folder), 0, {*bfloat16}
        self._folder.mkdir(parents=True, exist_ok=True)
        held = [path.name for path in self._folder.iterdir() if re.fullmatch(HELD, path.name)]
        if held:
            raise FileExistsError(
                f"For 'Writer', 'folder' must not hold a run, but '{self._folder}' has {sorted(held)[:3]}."
            )
        unknown = [name for group in groups for name in group["params"] if name not in initial]
        if unknown:
            raise ValueError(f"For 'Writer', 'groups' must be of the parameters {[*initial]}, but got {unknown}.")
        dtypes = {name: "bfloat16" if name in self._bfloat16 else str(value.dtype) for name, value in initial.items()}
        self._write("initial", {**_keyed("parameter", initial), **_states("state", state or {})}, {})
        said = {"format": FORMAT, "optimizer": optimizer, "groups": groups, "dtypes": dtypes, **(notes or {})}
        if self._sample:
            shapes = {name: np.shape(value) for name, value in initial.items()}
            said["sample"] = {"elements": elements, "seed": seed, "shapes": shapes}
        said |= {"every": every} if every != 1 else {}
        self._said = said
        self._write_header()

    def end(self, notes: Mapping[str, Any]) -> None:
        """Note what came after the last step, if there is anything to say."""
        if notes:
            self._said["after"] = notes
            self._write_header()

    def is_due(self) -> bool:
        """Count a step that was taken, and say whether it is one to write."""
        self._seen += 1
        return (self._seen - 1) % self._every == 0

    def add(self, step: Step) -> None:
        """Write a step; its file is there when it is whole."""
        rows = {name: grad[0] for name, grad in step.gradients.items() if isinstance(grad, tuple)}
        if rows and self._sample:
            raise ValueError(f"For 'Writer', 'elements' must be None where gradients are sparse, but got {[*rows]}.")
        values = {name: grad[-1] if isinstance(grad, tuple) else grad for name, grad in step.gradients.items()}
        tensors = {
            **_keyed("gradient", values),
            **_keyed("rows", rows),
            **_keyed("before", step.before),
            **_keyed("parameter", step.parameters),
            **_states("state", step.state),
            **_keyed("double/parameter", step.double_parameters),
            **_states("double/state", step.double_state),
        }
        said = {"groups": step.groups} | ({} if step.loss is None else {"loss": step.loss})
        said |= {"notes": step.notes} if step.notes else {}
        self._write(f"{self._count:06d}", tensors, said)
        self._count += self._every

    def _write_header(self):
        text = json.dumps(self._said, indent=1, default=_plain) + "\n"
        _replace(self._folder / "run.json", lambda file: file.write_text(text))

    def _write(self, name, tensors, said):
        if self._sample:
            names = {key: parsed(key)[-1] for key in tensors}
            tensors = {key: self._sample.of(names[key], v, self._sizes[names[key]]) for key, v in tensors.items()}
        halves = [key for key, value in tensors.items() if self._is_half(key, value)]
        packed = {
            key: _bits(value) if key in halves else np.ascontiguousarray(value).reshape(np.shape(value))
            for key, value in tensors.items()
        }
        metadata = {key: json.dumps(value, default=_plain) for key, value in {**said, "bfloat16": halves}.items()}
        _replace(self._folder / f"{name}.safetensors", lambda file: file.write_bytes(save(packed, metadata)))

    def _is_half(self, key, value):
        """Whether it is of a bfloat16 parameter and its bits hold it: a count of steps is wider."""
        *_, name = parsed(key)
        return name in self._bfloat16 and value.dtype == np.float32 and not np.any(value.view(np.uint32) & 0xFFFF)


def _check_whole(name, value, least):
    """Raise unless it is an int that is not too small."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"For 'Writer', '{name}' must be an int in [{least}, inf), but got {value!r}.")


def parsed(key: str) -> tuple[str, str, str]:
    """The kind, the slot, if it is of a state, and the name in a key."""
    double = "double/" if key.startswith("double/") else ""
    kind, _, name = key.removeprefix(double).partition("/")
    slot, _, of_state = name.partition("/")
    return (f"{double}{kind}", slot, of_state) if kind == "state" else (f"{double}{kind}", "", name)


def _keyed(kind, arrays):
    return {f"{kind}/{name}": np.asarray(value) for name, value in arrays.items()}


def _states(kind, state):
    return {f"{kind}/{slot}/{name}": np.asarray(v) for name, slots in state.items() for slot, v in slots.items()}


def _bits(value):
    """The upper half of float32 numbers that are bfloat16."""
    return (np.ascontiguousarray(value).view(np.uint32) >> 16).astype(np.uint16).reshape(value.shape)


def _plain(value):
    """What JSON has for an argument that is none of its kinds."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def _replace(file, write):
    """Write a file beside, and move it into its place."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        write(beside)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
