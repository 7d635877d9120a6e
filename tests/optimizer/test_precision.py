"""The state of float16 and bfloat16 parameters in float32, and a float32 copy of them."""

import copy
import itertools

import mindspore as ms
import numpy as np
import pytest
import torch
from helpers import CELLS, DENSE, arguments_of, assert_same, loud, make_grads, make_params, outcome, shapes_of
from mindspore import Parameter, Tensor

from ms_optim import EMA, SGD, AdamW, restore, save
from ms_optim._values import write
from ms_optim.slot import MASTER, Slot

HALF, FLOAT = ms.float16, ms.float32
# How a state is kept no rule could get wrong.
cells = pytest.mark.parametrize("name", CELLS)
FEW = ("b.gamma", "scale")
EXEMPT = "conv.weight"  # the other that `exempt` is about


def few(name, values):
    """Of what there is for each parameter of an optimizer, that for some."""
    kept = (*FEW, EXEMPT) if "exempt" in arguments_of(DENSE[name]) else FEW
    return [value for key, value in zip(shapes_of(name), values) if key in kept]


def made(name):
    """Some parameters for an optimizer."""
    return few(name, make_params(name))


def halves(params):
    """The same in float16."""
    return [Parameter(Tensor(param.asnumpy(), HALF), name=param.name) for param in params]


def rounded(values):
    """What float16 holds of each, in float32."""
    return [np.float32(np.float16(value)) for value in values]


def steps(name):
    """Gradients that float16 holds, of which the largest do not overflow it."""
    rounded = [[np.float32(np.float16(grad.asnumpy())) for grad in few(name, grads)] for grads in make_grads(name, 4)]
    return [tuple(map(Tensor, grads)) for grads in rounded]


def half_grads(grads):
    """The same in float16."""
    return tuple(grad.astype(HALF) for grad in grads)


@cells
def test_master_weights_take_the_steps_of_float32(graph, name):
    """To the bit, and the parameter is its copy, rounded; the state with them is that of float32."""
    arguments = loud(DENSE[name]) | {"fused": False}
    wide = DENSE[name](made(name), **arguments)
    half = DENSE[name](halves(made(name)), **arguments | dict(state_dtype=FLOAT, master_weights=True))
    for grads in steps(name):
        wide(grads)
        half(half_grads(grads))
        got, expected = outcome(half), outcome(wide)
        for param in half.parameters:
            copied = got.pop(f"master_param of {param.name}")
            np.testing.assert_array_equal(got[param.name], np.float16(copied), strict=True)
            got[param.name] = copied
        assert_same(got, expected)


@cells
def test_state_in_float32_is_not_rounded(graph, name):
    """Of a step it is what float32 parameters, rounded after the step, have."""
    arguments = loud(DENSE[name]) | {"fused": False}
    wide = DENSE[name](made(name), **arguments)
    half = DENSE[name](halves(made(name)), **arguments | dict(state_dtype=FLOAT))
    for grads in steps(name):
        wide(grads)
        half(half_grads(grads))
        for param, value in zip(wide.parameters, rounded(param.asnumpy() for param in wide.parameters)):
            write(param, Tensor(value))
        got = outcome(half)
        assert_same({key: np.float32(got[key]) if key in half.state else got[key] for key in got}, outcome(wide))


@pytest.mark.parametrize(
    ("state_dtype", "master_weights", "times"), [(None, False, 2), (FLOAT, False, 4), (None, True, 4), (FLOAT, True, 6)]
)
def test_memory(state_dtype, master_weights, times):
    """In multiples of the parameters; what README says."""
    (param,) = halves([Parameter(np.zeros((1000, 1000), np.float32), name="weight")])
    optimizer = AdamW([param], state_dtype=state_dtype, master_weights=master_weights)
    assert optimizer.state_bytes == pytest.approx(times * param.nbytes, rel=1e-4)


def test_as_torch_with_a_float32_copy(graph):
    """Of which the loop rounds the weights that its network computes with."""
    values = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    master = torch.tensor(rounded([values])[0], requires_grad=True)
    theirs = torch.optim.AdamW([master], lr=1e-4, weight_decay=0.1)
    param = Parameter(Tensor(values, HALF), name="weight")
    ours = AdamW([param], lr=1e-4, weight_decay=0.1, state_dtype=FLOAT, master_weights=True)
    for seed in range(50):
        grad = np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float16)
        master.grad = torch.tensor(np.float32(grad))
        theirs.step()
        ours((Tensor(grad),))
    np.testing.assert_allclose(ours.master_param[0].asnumpy(), master.detach().numpy(), rtol=1e-6)
    np.testing.assert_array_equal(param.asnumpy(), np.float16(ours.master_param[0].asnumpy()))


def test_small_steps_are_not_lost(either):
    """float16 alone stands still where each step is less than half of the gap between its numbers."""
    ends = []
    for master_weights in (False, True):
        param = Parameter(Tensor(np.ones(3), HALF), name="weight")
        optimizer = SGD([param], lr=1e-4, master_weights=master_weights)
        for _ in range(20):
            optimizer((Tensor(np.ones(3), HALF),))
        ends.append(param.asnumpy()[0])
    assert ends == [np.float16(1.0), np.float16(0.998)]


def test_what_is_written_into_a_parameter_counts(graph):
    """Weights that are loaded after the optimizer was made, or between steps, are where the next step starts."""
    param = Parameter(Tensor(np.ones(3), HALF), name="weight")
    optimizer = SGD([param], lr=2.0**-12, master_weights=True)
    gradients = (Tensor(np.ones(3), HALF),)
    write(param, Tensor(np.array([2.0, -3.0, 1.0]), HALF))
    optimizer(gradients)
    np.testing.assert_array_equal(optimizer.master_param[0].asnumpy(), np.float32([2, -3, 1]) - 2.0**-12)
    values = param.asnumpy().copy()
    values[1] = 5.0
    write(param, Tensor(values))
    optimizer(gradients)
    expected = np.float32([2 - 2.0**-11, 5 - 2.0**-12, 1 - 2.0**-11])
    np.testing.assert_array_equal(optimizer.master_param[0].asnumpy(), expected)


def test_what_stands_still(graph):
    """Absent or frozen parameters keep their bits, and so do their copies once there are any."""
    params = halves(made("AdamW"))
    optimizer = AdamW(params, lr=0.1, state_dtype=FLOAT, master_weights=True)
    first, second, third, *_ = map(half_grads, steps("AdamW"))
    optimizer(first)
    for still, gradients in enumerate(((None, second[1]), third)):
        before = outcome(optimizer)
        optimizer(gradients)
        after = outcome(optimizer)
        kept = [key for key in before if key.split()[-1] == params[still].name]
        assert_same({key: after[key] for key in kept}, {key: before[key] for key in kept})
        assert not np.array_equal(after[params[1 - still].name], before[params[1 - still].name])
        optimizer.freeze(params[1].name)


def test_mixed_parameters(graph):
    """Those of float32 have no copy, and the state that they have without."""
    params = made("AdamW")
    params = [*params[:1], *halves(params[1:])]
    optimizer = AdamW(params, state_dtype=FLOAT, master_weights=True)
    optimizer(tuple(grad.astype(param.dtype) for grad, param in zip(steps("AdamW")[0], params)))
    assert [kept is None for kept in optimizer.master_param] == [param.dtype == FLOAT for param in params]
    assert {kept.dtype for kept in optimizer.exp_avg} == {FLOAT}


@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
def test_round_trips(graph, tmp_path, ending):
    """Through `state_dict`, a copy and a file, the next step has the same bits."""
    first, second, *_ = map(half_grads, steps("AdamW"))
    whole = dict(lr=0.01, state_dtype=FLOAT, master_weights=True)
    optimizer = AdamW(halves(made("AdamW")), **whole)
    optimizer(first)
    save(optimizer, str(tmp_path / f"state.{ending}"))
    copied = copy.deepcopy(optimizer)
    loaded, restored = (AdamW(copy.deepcopy(list(optimizer.parameters)), **whole) for _ in range(2))
    loaded.load_state_dict(optimizer.state_dict())
    restore(restored, str(tmp_path / f"state.{ending}"))
    optimizer(second)
    for other in (copied, loaded, restored):
        other(second)
        assert_same(outcome(other), outcome(optimizer))


def test_states_of_optimizers_without(graph):
    """A state that lacks the copies starts them at the parameters; one that has them goes where none are kept."""
    first, second, *_ = map(half_grads, steps("AdamW"))
    pair = [AdamW(halves(made("AdamW")), lr=0.01, state_dtype=FLOAT, master_weights=flag) for flag in (0 > 1, True)]
    for optimizer, other in itertools.permutations(pair):
        optimizer(first)
        other.load_state_dict(optimizer.state_dict())
        for param, value in zip(other.parameters, optimizer.parameters):
            write(param, value)
        other(second)
        optimizer(second)
    plain, master = map(outcome, pair)
    for param in pair[0].parameters:
        np.testing.assert_array_equal(np.float16(master[f"master_param of {param.name}"]), master[param.name])
    assert {key for key in master if "master" not in key} == plain.keys()


def test_average_of_what_has_copies(graph):
    """EMA takes the parameters, as they are after a step."""
    optimizer = SGD(halves(made("SGD")), lr=0.1, master_weights=True)
    ema = EMA(optimizer, decay=0.5)
    start = [np.float32(param.asnumpy()) for param in optimizer.parameters]
    ema(half_grads(steps("SGD")[0]))
    for average, param, before in zip(ema.averages, optimizer.parameters, start):
        np.testing.assert_array_equal(average.asnumpy(), (before + np.float32(param.asnumpy())) / 2)


@pytest.mark.parametrize("argument", ["state_dtype", "master_weights"])
def test_kernels_are_refused_by_name(argument):
    """Where half precision is kept wider there is none; float32 parameters have theirs all the same."""
    value = {"state_dtype": FLOAT, "master_weights": True}[argument]
    with pytest.raises(ValueError, match=f"For 'SGD', 'fused' must be None or False here, .* with '{argument}'"):
        SGD(halves(made("SGD")), momentum=0.9, fused=True, **{argument: value})
    assert SGD(made("SGD"), momentum=0.9, **{argument: value}).fused
    assert "master_param" not in SGD(made("SGD")).state.slots
    params = [Parameter(Tensor(np.ones(3), ms.bfloat16), name="weight")]
    with pytest.raises(TypeError, match=f"For 'SGD', 'params' must not be bfloat16 on CPU .* with '{argument}'"):
        SGD(params, **{argument: value})


@pytest.mark.parametrize(
    ("argument", "value"), [("state_dtype", HALF), ("state_dtype", "float32"), ("master_weights", 1)]
)
def test_other_values_are_refused(argument, value):
    """By the name of the argument."""
    with pytest.raises((TypeError, ValueError), match=f"For 'SGD', '{argument}' must be one of"):
        SGD(made("SGD"), **{argument: value})


def test_name_of_the_copy_is_taken():
    """No rule has a slot of this name."""
    with pytest.raises(ValueError, match=r"For 'Own', 'slots' must have other names .*master_param"):
        type("Own", (SGD,), {"slots": (Slot(MASTER.name),)})
