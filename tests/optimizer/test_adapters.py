"""Other libraries' ways to make an optimizer: MindSpore's words, and a name with a recipe."""

import copy
import sys
from types import ModuleType, SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

import ms_optim
from ms_optim import OPTIMIZERS, adapters
from ms_optim.factory import create_optimizer


def params():
    """A matrix and a vector."""
    shapes = {"fc.weight": (3, 2), "fc.bias": (3,)}
    return [Parameter(Tensor(np.ones(shape, np.float32)), name=name) for name, shape in shapes.items()]


def groups():
    """What the zoo makes of them, with the order."""
    weight, bias = params()
    return [
        {"params": [weight], "weight_decay": 0.1, "grad_centralization": False},
        {"params": [bias], "weight_decay": 0.0},
        {"order_params": [weight, bias]},
    ]


def arguments(optimizer):
    """Those of the first group."""
    return {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "expected"),
    [
        ("MomentumAGC", (0.1, 0.9, 1e-4, 1024.0), {}, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}),
        ("MomentumAGC", (0.1, 0.9), {"use_nesterov": True, "clipping": 0.02}, {"nesterov": True, "clipping": 0.02}),
        ("SGD", (0.1, 0.9, 0.0, 1e-4, True, 8.0), {}, {"momentum": 0.9, "weight_decay": 1e-4, "nesterov": True}),
        ("Adam", (), {"learning_rate": 0.1, "beta1": 0.8, "use_nesterov": False}, {"lr": 0.1, "betas": (0.8, 0.999)}),
        ("Adam", (0.1, 0.8, 0.7, 1e-6), {"use_amsgrad": True}, {"betas": (0.8, 0.7), "eps": 1e-6, "amsgrad": True}),
        (
            "AdamW",
            (),
            {"learning_rate": [0.1, 0.2], "beta2": 0.95, "epsilon": 1e-6},
            {"betas": (0.9, 0.95), "eps": 1e-6},
        ),
        ("AdamW", (), {"betas": [0.9, 0.95], "eps": 1e-6, "lr": 0.5}, {"betas": (0.9, 0.95), "lr": 0.5}),
        ("RMSprop", (0.1,), {"decay": 0.9, "momentum": 0.5, "epsilon": 1e-3}, {"alpha": 0.9, "momentum": 0.5}),
        ("Adagrad", (0.1, 0.2), {"update_slots": True}, {"initial_accumulator_value": 0.1, "lr": 0.2}),
        ("Lion", (), {"learning_rate": 2e-4, "use_locking": True}, {"lr": 2e-4}),
        ("NAdam", (0.1,), {"momentum_decay": 0.004}, {"momentum_decay": 0.004}),
    ],
)
def test_mindspores_words(name, args, kwargs, expected):
    """And its places, for lists and for groups with its keys."""
    make = getattr(adapters, name)
    for given in (params(), groups()):
        optimizer = make(given, *args, **kwargs)
        assert type(optimizer) is OPTIMIZERS[name]
        got = arguments(optimizer)
        for key, value in expected.items():
            assert got[key] == value or (key == "weight_decay" and given is not None and got[key] == 0.1)
    assert make.__name__ == name and name in dir(adapters)
    made = make(params=params(), loss_scale=4.0, **dict(zip(adapters.PLACES.get(name, ()), args[:2])), **kwargs)
    assert made.loss_scale == 4.0
    assert type(copy.deepcopy(made)) is OPTIMIZERS[name]


def test_a_decay_of_nothing_is_taken_by_what_has_none():
    """As MindSpore's own default is, given by place."""
    made = adapters.Rprop(params(), 0.1, (0.5, 1.2), (1e-6, 50.0), 0.0)
    assert made.param_groups[0]["lr"] == 0.1
    with pytest.raises(ValueError, match=r"'weight_decay' must be 0\.0, but got 0\.1"):
        adapters.Rprop(params(), 0.1, (0.5, 1.2), (1e-6, 50.0), 0.1)


def test_an_adapted_one_steps_as_ours(either):
    """It is ours."""
    outcomes = []
    for make in (
        lambda params: adapters.MomentumAGC(params, 0.5, 0.9, 0.1, 2.0, use_nesterov=True),
        lambda params: ms_optim.MomentumAGC(params, 0.5, 0.9, weight_decay=0.1, nesterov=True, loss_scale=2.0),
    ):
        optimizer = make(params())
        for _ in range(2):
            optimizer(tuple(Tensor(np.ones(param.shape, np.float32)) for param in optimizer.parameters))
        outcomes.append([param.asnumpy() for param in optimizer.parameters])
    np.testing.assert_equal(*outcomes)


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "message"),
    [
        ("Adam", (), {"use_nesterov": True}, "'use_nesterov' must be False, but got True; NAdam is Adam with"),
        ("Adam", (), {"use_lazy": True}, "'use_lazy' must be False, but got True; SparseAdam"),
        ("AdamW", (), {"momentum": 0.9}, r"the arguments must be in \['amsgrad', .*'beta1', .*, but got 'momentum'"),
        (
            "AdamW",
            (0.1,),
            {"learning_rate": 0.1},
            r"must be given once, but got \['learning_rate'\] by place and by name",
        ),
        ("AdamW", (), {"lr": 0.1, "learning_rate": 0.1}, "'lr' must be given once, but got it as 'learning_rate' too"),
        ("AdamW", (), {"betas": (0.5, 0.5), "epsilon": -1.0}, r"'eps' must be in \[0, inf\), but got -1.0"),
        (
            "AdamW",
            (),
            {"betas": (0.5, 0.5), "beta1": 0.9},
            r"'betas' must be given once, but got it as \['beta1'\] too",
        ),
        ("AdamW", (), {"beta2": 2.0}, r"'betas\[1\]' must be in \[0, 1\), but got 2.0"),
        ("ASGD", (), {"decay": 0.5}, r"the arguments must be in .*, but got 'decay'"),
        ("Lion", (0.1, 0.9), {}, r"only \('params', 'learning_rate'\) may go by place, but got 3 values"),
    ],
)
def test_what_cannot_be_meant(name, args, kwargs, message):
    """Is refused by name."""
    with pytest.raises((TypeError, ValueError), match=f"^For '{name}', .*{message}"):
        getattr(adapters, name)(params(), *args, **kwargs)


def test_a_group_with_one_of_a_pair():
    """The other is that of all groups; a class with an `alpha` of its own has no "decay"."""
    one, other = params()
    made = adapters.AdamW([{"params": [one], "beta1": 0.8}, {"params": [other], "beta2": 0.5}], beta1=0.7, beta2=0.95)
    assert [group["betas"] for group in made.param_groups] == [(0.8, 0.95), (0.7, 0.5)]
    made = adapters.RMSprop([{"params": [one], "decay": 0.5}, {"params": [other]}], decay=0.75)
    assert [group["alpha"] for group in made.param_groups] == [0.5, 0.75]


def test_what_groups_of_mindspore_ask_for():
    """Centralized gradients are nothing that an optimizer here does; a schedule of the decay is a list."""
    with pytest.raises(ValueError, match="'grad_centralization' must be False, but got True; subtract the mean from"):
        adapters.SGD([{"params": params(), "grad_centralization": True}], 0.1)
    with pytest.raises(
        ValueError, match=r"the keys of a group must be in .*, but got \['grad_centralization'\]; 'ms_optim.ad"
    ):
        ms_optim.SGD([{"params": params(), "grad_centralization": False}])
    with pytest.raises(TypeError, match="'params' must be a list of Parameters or of dicts"):
        adapters.SGD(3, 0.1)
    with pytest.raises(AttributeError, match="has no attribute 'nix'"):
        adapters.nix  # noqa: B018


def test_mindformers_finds_them(monkeypatch):
    """By names of their own, in its register."""
    known = {}
    fake = ModuleType("mindformers.tools.register")
    fake.MindFormerModuleType = SimpleNamespace(OPTIMIZER="optimizer")
    fake.MindFormerRegister = SimpleNamespace(
        register_cls=lambda cls, module_type, alias: known.setdefault((module_type, alias), cls)
    )
    with pytest.raises(ImportError):
        adapters.register()
    for name in ("mindformers", "mindformers.tools"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "mindformers.tools.register", fake)
    assert adapters.register() == [f"ms_optim.{name}" for name in OPTIMIZERS]
    optimizer = known["optimizer", "ms_optim.AdamW"](params=groups(), learning_rate=0.5, betas=[0.9, 0.95])
    assert arguments(optimizer)["betas"] == (0.9, 0.95)


@pytest.mark.parametrize("name", ["MomentumAGC", "momentum_agc", "momentum-agc", "MOMENTUMAGC"])
def test_by_name(name):
    """In any spelling; vectors are exempt from a weight decay."""
    optimizer = create_optimizer(params(), name, lr=0.25, weight_decay=0.1, nesterov=True)
    assert type(optimizer) is ms_optim.MomentumAGC
    assert [(group["params"][0].name, group["weight_decay"]) for group in optimizer.param_groups] == [
        ("fc.bias", 0.0),
        ("fc.weight", 0.1),
    ]
    assert [param.name for param in optimizer.parameters] == ["fc.weight", "fc.bias"]
    assert all(group["nesterov"] for group in optimizer.param_groups)


def test_groups_of_a_recipe():
    """As timm makes them; what are groups already stays so."""
    assert len(create_optimizer(params(), "sgd", lr=0.1).param_groups) == 1
    assert len(create_optimizer(params(), "adamw").param_groups) == 2  # which has a weight decay unless told
    assert len(create_optimizer(params(), "adamw", filter_bias_and_bn=False).param_groups) == 1
    assert len(create_optimizer(params(), "sparse_adam").param_groups) == 1
    assert type(create_optimizer(params(), "LBFGS", max_iter=3)) is ms_optim.LBFGS
    exempt = create_optimizer(params(), "adamw", no_decay=("fc.weight",))
    assert [group["weight_decay"] for group in exempt.param_groups] == [0.0]
    risen = create_optimizer(params(), "adamw", weight_decay=[0.1, 0.2])
    assert [group["weight_decay"] for group in risen.param_groups] == [0.0, [0.1, 0.2]]
    given = create_optimizer([group for group in groups() if group.pop("grad_centralization", 0) == 0], "adamw", lr=0.5)
    assert [group["weight_decay"] for group in given.param_groups] == [0.1, 0.0]
    net = nn.SequentialCell(nn.Dense(2, 2), nn.Dense(2, 2))
    layered = create_optimizer(
        net, "adamw", lr=[0.5, 0.25], layer_decay=0.5, layers=("0.*", "*"), weight_decay=[0.1, 0]
    )
    assert [(group["lr"], group["weight_decay"]) for group in layered.param_groups] == [
        ([0.25, 0.125], 0.0),
        ([0.25, 0.125], [0.1, 0.0]),
        ([0.5, 0.25], 0.0),
        ([0.5, 0.25], [0.1, 0.0]),
    ]


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("adamx", {}, r"'name' must be in \['ASGD', .*\], but got 'adamx'"),
        (3, {}, "'name' must be a name in .*, but got 3"),
        ("adamw", {"momentum": 0.9}, r"the arguments of AdamW must be in \['lr', .*\], but got \['momentum'\]"),
        ("adamw", {"layers": ("*",)}, "'layers' must be given with 'layer_decay'"),
        ("sgd", {"no_decay": ("*",)}, "'no_decay' must be given where a weight decay is filtered, but got"),
        ("rprop", {"layer_decay": 0.5, "layers": ("*",)}, "'layer_decay' must be given with parameters, .* for Rprop"),
        ("adamw", {"filter_bias_and_bn": 1}, "'filter_bias_and_bn' must be one of"),
    ],
)
def test_what_is_no_recipe(name, kwargs, message):
    """Is refused by name."""
    with pytest.raises((TypeError, ValueError), match=f"^For 'create_optimizer', {message}"):
        create_optimizer(params(), name, **kwargs)
    assert ms.get_context("mode") is not None
