"""Write NFNet in the forms in which MindSpore's models and mindcv take contributions.

OUT gets `models/research/cv/NFNet`, complete, and `mindcv`, what is new there. Given a checkout of mindcv, OUT/mindcv
also has those of its files that change, so that `cp -r OUT/mindcv/. CHECKOUT` is the contribution. The checkout itself
is only read.
"""

import argparse
import ast
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

SCRIPTS = Path(__file__).parent
NFNET, MINDCV = SCRIPTS / "nfnet", SCRIPTS / "mindcv"
MODEL = Path("mindcv", "models", "nfnet.py")
# Of the sources; what Python, tests and trainings leave beside them is not taken.
SUFFIXES = (".md", ".py", ".sh", ".svg", ".txt", ".yaml")
LICENSE = """\
# Copyright 2026 The ms_optim authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
# http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ============================================================================
"""
# How each project's isort sorts imports, in words of ruff; MindSpore's models have no settings for it.
ISORT = {
    "models": ('lint.isort.known-first-party=["src"]', 'lint.isort.known-third-party=["ms_optim"]', "line-length=120"),
    "mindcv": (
        'lint.isort.known-first-party=["mindcv"]',
        'lint.isort.sections={"mindspore"=["mindspore"]}',
        'lint.isort.section-order=["future","standard-library","third-party","mindspore","first-party","local-folder"]',
        "line-length=120",
    ),
}
BRANCH = """\
    elif opt == "momentum_agc":
        try:
            from ms_optim import MomentumAGC
        except ImportError as error:
            raise ImportError("The optimizer 'momentum_agc' needs the package ms_optim and Python >= 3.10.") from error

        optimizer = MomentumAGC(
            params,
            lr,
            momentum,
            nesterov=nesterov,
            clipping=agc_clipping,
            exempt=agc_exempt,
            weight_decay=weight_decay,
            loss_scale=loss_scale,
            **opt_args,
        )
"""
DOCUMENTED = """\
        agc_clipping: the largest norm of a gradient relative to that of its weights, for 'momentum_agc'. Default: 0.01.
        agc_exempt: patterns of the parameters whose gradients 'momentum_agc' does not clip, such as "head.fc.*".
            Default: ().
"""
ASKED = """\
    group.add_argument('--agc_clipping', type=float, default=0.01,
                       help='Largest norm of a gradient relative to that of its weights, for "momentum_agc" '
                            '(default=0.01)')
    group.add_argument('--agc_exempt', type=str, nargs='*', default=[],
                       help='Patterns of the parameters that "momentum_agc" does not clip, such as "head.fc.*" '
                            '(default=[])')
"""
GIVEN = "        agc_clipping=args.agc_clipping,\n        agc_exempt=args.agc_exempt,\n"
LISTED = {
    r"\n- NASNet - .*\n": "- NFNet - https://arxiv.org/abs/2102.06171\n",
    r"\n  - Momentum\n": "  - [Momentum with AGC](https://arxiv.org/abs/2102.06171), of ms_optim\n",
}
# For each file of mindcv, lines that it has once, and what follows each.
ADDITIONS = {
    "mindcv/models/__init__.py": {
        r"    nasnet,\n": "    nfnet,\n",
        r"from \.nasnet import \*\n": "from .nfnet import *\n",
        r"__all__\.extend\(nasnet\.__all__\)\n": "__all__.extend(nfnet.__all__)\n",
    },
    "mindcv/optim/optim_factory.py": {
        r"    eps: float = 1e-10,\n": "    agc_clipping: float = 0.01,\n    agc_exempt: Tuple[str] = (),\n",
        r"        loss_scale: A floating point value .*\n": DOCUMENTED,
        r"            epsilon=eps,\n            \*\*opt_args,\n        \)\n": BRANCH,
    },
    "config.py": {
        r"choices=\['sgd', .*'lamb',": "\n                                'momentum_agc',",
        r"    group.add_argument\('--eps'.*\n.*\n": ASKED,
    },
    "train.py": {r"        eps=args\.eps,\n": GIVEN},
    "train_with_func.py": {r"        eps=args\.eps,\n": GIVEN},
    "README.md": LISTED,
    "README_CN.md": LISTED,
}


def licensed(text):
    """A source with the license at its top, after the line that says what runs it."""
    shebang = re.match(r"(#!.*\n)?", text)[0]
    return shebang + LICENSE + text.removeprefix(shebang)


def sources(folder):
    """The texts of a folder, each with its path in it, but those of runs."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and path.suffix in SUFFIXES and not {"runs", "__pycache__"} & {*name.parts}:
            yield name, path.read_text(encoding="utf-8")


def recipe(meanings=""):
    """The table of all that a recipe may name; `meanings` is one of names and of what they mean in another language."""
    from src.config import Recipe

    told = re.findall(r"^ {8}(\w+) \((.+)\): ((?:.|\n {12})+)$", Recipe.__doc__, re.MULTILINE)
    rows, others = ["| name | type | default | meaning |"], {}
    if meanings:
        (name, meaning), _, *lines = re.findall(r"^\| (.+?) \| (.+) \|$", meanings, re.MULTILINE)
        rows, others = [f"| {name} | 类型 | 默认值 | {meaning} |"], dict(lines)
        if others.keys() != {name for name, *_ in told}:
            odd = sorted(others.keys() ^ {name for name, *_ in told})
            raise ValueError(f"For 'zoo', the table of a recipe must have a row for each field, but has not: {odd}.")
    rows.append("| --- | --- | --- | --- |")
    defaults = {said.name: said.default for said in fields(Recipe)}
    for name, kind, text in told:
        default = defaults.pop(name)
        rows.append(f"| {name} | {kind} | `{default or repr(default)}` | {others.get(name, ' '.join(text.split()))} |")
    if defaults:
        raise ValueError(f"For 'zoo', the docstring of Recipe must tell each field, but it lacks {sorted(defaults)}.")
    return "\n".join(rows)


def networks():
    """The rows of the networks: millions of parameters, and the side of the images."""
    from mindspore.nn.utils import no_init_parameters
    from src.nfnet import ARCHITECTURES, NFNet

    sizes = dict(re.findall(r'"(nfnet_f\d)": _cfg\(input_size=\(3, (\d+)', (MINDCV / MODEL).read_text()))
    with no_init_parameters():
        first, second = (
            sum(param.size for param in NFNet(ARCHITECTURES[name]).get_parameters()) for name in list(sizes)[:2]
        )
    # each has F0's blocks once more than the one before it
    counts = [first + i * (second - first) for i in range(len(sizes))]
    return "\n".join(
        f"| {name} | {count / 1e6:.2f} | {size}x{size} |" for (name, size), count in zip(sizes.items(), counts)
    )


def parts(source):
    """The imports of a module, and what follows them; its docstring is in neither."""
    lines = source.splitlines(keepends=True)
    body = ast.parse(source).body[1:]
    last = max(i for i, node in enumerate(body) if isinstance(node, (ast.Import, ast.ImportFrom)))
    first, end = body[0].lineno - 1, body[last].end_lineno
    return "".join(lines[first:end]), "".join(lines[end:]).strip("\n")


def module():
    """Mindcv's one module: the network, and what registers it."""
    source = (MINDCV / MODEL).read_text(encoding="utf-8")
    (network_imports, network), (imports, registered) = (
        parts(text) for text in ((NFNET / "src" / "nfnet.py").read_text(encoding="utf-8"), source)
    )
    imports = re.sub(r"^from src\..*\n", "", imports, flags=re.MULTILINE)
    names, rest = re.fullmatch(r"(__all__ = \[.*?\n\])\n+(.*)", registered, re.DOTALL).groups()
    return f'"""{ast.get_docstring(ast.parse(source), clean=False)}"""\n\n' + (
        f"{network_imports}{imports}\n{names}\n\n{network}\n\n\n{rest}\n"
    )


def added(text, additions, file):
    """A file of mindcv with what it is to have."""
    for pattern, addition in additions.items():
        if addition in text:
            raise ValueError(f"For 'zoo', '{file}' must not have NFNet yet, but has {addition.strip()!r}.")
        places = list(re.finditer(pattern, text))
        if len(places) != 1:
            raise ValueError(f"For 'zoo', '{file}' must have {pattern!r} once, but has it {len(places)} times.")
        end = places[0].end()
        text = text[:end] + addition + text[end:]
    return text


def write(out, checkout=None):
    """Write both folders.

    Args:
        out (Path): The folder; it may not be there yet.
        checkout (Union[None, Path]): Of mindcv. Default: ``None`` .

    Raises:
        OSError: If a folder has something already, or a file of the checkout cannot be read.
        ValueError: If a file of the checkout does not have the lines that something is added to.
    """
    model, new = out / "models" / "research" / "cv" / "NFNet", out / "mindcv"
    for folder in (model, new):
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(f"For 'zoo', '{folder}' must be empty or not there.")
    files = {}
    if checkout is not None:
        for file, additions in ADDITIONS.items():
            files[new / file] = added((checkout / file).read_text(encoding="utf-8"), additions, file)
    sorted_again = {"models": [], "mindcv": []}
    for name, text in sources(MINDCV):
        if name == MODEL:
            text = module()
        elif name.suffix == ".md":
            text = text.replace("<!-- models -->", networks())
        files[new / name] = text
        if name.suffix == ".py":
            sorted_again["mindcv"].append(new / name)
    for name, text in sources(NFNET):
        if name.suffix in (".py", ".sh"):
            text = licensed(text)
            if name.suffix == ".py":
                sorted_again["models"].append(model / name)
        elif name.suffix == ".md":
            text = re.sub(r"<!-- recipe -->\n((\n(\|.*\n)+)?)", lambda found: recipe(found[1]) + "\n", text)
        files[model / name] = text
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if path.suffix == ".sh":
            path.chmod(0o755)
    for project, settings in ISORT.items():
        options = [word for setting in settings for word in ("--config", setting)]
        ruff = [sys.executable, "-m", "ruff", "check", "--quiet", "--isolated", "--select=I", "--fix", *options]
        subprocess.run([*ruff, *sorted_again[project]], check=True)
    print(f"{model}\n{new}")
    if checkout is None:
        print(f"These of mindcv change too, with --mindcv: {', '.join(ADDITIONS)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="zoo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--mindcv", type=Path, metavar="CHECKOUT", help="a checkout of mindcv, which is only read")
    given = parser.parse_args()
    sys.path.insert(0, str(NFNET))
    try:
        write(given.out, given.mindcv)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
