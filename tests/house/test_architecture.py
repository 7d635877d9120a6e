"""Which module may know what, by the import statements; and that what is public is listed and explained."""

import ast
import functools
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from mindspore import nn

import ms_optim
from ms_optim import OPTIMIZERS
from ms_optim._state import Stateful
from ms_optim.optimizer import Optimizer

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("ms_optim", "parity")
    for path in (ROOT / package).rglob("*.py")
}
LIBRARY = [name for name in FILES if name.startswith("ms_optim")]


@functools.cache
def tree(name):
    """The syntax of a module."""
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


@functools.cache
def imports(name):
    """What a module imports, anywhere in it: modules, and names of modules."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {"." * node.level + (node.module or "")}
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules(name, but=()):
    """What importing a module of ours brings in, through other modules of ours too, but for some."""
    seen, todo = set(), [name]
    while todo:
        for found in imports(todo.pop()) - seen - {*but}:
            seen.add(found)
            if found in FILES:
                todo.append(found)
    return seen


def reach(name):
    """The packages that importing a module of ours brings in, through other modules of ours too."""
    return {found.split(".")[0] for found in modules(name)}


FORBIDDEN = {
    **{name: {"parity", "torch"} for name in LIBRARY},
    "ms_optim._math": {"mindspore", "ms_optim", "numpy", "parity", "torch"},
    **{
        name: {"mindspore", "ms_optim"}
        for name in ("parity.sides.torch_networks", "parity.references", "parity.sides.torch")
    },
    # Nor does what runs where torch is not.
    **{
        f"parity.{name}": {"torch"}
        for name in (
            "hunt.audit",
            "hunt.parting",
            "runs.mindspore",
            "runs.replay",
            "sides.mindspore",
            "sides.mindspore_networks",
        )
    },
    # Where a training is, there need be nothing else of parity's.
    "parity.runs.torch": {"hypothesis", "matplotlib", "mindspore", "ms_optim", "rich", "sklearn"},
    "parity.runs.files": {"hypothesis", "matplotlib", "mindspore", "ms_optim", "rich", "sklearn", "torch"},
    **{name: {"mindspore", "ms_optim", "torch"} for name in FILES if name.startswith(("parity.cases", "parity.judge"))},
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_modules_know_only_their_side(name):
    """The library never meets torch, and each side of a comparison never meets the other."""
    assert not reach(name) & FORBIDDEN[name]


@pytest.mark.parametrize("name", ["ms_optim.optimizer", "ms_optim.ema", "ms_optim.lbfgs", "ms_optim.lr_scheduler"])
def test_training_reaches_no_files(name):
    """Whoever takes steps knows nothing of checkpoints, which know of locks and of MindSpore's file format."""
    assert not modules(name, but=["ms_optim"]) & {"fcntl", "ms_optim._files", "ms_optim.checkpoint"}


def test_torch_is_asked_for_by_one_function():
    """By its name, which the test above does not see; only converting imports that module."""
    asking = {
        (name, function.name)
        for name in LIBRARY
        for function in ast.walk(tree(name))
        if isinstance(function, ast.FunctionDef)
        for call in ast.walk(function)
        if isinstance(call, ast.Call)
        and any(isinstance(given, ast.Constant) and given.value == "torch" for given in call.args)
        and getattr(call.func, "attr", "") in ("import_module", "__import__")
    }
    assert asking == {("ms_optim.convert.files", "torch_package")}
    using = {name for name in LIBRARY if "ms_optim.convert.files" in imports(name)}
    assert using and all(name.startswith("ms_optim.convert") for name in using)
    assert not [name for name in LIBRARY if "ms_optim.convert" in imports(name)]
    subprocess.run(
        [sys.executable, "-c", "import sys, ms_optim.convert; assert 'torch' not in sys.modules"], check=True, cwd=ROOT
    )


WITHOUT_TORCH = """
import importlib.machinery
import sys


class NoTorch:
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == "torch" else None

    def create_module(self, spec):
        raise ImportError("there is no torch here")


sys.meta_path.insert(0, NoTorch())
from parity.cases import CASES
from parity.cases.problems import synthetic
from parity.judge.compare import compare_bits
from parity.sides import mindspore

case = CASES["AdamW"][-1]
problem, build = synthetic(3).fitting(case), mindspore.factory(case)
runs = [mindspore.run(build, problem, mode) for mode in mindspore.MODES]
assert compare_bits(*runs).passed
"""


def test_the_side_of_mindspore_runs_without_torch():
    """Cases, problems, steps and the comparison: a machine with a device may have no torch."""
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH], check=True, cwd=ROOT)


RECORDING = """
import sys

import parity.runs.mindspore
import parity.runs.torch

assert not ({*parity.EXTRA} - {"safetensors", "torch"}) & {*sys.modules}
"""


def test_recording_asks_for_little():
    """The machine that trains need not have all that judges."""
    subprocess.run([sys.executable, "-c", RECORDING], check=True, cwd=ROOT)


@pytest.mark.parametrize("name", FILES)
def test_imports_are_absolute(name):
    """Or the test above would not see them."""
    assert not [found for found in imports(name) if found.startswith(".")]


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (nn.Optimizer, {"Stateful": "ms_optim._state"}),
        (
            Stateful,
            {"EMA": "ms_optim.ema.average", "LBFGS": "ms_optim.lbfgs.optimizer", "Optimizer": "ms_optim.optimizer"},
        ),
    ],
)
def test_one_class_knows_the_base_of_mindspore(base, expected):
    """Rules for one tensor have a base of their own; the average around an optimizer and the closure's steps do not."""
    heirs = {
        cls.__name__: name
        for name in LIBRARY
        for _, cls in inspect.getmembers(importlib.import_module(name), inspect.isclass)
        if base in cls.__bases__ and cls.__module__ == name
    }
    assert heirs == expected


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_its_own_class(name):
    """It may use another's functions, and never another's class."""
    cls = OPTIMIZERS[name]
    assert (cls.__name__, cls.__bases__) == (name, (Stateful if hasattr(cls, "takes_closure") else Optimizer,))
    assert not imports(cls.__module__) & {f"{other.__module__}.{other.__name__}" for other in OPTIMIZERS.values()}


def test_all_is_exact_and_sorted():
    """Constants, classes, functions; modules are imported by their own names."""
    public = [name for name, value in vars(ms_optim).items() if not (name.startswith("_") or inspect.ismodule(value))]
    assert ms_optim.__all__ == sorted(public, key=lambda name: (not name.isupper(), name.islower(), name))
    assert list(OPTIMIZERS) == sorted(OPTIMIZERS)


@pytest.mark.parametrize("name", FILES)
def test_what_is_public_has_a_docstring(name):
    """Modules, classes, functions and methods."""
    todo, bare = [(name, tree(name))], []
    while todo:
        path, node = todo.pop()
        if not ast.get_docstring(node):
            bare.append(path)
        if not isinstance(node, ast.FunctionDef):
            todo += [
                (f"{path}.{child.name}", child)
                for child in node.body
                if isinstance(child, (ast.ClassDef, ast.FunctionDef)) and not child.name.startswith("_")
            ]
    assert not bare
