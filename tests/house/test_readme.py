"""The examples run as printed, and the table is what the declarations say."""

import doctest
import importlib
import re
from pathlib import Path

import mindspore as ms
import pytest

import ms_optim
from parity.report import tables

HOUSE = Path(ms_optim.__file__).parent
MODULES = [
    ".".join(path.relative_to(HOUSE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in HOUSE.rglob("*.py")
]


each = pytest.mark.parametrize("path", tables.READMES, ids=lambda path: str(path.relative_to(HOUSE.parent)))


@each
def test_readme(path):
    """Each example of a README."""
    ms.set_context(mode=ms.GRAPH_MODE, jit_syntax_level=ms.STRICT)
    result = doctest.testfile(str(path), module_relative=False, optionflags=doctest.ELLIPSIS, encoding="utf-8")
    assert result.attempted > 5 and result.failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    """Each example of a module."""
    ms.set_context(mode=ms.GRAPH_MODE, jit_syntax_level=ms.STRICT)
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


@pytest.mark.parametrize("name", ["parity.runs.files", "parity"])
def test_docstrings_of_runs(name, tmp_path, monkeypatch):
    """Those that users of their own runs read; they write files."""
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted and not result.failed


def test_every_optimizer_has_an_example():
    """A class without one would not be run by the test above."""
    assert all(">>> " in getattr(ms_optim, name).__doc__ for name in (*ms_optim.OPTIMIZERS, "EMA", "ParameterEMA"))


@each
def test_links_lead_somewhere(path):
    """To files of the clone, and to headings."""
    for name, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", path.read_text(encoding="utf-8")):
        target = path.parent / name if name else path
        assert target.exists(), name
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE) if anchor else ()
        anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, anchor


@each
def test_the_tables_are_fresh(path):
    """`python -m parity.report.tables` would change nothing."""
    text = path.read_text(encoding="utf-8")
    assert tables.fill(text) == text, "stale: run python -m parity.report.tables"
