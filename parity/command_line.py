"""What command lines have in common: names of optimizers and of modes, and files that they write."""

import argparse
import difflib
import json
import math
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

# What --mode may be, and the modes that it means.
MODES = {"graph": ("graph",), "pynative": ("pynative",), "both": ("graph", "pynative")}


def parse_names(parser: argparse.ArgumentParser, known: Collection[str], argv: list[str] | None) -> argparse.Namespace:
    """Parse a command line that may also name some of the known optimizers; all of them if it names none."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="optimizers; all if none is given")
    options = parser.parse_args(argv)
    for name in options.names:
        if name not in known:
            near = difflib.get_close_matches(name.lower(), [other.lower() for other in known], 1, 0.0)
            nearest = next(other for other in known if other.lower() == near[0])
            there = f"did you mean {nearest!r}? There are {', '.join(known)}."
            parser.error(f"unknown optimizer {name!r}, which has no entry; {there}")
    options.names = [*dict.fromkeys(options.names or known)]
    return options


def check_target(parser: argparse.ArgumentParser, option: str, target: Path | None, is_folder: bool = False) -> None:
    """End with an error if a file, or a folder that is made, cannot be written: before a run, and not after it."""
    if target is None:
        return
    try:
        if not is_folder and target.is_dir():
            raise IsADirectoryError("it is a folder")
        folder = target if is_folder else target.parent
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        parser.error(f"{option} must be such as can be written, but got {str(target)!r}: {error}")


def write_json(file: Path, told: Any) -> None:
    """Write dicts and lists into a file.

    JSON has no NaN and no infinities: there they are the strings "nan", "inf" and "-inf".
    """
    file.write_text(json.dumps(_finite(told), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _finite(value):
    """Floats that are not finite as strings, at any depth."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [*map(_finite, value)]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
