"""Reads the files of runs, and says what is wrong with them."""

import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from safetensors import SafetensorError, safe_open

from parity.runs.files import FORMAT, Run, Step, parsed

# The kinds of tensors whose key ends with the name of a parameter.
KINDS = ("parameter", "gradient", "rows", "before", "double/parameter")
STATES = ("state", "double/state")
# What else a header may have, and what that is.
MAPPINGS = ("after", "average", "names", "sample", "versions")


class Unreadable(ValueError):
    """What is wrong with the file of a step."""


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
    files = [file for file in folder.iterdir() if re.fullmatch(r"\d{6,}(\.safetensors|\.npz|)", file.name)]
    files.sort(key=lambda file: int(file.stem))
    numbers, every = [int(file.stem) for file in files], header.get("every", 1)
    if numbers != [*range(0, len(files) * every, every)]:
        which = "each step" if every == 1 else f"every step of {every}"
        raise ValueError(f"For 'read', '{folder}' must have {which} from 0 once, but got {numbers}.")
    shapes = {name: value.shape for name, value in initial.items()}
    state = _by_parameter(tensors["state"])
    unknown = [name for name in state if name not in initial]
    if unknown:
        raise ValueError(f"For 'read', the state in '{folder}' must be of {[*initial]}, but got that of {unknown}.")
    return Run(header, initial, state, _Steps(files, len(header["groups"]), shapes))


def _check_header(folder, header):
    """Raise if what a run says of itself is not what a run says."""

    def check(key, is_right, what):
        if not is_right:
            where, _, part = key.partition(".")
            got = header[where].get(part) if part else header.get(where)
            raise ValueError(f"For 'read', '{key}' in '{folder / 'run.json'}' must be {what}, but got {got!r}.")

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
        isinstance(group, dict)
        and isinstance(group.get("params"), list)
        and all(isinstance(name, str) for name in group["params"])
        for group in groups
    )
    check("groups", are_groups, "a list of objects with a list 'params' of names")
    members = [name for group in groups for name in group["params"]]
    are_members = len(members) == len(dtypes) and all(name in dtypes for name in members)
    check("groups", are_members and len({*members}) == len(members), f"of each of {[*dtypes]} once")
    check("every", is_whole(header.get("every", 1), 1), "an integer in [1, inf)")
    for key in MAPPINGS:
        check(key, isinstance(header.get(key, {}), dict), "an object")
    check("after.skipped", is_whole(header.get("after", {}).get("skipped", 0), 0), "a number of steps")
    sample = header.get("sample", {"elements": 1, "seed": 0, "shapes": {}})
    fits = is_whole(sample.get("elements"), 1) and is_whole(sample.get("seed"), 0)
    shapes = sample.get("shapes")
    fits = fits and isinstance(shapes, dict) and all(isinstance(shape, list) for shape in shapes.values())
    check("sample", fits, "'elements', 'seed' and 'shapes'")


class _Steps(Sequence):
    """The steps of a run, which are read one at a time."""

    def __init__(self, files, count, shapes):
        self._files, self._count, self._shapes = files, count, shapes
        self._states: dict[tuple[str, str], tuple[int, ...]] = {}  # the shapes that were seen

    def __len__(self):
        return len(self._files)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        tensors, said = _tensors(self._files[i])
        groups, loss = said.get("groups", []), said.get("loss")
        if (
            not isinstance(groups, list)
            or len(groups) != self._count
            or not all(isinstance(group, dict) for group in groups)
        ):
            raise Unreadable(
                f"For 'read', '{self._files[i]}' must have the numbers of {self._count} groups, but got {groups!r}."
            )
        if loss is not None and (not isinstance(loss, (int, float)) or isinstance(loss, bool)):
            raise Unreadable(f"For 'read', the loss in '{self._files[i]}' must be a number, but got {loss!r}.")
        notes = said.get("notes", {})
        if not isinstance(notes, dict):
            raise Unreadable(f"For 'read', the notes in '{self._files[i]}' must be an object, but got {notes!r}.")
        skipped = notes.get("skipped", 0)
        if type(skipped) is not int or skipped < 0:
            raise Unreadable(
                f"For 'read', 'skipped' in '{self._files[i]}' must be a number of steps, but got {skipped!r}."
            )
        self._check_shapes(self._files[i], tensors)
        self._check_rows(self._files[i], tensors)
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
            notes,
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
                if value.dtype.kind != "f":
                    raise Unreadable(
                        f"For 'read', {kind} of '{name}' in '{file}' must be floats, but is {value.dtype}."
                    )
                shape = self._shapes[name]
                if value.shape != shape and not (kind == "gradient" and name in tensors["rows"]):
                    raise Unreadable(
                        f"For 'read', {kind} of '{name}' in '{file}' must be of shape {shape}, but is of {value.shape}."
                    )
        for kind in STATES:
            for (slot, name), value in tensors[kind].items():
                if name not in self._shapes:
                    raise Unreadable(f"For 'read', '{file}' must be of {[*self._shapes]}, but got {kind} of '{name}'.")
                shape = self._states.setdefault((slot, name), value.shape)
                if value.shape != shape:
                    raise Unreadable(
                        f"For 'read', '{slot}' of '{name}' in '{file}' must be of shape {shape}, as in other steps, "
                        f"but is of {value.shape}."
                    )

    def _check_rows(self, file, tensors):
        """Raise if a sparse gradient is not of rows of its parameter."""
        for name, rows in tensors["rows"].items():
            values, shape = tensors["gradient"].get(name), self._shapes.get(name, ())
            fits = values is not None and rows.ndim == 1 and rows.dtype.kind in "iu" and len(shape) > 0
            if not fits or values.shape != (len(rows), *shape[1:]) or ((rows < 0) | (rows >= shape[0])).any():
                raise Unreadable(
                    f"For 'read', rows of '{name}' in '{file}' must be places of those of its gradient in a parameter "
                    f"of shape {shape}, but got {rows.tolist()[:5]} for {None if values is None else values.shape}."
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
            if not isinstance(said, dict):
                raise ValueError(f"metadata that is {said!r}")
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
    except (SafetensorError, OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise Unreadable(f"For 'read', '{file}' must be a whole file of a run, but got {error}.") from None
    bits = said.get("bfloat16", [])
    if not isinstance(bits, list) or not all(key in flat and flat[key].dtype == np.uint16 for key in bits):
        raise Unreadable(f"For 'read', 'bfloat16' in '{file}' must be keys of tensors of uint16, but got {bits!r}.")
    found = {kind: {} for kind in (*KINDS, *STATES)}
    for key, value in flat.items():
        kind, slot, name = parsed(key)
        if kind not in found:
            raise Unreadable(f"For 'read', the keys of '{file}' must begin with {[*found]}, but got {key!r}.")
        if value.dtype.kind not in "biuf":
            raise Unreadable(f"For 'read', {key!r} in '{file}' must be of numbers, but is of {value.dtype}.")
        if key in bits:
            value = np.left_shift(value, np.uint32(16), dtype=np.uint32).view(np.float32)
        found[kind][(slot, name) if slot else name] = value
    return found, said


def _by_parameter(states):
    found = {}
    for (slot, name), value in states.items():
        found.setdefault(name, {})[slot] = value
    return found
