"""Files: whose a checkpoint is, and how one is replaced whole or not at all."""

import contextlib
import glob
import os
import pickle
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows, where files are not locked and folders not opened
    fcntl = None  # type: ignore[assignment]


# How files of torch begin: since 1.6 as a zip, and before that as a pickle of a number.
ZIP = b"PK\x03\x04"
TORCH = (ZIP, pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2))


def path_of(owner: str, file: str | os.PathLike) -> Path:
    """A file as a path.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(file, (str, os.PathLike)):
        raise TypeError(f"For '{owner}', 'file' must be a str or a PathLike, but got {file!r}.")
    return Path(file)


def kind_of(owner: str, file: str | os.PathLike) -> str:
    """Whose a checkpoint is, by its first bytes: "torch", "MindSpore", or "safetensors", which are of both.

    Raises:
        ValueError: If it is none of these.
        OSError: If it cannot be read.
    """
    path = Path(file)
    with path.open("rb") as opened:
        begins = opened.read(64)
    if begins.startswith(TORCH):
        return "torch"
    if begins[8:9] == b"{" and int.from_bytes(begins[:8], "little") <= path.stat().st_size - 8:
        return "safetensors"
    if begins.startswith(b"\n"):  # the first field of a protobuf, an entry
        return "MindSpore"
    raise ValueError(
        f"For '{owner}', '{path}' must be a whole checkpoint, but it is none of torch, MindSpore or safetensors: it "
        f"begins with {begins[:8]!r}."
    )


@contextlib.contextmanager
def replacing(file: str | os.PathLike) -> Iterator[Path]:
    """Where to write what then, whole and on the disk, takes the place of a file; unless an exception was raised.

    Raises:
        OSError: If it cannot be written, which names the file.
    """
    try:
        with _replacing(Path(os.path.realpath(file)), Path(file).name) as written:
            yield written
    except Exception as error:
        said = re.search(r"\(os error (\d+)\)", str(error))  # safetensors has an error of its own
        number = error.errno if isinstance(error, OSError) else said and int(said[1])
        if number is None:
            raise
        raise OSError(number, os.strerror(number), os.fspath(file)) from error


@contextlib.contextmanager
def _replacing(path, name):
    prefix = f".{path.name}-saving-"
    for left in path.parent.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(OSError), _lock(left, wait=False):
            shutil.rmtree(left)
    with _own_folder(path.parent, prefix) as folder:
        written = Path(folder, name)
        yield written
        if not fcntl:  # MindSpore leaves it read-only, and Windows syncs and replaces no such file
            written.chmod(stat.S_IRUSR | stat.S_IWUSR)
        _sync(written, os.O_RDONLY if fcntl else os.O_RDWR)
        os.replace(written, path)
    if fcntl:
        _sync(path.parent, os.O_RDONLY)


@contextlib.contextmanager
def _own_folder(parent, prefix):
    """A new folder for a while, locked as long as this process lives: by that others know that it is in use."""
    while True:
        with tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as folder, contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):  # without locks nobody removes what is left
                held.enter_context(_lock(folder, wait=True))
            if os.path.exists(folder):  # unless another has removed it before it was locked
                yield folder
                return


@contextlib.contextmanager
def _lock(folder, wait):
    """Hold the lock of a folder, or raise OSError where another holds it or there are no locks."""
    if not fcntl:
        raise OSError("no locks here")
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(number)


def _sync(path, how):
    """Wait until a file or a folder is on the disk."""
    number = os.open(path, how)
    try:
        os.fsync(number)
    finally:
        os.close(number)
