"""What every optimizer does because it is one: properties over DENSE, bit for bit where both sides compute."""

import re

import mindspore as ms
import numpy as np
import pytest
import torch
from helpers import (
    DENSE,
    SPAN,
    UNGROUPED,
    arguments_of,
    assert_compiled,
    assert_same,
    baseline,
    everything,
    loud,
    make_grads,
    make_params,
    numbers_of,
    outcome,
    shapes_of,
)
from helpers.values import EXPONENTIAL, bad
from mindspore import Parameter, Tensor, nn

from ms_optim import SGD, MomentumAGC
from parity.sides.mindspore import MODES, set_mode

each = pytest.mark.parametrize("name", DENSE)
span = pytest.mark.parametrize("name", SPAN)
nan, inf = float("nan"), float("inf")


def scaled(grads, factor):
    """Every gradient times a number."""
    return [tuple(grad * factor for grad in step) for step in grads]


def stepped(optimizer, grads):
    """The optimizer, after a step for each tuple of gradients."""
    for step in grads:
        optimizer(step)
    return optimizer


@each
def test_modes_agree(name):
    """PYNATIVE_MODE gives what GRAPH_MODE gives, and every parameter has moved."""
    runs = []
    for mode in MODES:
        set_mode(mode)
        runs.append(baseline(name, mode))
    for graph, pynative in zip(*runs):
        assert_same(graph, pynative)
    for param in make_params(name):
        assert not np.array_equal(runs[0][-1][param.name], param.asnumpy()), param.name


@pytest.mark.generic
@each
def test_every_argument_of_a_group(name, path):
    """A group with every argument of its own is an optimizer of its own."""
    cls, grads = DENSE[name], make_grads(name)[:3]
    others = {key: value for key, value in loud(cls, 1).items() if key not in UNGROUPED}
    params = make_params(name)
    both = cls([{"params": params[::2]}, {"params": params[1::2], **others}], **loud(cls))
    stepped(both, [(*step[::2], *step[1::2]) for step in grads])
    second = stepped(cls(make_params(name)[1::2], **loud(cls, 1)), [step[1::2] for step in grads])
    first = {param.name for param in params[::2]}
    of_first = {key: value for key, value in baseline(name, path)[2].items() if key.split(" of ")[-1] in first}
    assert_same(outcome(both), of_first | outcome(second))


@pytest.mark.generic
@each
def test_loss_scale_divides_the_gradients_and_maximize_negates_them(name, path):
    """And nothing else; a power of two is exact."""
    cls = DENSE[name]
    negated = {"maximize": True} if "maximize" in arguments_of(cls) else {}
    optimizer = cls(make_params(name), **{**loud(cls), "loss_scale": 1024.0, **negated})
    grads = scaled(make_grads(name), -1024.0 if negated else 1024.0)
    assert_same(outcome(stepped(optimizer, grads)), baseline(name, path)[-1])


@span
def test_order_params_permutes_nothing(name, graph):
    """Gradients come in its order, though the groups cut and reverse the parameters."""
    cls, params = DENSE[name], make_params(name)
    groups = [{"params": params[2:][::-1]}, {"params": params[:2]}, {"order_params": params}]
    assert_same(outcome(stepped(cls(groups, **loud(cls)), make_grads(name))), baseline(name, graph)[-1])


@each
def test_resumed_is_uninterrupted(name, graph, tmp_path):
    """In both formats; into a new optimizer and into one that has compiled and gone on."""
    cls = DENSE[name]
    optimizer = stepped(cls(make_params(name), **loud(cls)), make_grads(name)[:3])
    paths = {suffix: str(tmp_path / f"state.{suffix}") for suffix in ("ckpt", "safetensors")}
    for suffix, path in paths.items():
        ms.save_checkpoint(optimizer, path, format=suffix)
    expected = everything(stepped(optimizer, make_grads(name)[3:]))
    assert_same(outcome(optimizer), baseline(name, graph)[-1])
    for suffix, path in paths.items():
        for resumed in (optimizer, cls(make_params(name), **loud(cls))):
            # Loaded anew each time: the optimizer takes over the buffers of what is loaded, and writes into them.
            saved = ms.load_checkpoint(path, format=suffix)
            assert ms.load_param_into_net(resumed, saved, strict_load=True) == ([], [])
            assert_same(everything(stepped(resumed, make_grads(name)[3:])), expected)


@pytest.mark.generic
@each
def test_dtypes_are_kept(name, path):
    """Parameters of three dtypes; float16 is computed in float32 and rounded once, float64 in float64."""
    cls, kwargs = DENSE[name], loud(DENSE[name])
    if "exempt" in kwargs:
        kwargs["exempt"] = lambda param: param.name.endswith("scale")
    dtypes = (ms.float16, ms.float32, ms.float64)
    three = slice(2, None, 2)
    mixed = cls([param for dtype in dtypes for param in make_params(name, dtype, f"{dtype}.")[three]], **kwargs)
    mixed(make_grads(name)[1][three] * 3)
    got = outcome(mixed)
    for param in mixed.parameters:
        assert all(
            kept.dtype == (ms.float64 if slot in mixed.state.vectors else param.dtype)
            for slot, kept in mixed.state[param.name].items()
        )
        assert param.name.startswith(str(param.dtype))
    single = cls(make_params(name, prefix="Float32.")[three], **kwargs)
    single(make_grads(name)[1][three])
    for key, value in outcome(single).items():
        np.testing.assert_array_equal(got[key], value, err_msg=key, strict=True)
        if key.split(" of ")[0] not in mixed.state.vectors:
            half = key.replace("Float32", "Float16")
            np.testing.assert_array_equal(got[half], value.astype(np.float16), err_msg=half, strict=True)
            double = got[key.replace("Float32", "Float64")]
            np.testing.assert_allclose(value, double, rtol=2e-6, atol=1e-6, err_msg=key)
            assert key != "Float32.long.weight" or np.any(double != double.astype(np.float32)), key


@pytest.mark.generic
@pytest.mark.usefixtures("own_graph")
@each
def test_numbers_change_without_compiling_again(name, path):
    """From then on it is an optimizer that was made with the new numbers."""
    cls = DENSE[name]
    optimizer = stepped(cls(make_params(name), **loud(cls)), make_grads(name)[:3])
    assert_compiled(optimizer)
    numbers = numbers_of(cls, 1)
    assert "lr" in numbers
    made_new = cls(make_params(name), **{**loud(cls), **numbers})
    hyperparameters = {param.name for param in (*made_new.numbers, made_new.learning_rate)}
    state = {
        key: Parameter(Tensor(value), name=key)
        for key, value in everything(optimizer).items()
        if key not in hyperparameters
    }
    ms.load_param_into_net(made_new, state)
    for key, value in numbers.items():
        optimizer.param_groups[0][key] = value
        assert optimizer.param_groups[0][key] == value
    stepped(optimizer, make_grads(name)[3:])
    assert_compiled(optimizer)
    assert_same(everything(optimizer), everything(stepped(made_new, make_grads(name)[3:])))


@pytest.mark.generic
@pytest.mark.usefixtures("own_graph")
@each
def test_a_parameter_without_a_gradient_does_not_move(name, path):
    """Nor does one that is frozen, which compiles nothing; the others go on as if it were not there."""
    optimizer = DENSE[name](make_params(name), **loud(DENSE[name]))
    absent = [(), (1, 3), (1, 3), (2,), (), (2,)]
    before = outcome(optimizer)
    halted = set()
    for step, (grads, missing) in enumerate(zip(make_grads(name), absent)):
        for i, param in enumerate(optimizer.parameters):
            param.requires_grad = i not in missing or step < 2
        optimizer(tuple(None if i in missing and step < 2 else grad for i, grad in enumerate(grads)))
        after = outcome(optimizer)
        halted |= set(missing)
        for i, param in enumerate(shapes_of(name)):
            mine = [key for key in after if key.split(" of ")[-1] == param]
            if i in missing:
                assert_same({key: after[key] for key in mine}, {key: before[key] for key in mine})
            elif i not in halted:
                expected = baseline(name, path)[step]
                assert_same({key: after[key] for key in mine}, {key: expected[key] for key in mine})
        before = after
    assert optimizer.step_counts.asnumpy().tolist() == [6, 4, 4, 4, 6, 6, 6][: len(optimizer.parameters)]
    assert_compiled(optimizer, 2)


@each
def test_state_bytes_is_what_is_allocated(name):
    """Every Parameter but those given, the learning rate, the hyperparameters and the count of calls."""
    cls = DENSE[name]
    still = {key: 0.0 for key in ("momentum", "dampening") if key in arguments_of(cls)}
    for kwargs in (loud(cls), {**loud(cls), **still}):
        optimizer = cls(make_params(name, ms.float16), **kwargs)
        others = [
            *optimizer.parameters,
            *optimizer.numbers,
            optimizer.learning_rate,
            optimizer.global_step,
            optimizer.trainable,
        ]
        names = {param.name for param in others}
        state = {key: value for key, value in everything(optimizer).items() if key not in names}
        assert optimizer.state_bytes == sum(value.nbytes for value in state.values())


@each
def test_bad_values_raise_and_name_themselves(name):
    """As an argument and as a key of a group."""
    params = make_params(name)

    def as_argument(argument, value):
        DENSE[name](params, **{argument: value})

    def of_a_group(argument, value):
        DENSE[name]([{"params": params, argument: value}])

    for argument in arguments_of(DENSE[name]):
        for make in (as_argument,) if argument in UNGROUPED else (as_argument, of_a_group):
            for value in bad(DENSE[name], argument):
                with pytest.raises((TypeError, ValueError)) as error:
                    make(argument, value)
                assert re.match(rf"For '{name}', '{argument}(\[\d\])?' must .*", str(error.value)), (value, error)


@each
def test_bad_numbers_are_refused_between_steps(name):
    """A group keeps what it had."""
    optimizer = DENSE[name](make_params(name), **loud(DENSE[name]))
    group = optimizer.param_groups[0]
    before = everything(optimizer)
    for argument in arguments_of(DENSE[name]):
        for value in bad(DENSE[name], argument):
            with pytest.raises((KeyError, TypeError, ValueError), match=argument):
                group[argument] = value
    with pytest.raises(KeyError, match="learning_rate"):
        group["learning_rate"] = 0.1
    assert_same(everything(optimizer), before)


PARAMS = make_params("Muon")  # matrices, which every optimizer takes
TWIN = Parameter(Tensor(np.zeros(2, np.float32)), name="scale")
INTEGER = Parameter(Tensor(np.zeros(2, np.int32)), name="integer")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([], "'params' must not be empty"),
        ([{"params": []}], "'params' must not be empty"),
        (PARAMS[0], "'params' must be a list of Parameters or of dicts, but got Parameter"),
        (set(PARAMS), "'params' must be .*, but got set"),
        ({"params": PARAMS}, "'params' must be .*, but got dict"),
        ("scale", "'params' must be .*, but got str"),
        (None, "'params' must be .*, but got NoneType"),
        ([1.0], "'params' must be .*, but got an element of float"),
        ([*PARAMS, {"params": PARAMS}], "'params' must be .*, but got an element of Parameter"),
        ([*PARAMS, TWIN], "'params' must .* but got .*scale.* more than once"),
        ([*PARAMS, PARAMS[0]], "'params' must .* but got .*a.weight.* more than once"),
        ([{"params": PARAMS}, {"params": PARAMS[:1]}], "'params' must .* but got .*a.weight.* more than once"),
        ([Parameter(Tensor(np.zeros((0, 2), np.float32)), name="empty")], "'params' must hold no empty .* 'empty'"),
        ([INTEGER], "the dtype of 'integer' must be in .*, but got Int32"),
        ([{"params": [INTEGER]}], "the dtype of 'integer' must be in .*, but got Int32"),
        ([{"params": "scale"}], "'params' of a group must be .*, but got 'scale'"),
        ([{"params": set(PARAMS)}], "'params' of a group must be .*, but got"),
        ([{"params": [1.0]}], "'params' of a group must be .*, but got an element of float"),
        ([{"lr": 0.1}], r"each group must have the key 'params', but got \['lr'\]"),
        ([{"params": PARAMS, "learning_rate": 0.1}], r"the keys of a group must be in .*, but got \['learning_rate'\]"),
        ([{"params": PARAMS, "loss_scale": 2.0}], r"the keys of a group must be in .*, but got \['loss_scale'\]"),
        (
            [{"params": PARAMS}, {"order_params": PARAMS[1:]}],
            r"'order_params' must .* but they differ in \['a.weight'\]",
        ),
        (
            [{"params": PARAMS[1:]}, {"order_params": PARAMS}],
            r"'order_params' must .* but they differ in \['a.weight'\]",
        ),
        ([{"params": PARAMS}, {"order_params": [*PARAMS, PARAMS[0]]}], "'order_params' must"),
        ([{"params": PARAMS}, {"order_params": PARAMS, "lr": 0.1}], "'order_params' must be the one key"),
        (
            [{"params": PARAMS}, {"order_params": PARAMS}, {"order_params": PARAMS}],
            "'order_params' must be the one key",
        ),
        ([{"order_params": PARAMS}], "'params' must not be empty"),
    ],
)
def test_bad_parameters_raise(params, message):
    """Whatever is not a list of distinct float Parameters, or of well-formed groups."""
    for name in SPAN:
        with pytest.raises((TypeError, ValueError), match=f"^For '{name}', {message}"):
            DENSE[name](params)


@span
@pytest.mark.parametrize(
    "own", ["step", "global_step", "learning_rate", "loss_scale", "lr", "reciprocal", "state", "weight_decay"]
)
def test_a_parameter_that_would_be_lost_raises(name, own):
    """A Cell keeps its Parameters by name, and these are the optimizer's own: it would write into it."""
    param = Parameter(Tensor(np.full((3, 2), 5, np.float32)), name=own)
    with pytest.raises(ValueError, match=f"For '{name}', 'params' must have other names .*, but got \\['{own}'\\]"):
        DENSE[name]([param])
    np.testing.assert_array_equal(param.asnumpy(), np.full((3, 2), 5, np.float32))


@span
def test_parameters_may_come_from_an_iterator(name, graph):
    """It is read once, at the top and in a group."""
    cls = DENSE[name]
    optimizer = cls(iter([{"params": iter(make_params(name))}]), **loud(cls))
    assert_same(outcome(stepped(optimizer, make_grads(name))), baseline(name, graph)[-1])


@span
def test_gradients_must_fit(name, graph):
    """A wrong count, kind or shape raises, though it could be cast or broadcast, and nothing has moved."""
    optimizer = DENSE[name](make_params(name), **loud(DENSE[name]))
    before = everything(optimizer)
    first, *others = make_grads(name)[0]
    shapes = shapes_of(name)
    count, fourth = len(shapes), list(shapes)[3]
    got, wanted = (re.escape(str(shapes[key])) for key in ("scale", fourth))
    for wrong, kind, message in [
        (others, ValueError, f"must hold {count} entries.*, but got {count - 1}"),
        ([*make_grads(name)[0], first], ValueError, f"must hold {count} entries.*, but got {count + 1}"),
        (None, TypeError, "must be given to a step, as optimizer.step.gradients.: .* returns them; but got none"),
        (first, TypeError, "must be a tuple of .*, but got Tensor"),
        ([first.asnumpy(), *others], TypeError, "must be a tuple of .*, but got ndarray for 'a.weight'"),
        ([first.to(ms.complex64), *others], TypeError, "must be a tuple of float .*, but got Complex64 for 'a.weight'"),
        ([first.to(ms.int32), *others], TypeError, "must be a tuple of float .*, but got Int32 for 'a.weight'"),
        ([first, others[0].to(ms.bool_), *others[1:]], TypeError, "must be .*, but got Bool for 'b.gamma'"),
        ([first[:1], *others], ValueError, r"but got \(1, 4\) for 'a.weight' of shape \(3, 4\)"),
        ([first, *others[:2], others[1], *others[3:]], ValueError, rf"but got {got} for '{fourth}' of shape {wanted}"),
    ]:
        with pytest.raises(kind, match=f"^For '{name}', 'gradients' {'' if kind is TypeError else '.*'}{message}"):
            optimizer(wrong)
    assert_same(everything(optimizer), before)


class Step(nn.Cell):
    """A compiled step of the user's; the Parameters of the optimizer are renamed after the attribute that holds it."""

    def __init__(self, optimizer):
        super().__init__()
        self.optimizer = optimizer

    def construct(self, *gradients):
        """The gradients in a list."""
        return self.optimizer(list(gradients))


@pytest.mark.generic(compiles=True)
@span
def test_too_few_gradients_are_counted_when_a_graph_is_compiled(name, either):
    """As in a direct call, by the name of the class."""
    gradients, count = make_grads(name)[0], len(shapes_of(name))
    cell = Step(DENSE[name](make_params(name), **loud(DENSE[name])))
    with pytest.raises(ValueError, match=f"For '{name}', 'gradients' must hold {count} entries.*, but got {count - 1}"):
        ms.jit(cell)(*gradients[1:])


@pytest.mark.generic(compiles=True)
@span
def test_a_cell_may_hold_the_optimizer(name, either):
    """It renames the Parameters, and the groups, the state and the table are still theirs; gradients may be a list."""
    cls = DENSE[name]
    bare, held = (cls(make_params(name), **loud(cls)) for _ in range(2))
    cell = Step(held)
    assert "optimizer.global_step" in cell.parameters_dict()
    numbers = numbers_of(cls, 1)
    assert "lr" in numbers
    for grads in make_grads(name)[:2]:
        bare(grads)
        cell(*grads)
        for key, value in numbers.items():
            for optimizer in (bare, held):
                optimizer.param_groups[0][key] = value
                assert optimizer.param_groups[0][key] == value
    assert [list(row) for row in held.state.values()] == [list(row) for row in bare.state.values()]
    for mine, expected in zip(outcome(held).values(), outcome(bare).values(), strict=True):
        np.testing.assert_array_equal(mine, expected, strict=True)
    told, expected = ([row.split() for row in optimizer.describe().splitlines()] for optimizer in (held, bare))
    assert [row[0] for row in told[1:-1]] == [param.name for param in held.parameters]
    assert [row[1:] for row in told] == [row[1:] for row in expected]
    if cls is MomentumAGC:
        assert held.group_clipping_tuple == bare.group_clipping_tuple


@span
@pytest.mark.parametrize("count", [6, 8])
def test_the_count_of_gradients_must_fit_in_a_cell(name, either, count):
    """Where no direct call can tell."""
    grads = (make_grads(name)[0] * 2)[:count]
    cell = Step(DENSE[name](make_params(name), **loud(DENSE[name])))
    before = everything(cell)
    with pytest.raises(ValueError, match="'gradients' must hold"):
        cell(*grads)
    assert_same(everything(cell), before)


@pytest.mark.generic
@pytest.mark.parametrize("name", ["AdamW", "MomentumAGC"])
@pytest.mark.parametrize("wrong", ["shape", "dtype", "sparse"])
def test_the_gradient_that_does_not_fit_is_named_when_a_cell_compiles(name, wrong, path):
    """With the optimizer, the parameter and what is wrong with it, where no direct call can tell."""
    first, second, *others = make_grads(name)[0]
    odd = {"shape": second[:1], "dtype": second.to(ms.int32), "sparse": (Tensor([0], ms.int32), second[:1])}[wrong]
    kind, got = {
        "shape": (ValueError, r"but got Float32 of shape \(1, 4\)"),
        "dtype": (ValueError, r"but got Int32 of shape \(3, 4\)"),
        "sparse": (TypeError, "but got a sparse gradient. SparseAdam takes those"),
    }[wrong]
    cell = Step(DENSE[name](make_params(name), **loud(DENSE[name])))
    message = (
        rf"For '{name}', 'gradients' must be floats of the shapes of the parameters, for 'b.gamma' \(3, 4\), {got}"
    )
    with pytest.raises(kind, match=message):
        cell(first, odd, *others)


TORCHS = {
    "SGD": [dict(), dict(momentum=0.9, maximize=True), dict(momentum=0.9, nesterov=True)],
    "Adam": [dict(betas=(0.8, 0.95)), dict(betas=(0.2, 0.95), amsgrad=True), dict(betas=(0.0, 0.0))],
    "AdamW": [dict(betas=(0.8, 0.95)), dict(betas=(0.2, 0.95), amsgrad=True)],
    "ASGD": [dict(t0=2.0)],
    "Adadelta": [dict(rho=0.5)],
    "Adafactor": [dict(eps=(1e-3, 1e-2))],
    "Adagrad": [dict(initial_accumulator_value=0.5)],
    "Adamax": [dict(betas=(0.8, 0.95))],
    "NAdam": [dict(betas=(0.8, 0.95))],
    "RAdam": [dict(betas=(0.2, 0.5))],
    "RMSprop": [dict(alpha=0.5), dict(alpha=0.5, momentum=0.9, centered=True)],
    "Rprop": [dict()],
}


@pytest.mark.parametrize("name", TORCHS)
def test_after_an_infinite_gradient_it_goes_on_as_torch(name, path):
    """Whose weight decay of zero leaves an infinite parameter out of it: what is infinite, NaN or neither stays so."""
    values = np.array([inf, -inf, nan, 1.0, -2.0, 3.0, 0.0], np.float32)
    start, first = np.full((7, 7), values), np.full((7, 7), values).T
    grads = [first, *(np.random.default_rng(0).standard_normal((4, 7, 7)).astype(np.float32))]
    groups = TORCHS[name]
    common = {"lr": 0.1, **({"weight_decay": 0.0} if name == "AdamW" else {}), **groups[0]}
    ours = [Parameter(Tensor(start), name=f"weight{i}") for i in range(len(groups))]
    torchs = [torch.nn.Parameter(torch.tensor(start)) for _ in groups]
    optimizer, reference = (
        make([{"params": [param], **kwargs} for param, kwargs in zip(params, groups, strict=True)], **common)
        for make, params in ((DENSE[name], ours), (getattr(torch.optim, name), torchs))
    )
    for grad in grads:
        optimizer((Tensor(grad),) * len(ours))
        for param in torchs:
            param.grad = torch.tensor(grad)
        reference.step()
        for group, mine, param in zip(groups, ours, torchs, strict=True):
            np.testing.assert_allclose(mine.asnumpy(), param.detach().numpy(), rtol=1e-5, atol=1e-6, err_msg=str(group))
            for slot, value in reference.state[param].items():
                np.testing.assert_allclose(
                    optimizer.state[mine.name][slot].asnumpy(),
                    value.numpy(),
                    rtol=1e-5,
                    atol=1e-6,
                    err_msg=f"{slot}, {group}",
                )


@pytest.mark.parametrize("name", ["MomentumAGC", "SGD"])
@pytest.mark.parametrize("wrong", [{"momentum": 0.0}, {"momentum": 0.9, "dampening": 0.1}])
def test_nesterov_needs_momentum_without_dampening(name, wrong):
    """As an argument and in a group."""
    for make in (
        lambda: DENSE[name](PARAMS, nesterov=True, **wrong),
        lambda: DENSE[name]([{"params": PARAMS, "nesterov": True, **wrong}]),
    ):
        with pytest.raises(ValueError, match=f"^For '{name}', 'nesterov' must be False unless 'momentum' > 0"):
            make()


@pytest.mark.generic
@span
def test_a_list_of_learning_rates_is_setting_them_between_steps(name, either):
    """One for each step; the last one holds."""
    cls, rates = DENSE[name], [0.3, 0.0, 1e-7]
    live = cls(make_params(name), **loud(cls))
    listed = cls(make_params(name), **{**loud(cls), "lr": rates})
    for grads, rate in zip(make_grads(name)[:5], [*rates, 1e-7, 1e-7]):
        live.param_groups[0]["lr"] = rate
        live(grads)
        listed(grads)
        assert_same(outcome(listed), outcome(live))


DECAYED = [float(EXPONENTIAL(Tensor(step, ms.int32)).asnumpy()) for step in range(3)]


@pytest.mark.parametrize(
    ("lr", "expected"),
    [
        (0.1, [0.1, 0.1, 0.1]),
        (1, [1.0, 1.0, 1.0]),
        (1e-7, [1e-7, 1e-7, 1e-7]),
        (np.float32(0.1), [float(np.float32(0.1))] * 3),
        (np.float64(0.1), [0.1] * 3),
        (np.array(0.1), [0.1] * 3),
        (Tensor(0.1, ms.float64), [0.1] * 3),
        ([0.3, 0.1, 1e-7], [0.3, 0.1, 1e-7]),
        ((0.3, 0.1), [0.3, 0.1, 0.1]),
        (np.array([0.3]), [0.3, 0.3, 0.3]),
        (Tensor([0.3, 0.1], ms.float64), [0.3, 0.1, 0.1]),
        ({0.3: 0, 0.1: 0}.keys(), [0.3, 0.1, 0.1]),
        (EXPONENTIAL, DECAYED),
    ],
    ids=repr,
)
def test_forms_of_the_learning_rate(either, lr, expected):
    """Each step moves a float64 zero by the learning rate itself, so every bit of it shows."""
    lr = list(expected[:2]) if hasattr(lr, "__next__") else lr
    param = Parameter(Tensor(np.zeros(2)), name="zero")
    optimizer = SGD([param], lr=lr)
    place = 0.0
    for rate in expected:
        optimizer((Tensor(np.ones(2)),))
        place -= rate
        assert param.asnumpy().tolist() == [place, place]


@pytest.mark.usefixtures("own_graph")
def test_learning_rates_of_groups_do_not_touch_each_other(either):
    """Constants beside a schedule and a list keep every bit, and can still be set."""
    rates = [1e-7, EXPONENTIAL, [0.3, 0.1], 3e-8]
    params = [Parameter(Tensor(np.zeros(2)), name=f"zero{i}") for i in range(5)]
    groups = [{"params": [param], "lr": rate} for param, rate in zip(params, rates)]
    optimizer = SGD([*groups, {"params": params[4:]}, {"order_params": params[::-1]}], lr=0.7)
    expected = np.array([[1e-7] * 3, DECAYED, [0.3, 0.1, 0.1], [3e-8, 3e-8, 0.2], [0.7] * 3])
    for step in range(3):
        if step == 2:
            optimizer.param_groups[3]["lr"] = 0.2
            with pytest.raises(ValueError, match="'lr' of a group on a schedule must not be set"):
                optimizer.param_groups[1]["lr"] = 0.2
        before = [param.asnumpy()[0] for param in params]
        optimizer((Tensor(np.ones(2)),) * 5)
        for param, place, rate in zip(params, before, expected[:, step]):
            assert param.asnumpy().tolist() == [place - rate] * 2
    assert_compiled(optimizer)


@each
def test_loud_gradients_are_of_all_magnitudes(name):
    """From 1e-4 to 10, or the tests could not see eps or clipping."""
    sizes = np.abs(np.concatenate([grad.asnumpy().ravel() for step in make_grads(name) for grad in step]))
    assert sizes[sizes > 0].min() < 1e-4 and sizes.max() > 10 and not make_grads(name)[0][0].asnumpy().any()
