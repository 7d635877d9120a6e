"""Breeds mutants: wrong versions of an optimizer, each of which the suite must catch, or it proves nothing."""

import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, GetSetDescriptorType

from mindspore import nn

import ms_optim
from parity.cases import Case, Mutant
from parity.judge.compare import Verdict

# What of a class says nothing of how its instances are made.
_OF_RULE = ("__doc__", "__module__", "elementwise", "scalars", "update")


@dataclass(frozen=True)
class Fate:
    """What became of a mutant: the first case that caught it, how, and whether "rule" or "graph" was judged."""

    mutant: Mutant
    case: Case | None = None
    verdict: Verdict | None = None
    leg: str | None = None

    @property
    def caught(self) -> bool:
        """Whether some case failed."""
        return self.case is not None


def breed(folder: Path, *mutants: Mutant) -> type[nn.Optimizer]:
    """The optimizer with the mistake or several, its edited source in a file of `folder`: the compiler reads sources.

    What is edited is the module of its rule, or the package that it fills.

    Raises:
        ValueError: If the source does not have what is right once, or not any more after the edits before.
    """
    right = getattr(ms_optim, mutants[0].optimizer)
    home = ".".join(getattr(right, "update", right).__module__.split(".")[:2])
    name = "mutant_" + "_".join(re.sub(r"\W+", "_", str(mutant)) for mutant in mutants)
    source = Path(sys.modules[home].__file__)
    package = source.name == "__init__.py"
    texts = {path: path.read_text() for path in (source.parent.rglob("*.py") if package else [source])}
    for mutant in mutants:
        places = [(path, found) for path, text in texts.items() for found in re.findall(spaced(mutant.right), text)]
        if len(places) != 1:
            raise ValueError(
                f"For '{mutant}', 'right' must occur once in the source, but got {len(places)} occurrences of "
                f"{mutant.right!r}."
            )
        ((edited, found),) = places
        texts[edited] = texts[edited].replace(found, mutant.wrong)
    module = _imported(name, _written(texts, source, home, folder / name if package else folder / f"{name}.py"))
    if hasattr(module, right.__name__):
        return getattr(module, right.__name__)
    rules = {role: getattr(module, getattr(right, role).__name__) for role in ("scalars", "update")}
    return type(right.__name__, (right,), rules)


def differs_in_rule_alone(cls: type[nn.Optimizer], right: type[nn.Optimizer]) -> bool:
    """Whether the instances of two classes are alike but for `scalars` and `update`: all else of both is the same."""
    if cls is right:
        return True
    own, others = ({name: value for name, value in vars(each).items() if name not in _OF_RULE} for each in (cls, right))
    if not own:  # made of another class and other functions
        return differs_in_rule_alone(cls.__bases__[0], right)
    return own.keys() == others.keys() and all(_is_same(value, others[name]) for name, value in own.items())


def _is_same(one, other):
    """Whether two attributes of classes are: functions if they have the same code, which calls none of their module."""
    if isinstance(one, (classmethod, staticmethod, property)) and type(one) is type(other):
        one, other = (each.fget if isinstance(each, property) else each.__func__ for each in (one, other))
    if not isinstance(one, FunctionType):
        return isinstance(one, GetSetDescriptorType) or one == other
    called = [getattr(one.__globals__.get(name), "__module__", None) for name in one.__code__.co_names]
    return (
        isinstance(other, FunctionType)
        and (one.__code__, one.__defaults__, one.__kwdefaults__)
        == (other.__code__, other.__defaults__, other.__kwdefaults__)
        and one.__module__ not in called
    )


def _written(texts, source, home, target):
    """Where the edited module lies; the modules of a package then import each other and not those of `home`."""
    if target.suffix:
        target.write_text(texts[source])
        return target
    for path, text in texts.items():
        place = target / path.relative_to(source.parent)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(re.sub(rf"\b{re.escape(home)}\b", target.name, text))
    return target / source.name


def _imported(name, path):
    """The module or the package of a file, whose modules are none of one that was bred before."""
    places = [str(path.parent)] if path.name == "__init__.py" else None
    if sys.modules.pop(name, None) and places:
        for known in [known for known in sys.modules if known.startswith(f"{name}.")]:
            del sys.modules[known]
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=places)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def spaced(text: str) -> str:
    """A pattern that finds code however its lines are broken; the indentation that it begins with is exact."""
    indent, line_end = text[: len(text) - len(text.lstrip())], "\n" if text[-1] == "\n" else ""
    code = re.sub(r"(?:\\ |\\?\n)+", r"\\s+", re.escape(text[len(indent) :].rstrip()))
    code = code.replace(r"\(", r"\(\s*").replace(r"\)", r"(?:,?\s*)\)")  # where a formatter breaks lines
    return (r"\s+" if indent == " " else indent) + code + (line_end or (r"\s*" if text[-1].isspace() else ""))
