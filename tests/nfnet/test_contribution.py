"""What `scripts/zoo` writes: complete, in the form that is asked for, and working where it is put."""

import ast
import difflib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tokenize
import venv
from collections import Counter
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import mindcv
import numpy as np
import pytest
import yaml
from _zoo import ISORT
from helpers.processes import ENVIRONMENT, ROOT, free_port, short_sleeps
from helpers.published import NFNETS as PUBLISHED
from safetensors.numpy import load_file
from src.config import Recipe

# One process writes the folders, and builds the wheel.
pytestmark = pytest.mark.xdist_group("zoo")

ZOO = ROOT / "scripts" / "_zoo.py"
MODELS = Path("models", "research", "cv", "NFNet")
# Of the files of mindcv that its package does not have, what scripts/zoo adds to.
ROUND_IT = {
    "config.py": """\
def create_parser(group):
    group.add_argument('--opt', type=str, choices=['sgd', 'lamb', "nadam"])
    group.add_argument('--eps', type=float,
                       help='')
""",
    **dict.fromkeys(
        ("train.py", "train_with_func.py"),
        "def train(args, create_optimizer):\n    create_optimizer(\n        eps=args.eps,\n    )\n",
    ),
    **dict.fromkeys(
        ("README.md", "README_CN.md"), "- MNASNet - x\n- NASNet - y\n- PNasNet - z\n\n  - Momentum\n  - SGD\n"
    ),
}
TYPES = ("Parameter", "Tensor", "bool", "dict", "float", "int", "list", "set", "str", "tuple")
# As the project's template has them.
SECTIONS = {
    "README.md": [
        "Description",
        "Model Architecture",
        "Dataset",
        "Features",
        "Requirements",
        "Quick Start",
        "Script Description",
        "Training",
        "Evaluation",
        "Export",
        "Performance",
        "Description of Random Situation",
        "ModelZoo Homepage",
    ],
    "README_CN.md": [
        "概述",
        "模型架构",
        "数据集",
        "特性",
        "环境要求",
        "快速入门",
        "脚本说明",
        "训练过程",
        "评估",
        "导出",
        "性能",
        "随机情况说明",
        "ModelZoo 主页",
    ],
}


def zoo(*arguments):
    """Run it."""
    return subprocess.run([sys.executable, ZOO, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The package mindcv as it is installed, in a folder like its repository."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(Path(mindcv.__file__).parent, folder / "mindcv", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in ROUND_IT.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory, checkout):
    """Both folders."""
    out = tmp_path_factory.mktemp("out")
    done = zoo(out, "--mindcv", checkout)
    assert done.stdout.splitlines() == [str(out / MODELS), str(out / "mindcv")], done.stderr
    return out


def too_new(source):
    """The lines of what Python 3.9 does not run, each with what it is."""
    tree, told = ast.parse(source, feature_version=(3, 9)), []
    imported = {name.name for node in tree.body if isinstance(node, ast.ImportFrom) for name in node.names}
    if "annotations" in imported:  # then none is evaluated
        for node in [*ast.walk(tree)]:
            for name in {"annotation", "returns"} & {*node._fields}:
                setattr(node, name, None)
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            ends = {getattr(end, "id", getattr(end, "value", ...)) for end in (node.left, node.right)}
            if ends & {None, *TYPES}:
                told.append((node.lineno, "a union of types"))
        elif isinstance(node, ast.keyword) and node.arg in ("strict", "slots", "kw_only"):
            told.append((node.value.lineno, node.arg))
    return sorted(told)


@pytest.fixture
def alone(tmp_path, installed):
    """Runs programs where the wheel is installed and nothing else of this repository is to be found."""
    venv.create(tmp_path / "env", symlinks=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    # what a .pth names is searched, but the .pth files in it, such as that of the editable installation, are not read
    (site / "others.pth").write_text(str(Path(pytest.__file__).parents[1]))
    shutil.copytree(installed, site, dirs_exist_ok=True)
    programs = tmp_path / "env" / "bin"
    environ = {key: value for key, value in ENVIRONMENT.items() if key != "PYTHONPATH"}
    environ["PATH"] = f"{programs}:{environ['PATH']}"

    msrun = programs / "msrun"  # as pip writes it
    msrun.write_text(f"#!{programs}/python\nfrom mindspore.parallel.cluster.run import main\n\nmain()\n")
    msrun.chmod(0o755)

    def run(folder, *command, **also):
        given = {**environ, **{name: str(value) for name, value in also.items()}}
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=given)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    found = run(tmp_path, "python", "-c", "import importlib.util as u; print(u.find_spec('ms_optim').origin)").strip()
    assert found == str(site / "ms_optim" / "__init__.py")
    return run


@pytest.mark.parametrize("name", SECTIONS)
def test_sections(written, name):
    """Those that the template requires, a list of contents that leads to each, and every file in the tree."""
    text = (written / MODELS / name).read_text()
    headings = re.findall(r"^(##+) (.+)$", text, re.MULTILINE)
    assert [heading for level, heading in headings if level == "##"] == SECTIONS[name]
    contents = text.partition("\n## ")[0]
    assert re.findall(r"\[(.+)\]\(#(.+)\)", contents) == [
        (heading, heading.lower().replace(" ", "-")) for _, heading in headings
    ]
    (tree,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    files = {path.name for path in (written / MODELS).rglob("*") if path.is_file()} - {"__init__.py"}
    assert {*re.findall(r"── (\S+\.\w+)", tree)} == files


def test_sources(written):
    """The license above each, main in none but those at the root, and nothing that a training or Python has left."""
    paths = [path for path in (written / MODELS).rglob("*") if path.suffix in (".py", ".sh")]
    for path in paths:
        text = path.read_text()
        assert re.match(r"(#!.*\n)?# Copyright .*\n#\n# Licensed under the Apache License, Version 2.0", text), path
        assert ('__name__ == "__main__"' in text) == (path.parent.name == "NFNet"), path
        assert max(map(len, text.splitlines())) <= 120, path
        assert (path.suffix == ".sh") == os.access(path, os.X_OK), path
    suffixes = {path.suffix for path in written.rglob("*") if path.is_file()}
    assert suffixes == {".md", ".py", ".sh", ".svg", ".txt", ".yaml"}


def test_both_readmes_tell_the_same_numbers(written):
    """In every row of a table and every line of a log."""
    told = []
    for name in SECTIONS:
        lines = re.findall(r"^(?:\||epoch |accuracy ).*", (written / MODELS / name).read_text(), re.MULTILINE)
        told.append([re.findall(r"\d(?:[\d.,]*\d)?", line) for line in lines])
    assert told[0] == told[1] and sum(map(len, told[0])) > 100


@pytest.mark.parametrize("name", SECTIONS)
def test_ms_optim_is_installed_first(written, name):
    """Before the other packages, of which it is one that pip would not find."""
    installed = re.findall(r"^pip install (.+)$", (written / MODELS / name).read_text(), re.MULTILINE)
    assert installed == ["/path/to/ms_optim", "-r requirements.txt"]
    assert "ms_optim" in (written / MODELS / "requirements.txt").read_text().splitlines()


def test_every_argument_has_a_row(written):
    """Of a recipe, in both languages."""
    for name in SECTIONS:
        text = (written / MODELS / name).read_text()
        assert "| clipping | float | `0.01` |" in text and "| log_steps | int | `10` |" in text
        assert "<!--" not in text
        rows = re.findall(r"^\| (\w+) \| [a-z\[\]]+ \| `.+?` \| (.+) \|$", text, re.MULTILINE)
        assert len(rows) == len(fields(Recipe))
        spoken = {field: bool(re.search("[\u4e00-\u9fff]", meaning)) for field, meaning in rows}
        assert {*spoken.values()} == {name == "README_CN.md"}, name


def test_mindcv_has_each_addition(written, checkout):
    """In its place, and all else as it was."""
    for name in ("README.md", "config.py", "train.py", "mindcv/models/__init__.py", "mindcv/optim/optim_factory.py"):
        old, new = ((folder / name).read_text().splitlines() for folder in (checkout, written / "mindcv"))
        changes = [line[0] for line in difflib.ndiff(old, new)]
        # a list of choices is longer
        assert changes.count("+") >= 2 and changes.count("-") == (name == "config.py"), name
    rows = re.findall(
        r"^\| (nfnet_f\d) \| ([\d.]+) \|", (written / "mindcv/configs/nfnet/README.md").read_text(), re.MULTILINE
    )
    assert {name: round(float(count), 1) for name, count in rows} == PUBLISHED and rows[0][1] == "71.49"
    for name in ("README.md", "README_CN.md"):
        listed = (written / "mindcv" / name).read_text()
        assert "- NASNet - y\n- NFNet - https" in listed and "  - Momentum\n  - [Momentum with AGC]" in listed


def test_the_recipe_evaluates_no_averages_while_it_trains(written):
    """After the first epoch mindcv loads Tensors into the network for it, which MindSpore 2.10 refuses."""
    recipe = yaml.safe_load((written / "mindcv/configs/nfnet/nfnet_f0_ascend.yaml").read_text())
    assert recipe["ema"] is True and recipe["val_while_train"] is False


FUTURE = "from __future__ import annotations\n"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("class A:\n    size: int | None = None", [(2, "a union of types")]),
        (FUTURE + "class A:\n    size: int | None = None", []),
        ("def f(size=3) -> str | int: pass", [(1, "a union of types")]),
        (FUTURE + "def f(a: int | str, kind=int | None): pass", [(2, "a union of types")]),
        ("isinstance(3, int | str)\nzip([], [], strict=True)", [(1, "a union of types"), (2, "strict")]),
        ("a = {} | {}\nb = 2 | 1", []),
    ],
)
def test_what_is_too_new_is_found(source, found):
    """What is evaluated where a module is imported or run, and not what is only written."""
    assert too_new(source) == found


def test_mindcv_runs_on_python_3_9(written):
    """What is new there and what is changed, because mindcv's own tests run on 3.9."""
    paths = sorted((written / "mindcv").rglob("*.py"))
    assert {path: found for path in paths if (found := too_new(path.read_text()))} == {}
    # what ast does not tell of the syntax
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--target-version=py39", "--select=F7,FA102"]
    done = subprocess.run([*ruff, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def linted(folder, *settings):
    """How often each rule is broken in each file, in the settings of mindcv, which has its own of isort."""
    words = [word for setting in settings for word in ("--config", setting)]
    ignored = '{"**/__init__.py"=["F401","F403","F405"],"**/tests/**"=["E402"]}'
    words += ["--config", f"lint.per-file-ignores={ignored}", "--preview", "--select=E,W,F,I", "--quiet"]
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--output-format=json", *words, folder]
    said = subprocess.run(ruff, capture_output=True, text=True, cwd=folder).stdout
    found = Counter((str(Path(told["filename"]).relative_to(folder)), told["code"]) for told in json.loads(said))
    # pycodestyle's own E203, which ruff relaxes in slices
    for path in folder.rglob("*.py"):
        with path.open("rb") as stream:
            tokens = [*tokenize.tokenize(stream.readline)]
        for before, token in pairwise(tokens):
            spaced = before.end[0] == token.start[0] and before.end[1] < token.start[1] and before.string != ","
            if spaced and token.string in (",", ";", ":"):
                found[(str(path.relative_to(folder)), "E203")] += 1
    return found


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("import os\n", "F401"),
        ("x = 3 \n", "W291"),
        ("x = a [0]\n", "F821"),
        ("x = [1, 2]\ny = x[1 + 0 :]\n", "E203"),
        ("x = 3" + " " * 120 + "# far\n", "E501"),
        ("import b\nimport a\n\nprint(a, b)\n", "I001"),
    ],
)
def test_lint_finds(tmp_path, source, rule):
    """A file for each kind of rule."""
    (tmp_path / "file.py").write_text(source)
    assert linted(tmp_path, "line-length=120")["file.py", rule] == 1


def test_lint_is_clean(written, checkout):
    """Of all that is new; what is changed has nothing that it had not before."""
    before = linted(checkout, *ISORT["mindcv"])
    assert linted(written / "mindcv", *ISORT["mindcv"]) - before == Counter()
    assert linted(written / "models", *ISORT["models"]) == Counter()
    new = [written / "models", *(path for path in (written / "mindcv").rglob("*nfnet*.py"))]
    ruff = [sys.executable, "-m", "ruff", "format", "--isolated", "--check", "--line-length=120", *new]
    done = subprocess.run(ruff, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_what_cannot_be_written_is_named(written, checkout, tmp_path, monkeypatch, capsys):
    """A folder that has something, a checkout that has NFNet, and one that is another version."""
    assert f"'{written / MODELS}' must be empty or not there" in zoo(written).stderr
    edited = shutil.copytree(checkout, tmp_path / "edited")
    shutil.copytree(written / "mindcv", edited, dirs_exist_ok=True)
    said = zoo(tmp_path / "out", "--mindcv", edited).stderr
    assert "'mindcv/models/__init__.py' must not have NFNet yet, but has 'nfnet,'" in said
    other = shutil.copytree(checkout, tmp_path / "other")
    (other / "train.py").write_text("")
    said = zoo(tmp_path / "out", "--mindcv", other).stderr
    assert "'train.py' must have" in said and "once, but has it 0 times" in said
    assert "No such file" in zoo(tmp_path / "out", "--mindcv", tmp_path).stderr
    assert not (tmp_path / "out").exists()
    # in this process, which has imported MindSpore
    monkeypatch.setattr(sys, "argv", [str(ZOO), str(tmp_path / "out")])
    monkeypatch.setattr(sys, "path", [*sys.path])
    runpy.run_path(str(ZOO), run_name="__main__")
    assert "config.py" in capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "out" / MODELS).exists() and not (tmp_path / "out" / "mindcv" / "config.py").exists()


@pytest.mark.slow
def test_models_runs_alone(written, alone, tmp_path):
    """Its own commands: train on one device and on two, which agree, evaluate and export; with a network of no block.

    Weights, momentum and averages agree.
    """
    folder = shutil.copytree(written / MODELS, tmp_path / "NFNet")
    network = folder / "src" / "nfnet.py"
    text, blocks = network.read_text(), "Architecture((1, 1, 2, 1), (32, 64, 96, 96), 32, 16)"
    assert text.count(blocks) == 1
    network.write_text(text.replace(blocks, "Architecture((0,), (32,), 16, 16)"))
    digits = "configs/digits.yaml"
    said = ["epochs=1", "warmup_epochs=0", "image_size=8", "eval_image_size=8", "mixup=0.2", "loss_scale=1024"]
    alone(folder, "bash", "scripts/run_standalone_train.sh", digits, "runs/one", *said)
    two = {"MASTER_PORT": free_port(), "LD_PRELOAD": short_sleeps(tmp_path)}
    alone(folder, "bash", "scripts/run_distribute_train.sh", "2", digits, "runs/two", *said, **two)
    one, two = (load_file(folder / "runs" / name / "last.safetensors") for name in ("one", "two"))
    compared = [name for name in one if one[name].dtype == np.float32]
    averages = [name for name in compared if name.startswith("ema.")]
    assert len(compared) == 3 * len(averages) > 0
    for name in compared:
        off = np.linalg.norm(one[name].astype(float) - two[name])
        assert off <= 1e-5 * np.linalg.norm(one[name].astype(float)) + 1e-7, name
    told = alone(folder, "bash", "scripts/run_eval.sh", digits, "runs/one/last.safetensors", *said)
    (accuracy,) = re.findall(r"^accuracy (\d\.\d+) average \d\.\d+$", told, re.MULTILINE)
    log = (folder / "runs" / "one" / "log.txt").read_text()
    assert f"epoch 1/1 accuracy {accuracy} " in log
    alone(folder, "python", "export.py", digits, "runs/one/last.safetensors", "nfnet.mindir")
    assert (folder / "nfnet.mindir").stat().st_size > sum(one[name].nbytes for name in averages)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("has_ms_optim", "told"), [(True, "7 passed in"), (False, "3 passed, 3 skipped, 1 deselected in")]
)
def test_mindcv_runs_its_tests(written, checkout, alone, tmp_path, has_ms_optim, told):
    """Those that come with the model, in mindcv's own form; without this package, as on Python 3.9, the network's."""
    folder = shutil.copytree(checkout, tmp_path / "mindcv")
    shutil.copytree(written / "mindcv", folder, dirs_exist_ok=True)
    if not has_ms_optim:
        (folder / "ms_optim.py").write_text("raise ModuleNotFoundError('ms_optim')")
    some = () if has_ms_optim else ("-k", "not forward")  # which takes longest, and takes nothing of this package
    said = alone(folder, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *some, "tests/modules/test_nfnet.py")
    assert re.search(rf"^{told}", said, re.MULTILINE), said
