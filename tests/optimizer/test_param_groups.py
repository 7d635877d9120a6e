"""Groups between steps: rates of their own, keys that are the user's, and what cannot be set says so."""

import copy
import pickle

import mindspore as ms
import numpy as np
import pytest
import torch
from helpers import DENSE, SPAN, assert_compiled, assert_same, everything
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ms_optim import EMA, LBFGS, SGD, AdamW, SparseAdam, restore


def params(count=3, prefix="p"):
    """Float64 zeros, so that a step shows every bit of a rate."""
    return [Parameter(Tensor(np.zeros(2)), name=f"{prefix}{i}") for i in range(count)]


def moved(optimizer):
    """By how much each parameter moves in a step on ones."""
    before = [param.asnumpy()[0] for param in optimizer.parameters]
    optimizer((Tensor(np.ones(2)),) * len(before))
    return [old - param.asnumpy()[0] for old, param in zip(before, optimizer.parameters)]


def groups(*rates):
    """A group of one parameter for each rate; None is that of the optimizer."""
    return [
        {"params": [param], **({} if rate is None else {"lr": rate})} for param, rate in zip(params(len(rates)), rates)
    ]


@pytest.mark.usefixtures("own_graph")
def test_one_rate_for_groups_that_were_not_made_with_their_own(either):
    """It is a Parameter, as `nn.Optimizer` has it; what a group is set to later changes neither it nor the graph."""
    optimizer = SGD(groups(None, None, None), lr=0.5)
    assert isinstance(optimizer.learning_rate, Parameter)
    assert (optimizer.is_group, optimizer.is_group_lr, optimizer.dynamic_lr) == (True, False, False)
    assert float(optimizer.get_lr().asnumpy()) == 0.5
    assert moved(optimizer) == [0.5] * 3
    optimizer.param_groups[1]["lr"] = 0.25
    assert moved(optimizer) == [0.5, 0.25, 0.5]
    optimizer.param_groups[0]["lr"] = 0.125  # the shared one is that of the first: the others keep what they had
    assert moved(optimizer) == [0.125, 0.25, 0.5]
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.25, 0.5]
    assert float(optimizer.learning_rate.asnumpy()) == 0.125
    assert_compiled(optimizer)


@pytest.mark.parametrize("name", SPAN)
def test_numbers_of_groups_are_written_without_an_operator(name, monkeypatch):
    """A scheduler sets one in each group at each step, a state all of them: an operator takes longer than a step."""
    optimizer = EMA(DENSE[name](groups(None, 0.5, None), lr=0.25))
    optimizer.param_groups[0]["lr"] = 0.125
    state = optimizer.state_dict()
    before = everything(optimizer)
    optimizer.param_groups[0]["lr"] = 0.5

    def refuse(*args):
        raise AssertionError("an operator is run")

    monkeypatch.setattr(ops, "assign", refuse)
    optimizer.load_state_dict(state)
    assert_same(everything(optimizer), before)


def test_callbacks_move_the_groups_that_follow(either):
    """They write `learning_rate`; a group that is set to the same rate follows again."""
    optimizer = SGD(groups(None, None, None), lr=0.5)
    optimizer.param_groups[1]["lr"] = 0.25
    ops.assign(optimizer.learning_rate, Tensor(0.125, ms.float32))
    assert moved(optimizer) == [0.125, 0.25, 0.125]
    optimizer.param_groups[1]["lr"] = 0.125
    ops.assign(optimizer.learning_rate, Tensor(0.5, ms.float32))
    assert moved(optimizer) == [0.5] * 3


def test_rates_of_their_own_are_one_for_each_parameter(either):
    """As `nn.Optimizer` lays them out, with its names."""
    ours, theirs = (make(groups(None, 0.25, None), 0.5) for make in (SGD, lambda p, lr: nn.SGD(p, learning_rate=lr)))
    assert ours.is_group_lr and theirs.is_group_lr
    assert isinstance(ours.learning_rate, ParameterTuple)
    assert [rate.name for rate in ours.learning_rate] == [rate.name for rate in theirs.learning_rate]
    assert [float(rate.asnumpy()) for rate in ours.get_lr()] == [0.5, 0.25, 0.5]
    for i, rate in enumerate((0.1, 0.2, 0.3)):
        ours.param_groups[i]["lr"] = rate
    assert moved(ours) == [0.1, 0.2, 0.3]


def test_a_schedule_of_all_groups_is_one(either):
    """A table too; what a group is made with stays its own."""
    optimizer = SGD(groups(None, None, 0.75), lr=[0.5, 0.25])
    assert [moved(optimizer) for _ in range(3)] == [[0.5, 0.5, 0.75], [0.25, 0.25, 0.75], [0.25, 0.25, 0.75]]
    optimizer = SGD(groups(None, None), lr=iter([0.5, 0.25]))  # read once
    assert optimizer.learning_rate(Tensor([1], ms.int32)).asnumpy() == 0.25
    assert [moved(optimizer) for _ in range(2)] == [[0.5, 0.5], [0.25, 0.25]]


@pytest.mark.parametrize("name", DENSE)
def test_every_tuple_has_one_entry_for_each_parameter(name):
    """Others index each ParameterTuple of an optimizer by parameter."""
    shapes = ((2, 3), (3, 2), (4, 4))
    cut = [Parameter(Tensor(np.ones(shape, np.float32)), name=f"p{i}") for i, shape in enumerate(shapes)]
    optimizer = EMA(DENSE[name]([{"params": cut[:1]}, {"params": cut[1:]}]), buffers=[params(1, "buffer")[0]])
    for part in (optimizer, optimizer.optimizer):
        found = {key: value for key, value in vars(part).items() if isinstance(value, ParameterTuple)}
        assert {"parameters"} <= found.keys()
        assert {key: len(value) for key, value in found.items()} == dict.fromkeys(found, 3)
    saved = everything(optimizer)
    inner = optimizer.optimizer
    kept = [*inner.state.tensors, *inner.state.vectors.values(), *inner.numbers, inner.trainable, inner.step_counts]
    assert {param.name for param in (*kept, *optimizer.averages)} <= saved.keys()


OWN = {"lr_scale": 0.5, "name": "head", "layer_id": 3, "fix_lr": True, "tags": ["a"], "lr_mult": None}


@pytest.mark.parametrize("cls", [AdamW, LBFGS])
def test_keys_of_the_user_are_kept(cls):
    """Of any type, at construction and later, saved and loaded, as torch's groups have it."""
    optimizer = cls([{"params": params(), **copy.deepcopy(OWN)}])
    group = optimizer.param_groups[0]
    assert {key: group[key] for key in OWN} == OWN
    group["note"] = {"any": "thing"}
    assert group.setdefault("note", 1) == {"any": "thing"} and group.setdefault("more", 2) == 2
    group.update(more=3, lr=0.25)
    assert (group["more"], group["lr"]) == (3, 0.25)
    del group["name"]
    assert "name" not in group and group.pop("fix_lr") is True
    with pytest.raises(KeyError, match="what can be deleted from a group must be in"):
        group.clear()
    state = optimizer.state_dict()
    group["tags"].append("b")
    assert state["param_groups"][0]["tags"] == ["a"]
    other = cls([{"params": params(), "gone": 1}])
    other.load_state_dict(state)
    kept = dict(other.param_groups[0])
    assert "gone" not in kept
    assert {key: kept[key] for key in ("lr_scale", "layer_id", "tags", "lr_mult", "note", "more")} == {
        "lr_scale": 0.5,
        "layer_id": 3,
        "tags": ["a"],
        "lr_mult": None,
        "note": {"any": "thing"},
        "more": 3,
    }
    for key in ("lr", "params"):
        with pytest.raises(KeyError, match="what can be deleted from a group must be in"):
            del group[key]


def test_torch_keeps_the_same_keys():
    """A state with keys of torch's user is loaded, and one with ours by torch."""
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    theirs = torch.optim.AdamW([{"params": [weight], "lr_scale": 0.5}])
    ours = AdamW([{"params": params(1)}])
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["lr_scale"] == 0.5


@pytest.mark.parametrize(
    "key",
    [
        "learning_rate",
        "beta1",
        "weigth_decay",
        "momentums",
        "fused",
        "foreach",
        "loss_scale",
        "epsilon",
        "grad_centralization",
        "momentum",
        "LR",
        "l_r",
        "learnin_rate",
        "Learning-Rate",
        "wd",
        "weightDecay",
        "Params",
    ],
)
def test_keys_that_are_like_an_argument_are_refused(key):
    """Whoever writes one believes that it does something."""
    cls = AdamW if key != "momentums" else SGD
    with pytest.raises(
        ValueError, match=rf"^For '{cls.__name__}', the keys of a group must be in .*, but got \['{key}'"
    ):
        cls([{"params": params(), key: 0.1}])
    with pytest.raises(KeyError, match=f"what can be set in a group must be in .*, but got '{key}'"):
        cls(params()).param_groups[0][key] = 0.1


@pytest.mark.parametrize("key", ["beta", "lr_scale", "wd_mult", "layer", "name", "group_name"])
def test_keys_of_ones_own_are_kept(key):
    """And those that mean an argument that this optimizer has not."""
    assert SGD([{"params": params(), key: 0.1}]).param_groups[0][key] == 0.1


def test_what_cannot_be_set_raises():
    """Arguments as attributes, and the state, which is what a step reads."""
    optimizer = SGD(params(), lr=0.5, momentum=0.9)
    for name in ("lr", "momentum", "weight_decay"):
        with pytest.raises(AttributeError, match=rf"^For 'SGD', '{name}' must be set in a group, as param_groups\[0\]"):
            setattr(optimizer, name, 0.1)
        with pytest.raises(AttributeError, match=f"^For 'SGD', '{name}' must be set"):
            setattr(EMA(optimizer), name, 0.1)
    for name in ("nesterov", "fused", "loss_scale"):
        for owner in (optimizer, EMA(optimizer)):
            with pytest.raises(AttributeError, match=f"^For 'SGD', '{name}' must be given to it, but was set as an at"):
                setattr(owner, name, 0.1)
    for owner in (optimizer, EMA(optimizer)):
        with pytest.raises(
            AttributeError, match=r"^For 'SGD', 'state' must be loaded with 'load_state_dict', but was set"
        ):
            owner.state = {}
    with pytest.raises(TypeError):
        optimizer.state["p0"] = {}
    with pytest.raises(TypeError):
        optimizer.state["p0"]["momentum_buffer"] = 0
    assert optimizer.state[optimizer.parameters[0]].keys() == {"momentum_buffer"}
    with pytest.raises(KeyError):
        optimizer.state["p9"]
    optimizer.defaults["lr"] = 0.25
    optimizer.add_param_group({"params": params(1, "q")})
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.25]


@pytest.mark.parametrize("cls", [AdamW, LBFGS])
def test_the_members_of_a_group_stay_as_they_are(cls):
    """In torch a parameter that is put into the list is trained; here no step would see it."""
    first, other = params(2)
    optimizer = cls([{"params": [first], "lr": 0.5}])
    members = optimizer.param_groups[0]["params"]

    def add(values):
        values += [other]

    changes = (
        lambda values: values.append(other),
        lambda values: values.extend([other]),
        lambda values: values.insert(0, other),
        lambda values: values.remove(first),
        lambda values: values.pop(),
        lambda values: values.clear(),
        lambda values: values.__setitem__(0, other),
        lambda values: values.__delitem__(0),
        add,
    )
    for change in changes:
        with pytest.raises(TypeError, match=f"For '{cls.__name__}', 'params' of a group must stay as they are"):
            change(members)
    assert members + [other] == [first, other]  # noqa: RUF005  # as users write it
    made = copy.deepcopy(optimizer).param_groups[0]["params"]
    assert type(made) is type(members) and made[0] is not first


def test_the_learning_rate_is_written_as_mindspore_writes_it():
    """A Tensor is, into the Parameter; what would take its place, and be read by no step, is refused."""
    optimizer = SGD(params(), lr=0.5)
    for owner, rate in ((optimizer, 0.25), (EMA(optimizer), 0.125)):
        owner.learning_rate = Tensor(rate)
        assert optimizer.param_groups[0]["lr"] == rate
    for value in (0.1, Parameter(Tensor(0.1)), [0.1]):
        for owner in (optimizer, EMA(optimizer)):
            with pytest.raises(AttributeError, match=r"^For 'SGD', 'learning_rate' must be set in a group, as .*'lr'"):
                owner.learning_rate = value
    with pytest.raises(AttributeError, match="'learning_rate' must be set in a group"):
        SGD(groups(None, None), lr=[0.5, 0.25]).learning_rate = Tensor(0.1)


def test_state_that_is_set_as_an_attribute_raises(either):
    """It would be in no step; a tuple of Parameters may take the place of one: trainers shard state by hand so."""
    optimizer = AdamW([Parameter(np.ones(2, np.float32), name=name) for name in "ab"])
    ema = EMA(optimizer, 0.9)
    for name, value, message in (
        (
            "exp_avg",
            1,
            "'exp_avg' must be a tuple of a Parameter or None for each of its 2 parameters, but was set to 1",
        ),
        ("exp_avg_sq", (), r"'exp_avg_sq' must be a tuple .* but was set to \(\)"),
        ("step_counts", 1, "'step_counts' must be loaded with 'load_state_dict'"),
        ("trainable", [False], "'trainable' must be said with 'freeze' and 'unfreeze'"),
    ):
        for one in (optimizer, ema):
            with pytest.raises(AttributeError, match=message):
                setattr(one, name, value)
    for name, message in (
        ("averages", "must be loaded with"),
        ("parameter_averages", "must be a tuple of a Parameter"),
    ):
        with pytest.raises(AttributeError, match=f"^For 'EMA', '{name}' {message}"):
            setattr(ema, name, ())
    optimizer.exp_avg, ema.parameter_averages = optimizer.exp_avg.clone("other"), ema.parameter_averages.clone("other")
    assert [param.name for param in optimizer.exp_avg] == ["other.exp_avg.a", "other.exp_avg.b"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdamW([{"params": params(1), "amsgrad": True, "lr_scale": 2}, {"params": params(1, "q"), "lr": 0.3}]),
        lambda: SGD(groups(None, None), lr=[0.5, 0.25], momentum=0.9, loss_scale=2.0),
        lambda: EMA(AdamW(params(), lr=0.1), 0.9, schedule="timm", buffers=params(1, "buffer")),
    ],
)
@pytest.mark.parametrize("how", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_copies_go_on_by_themselves(make, how, either):
    """With parameters of their own, the same bits, and nothing that is shared."""
    optimizer = make()
    grads = (Tensor(np.ones(2)),) * len(optimizer.parameters)
    optimizer(grads)
    optimizer.param_groups[0]["weight_decay"] = 0.5
    optimizer.freeze(optimizer.parameters[0].name)
    made = how(optimizer)
    assert type(made) is type(optimizer) and dict(made.param_groups[0]).keys() == dict(optimizer.param_groups[0]).keys()
    assert_same(everything(made), everything(optimizer))
    made(grads)
    kept = everything(optimizer)
    optimizer(grads)
    assert_same(everything(made), everything(optimizer))
    assert any(np.any(kept[key] != value) for key, value in everything(optimizer).items())


def test_a_copy_beside_its_network_trains_the_copy():
    """What is copied together belongs together."""
    net = nn.Dense(2, 3)
    optimizer = AdamW(net.trainable_params())
    parameters, made = copy.deepcopy((list(net.trainable_params()), optimizer))
    assert [param is other for param, other in zip(parameters, made.parameters)] == [True, True]
    assert made.parameters[0] is not net.weight


def test_a_copy_of_what_has_no_state_dict_says_so():
    """A stock optimizer in an average."""
    with pytest.raises(
        TypeError, match="For 'EMA', the optimizer must be one of ms_optim for 'copy', but got Momentum"
    ):
        copy.deepcopy(EMA(nn.Momentum(params(), 0.1, 0.9)))


def test_sparse_adam_is_copied_too():
    """Its parameters have rows."""
    optimizer = SparseAdam([Parameter(Tensor(np.ones((4, 2), np.float32)), name="table")])
    grads = ((Tensor([1], ms.int32), Tensor(np.ones((1, 2), np.float32))),)
    optimizer(grads)
    made = copy.deepcopy(optimizer)
    made(grads)
    optimizer(grads)
    assert_same(everything(made), everything(optimizer))


def as_version_one(optimizer):
    """The values of an optimizer by the names of version 0.1: a rate for each group, and nothing of what moves."""
    saved = {
        name: value
        for name, value in everything(optimizer).items()
        if name not in ("learning_rate", "optimizer.lr", "optimizer.trainable")
    }
    rates = {f"learning_rate_group_{i}": np.array(group["lr"]) for i, group in enumerate(optimizer.param_groups)}
    return {name: Tensor(value) for name, value in (saved | rates).items()}


@pytest.mark.parametrize("averaged", [False, True])
def test_files_of_version_one_are_restored(averaged, either):
    """Each group has its rate, in what has compiled too, and the next step is that of the optimizer that was saved."""

    def make():
        optimizer = AdamW(groups(None, 0.25, None, None), lr=0.5)
        return EMA(optimizer, 0.5) if averaged else optimizer

    grads = (Tensor(np.ones(2)),) * 4
    saved, new, compiled = make(), make(), make()
    saved(grads)
    saved.param_groups[2]["lr"] = 0.125
    compiled(grads)
    file = as_version_one(saved)
    saved(grads)
    for optimizer in (new, compiled):
        assert restore(optimizer, file) == ["learning_rate_group_0", "learning_rate_group_2", "learning_rate_group_3"]
        assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.25, 0.125, 0.5]
        optimizer(grads)
        assert_same(everything(optimizer), everything(saved))


def test_a_file_that_lacks_a_rate_is_not_restored():
    """What nothing says is missing."""
    optimizer = SGD(groups(None, None), lr=0.5)
    file = as_version_one(optimizer)
    del file["learning_rate_group_1"]
    with pytest.raises(ValueError, match=r"but lacks \['learning_rate', 'optimizer.lr'"):
        restore(optimizer, file)


def named(count=2, prefix="p"):
    """Pairs, as `parameters_and_names` of a Cell and torch's `named_parameters` have them."""
    return [(f"module.{param.name}", param) for param in params(count, prefix)]


@pytest.mark.parametrize("cls", [AdamW, SparseAdam, LBFGS])
def test_names_with_parameters(cls, either):
    """As torch has them: in the group, and in its state dict; copies and further groups keep them."""
    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    theirs = torch.optim.AdamW([("module.p0", weights[0]), ("module.p1", weights[1])]).state_dict()
    for given in (named(), [{"params": named()}], iter(named()), [{"params": params(2), "param_names": NAMES}]):
        optimizer = cls(given)
        assert optimizer.param_groups[0]["param_names"] == NAMES
        told = optimizer.state_dict()["param_groups"][0]
        assert {key: told[key] for key in ("params", "param_names")} == {
            key: theirs["param_groups"][0][key] for key in ("params", "param_names")
        }
        assert copy.deepcopy(optimizer).param_groups[0]["param_names"] == NAMES
        with pytest.raises(KeyError, match=r"what can be set in a group must be in .*, but got 'param_names'"):
            optimizer.param_groups[0]["param_names"] = ["a", "b"]
        cls(params(2)).load_state_dict(optimizer.state_dict())
    if cls is not LBFGS:
        optimizer.add_param_group({"params": named(1, "q")})
        assert [group["param_names"] for group in optimizer.param_groups] == [NAMES, ["module.q0"]]


NAMES = ["module.p0", "module.p1"]


def test_an_order_of_pairs():
    """The dict that gives the order takes what the groups take."""
    pairs = named()
    optimizer = SGD([{"params": pairs[:1], "lr": 0.5}, {"params": pairs[1:]}, {"order_params": pairs[::-1]}])
    assert [param.name for param in optimizer.parameters] == ["p1", "p0"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            [*named(1), *params(1, "q")],
            r"'param_names' must be one for each of the 2 parameters .* got \['module.p0'\]",
        ),
        (
            [{"params": named(1)}, {"params": params(1, "q")}],
            r"must be with names in all groups or in none, .* \[0\] of 2",
        ),
        (
            [{"params": params(1), "param_names": "p0"}],
            "'param_names' of a group must be a list of names, but got 'p0'",
        ),
        (
            [{"params": params(1), "param_names": [0]}],
            r"'param_names' of a group must be a list of names, but got \[0\]",
        ),
        ([{"params": params(1), "param_names": ["a", "b"]}], r"one for each of the 1 parameters .* got \['a', 'b'\]"),
    ],
)
def test_names_that_do_not_fit(given, message):
    """All or none, one for each."""
    with pytest.raises((TypeError, ValueError), match=f"^For 'AdamW', .*{message}"):
        AdamW(given)
    with pytest.raises(ValueError, match="'params' must be with names in all groups or in none"):
        AdamW(named()).add_param_group({"params": params(1, "q")})
