"""What the docstrings of optimizers say of their arguments is what the classes declare."""

import ctypes
import inspect
import re

import pytest

import ms_optim
from ms_optim import OPTIMIZERS, _native
from ms_optim.arguments import COMMON, Choice, Flag, Number, Numbers, Rate, Whole
from parity.report import tables

CLASSES = {**OPTIMIZERS, "EMA": ms_optim.EMA}
# What says the same of every optimizer is said in the same words, those of Adam, which has nothing of its own to say.
# After them a class may go on, on what else must hold of its parameters or raises.
SHARED = (
    "params",
    "lr",
    "fused",
    "maximize",
    "loss_scale",
    "state_dtype",
    "master_weights",
    "Inputs",
    "Outputs",
    "TypeError",
    "ValueError",
    "Platforms",
)
WITHOUT_KERNEL = "(Union[None, bool]) There is no native kernel: None or False."
CLOSURE = "a step takes a closure, and there is one group"
OTHERWISE = {
    ("LBFGS", "params"): CLOSURE,
    ("LBFGS", "lr"): CLOSURE,
    ("LBFGS", "Inputs"): CLOSURE,
    ("LBFGS", "Outputs"): CLOSURE,
    ("LBFGS", "ValueError"): CLOSURE,
    ("SparseAdam", "Inputs"): "gradients are sparse",
}
each = pytest.mark.parametrize("name", CLASSES)


def sections(cls):
    """The text under each heading of a class's docstring."""
    found = re.split(r"^([A-Z][A-Za-z ]*):\n", inspect.cleandoc(cls.__doc__), flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2]))


def entries(cls):
    """The type and the text of each argument, by name, each in one line; in the order of the docstring."""
    found = re.split(r"^ {4}(\w+) \((.*?)\): ", sections(cls)["Args"], flags=re.MULTILINE | re.DOTALL)
    return [(name, kind, " ".join(text.split())) for name, kind, text in zip(*(found[i::3] for i in (1, 2, 3)))]


def expected(kind):
    """What the text on an argument must have, by its kind."""
    if isinstance(kind, Numbers):
        return {part.interval for part in kind.parts.values()} | {"None" for part in kind.parts.values() if part.none}
    if isinstance(kind, Flag):
        return set()
    if isinstance(kind, Choice):
        return {f'"{choice}"' if isinstance(choice, str) else repr(choice) for choice in kind.choices}
    if isinstance(kind, Rate):
        return {kind.each.interval}
    return {str(kind)} if isinstance(kind, (Number, Whole)) else set()


def spelled(annotation):
    """A type as docstrings spell it; None for those that are spelled out."""
    text = inspect.formatannotation(annotation)
    if not re.fullmatch(r"[a-z]+(\[.*\])?( \| None)?", text) or "." in text:
        return None
    return re.sub(r"(\w+) \| None", r"Union[None, \1]", text)


def paragraphs(cls):
    """The words on each argument, with its type and without its default, on each error and under each heading."""
    text = sections(cls)
    errors = re.findall(r"^ {4}(\w+): (.*(?:\n {5}.*)*)", text["Raises"], flags=re.MULTILINE)
    found = {name: f"({kind}) {words.partition(' Default:')[0]}" for name, kind, words in entries(cls)} | dict(errors)
    found |= {"Platforms": text["Supported Platforms"], **{part: text.get(part, "") for part in ("Inputs", "Outputs")}}
    return {part: " ".join(words.split()) for part, words in found.items()}


def has_kernel(cls):
    """Whether the library has a function of the name of the rule."""
    return hasattr(ctypes.CDLL(str(_native.library())), cls.update.__name__)


@each
def test_arguments_are_those_of_the_signature(name):
    """Each once, in order."""
    assert [found for found, _, _ in entries(CLASSES[name])] == [*inspect.signature(CLASSES[name]).parameters]


@each
def test_defaults_are_those_of_the_signature(name):
    """Each is said, as MindSpore says it, and none where there is none."""
    signature = inspect.signature(CLASSES[name])
    wrong = []
    for argument, _, text in entries(CLASSES[name]):
        default = signature.parameters[argument].default
        said = re.findall(r"Default: ``(.*?)`` \.", text)
        if [repr(eval(item)) for item in said] != ([] if default is inspect.Parameter.empty else [repr(default)]):
            wrong.append((argument, said, default))
    assert not wrong


@each
def test_types_are_those_of_the_signature(name):
    """But for the names that stand for several."""
    signature = inspect.signature(CLASSES[name])
    wrong = []
    for argument, kind, _ in entries(CLASSES[name]):
        wanted = spelled(signature.parameters[argument].annotation)
        if wanted not in (None, kind):
            wrong.append((argument, kind, wanted))
    assert not wrong


@each
def test_ranges_are_those_that_are_declared(name):
    """Every interval, as it is declared, and no other; every choice, but True for `fused` where there is no kernel."""
    cls, wrong = CLASSES[name], []
    for argument, _, text in entries(cls):
        wanted = expected(cls.arguments.get(argument) or COMMON.get(argument))
        if argument == "fused" and not has_kernel(cls):
            wanted = wanted - {"True"}
        wrong += [(argument, item) for item in sorted(wanted) if item not in text]
        intervals = re.findall(r"[\[(]-?(?:inf|[\d.]+), -?(?:inf|[\d.]+)[\])]", text.partition(" Default:")[0])
        wrong += [(argument, item) for item in intervals if item not in wanted]
    assert not wrong


def test_averages_say_what_they_run_on():
    """As optimizers do."""
    for name in ("EMA", "ParameterEMA"):
        said = " ".join(sections(getattr(ms_optim, name))["Supported Platforms"].split())
        assert said.startswith("``CPU``. For ``Ascend`` and ``GPU`` a ") and said.endswith(
            "was not run; README says what is known."
        )


@pytest.mark.parametrize("part", SHARED)
def test_what_is_the_same_is_said_in_the_same_words(part):
    """And what is not the same is listed, with why."""
    wanted, different = paragraphs(OPTIMIZERS["Adam"])[part], []
    for name, cls in OPTIMIZERS.items():
        said = paragraphs(cls)
        if part == "fused" and part in said and not has_kernel(cls):
            assert said[part] == WITHOUT_KERNEL
        elif part in said and not f"{said[part]} ".startswith(f"{wanted} "):
            different.append(name)
    assert wanted and different == [name for name, other in OTHERWISE if other == part]


@each
def test_a_paper_is_named(name):
    """Authors and year, in parentheses in the first line of the optimizer's module or package."""
    assert re.search(r"\b[A-Z]\w+ .*\b(19|20)\d\d\b", tables.paper(CLASSES[name]))
