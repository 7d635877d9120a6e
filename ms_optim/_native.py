"""The native kernels of kernels/: which rules have one, what each takes, and the primitive that runs one.

The library exports a table of the numbers, flags and slots that each of its functions takes, in order. It is compared
with the rule in Python before the rule's kernel is used, so that a library of other sources is refused and not obeyed.
"""

import contextlib
import ctypes
import functools
import inspect
import ipaddress
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, log, ops

from ms_optim.arguments import FLOATS

# Of the table and of the inputs of its functions, as in kernels/kernels.cpp.
VERSION = 6
_ANEW = "install ms_optim anew"
# What says how many threads a process may take.
THREADS = "OMP_NUM_THREADS"


class _Entry(ctypes.Structure):
    """A row of the table, as kernels.cpp has it."""

    _fields_ = (
        *((name, ctypes.c_char_p) for name in ("rule", "numbers", "flags", "choices", "slots")),
        ("optional", ctypes.c_uint),
    )


@dataclass(frozen=True)
class Kernel:
    """What a function of the library takes.

    Args:
        rule: The name of the function, and of the rule in Python.
        numbers: The names of the numbers of a step.
        flags: The names of what is decided at construction, and the choices of each that is not a bool.
        slots: The names of the tensors of state, and whether a parameter may lack each.
    """

    rule: str
    numbers: tuple[str, ...]
    flags: dict[str, tuple[str, ...]]
    slots: dict[str, bool]

    def check(self, owner: str, numbers: Sequence[str], flags: Sequence[str], slots: dict[str, bool]) -> None:
        """Compare what the function takes with what the rule in Python has.

        Raises:
            RuntimeError: If they differ: the library was built from other sources.
        """
        for what, expected, has in (
            ("numbers", self.numbers, tuple(numbers)),
            ("flags", tuple(self.flags), tuple(flags)),
            ("slots", _described(self.slots), _described(slots)),
        ):
            if expected != has:
                raise RuntimeError(
                    f"For '{owner}', the native kernel '{self.rule}' expects {what} {_listed(expected)}, but the "
                    f"rule has {_listed(has)}: {_ANEW}."
                )

    def function(self) -> Callable[["Inputs"], None]:
        """What calls the function at once, on memory."""
        call = _function(library(), self.rule)

        def run(inputs):
            if call(*inputs.arguments):
                raise RuntimeError(f"The native kernel '{self.rule}' refused its inputs: {_ANEW}.")

        return run

    def primitive(self) -> ops.Custom:
        """The operator that calls the function, which writes into its inputs."""
        custom = ops.Custom(f"{library()}:{self.rule}", (1,), ms.float32, "aot")
        custom.add_prim_attr("side_effect_mem", True)
        return custom

    def layout(self, owner: str, slot_table: Sequence[tuple], flags: Sequence[tuple]) -> Tensor:
        """For each parameter which slots it has, then its flags as numbers: the place of a choice among the choices.

        Raises:
            RuntimeError: If the function does not know a choice.
        """
        rows = [
            [*(slot is not None for slot in slots), *(self._number(owner, *item) for item in zip(self.flags, row))]
            for slots, row in zip(slot_table, flags)
        ]
        return Tensor(np.array(rows, np.int32))

    def _number(self, owner, flag, value):
        choices = self.flags[flag]
        if isinstance(value, (bool, np.bool_)) and not choices:
            return int(value)
        if value not in choices:
            raise RuntimeError(
                f"For '{owner}', the native kernel '{self.rule}' expects '{flag}' in {_listed(choices)}, but the rule "
                f"has {value!r}: {_ANEW}."
            )
        return choices.index(value)


def _described(slots):
    return tuple(f"{name} or none" if optional else name for name, optional in slots.items())


def _listed(names):
    return f"({', '.join(names)})"


@functools.cache
def library() -> Path | None:
    """The shared library that was built when the package was installed, if a compiler was there; else warn, once."""
    found = next(iter(sorted(Path(__file__).parent.glob("_kernels*.so"))), None)
    if found is None:
        log.warning(
            "ms_optim was installed without a C++ compiler: on CPU it computes with MindSpore's operators, "
            "which takes many times as long. Install it anew with one to get the kernels."
        )
    return found


class Inputs:
    """What a function of the library is given: for each of its inputs, and last its output, what it is and where.

    Args:
        shapes: Of each.
        dtypes: The name of each, as NumPy's or MindSpore's.

    Attributes:
        places: The address of each, an array to write into.
        arguments: Those of the function in C.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str]):
        dimensions = np.array(list(map(len, shapes)), np.int32)
        sizes = np.array([size for shape in shapes for size in shape] or [0], np.int64)
        names = {name: ctypes.create_string_buffer(name.lower().encode()) for name in set(dtypes)}
        starts = sizes.ctypes.data + 8 * (np.cumsum(dimensions, dtype=np.uint64) - dimensions.astype(np.uint64))
        named = np.array([ctypes.addressof(names[name]) for name in dtypes], np.uint64)
        self.places = np.zeros(len(shapes), np.uint64)
        self._kept = dimensions, sizes, names, starts, named
        arrays = (self.places, dimensions, starts, named)
        self.arguments = (len(shapes), *(array.ctypes.data for array in arrays), None, None)


@functools.cache
def _function(path, name):
    function = getattr(ctypes.CDLL(str(path)), name)
    function.argtypes, function.restype = (ctypes.c_int, *[ctypes.c_void_p] * 6), ctypes.c_int
    return function


def power_of_arrays(base: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """`power` of float64 arrays, at once."""
    if np.shape(base) != np.shape(exponent):
        base, exponent = np.broadcast_arrays(base, exponent)
    base, exponent = np.ascontiguousarray(base, np.float64), np.ascontiguousarray(exponent, np.float64)
    result = np.empty(base.shape)
    _powers(library())(base.size, base.ctypes.data, exponent.ctypes.data, result.ctypes.data)
    return result


@functools.cache
def _powers(path):
    function = ctypes.CDLL(str(path)).ms_optim_powers
    function.argtypes, function.restype = (ctypes.c_int64, *[ctypes.c_void_p] * 3), None
    return function


def dot(a: np.ndarray, b: np.ndarray) -> float:
    """The sum of products of two contiguous vectors of one dtype, float32 or float64, added up in float64."""
    return _of_vectors(library(), "dot", a.itemsize)(a.ctypes.data, b.ctypes.data, a.size)


def add_scaled(x: np.ndarray, factor: float, y: np.ndarray) -> None:
    """Add factor * y to x, of which the same holds."""
    _of_vectors(library(), "add_scaled", x.itemsize)(x.ctypes.data, factor, y.ctypes.data, x.size)


# What each of them gives, and takes of numbers between the vectors.
_OF_VECTORS: dict[str, tuple] = {"dot": (ctypes.c_double,), "add_scaled": (None, ctypes.c_double)}


@functools.cache
def _of_vectors(path, name, itemsize):
    kernels_for("LBFGS")  # a library of other sources is refused
    function = getattr(ctypes.CDLL(str(path)), f"ms_optim_{name}_float{8 * itemsize}")
    function.restype, *numbers = _OF_VECTORS[name]
    function.argtypes = (ctypes.c_void_p, *numbers, ctypes.c_void_p, ctypes.c_int64)
    return function


def threads() -> int:
    """How many threads kernels may take, by OMP_NUM_THREADS or as a share of the cores; 0 are as many as there are.

    It is read as it was given to this process: where it is not set, MindSpore sets it to half of the cores, in C. So it
    does in msrun, whose workers get that.
    """
    workers = workers_here()
    given = "" if workers > 1 and _is_set_by_msrun() else os.environ.get(THREADS, "").partition(",")[0].strip()
    if given.isdecimal():
        return int(given)
    return max(len(os.sched_getaffinity(0)) // workers, 1) if workers > 1 else 0


def workers_here() -> int:
    """How many workers of msrun share the cores of this process; 1 where that is not known.

    msrun tells a worker how many there are in all, and where they meet. No other machine reaches a loopback address:
    all of them are here then. A worker that msrun has bound has fewer cores than msrun, and shares them with none.
    """
    told = os.environ.get("MS_WORKER_NUM", "")
    if os.environ.get("MS_ROLE") != "MS_WORKER" or not told.isdecimal() or not hasattr(os, "sched_getaffinity"):
        return 1
    try:
        local = ipaddress.ip_address(os.environ.get("MS_SCHED_HOST", "")).is_loopback
        bound = os.sched_getaffinity(0) < os.sched_getaffinity(os.getppid())
    except (OSError, ValueError):
        return 1
    return int(told) if local and not bound else 1


def _is_set_by_msrun():
    """Whether this process has an OMP_NUM_THREADS that msrun, which waits for it, was not given itself."""
    try:
        command = _words(os.getppid(), "cmdline")
        given, own = (
            [word.removeprefix(f"{THREADS}=") for word in _words(process, "environ") if word.startswith(f"{THREADS}=")]
            for process in (os.getppid(), "self")
        )
    except OSError:
        return False
    launched = any(word == "mindspore.parallel.cluster.run" or Path(word).name == "msrun" for word in command)
    return launched and not given and own == [os.environ.get(THREADS)]


def _words(process, file):
    """What a process was started with: the words of its command, or its environment."""
    return Path(f"/proc/{process}/{file}").read_bytes().decode(errors="replace").split("\0")


@functools.cache
def kernels(path: Path) -> dict[str, Kernel]:
    """What the functions of a library take, by name; the library is told how many threads it may take.

    Raises:
        ImportError: If it has no table of them, or one that is not of this version.
    """
    try:
        loaded = ctypes.CDLL(str(path))
        version, count = (ctypes.c_int * 2).in_dll(loaded, "ms_optim_table")
        entries = (_Entry * count).in_dll(loaded, "ms_optim_rules")
    except OSError as error:
        raise ImportError(f"{path.name!r} cannot be loaded: {error}") from None
    except ValueError:  # a symbol that is not found
        raise ImportError(f"{path.name!r} has no table of rules") from None
    if version != VERSION:
        raise ImportError(f"{path.name!r} has a table of rules of version {version} and not {VERSION}")
    loaded.ms_optim_use_threads(threads())
    return {kernel.rule: kernel for kernel in map(_kernel, entries)}


def _names(text):
    return tuple(name for name in text.split(", ") if name)


def _kernel(entry):
    rule, numbers, flags, choices, slots = (
        getattr(entry, name).decode() for name in ("rule", "numbers", "flags", "choices", "slots")
    )
    chosen, _, choices = choices.partition(": ")
    return Kernel(
        rule,
        _names(numbers),
        {name: _names(choices) if name == chosen else () for name in _names(flags)},
        {name: bool(entry.optional >> i & 1) for i, name in enumerate(_names(slots))},
    )


def kernels_for(owner: str) -> dict[str, Kernel]:
    """The kernels that there are here, by the names of their rules: none on other devices or without a library.

    Raises:
        RuntimeError: If there is a library, but of another version than this package.
    """
    if ms.get_context("device_target") != "CPU" or library() is None:
        return {}
    try:
        return kernels(library())
    except ImportError as error:
        raise RuntimeError(f"For '{owner}', the native kernels cannot be used, because {error}: {_ANEW}.") from None


_power: ops.Custom | None = None


@functools.cache
def _power_of(path):
    return ops.Custom(f"{path}:power", lambda base, _: base, lambda base, _: base, "aot")


def prepare_power(owner: str) -> None:
    """Let graphs that are compiled from now on take powers by the library, if there is one here that can be used.

    One that cannot be is refused where kernels are wanted.
    """
    global _power
    with contextlib.suppress(RuntimeError):
        if kernels_for(owner):
            _power = _power_of(library())


def power(base, exponent):
    """Compute base**exponent of float64 arrays of one shape, on CPU as the C library does: to the same bits always.

    MindSpore's own has other bits at other places of a vector, and now and then from one run to the next.
    """
    if _power is not None and isinstance(base, Tensor):
        return _power(base, exponent)
    return base**exponent


def obstacle(owner: str, update: Callable) -> str | None:
    """Why no kernel can run a rule, or None if one can."""
    if update.__module__ != f"{__package__}.{update.__name__}":
        return f"the rule {update.__name__!r} of {update.__module__!r} is not one of the library's"
    return absence(owner, update.__name__)


def absence(owner: str, rule: str) -> str | None:
    """Why there is no kernel for a rule of this name, or None if there is one."""
    if ms.get_context("device_target") != "CPU":
        return f"the device is {ms.get_context('device_target')} and not CPU"
    if library() is None:
        return "the library was installed without a C++ compiler"
    return None if rule in kernels_for(owner) else f"the rule {rule!r} has no kernel"


def kernel_of(
    owner: str, update: Callable, slots: Sequence, flag_names: Sequence[str], conditions: Iterable[str] = ()
) -> Kernel:
    """The kernel of a rule that has one, known to take what the rule takes.

    Args:
        owner: The optimizer's name.
        update: The rule: a function of parameter, gradient, slots, the numbers and the flags.
        slots: The tensors of state that it declares, each with `name` and `when`.
        flag_names: Which of its parameters are flags.
        conditions: Which of them it does not take: what is decided of the numbers, and what is not for kernels.

    Raises:
        RuntimeError: If the library was built from other sources.
    """
    names = tuple(inspect.signature(update).parameters)[3:]
    numbers = [name for name in names if name not in {*flag_names, *conditions}]
    flags = [name for name in names if name in flag_names]
    kernel = kernels_for(owner)[update.__name__]
    kernel.check(owner, numbers, flags, {slot.name: slot.when is not None for slot in slots})
    return kernel


def check_state(
    owner: str,
    parameters: Sequence[Parameter],
    dtypes: Sequence[ms.dtype.Type],
    slots: Sequence,
    slot_table: Sequence[tuple],
) -> None:
    """Check what a kernel writes into: parameters of floats, which have the dtypes that they had, and state of these.

    Raises:
        TypeError, ValueError: If one is not that; the parameter is named.
    """
    for param, dtype, states in zip(parameters, dtypes, slot_table, strict=True):
        if param.dtype not in FLOATS:
            raise TypeError(
                f"For '{owner}', the dtype of '{param.name}' must be one of {_listed(map(str, FLOATS))}, but got "
                f"{param.dtype}."
            )
        if param.dtype != dtype:
            raise TypeError(
                f"For '{owner}', the dtype of '{param.name}' must be {dtype}, which it was when it was made, but got "
                f"{param.dtype}; after a cast of the network an optimizer must be made anew."
            )
        for slot, state in zip(slots, states, strict=True):
            if state is not None and (state.dtype, state.shape) != (param.dtype, param.shape):
                kind = TypeError if state.dtype != param.dtype else ValueError
                raise kind(
                    f"For '{owner}', the state '{slot.name}' of '{param.name}' must be of {param.dtype} and shape "
                    f"{param.shape} as the parameter, but got {state.dtype} and {state.shape}; after a cast of the "
                    "network an optimizer must be made anew."
                )


def check_averages(owner: str, averages: Sequence[Tensor], values: Sequence[Tensor], copied: Sequence[bool]) -> None:
    """Check what the kernel of an average writes into, and from what.

    Raises:
        TypeError, ValueError: If a value does not fit its average; both are named.
    """
    for average, value, copy in zip(averages, values, copied, strict=True):
        said = f"For '{owner}', the average of '{value.name}', of {value.dtype} and shape {value.shape}, must be"
        if average.shape != value.shape:
            raise ValueError(f"{said} of its shape, but '{average.name}' is of {average.shape}.")
        floats = average.dtype in FLOATS and value.dtype in FLOATS
        if not floats and not (copy and average.dtype == value.dtype):
            raise TypeError(f"{said} of its dtype, or both of floats, but '{average.name}' is of {average.dtype}.")


def average_kernel(owner: str) -> Kernel:
    """The kernel of an average, known to take the weight, and of each tensor whether it is copied.

    Args:
        owner: The name of whose average it is.

    Raises:
        RuntimeError: If the library was built from other sources.
    """
    kernel = kernels_for(owner)["average"]
    kernel.check(owner, ("weight",), ("copied",), {})
    return kernel
