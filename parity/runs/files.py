"""The files of runs, written and read with NumPy alone; `parity.runs` says what is in them."""

import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

FORMAT = "parity run 1"
# The kinds of tensors whose key ends with the name of a parameter.
KINDS = ("parameter", "gradient", "rows", "before", "double/parameter")
STATES = ("state", "double/state")

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


class Unreadable(ValueError):
    """What is wrong with the file of a step."""


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

    def __post_init__(self):
        _check_whole("elements", self.elements, 1)
        _check_whole("seed", self.seed, 0)

    def of(self, name: str, value: np.ndarray, size: int) -> np.ndarray:
        """Those of a tensor that goes with a parameter of some size, as a vector; any other is whole, and a smaller."""
        if size <= self.elements or np.size(value) != size:
            return value
        return np.ravel(value)[self.places(name, size)]

    def places(self, name: str, size: int) -> np.ndarray:
        """Which elements of a larger tensor those are."""
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        return np.sort(rng.choice(size, self.elements, replace=False))


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
        if (self._folder / "run.json").exists():
            raise FileExistsError(f"For 'Writer', 'folder' must not hold a run, but got '{self._folder}'.")
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
            names = {key: _parsed(key)[-1] for key in tensors}
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
        *_, name = _parsed(key)
        return name in self._bfloat16 and value.dtype == np.float32 and not np.any(value.view(np.uint32) & 0xFFFF)


def _check_whole(name, value, least):
    """Raise unless it is an int that is not too small."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"For 'Writer', '{name}' must be an int in [{least}, inf), but got {value!r}.")


def read(folder: str | Path) -> Run:
    """Read a run; each step is read when it is asked for.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If a file is damaged or of another format, named with what is wrong.
    """
    folder = Path(folder)
    try:
        header = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"For 'read', 'folder' must hold a run with a run.json, but got '{folder}'.") from None
    except ValueError as error:
        raise ValueError(f"For 'read', '{folder / 'run.json'}' must be JSON, but got {error}.") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        got = header.get("format") if isinstance(header, dict) else type(header).__name__
        raise ValueError(f"For 'read', the format of '{folder}' must be {FORMAT!r}, but got {got!r}.")
    _check_header(folder, header)
    tensors, _ = _tensors(_one(folder, "initial"))
    if {*tensors["parameter"]} != {*header["dtypes"]}:
        raise ValueError(
            f"For 'read', '{folder}' must begin with {[*header['dtypes']]}, but got {[*tensors['parameter']]}."
        )
    initial = {name: tensors["parameter"][name] for name in header["dtypes"]}
    kept = {name: str(value.dtype) for name, value in initial.items()}
    odd = [
        name
        for name, dtype in header["dtypes"].items()
        if dtype.replace("bfloat16", "float32") != kept[name] or not kept[name].startswith("float")
    ]
    if odd:
        raise ValueError(
            f"For 'read', 'dtypes' in '{folder / 'run.json'}' must be those of the parameters, all floats, but got "
            f"{header['dtypes'][odd[0]]!r} for '{odd[0]}', which is {kept[odd[0]]}."
        )
    files = sorted(file for file in folder.iterdir() if re.fullmatch(r"\d{6}(\.safetensors|\.npz|)", file.name))
    numbers, every = [int(file.stem) for file in files], header.get("every", 1)
    if numbers != [*range(0, len(files) * every, every)]:
        which = "each step" if every == 1 else f"every step of {every}"
        raise ValueError(f"For 'read', '{folder}' must have {which} from 0 once, but got {numbers}.")
    shapes = {name: value.shape for name, value in initial.items()}
    return Run(header, initial, _by_parameter(tensors["state"]), _Steps(files, len(header["groups"]), shapes))


# What else a header may have, and what that is.
MAPPINGS = ("after", "average", "names", "sample", "versions")


def _check_header(folder, header):
    """Raise if what a run says of itself is not what a run says."""

    def check(key, is_right, what):
        if not is_right:
            raise ValueError(
                f"For 'read', '{key}' in '{folder / 'run.json'}' must be {what}, but got {header.get(key)!r}."
            )

    def is_whole(value, least):
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    missing = [key for key in ("optimizer", "groups", "dtypes") if key not in header]
    if missing:
        raise ValueError(f"For 'read', the header of '{folder}' must have all of its keys, but got no {missing}.")
    dtypes, groups = header["dtypes"], header["groups"]
    check("optimizer", isinstance(header["optimizer"], str), "the name of a class")
    are_named = isinstance(dtypes, dict) and all(isinstance(dtype, str) for dtype in dtypes.values())
    check("dtypes", are_named, "a dtype for each parameter")
    are_groups = isinstance(groups, list) and all(
        isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups
    )
    check("groups", are_groups, "a list of objects with a list 'params'")
    members = [name for group in groups for name in group["params"]]
    are_members = len(members) == len(dtypes) and all(name in dtypes for name in members)
    check("groups", are_members and len({*members}) == len(members), f"of each of {[*dtypes]} once")
    check("every", is_whole(header.get("every", 1), 1), "an integer in [1, inf)")
    for key in MAPPINGS:
        check(key, isinstance(header.get(key, {}), dict), "an object")
    sample = header.get("sample", {"elements": 1, "seed": 0, "shapes": {}})
    fits = is_whole(sample.get("elements"), 1) and is_whole(sample.get("seed"), 0)
    check("sample", fits and isinstance(sample.get("shapes"), dict), "'elements', 'seed' and 'shapes'")


class _Steps(Sequence):
    """The steps of a run, which are read one at a time."""

    def __init__(self, files, count, shapes):
        self._files, self._count, self._shapes = files, count, shapes

    def __len__(self):
        return len(self._files)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        tensors, said = _tensors(self._files[i])
        groups, loss = said.get("groups", []), said.get("loss")
        if len(groups) != self._count or not all(isinstance(group, dict) for group in groups):
            raise Unreadable(
                f"For 'read', '{self._files[i]}' must have the numbers of {self._count} groups, but got {groups!r}."
            )
        if loss is not None and (not isinstance(loss, (int, float)) or isinstance(loss, bool)):
            raise Unreadable(f"For 'read', the loss in '{self._files[i]}' must be a number, but got {loss!r}.")
        self._check_shapes(self._files[i], tensors)
        rows, values = tensors["rows"], tensors["gradient"]
        return Step(
            groups,
            {name: (rows[name], value) if name in rows else value for name, value in values.items()},
            tensors["parameter"],
            _by_parameter(tensors["state"]),
            tensors["double/parameter"],
            _by_parameter(tensors["double/state"]),
            tensors["before"],
            loss,
            said.get("notes", {}),
        )

    def __iter__(self) -> Iterator[Step]:
        return (self[i] for i in range(len(self)))

    def _check_shapes(self, file, tensors):
        """Raise if it has not every parameter, or others, or tensors of other shapes."""
        missing = [name for name in self._shapes if name not in tensors["parameter"]]
        if missing:
            raise Unreadable(f"For 'read', '{file}' must have each parameter, but got no {missing}.")
        for kind in ("parameter", "gradient", "before", "double/parameter"):
            for name, value in tensors[kind].items():
                if name not in self._shapes:
                    raise Unreadable(f"For 'read', '{file}' must be of {[*self._shapes]}, but got {kind} of '{name}'.")
                shape = self._shapes[name]
                if value.shape != shape and not (kind == "gradient" and name in tensors["rows"]):
                    raise Unreadable(
                        f"For 'read', {kind} of '{name}' in '{file}' must be of shape {shape}, but is of {value.shape}."
                    )


def _one(folder, name):
    """The file of a name, in either format."""
    for suffix in (".safetensors", ".npz", ""):
        if (folder / f"{name}{suffix}").exists():
            return folder / f"{name}{suffix}"
    raise FileNotFoundError(
        f"For 'read', '{folder}' must hold '{name}.safetensors', '{name}.npz' or a folder '{name}', but got none."
    )


def _tensors(file):
    """The tensors of a file by kind and name, those of states by pairs of slot and name; and its metadata."""
    try:
        if file.is_dir():
            paths = {path.relative_to(file).with_suffix("").as_posix(): path for path in file.rglob("*.npy")}
            flat = {key: np.load(path, allow_pickle=False) for key, path in paths.items()}
            told = file / "metadata.json"
            said = json.loads(told.read_text(encoding="utf-8")) if told.exists() else {}
            said = {key: json.dumps(value) for key, value in said.items()}
        elif file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as found:
                flat = {key: found[key] for key in found.files}
            said = {key: str(flat.pop(key)) for key in [*flat] if key.startswith("metadata/")}
            said = {key.removeprefix("metadata/"): value for key, value in said.items()}
        else:
            with safe_open(file, "np") as found:
                flat, said = {key: found.get_tensor(key) for key in found.keys()}, found.metadata() or {}  # noqa: SIM118
        said = {key: json.loads(value) for key, value in said.items()}
    except (SafetensorError, OSError, ValueError, EOFError) as error:
        raise Unreadable(f"For 'read', '{file}' must be a whole file of a run, but got {error}.") from None
    found = {kind: {} for kind in (*KINDS, *STATES)}
    for key, value in flat.items():
        kind, slot, name = _parsed(key)
        if kind not in found:
            raise Unreadable(f"For 'read', the keys of '{file}' must begin with {[*found]}, but got {key!r}.")
        if key in said.get("bfloat16", ()):
            value = np.left_shift(value, np.uint32(16), dtype=np.uint32).view(np.float32)
        found[kind][(slot, name) if slot else name] = value
    return found, said


def _parsed(key):
    """The kind, the slot, if it is of a state, and the name in a key."""
    double = "double/" if key.startswith("double/") else ""
    kind, _, name = key.removeprefix(double).partition("/")
    slot, _, of_state = name.partition("/")
    return (f"{double}{kind}", slot, of_state) if kind == "state" else (f"{double}{kind}", "", name)


def _by_parameter(states):
    found = {}
    for (slot, name), value in states.items():
        found.setdefault(name, {})[slot] = value
    return found


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
