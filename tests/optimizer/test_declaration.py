"""Optimizers of a user's own: what a class declares is what its arguments, groups, state and steps follow."""

import copy
import inspect
import pickle

import mindspore as ms
import numpy as np
import pytest
import torch
from helpers import assert_same, outcome
from mindspore import Parameter, Tensor, nn

from ms_optim import EMA, LBFGS, SGD, AdamW, Optimizer, Slot
from ms_optim.arguments import Flag, Number, Numbers, Predicate
from parity.cases.problems import synthetic
from parity.check import check

STEPS = 3


def trusting_scalars(step, lr, trust):
    """The rate."""
    return (lr * trust,)


def trusting(param, grad, slots, rate):
    """Compute param <- param - lr*trust*grad."""
    return param - rate * grad, ()


def declare(kind=None, name="trust", default=0.5, rule=None):
    """A class with one argument of its own."""

    class Trusting(Optimizer):
        scalars, update = rule or trusting_scalars, trusting
        arguments = {} if kind is None else {name: kind}

        def __init__(self, params, lr=0.125, **given):
            super().__init__(params, {"lr": lr, name: given.get(name, default)})

    return Trusting


def ones(*names):
    """Parameters of two ones each."""
    return [Parameter(Tensor(np.ones(2, np.float32)), name=name) for name in names or ("w",)]


def moved(optimizer):
    """How far the first number of the first parameter goes down in a step along ones."""
    param = optimizer.parameters[0]
    before = param.asnumpy().flat[0]
    optimizer(tuple(Tensor(np.ones(param.shape, np.float32)) for param in optimizer.parameters))
    return before - param.asnumpy().flat[0]


def is_rate(rate):
    """Whether there is one."""
    return rate != 0


def careful(param, grad, slots, rate, trusts):
    """Compute param <- param - rate*grad, if it trusts."""
    return param - (rate * grad).where(trusts, 0), ()


@pytest.mark.parametrize(("default", "expected"), [(0.5, 0.0625), (0.0, 0.0)])
def test_a_condition_is_decided_for_the_rule(default, expected, graph):
    """Of a number that the rule takes, also where the rule is not the library's."""
    cls = declare(Number("[0, 1]"), default=default)
    cls.update, cls.conditions = staticmethod(careful), {"trusts": ("rate", is_rate)}
    assert moved(cls(ones("a", "b"))) == expected


@pytest.mark.parametrize(
    ("conditions", "missing"), [({"trusts": ("lr", abs)}, "lr"), ({"doubts": ("rate", abs)}, "doubts")]
)
def test_a_condition_of_what_the_rule_does_not_take(conditions, missing):
    """It is named."""
    cls = declare(Number("[0, 1]"))
    cls.update, cls.conditions = staticmethod(careful), conditions
    with pytest.raises(TypeError, match=rf"'Trusting', 'conditions' must .* but it takes no \['{missing}'\]"):
        cls(ones())


def test_an_argument_without_a_kind():
    """It is named, and so is what a rule reads and the defaults do not have."""
    with pytest.raises(TypeError, match="'arguments' must have the kind of 'trust'"):
        declare()(ones())
    with pytest.raises(TypeError, match=r"'Trusting'.*'scalars' and 'slots' read, but got no \['trust'\]"):
        declare(Number("[0, 1]"), name="distrust")(ones())


@pytest.mark.parametrize("read", ["when", "init"])
def test_a_slot_that_depends_on_an_argument_that_is_not_there(read):
    """It is named."""

    class Lacking(Optimizer):
        scalars, update, slots = trusting_scalars, trusting, (Slot("kept", **{read: "missing"}),)
        arguments = {"trust": Number("[0, 1]")}

        def __init__(self, params):
            super().__init__(params, {"lr": 0.1, "trust": 0.5})

    with pytest.raises(TypeError, match=r"'scalars' and 'slots' read, but got no \['missing'\]"):
        Lacking(ones())


def test_an_argument_of_ones_own(graph):
    """It may differ by group, is set between steps, and refuses what its kind refuses, wherever it is set."""
    cls = declare(Number("(0, 1]"))
    a, b = ones("a", "b")
    optimizer = cls([{"params": [a]}, {"params": [b], "trust": 0.25}], trust=1.0)
    assert [group["trust"] for group in optimizer.param_groups] == [1.0, 0.25]
    assert (moved(optimizer), b.asnumpy()[0]) == (0.125, 1 - 0.125 / 4)
    optimizer.param_groups[0]["trust"] = 0.5
    assert moved(optimizer) == 0.125 / 2
    message = r"For 'Trusting', 'trust' must be in \(0, 1\], but got 1.5."
    with pytest.raises(ValueError, match=message):
        cls(ones(), trust=1.5)
    with pytest.raises(ValueError, match=message):
        cls([{"params": ones(), "trust": 1.5}])
    with pytest.raises(ValueError, match=message):
        optimizer.param_groups[0]["trust"] = 1.5
    assert optimizer.param_groups[0]["trust"] == 0.5
    with pytest.raises(TypeError, match=r"For 'Trusting', 'trust' must be a number in \(0, 1\], but got 'much'."):
        cls(ones(), trust="much")


def test_an_argument_that_has_the_name_of_a_part_of_another(graph):
    """It is a number like any; beside `betas`, which has a part of that name, it is refused."""

    def scalars(step, lr, beta1):
        return (lr * beta1,)

    cls = declare(Number("[0, 2]"), name="beta1", rule=scalars)
    assert moved(cls(ones(), beta1=2.0)) == 0.25

    class Both(Optimizer):
        scalars, update = trusting_scalars, trusting
        arguments = {"beta1": Number("[0, 1]"), "trust": Number("[0, 1]")}

        def __init__(self, params):
            super().__init__(params, {"lr": 0.1, "trust": 1.0, "beta1": 0.5, "betas": (0.9, 0.99)})

    with pytest.raises(TypeError, match=r"For 'Both', each argument must have numbers of its own.*\['beta1'\]"):
        Both(ones())


def test_an_argument_that_has_the_name_of_what_an_optimizer_has():
    """It is refused."""
    with pytest.raises(ValueError, match=r"For 'Trusting', 'defaults' must have other names .*\['groups'\]"):
        declare(Number("[0, 1]"), name="groups", rule=lambda step, lr, groups: (lr * groups,))(ones())


@pytest.mark.parametrize("missing", ["scalars", "update"])
def test_a_class_without_one_of_its_functions(missing):
    """It can be defined, to derive others from it, but not made."""

    class Half(Optimizer):
        locals()[{"scalars": "update", "update": "scalars"}[missing]] = trusting_scalars

        def __init__(self, params):
            super().__init__(params, {"lr": 0.1})

    with pytest.raises(TypeError, match=f"For 'Half', the class must have the function '{missing}', but has it not."):
        Half(ones())


def test_a_slot_that_starts_at_what_none_stands_for(graph):
    """It starts at that number, also where a loaded state has nothing for a parameter."""

    class Starting(Optimizer):
        scalars, update = trusting_scalars, lambda param, grad, slots, rate: (param - rate * slots[0], slots)
        slots = (Slot("kept", init="trust"),)
        arguments = {"trust": Number("[0, 9]", none=lambda group: 3.0)}

        def __init__(self, params, trust=None):
            super().__init__(params, {"lr": 0.125, "trust": trust})

    optimizer = Starting(ones())
    assert optimizer.kept[0].asnumpy().tolist() == [3, 3]
    state = optimizer.state_dict()
    ms.ops.assign(optimizer.kept[0], Tensor([1, 2], ms.float32))
    optimizer.load_state_dict({**state, "state": {}})
    assert optimizer.kept[0].asnumpy().tolist() == [3, 3]


def test_none_for_a_number(graph):
    """It is refused, or is what the kind says, at construction and later."""
    with pytest.raises(TypeError, match=r"For 'Trusting', 'trust' must be a number in \[0, 1\], but got None."):
        declare(Number("[0, 1]"))(ones(), trust=None)
    kind = Number("[0, 1]", none=lambda group: 0.25 * len(group["params"]))
    a, b, c = ones("a", "b", "c")
    optimizer = declare(kind, default=None)([{"params": [a, b]}, {"params": [c], "trust": 0.75}])
    assert [group["trust"] for group in optimizer.param_groups] == [0.5, 0.75]
    assert moved(optimizer) == 0.125 / 2
    optimizer.param_groups[1]["trust"] = None
    assert optimizer.param_groups[1]["trust"] == 0.25
    with pytest.raises(ValueError, match=r"'trust' must be in \[0, 1\] or None, but got 2."):
        optimizer.param_groups[1]["trust"] = 2


def test_a_common_name_that_means_something_else(graph):
    """The class's own range holds, and no other class's changes."""

    def scalars(step, lr, eps):
        return (lr / eps,)

    cls = declare(Number("(0, inf)"), name="eps", rule=scalars)
    assert moved(cls(ones(), eps=2.0)) == 0.125 / 2
    with pytest.raises(ValueError, match=r"For 'Trusting', 'eps' must be in \(0, inf\), but got 0.0."):
        cls(ones(), eps=0.0)
    AdamW(ones(), eps=0.0)


class Within(Optimizer):
    """Two numbers, the first of which is the smaller."""

    arguments = {"low": Number("[0, inf)"), "high": Number("[0, inf)")}

    def scalars(step, lr, low, high):
        """All."""
        return lr, low, high

    def update(param, grad, slots, lr, low, high):
        """Clip the step."""
        return param - (lr * grad).clip(low, high), ()

    def __init__(self, params, lr=0.5, low=1.0, high=2.0):
        super().__init__(params, dict(lr=lr, low=low, high=high))

    @classmethod
    def check_group(cls, group):
        """Raise unless `low` is below `high`."""
        if group["low"] >= group["high"]:
            raise ValueError(f"For '{cls.__name__}', 'low' must be below 'high', but got {group['low']}.")


def test_a_rule_between_two_arguments():
    """It holds at construction, in a group, for a number that is set later, and in a state that is loaded."""
    message = "For 'Within', 'low' must be below 'high'"
    with pytest.raises(ValueError, match=message):
        Within(ones(), low=2.0)
    a, b = ones("a", "b")
    with pytest.raises(ValueError, match=message):
        Within([{"params": [a]}, {"params": [b], "high": 0.5}])
    optimizer = Within([{"params": [a]}, {"params": [b], "low": 1.6}])
    with pytest.raises(ValueError, match=message):
        optimizer.param_groups[1]["high"] = 1.5
    assert optimizer.param_groups[1]["high"] == 2.0
    optimizer.param_groups[0]["high"] = 1.5
    state = optimizer.state_dict()
    state["param_groups"][0]["high"] = 0.5
    state["param_groups"][0]["lr"] = 0.7
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["high"] == 1.5 and optimizer.param_groups[0]["lr"] != 0.7


def test_a_state_has_all_of_its_numbers_at_once():
    """They go together, though not with those that there are; if they do not, none is taken."""
    optimizer = Within(ones())
    state = Within(ones(), lr=0.25, low=3.0, high=4.0).state_dict()
    odd = copy.deepcopy(state)
    odd["param_groups"][0]["high"] = 2.5
    with pytest.raises(ValueError, match="'low' must be below 'high'"):
        optimizer.load_state_dict(odd)
    assert [optimizer.param_groups[0][name] for name in ("lr", "low", "high")] == [0.5, 1.0, 2.0]
    optimizer.load_state_dict(state)
    assert [optimizer.param_groups[0][name] for name in ("lr", "low", "high")] == [0.25, 3.0, 4.0]


class Half(Optimizer):
    """Two numbers in one argument, of which a step reads the first."""

    scalars, update = trusting_scalars, trusting
    arguments = {"betas": Numbers({"trust": Number("[0, 1]"), "idle": Number("[0, 1]")})}

    def __init__(self, params, lr=0.125, betas=(0.5, 0.25)):
        super().__init__(params, dict(lr=lr, betas=betas))


def test_an_argument_that_is_read_in_part(graph):
    """It is kept whole: groups show it, and states, copies and files have it."""
    optimizer = Half(ones())
    optimizer.param_groups[0]["betas"] = (1.0, 0.75)
    assert moved(optimizer) == 0.125
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer)), Half(ones())):
        again.load_state_dict(optimizer.state_dict())
        assert again.param_groups[0]["betas"] == (1.0, 0.75)


def test_patterns_of_a_predicate(graph):
    """One that matches nothing is named; one that matches decides for its parameter."""

    def rates(step, lr):
        return (lr,)

    def rule(param, grad, slots, lr, still):
        return (param if still else param - lr * grad), ()

    class Still(Optimizer):
        scalars, update = rates, rule
        arguments = {"still": Predicate()}

        def __init__(self, params, lr=0.5, still=()):
            super().__init__(params, dict(lr=lr, still=still))

    with pytest.raises(ValueError, match=r"For 'Still', each pattern of 'still' .*\['a', 'b'\], but got 'c\*'."):
        Still(ones("a", "b"), still=("a", "c*"))
    a, b = ones("a", "b")
    moved(Still([a, b], still="a"))
    assert (a.asnumpy().tolist(), b.asnumpy().tolist()) == ([1.0, 1.0], [0.5, 0.5])


def heavy_ball_scalars(step, lr, momentum):
    """Numbers as they are."""
    return lr, momentum


def heavy_ball(param, grad, slots, lr, momentum, maximize):
    """Compute velocity <- momentum*velocity - lr*grad; param <- param + velocity."""
    (velocity,) = slots
    velocity = momentum * velocity - lr * (-grad if maximize else grad)
    return param + velocity, (velocity,)


class HeavyBall(Optimizer):
    """As in the documentation of `Optimizer`."""

    scalars, update, slots = heavy_ball_scalars, heavy_ball, (Slot("velocity"),)

    def __init__(self, params, lr=0.1, momentum=0.9, maximize=False, loss_scale=1.0, fused=None):
        super().__init__(params, dict(lr=lr, momentum=momentum, maximize=maximize), loss_scale, fused)


def slipped(**changed):
    """A class as `HeavyBall`, of which something is otherwise."""
    return type("Slipped", (HeavyBall,), changed)


def one_too_few(step, lr, momentum):
    """No momentum."""
    return (lr,)


def no_tuple(step, lr, momentum):
    """A vector, which has an entry for each parameter, and no number for each argument."""
    return lr


def another_order(step, momentum, lr):
    """Taken by place, the momentum is the learning rate."""
    return lr, momentum


def slot_alone(param, grad, slots, lr, momentum, maximize):
    """A slot where a tuple of them is to be."""
    return param - lr * grad, slots[0]


def slot_twice(param, grad, slots, lr, momentum, maximize):
    """Two slots of one."""
    return param - lr * grad, (slots[0], slots[0])


def param_alone(param, grad, slots, lr, momentum, maximize):
    """No slots."""
    return param - lr * grad


def flag_first(param, grad, slots, lr, maximize, momentum):
    """Taken by place, the flag is the momentum."""
    return param - lr * grad, slots


def no_flag(param, grad, slots, lr, momentum):
    """An argument that nothing reads."""
    return param - lr * grad, slots


def test_an_argument_that_nothing_reads(graph):
    """It can be left as it is, and no other value of it is taken, in a group neither."""
    cls = slipped(update=no_flag)
    assert moved(cls(ones())) == np.float32(1) - np.float32(0.9)
    message = "For 'Slipped', 'maximize' must be what it is by default, because neither .* read it, but got True"
    with pytest.raises(ValueError, match=message):
        cls(ones(), maximize=True)
    with pytest.raises(ValueError, match=message):
        cls([{"params": ones("a")}, {"params": ones("b"), "maximize": True}])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"scalars": another_order},
            r"For 'Slipped', 'scalars' must take \['step', 'lr'\] first, but takes \['step', 'm",
        ),
        ({"slots": (Slot("velocity"), Slot("age", scalar=True))}, r"'scalars' must take \['step', 'age', 'lr'\] first"),
        ({"update": flag_first}, r"For 'Slipped', 'update' must take .* then the flags \['maximize'\], but takes"),
    ],
)
def test_functions_that_take_other_than_they_are_given(changed, message):
    """They are named when it is made: by place they would take one number for another, and nothing would be said."""
    with pytest.raises(TypeError, match=message):
        slipped(**changed)(ones())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scalars": one_too_few}, r"For 'Slipped', 'scalars' must return .* \['lr', 'momentum'\], but got 1 of them"),
        ({"scalars": no_tuple}, r"For 'Slipped', 'scalars' must return a tuple .*, but got something else"),
        ({"update": slot_alone}, r"For the rule 'slot_alone', .* a tuple of 1 new slots, but got something else"),
        ({"update": slot_twice}, r"For the rule 'slot_twice', .* a tuple of 1 new slots, but got 2 slots"),
        ({"update": param_alone}, r"For the rule 'param_alone', .* a pair, .* but got something else"),
    ],
)
def test_functions_that_return_other_than_is_taken(changed, message, either):
    """They are named at the first step: state would stay as it was, and nothing would be said."""
    optimizer = slipped(**changed)(ones())
    with pytest.raises(TypeError, match=message):
        moved(optimizer)


def with_slots(*declared):
    """A class with such slots, whose functions take them and are not run."""
    taken = ["step", *(slot.name for slot in declared if slot.scalar and slot.name != "step"), "lr", "momentum"]

    def scalars(*numbers):
        raise NotImplementedError

    scalars.__signature__ = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in dict.fromkeys(taken)]
    )
    return type("Slotted", (HeavyBall,), {"slots": declared, "scalars": scalars})


def test_names_of_slots():
    """What an optimizer has, or has if it runs a kernel, or takes as an argument, is no name of a slot."""
    reserved = {"ema", "flags", "layout", "parameter", "parameters", "state", "step_counts", "lr", "momentum"}
    made = HeavyBall(ones()), AdamW(ones())
    owned = {name for optimizer in made for name in dir(optimizer) if name.isidentifier()}
    slots = {slot.name for optimizer in made for slot in optimizer.slots if slot.name != "step"}
    for name in sorted(reserved | (owned - slots)):
        for scalar in (False,) if name == "step" else (False, True):
            with pytest.raises(ValueError, match=rf"For 'Slotted', 'slots' must have .* but got \['{name}'\]"):
                with_slots(Slot(name, scalar=scalar))(ones())
    with pytest.raises(ValueError, match=r"'slots' must have other names .* each once, but got \['mine'\]"):
        with_slots(Slot("mine"), Slot("mine", scalar=True))


def leading_axis(shape):
    """The shape without all axes but the first, of what has one."""
    return shape[:1] or None


def slotted_scalars(step, budget, lr, start):
    """A budget that grows, the rate by it and what the sums are damped by."""
    budget = budget + start * step
    return budget, lr / (1 + budget), start


def slotted(param, grad, slots, rate, damping, peaks):
    """Keep a mean from `start` on, perhaps its peak, and the sums of rows of what has rows."""
    mean, peak, rows = slots
    mean = mean + damping * (grad - mean)
    if peak is not None:
        peak = peak.maximum(mean.abs())
    if rows is not None:
        others = tuple(range(1, grad.ndim))
        rows = rows + (grad.sum(others) if others else grad)
    return param - rate * (mean if peak is None else peak), (mean, peak, rows)


class Slotted(Optimizer):
    """Slots of each kind."""

    scalars, update = slotted_scalars, slotted
    slots = (
        Slot("step", scalar=True),
        Slot("budget", scalar=True),
        Slot("mean", init="start"),
        Slot("peak", when="peaks"),
        Slot("rows", shape=leading_axis),
    )
    arguments = {"peaks": Flag(), "start": Number("[0, 1]")}

    def __init__(self, params, lr=0.1, start=0.25, peaks=False):
        super().__init__(params, dict(lr=lr, start=start, peaks=peaks))


def test_slots_of_each_kind(either):
    """Their tensors are Parameters of the optimizer, in its state dict, in copies, and what the rule makes of them."""
    values = {"a": np.float32(2.0), "b": np.full((3, 2), 2.0, np.float32), "c": np.full(4, 2.0, np.float32)}
    a, b, c = (Parameter(Tensor(value), name=name) for name, value in values.items())
    optimizer = Slotted([{"params": [a, b]}, {"params": [c], "peaks": True, "start": 0.5}])
    assert [None if kept is None else kept.shape for kept in optimizer.rows] == [None, (3,), (4,)]
    assert [None if kept is None else kept.shape for kept in optimizer.peak] == [None, None, (4,)]
    assert [float(kept.asnumpy().max()) for kept in optimizer.mean] == [0.25, 0.25, 0.5]
    named = {param.name for param in optimizer.get_parameters()}
    assert named >= {"mean.a", "mean.b", "mean.c", "peak.c", "rows.b", "rows.c", "optimizer.budget", "optimizer.step"}

    weight, mean, budget = 2.0, 0.5, 0.0
    for step in range(1, 3):
        moved(optimizer)
        budget += 0.5 * step
        mean += 0.5 * (1.0 - mean)
        weight -= 0.1 / (1 + budget) * mean
    np.testing.assert_allclose(c.asnumpy(), np.full(4, weight), rtol=1e-6)
    state = optimizer.state_dict()["state"]
    assert [sorted(state[i]) for i in range(3)] == [
        ["budget", "mean", "step"],
        ["budget", "mean", "rows", "step"],
        ["budget", "mean", "peak", "rows", "step"],
    ]
    for slot, value in (("budget", 1.5), ("mean", mean), ("peak", mean), ("rows", 2.0), ("step", 2.0)):
        np.testing.assert_allclose(state[2][slot].asnumpy(), value, rtol=1e-6)
    np.testing.assert_array_equal(state[1]["rows"].asnumpy(), np.full(3, 4.0, np.float32))

    twin = copy.deepcopy(optimizer)
    assert all(mine is not own for mine, own in zip(twin.parameters, optimizer.parameters))
    for made in (optimizer, twin):
        moved(made)
    assert_same(outcome(twin), outcome(optimizer))


def test_a_class_that_only_has_another_name():
    """It takes what the other takes: where it is copied or grows, and where a state is for other flags."""
    own = type("Own", (AdamW,), {})
    optimizer = own([Parameter(np.ones(3, np.float32), name="a")], lr=0.3, amsgrad=True)
    twin = copy.deepcopy(optimizer)
    optimizer.add_param_group({"params": [Parameter(np.ones(2, np.float32), name="b")]})
    for made in (optimizer, twin):
        assert [(group["lr"], group["amsgrad"]) for group in made.param_groups] == [(0.3, True)] * len(
            made.param_groups
        )
    state = twin.state_dict()
    state["param_groups"][0]["amsgrad"] = False
    with pytest.raises(ValueError, match="'amsgrad' of group 0 must be True as in the optimizer"):
        twin.load_state_dict(state)


class Net(nn.Cell):
    """A layer."""

    def __init__(self):
        super().__init__()
        weight = np.random.default_rng(3).standard_normal((2, 4)).astype(np.float32)
        self.one = nn.Dense(4, 2, weight_init=Tensor(weight), bias_init="ones")

    def construct(self, inputs):
        """Compute it."""
        return self.one(inputs)


def train(way, averaged):
    """What the parameters, the state and the average are after some steps of a network."""
    inputs = Tensor(np.random.default_rng(4).standard_normal((3, 4)).astype(np.float32))
    labels = Tensor(np.zeros((3, 2), np.float32))
    net, loss = Net(), nn.MSELoss()
    optimizer = HeavyBall(net.trainable_params(), lr=0.05)
    optimizer = EMA(optimizer, 0.5) if averaged else optimizer

    def forward(inputs, labels):
        return loss(net(inputs), labels)

    gradient = ms.grad(forward, None, optimizer.parameters)

    @ms.jit
    def compiled(inputs, labels):
        return optimizer(gradient(inputs, labels))

    step = {
        "direct": lambda *batch: optimizer(gradient(*batch)),
        "cell": nn.TrainOneStepCell(nn.WithLossCell(net, loss), optimizer).set_train(),
        "jit": compiled,
    }[way]
    for _ in range(STEPS):
        step(inputs, labels)
    return {param.name: param.asnumpy() for param in [*optimizer.parameters, *optimizer.get_parameters()]}


@pytest.mark.parametrize(
    ("averaged", "either"), [(False, "graph"), (True, "graph"), (True, "pynative")], indirect=["either"]
)
def test_every_way_to_train(averaged, either):
    """A cell and compiled code take the steps of direct calls, bit for bit, and so does the average."""
    expected = train("direct", averaged)
    assert ("ema.one.weight" in expected) == averaged
    for way in ("cell", "jit"):
        got = train(way, averaged)
        assert got.keys() == expected.keys()
        for name in expected:
            np.testing.assert_array_equal(got[name], expected[name], err_msg=f"{way}: {name}")


class Reference(torch.optim.Optimizer):
    """The same rule in torch."""

    def __init__(self, params, lr=0.1, momentum=0.9):
        super().__init__(params, dict(lr=lr, momentum=momentum))

    @torch.no_grad()
    def step(self):
        """Take a step."""
        for group in self.param_groups:
            for param in group["params"]:
                velocity = self.state[param].setdefault("velocity", torch.zeros_like(param))
                velocity.mul_(group["momentum"]).sub_(param.grad, alpha=group["lr"])
                param.add_(velocity)


def test_parity_judges_it(either):
    """It follows torch in its parameters and its state; with another momentum it does not."""
    problem = synthetic(absent=False).part(["fc.weight", "huge.gamma", "conv.weight"])

    def judged(momentum):
        return check(
            lambda params: HeavyBall(params, 0.05, momentum), lambda params: Reference(params, 0.05), problem, either
        )

    verdict, wrong = judged(0.9), judged(0.91)
    assert verdict.passed, str(verdict)
    assert not wrong.passed


def never(number):
    """Whether no number is itself."""
    return number != number


@pytest.mark.parametrize("base", [SGD, Optimizer])
def test_conditions_of_ones_own_have_no_kernel(base, graph):
    """Which decides as the library's class does."""

    class Undecayed(base):
        scalars, update = SGD.scalars, SGD.update
        slots, conditions = SGD.slots, {"decays": ("weight_decay", never)}

        def __init__(self, params, fused=None):
            numbers = dict(lr=0.5, momentum=0.0, dampening=0.0, weight_decay=1.0, nesterov=False, maximize=False)
            if base is SGD:
                super().__init__(params, **numbers, fused=fused)
            else:
                super().__init__(params, numbers, fused=fused)

    for fused in (None, False):
        (param,) = ones()
        optimizer = Undecayed([param], fused=fused)
        optimizer((Tensor(np.zeros(param.shape, np.float32)),))
        np.testing.assert_array_equal(param.asnumpy(), 1)
    with pytest.raises(ValueError, match="the class decides 'conditions' of the rule 'sgd' in its own way"):
        Undecayed(ones(), fused=True)


def test_a_constructor_that_takes_more_cannot_be_called_again():
    """What it was given is not known: it says so where a copy, or the optimizer with one more group, would lose it."""

    class Warm(SGD):
        def __init__(self, params, warm=10):
            super().__init__(params, lr=0.5)
            self.warm = warm

    optimizer = Warm(ones(), warm=3)
    for again in (copy.deepcopy, pickle.dumps, lambda one: one.add_param_group({"params": ones("b")})):
        with pytest.raises(
            TypeError, match=r"^For 'Warm', the constructor must take no .*, but takes \['warm'\]: no copy"
        ):
            again(optimizer)
    assert optimizer.warm == 3 and len(optimizer.parameters) == 1


@pytest.mark.parametrize("name", ["weights", "hold", "replacing", "parts"])
def test_parameters_may_be_called_so(name):
    """An optimizer has nothing of its own by these names."""
    params = [Parameter(Tensor(np.ones(2, np.float32)), name=name)]
    for cls in (SGD, AdamW, LBFGS):
        assert cls(params).parameters[0].name == name
    EMA(AdamW(params))


def test_what_is_no_function():
    """Is named when the class is defined; a static method is one."""
    with pytest.raises(TypeError, match=r"^For 'Odd', 'update' must be a function, but got None"):
        type("Odd", (SGD,), {"update": None})
    assert type("Same", (SGD,), {"update": staticmethod(SGD.update)}).update is SGD.update
