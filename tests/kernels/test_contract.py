"""What the kernels take, and that nothing else comes to them."""

import ctypes
import re
import shutil
import subprocess

import mindspore as ms
import numpy as np
import pytest
from helpers import arguments_of, kernels
from helpers.native import NATIVE, RULES, Native, needs_compiler, needs_library
from mindspore import Parameter, Tensor

from ms_optim import EMA, OPTIMIZERS, SGD, Adam, ParameterEMA, _native
from parity.sides.mindspore import MODES, set_mode

pytestmark = needs_library
# A rule of kernels/rules.h, what is edited there, what takes its place, and what is said of it then. The compiler takes
# each of them, and most of them would compute wrong numbers.
EDITS = {
    "numbers in another order": (
        "sgd",
        "NUMBERS(lr, momentum,",
        "NUMBERS(momentum, lr,",
        "numbers (momentum, lr, take, weight_decay), but the rule has (lr, momentum, take, weight_decay)",
    ),
    "a number more": (
        "asgd",
        "keep, weight_decay)",
        "keep, weight_decay, lambd)",
        "numbers (eta, mu, keep, weight_decay, lambd), but the rule has (eta, mu, keep, weight_decay)",
    ),
    "a number by another name": (
        "adagrad",
        "eps",
        "epsilon",
        "numbers (step_size, weight_decay, epsilon), but the rule has (step_size, weight_decay, eps)",
    ),
    "flags in another order": (
        "nadam",
        "FLAGS(decoupled_weight_decay, maximize)",
        "FLAGS(maximize, decoupled_weight_decay)",
        "flags (maximize, decoupled_weight_decay), but the rule has (decoupled_weight_decay, maximize)",
    ),
    "slots in another order": (
        "adamax",
        "SLOTS(exp_avg, exp_inf)",
        "SLOTS(exp_inf, exp_avg)",
        "slots (exp_inf, exp_avg), but the rule has (exp_avg, exp_inf)",
    ),
    "a slot that is always there": (
        "rmsprop",
        " | 1u << Place::grad_avg",
        "",
        "slots (square_avg, momentum_buffer or none, grad_avg), but the rule has "
        "(square_avg, momentum_buffer or none, grad_avg or none)",
    ),
}
NEWER = _native.VERSION + 1
# Libraries that have no table, or one that is not read.
OTHERS = {
    "without a table": ("int sgd() { return 0; }", "has no table of rules"),
    "without rules in it": ("extern const int ms_optim_table[] = {1, 0};", "has no table of rules"),
    "of another version": (
        f"extern const int ms_optim_table[] = {{{NEWER}, 0}}; extern const int ms_optim_rules[] = {{0}};",
        f"has a table of rules of version {NEWER} and not {_native.VERSION}",
    ),
    "of no library": (None, "cannot be loaded: "),
}


def make(name, fused, dtype=ms.float32, **kwargs):
    """An optimizer of one matrix."""
    return OPTIMIZERS[name]([Parameter(Tensor(np.ones((2, 3)), dtype), name="weight")], fused=fused, **kwargs)


def struct_in(source, rule):
    """The text of a rule's functor."""
    return re.search(rf"struct {rule} : .*?\n}};\n", source, re.DOTALL)[0]


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    """A library whose rules have all of the edits, and a choice and a flag of an average by other names."""
    folder = tmp_path_factory.mktemp("edited")
    sources = shutil.copytree(kernels.SOURCES, folder / "kernels")
    text = (sources / "rules.h").read_text()
    edits = [edit[:3] for edit in EDITS.values()]
    for rule, old, new in (*edits, ("momentum_agc", "squeezed", "narrow"), ("average", "copied", "taken")):
        before = struct_in(text, rule)
        assert old in before
        text = text.replace(before, before.replace(old, new))
    (sources / "rules.h").write_text(text)
    return kernels.build(folder / "edited.so", sources=sources)


@needs_compiler
@pytest.mark.parametrize("edit", EDITS)
def test_a_library_of_other_sources_is_refused_by_name(edit, edited, monkeypatch):
    """Whether the kernel is asked for or would be chosen; without kernels there is nothing to refuse."""
    rule, *_, said = EDITS[edit]
    (name,) = (name for name in NATIVE if OPTIMIZERS[name].update.__name__ == rule)
    monkeypatch.setattr(_native, "library", lambda: edited)
    message = f"For '{name}', the native kernel '{rule}' expects {said}: install ms_optim anew."
    for fused in (None, True):
        with pytest.raises(RuntimeError, match=re.escape(message)):
            make(name, fused)
    assert not make(name, False).fused
    assert make("Adadelta", None).fused


@needs_compiler
def test_the_refused_library_computes_other_numbers(edited):
    """From the inputs of the right one: what is refused is not only spelled differently."""
    outcomes = []
    for library in (_native.library(), edited):
        native = Native(SGD, [np.ones(9, np.float32)], library, lr=0.1, momentum=0.9)
        native.step([np.ones(9, np.float32)])
        outcomes.append(native.params[0][0])
    np.testing.assert_allclose(outcomes, [1 - 0.1, 1 - 0.9], rtol=1e-6)


@needs_compiler
def test_a_choice_that_the_library_does_not_know_is_refused(edited, monkeypatch):
    """The others go on; numbers of choices are the library's, whatever order they are in."""
    monkeypatch.setattr(_native, "library", lambda: edited)
    assert make("MomentumAGC", True, unit="output").fused
    said = "expects 'unit' in (output, narrow), but the rule has 'squeezed': install ms_optim anew."
    with pytest.raises(RuntimeError, match=re.escape(f"For 'MomentumAGC', the native kernel 'momentum_agc' {said}")):
        make("MomentumAGC", None, unit="squeezed")


@needs_compiler
def test_an_average_of_other_sources_is_refused(edited, monkeypatch):
    """That of an optimizer and that between two networks."""
    optimizer = make("SGD", None)
    monkeypatch.setattr(_native, "library", lambda: edited)
    said = "the native kernel 'average' expects flags (taken), but the rule has (copied): install ms_optim anew."
    with pytest.raises(RuntimeError, match=re.escape(f"For 'EMA', {said}")):
        EMA(optimizer)
    with pytest.raises(RuntimeError, match=re.escape(f"For 'ParameterEMA', {said}")):
        ParameterEMA(*([Parameter(Tensor(np.ones(3, np.float32)), name=name)] for name in "ab"), 0.9)


@needs_compiler
@pytest.mark.parametrize("other", OTHERS)
def test_a_library_without_the_table_is_refused_by_name(other, tmp_path, monkeypatch):
    """As one of an older or a newer version of this package is, or a file that is none."""
    source, said = OTHERS[other]
    path = tmp_path / "other.so"
    if source is None:
        path.write_text("no library")
    else:
        (tmp_path / "other.cpp").write_text(f'extern "C" {{ {source} }}')
        subprocess.run(["g++", "-shared", "-fPIC", tmp_path / "other.cpp", "-o", path], check=True)
    monkeypatch.setattr(_native, "library", lambda: path)
    for fused in (None, True):
        with pytest.raises(RuntimeError) as refused:
            make("SGD", fused)
        assert str(refused.value).startswith(f"For 'SGD', the native kernels cannot be used, because 'other.so' {said}")
        assert str(refused.value).endswith(": install ms_optim anew.")
    assert not make("SGD", False).fused


def test_a_rule_whose_signature_changed_is_refused():
    """In Python, beside the library that there is."""

    def reordered(param, grad, slots, momentum, lr, take, weight_decay, nesterov, maximize):
        return param, slots

    def shortened(param, grad, slots, lr, momentum, take, weight_decay, maximize):
        return param, slots

    for rule, slots, what in (
        (reordered, SGD.slots, "numbers"),
        (shortened, SGD.slots, "flags"),
        (SGD.update, (), "slots"),
        (SGD.update, Adam.slots[1:2], "slots"),
    ):
        rule.__name__ = "sgd"
        with pytest.raises(RuntimeError, match=f"For 'SGD', the native kernel 'sgd' expects {what} "):
            _native.kernel_of("SGD", rule, slots, ("nesterov", "maximize"), SGD.conditions)
    assert _native.kernel_of("SGD", SGD.update, SGD.slots, ("nesterov", "maximize"), SGD.conditions) == RULES["sgd"]


def test_every_kernel_is_one_of_a_rule():
    """Each that the table tells of is a function of the library and, but for averages, some optimizer's rule."""
    library = ctypes.CDLL(str(_native.library()))
    assert [rule for rule in RULES if not hasattr(library, rule)] == []
    assert {OPTIMIZERS[name].update.__name__ for name in NATIVE} == {*RULES} - {"average"}
    for name in NATIVE:
        assert make(name, None).fused


@pytest.mark.parametrize("name", [name for name, cls in OPTIMIZERS.items() if "fused" in arguments_of(cls)])
def test_which_path_runs_is_told(name, monkeypatch):
    """The kernel where there is one, and where there is none a reason if one is asked for."""
    assert not make(name, False).fused
    assert make(name, None).fused == (name in NATIVE)
    if name in NATIVE:
        assert make(name, True).fused
        assert make(name, None, ms.bfloat16).fused
        monkeypatch.setattr(_native, "library", lambda: None)
        assert not make(name, None).fused
        with pytest.raises(ValueError, match=r"because the library was installed without a C\+\+ compiler"):
            make(name, True)
    else:
        rule = OPTIMIZERS[name].update.__name__
        with pytest.raises(ValueError, match=f"because the rule '{rule}' has no kernel, but got True"):
            make(name, True)


def test_a_rule_of_ones_own_has_no_kernel():
    """Though it has the name of one that has."""

    def sgd(param, grad, slots, lr, momentum, take, weight_decay, nesterov, maximize):
        """Go nowhere."""
        return param, slots

    class Mine(SGD):
        update = sgd

    params = [Parameter(Tensor(np.ones(3, np.float32)), name="weight")]
    assert not Mine(params).fused
    with pytest.raises(ValueError, match="is not one of the library's"):
        Mine(params, fused=True)


@pytest.mark.parametrize("bad", kernels.BAD)
def test_bad_inputs_are_refused_before_anything_is_written(bad):
    """With a code, which MindSpore raises for."""
    params = [np.ones(40, np.float32), np.ones(9, np.float32)]
    arrays = kernels.BAD[bad]([array.copy() for array in Native(Adam, params).inputs(params)])
    before = [array.copy() for array in arrays]
    assert kernels.call(_native.library(), "adam", arrays) == 1
    for array, value in zip(arrays, before):
        np.testing.assert_array_equal(array, value)


@pytest.mark.parametrize(
    "values",
    [
        [np.ones(3, np.int32), np.ones(4, np.float32)],
        [np.ones(4, np.int32), np.ones(4, np.int8)],
        [np.ones(4, np.int32)],
        [],
    ],
)
def test_bad_averages_are_refused_before_anything_is_written(values):
    """A first one that is copied is not, if the second cannot be averaged."""
    means = [np.zeros(4, np.int32), np.zeros(4, np.float32)]
    copied = np.array([1, 0], np.int32)
    assert kernels.call(_native.library(), "average", [np.array(0.5), np.array(True), copied, *means, *values]) == 1
    assert not np.concatenate(means).any()


def changed(owner, change):
    """An optimizer, or an average around one, of two parameters; and a change of it that no kernel takes."""
    values = (np.ones((2, 3)), np.ones(4))
    optimizer = Adam([Parameter(Tensor(value, ms.float32), name=f"p{i}") for i, value in enumerate(values)])
    optimizer = EMA(optimizer) if owner == "EMA" else optimizer
    change(optimizer)
    return optimizer, tuple(Tensor(np.ones(param.shape), ms.float32) for param in optimizer.parameters)


# What may be done to tensors between construction and the first step, and what is said of it then.
CHANGES = {
    "the dtype of a state": (
        "Adam",
        lambda optimizer: optimizer.exp_avg_sq[1].set_dtype(ms.float16),
        TypeError,
        "the state 'exp_avg_sq' of 'p1' must be of Float32 and shape (4,) as the parameter, "
        "but got Float16 and (4,); after a cast",
    ),
    "the dtype of a parameter": (
        "Adam",
        lambda optimizer: optimizer.parameters[0].set_dtype(ms.float64),
        TypeError,
        "the dtype of 'p0' must be Float32, which it was when it was made, but got Float64; after a cast",
    ),
    "a parameter to integers": (
        "Adam",
        lambda optimizer: optimizer.parameters[1].set_dtype(ms.int32),
        TypeError,
        "the dtype of 'p1' must be one of (Float16, BFloat16, Float32, Float64), but got Int32.",
    ),
    "the shape of a parameter": (
        "Adam",
        lambda optimizer: optimizer.parameters[1].set_data(Tensor(np.ones(5), ms.float32), slice_shape=True),
        ValueError,
        "the state 'exp_avg' of 'p1' must be of Float32 and shape (5,) as the parameter, "
        "but got Float32 and (4,); after a cast",
    ),
    "the dtype of an average": (
        "EMA",
        lambda ema: ema.averages[1].set_dtype(ms.int32),
        TypeError,
        "the average of 'p1', of Float32 and shape (4,), must be of its dtype, or both of floats, but 'ema.p1' is of "
        "Int32.",
    ),
    "the shape of an average": (
        "EMA",
        lambda ema: ema.averages[0].set_data(Tensor(np.ones((3, 2)), ms.float32), slice_shape=True),
        ValueError,
        "the average of 'p0', of Float32 and shape (2, 3), must be of its shape, but 'ema.p0' is of (3, 2).",
    ),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("change", CHANGES)
def test_what_no_kernel_can_write_into_is_named(change, mode):
    """In a direct call and in a graph of the user's, before anything is written."""
    set_mode(mode)
    owner, make_change, kind, said = CHANGES[change]
    optimizer, grads = changed(owner, make_change)
    before = [param.asnumpy().copy() for param in optimizer.get_parameters()]

    def step(grads):
        return optimizer(grads)

    for call in (optimizer, ms.jit(step)):
        with pytest.raises(kind, match=re.escape(f"For '{owner}', {said}")):
            call(grads)
    for param, value in zip(optimizer.get_parameters(), before):
        np.testing.assert_array_equal(param.asnumpy(), value)
