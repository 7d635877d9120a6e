"""Which group a parameter is in, and that its gradient meets it there."""

import itertools

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, mint, nn

from ms_optim import AdamW
from ms_optim.groups import param_groups_layer_decay, param_groups_norm_bias, param_groups_weight_decay


class RMSNorm(nn.Cell):
    """A norm that no library knows."""

    def __init__(self):
        super().__init__()
        self.weight = Parameter(np.ones(3, np.float32))
        self.eps = Parameter(np.ones((), np.float32), requires_grad=False)


class Stock(nn.Cell):
    """Cells of mindspore.nn; parts of names that look like those of norms and averages."""

    def __init__(self):
        super().__init__()
        self.gamma_conv = nn.Conv2d(3, 3, 3, has_bias=True)
        self.norm = nn.BatchNorm2d(3)
        self.beta = nn.Dense(3, 3)
        self.ema = nn.LayerNorm((3,))
        self.table = nn.Embedding(3, 3)
        self.own = RMSNorm()
        self.beta_gain = Parameter(np.ones((3, 1), np.float32))
        self.gamma = Parameter(np.ones((), np.float32))


class Mint(nn.Cell):
    """Cells of mindspore.mint.nn, whose norms have weight and bias."""

    def __init__(self):
        super().__init__()
        self.bias = mint.nn.Linear(3, 3)
        self.norm = mint.nn.BatchNorm2d(3)
        self.weight = mint.nn.LayerNorm(3)
        self.groups = mint.nn.GroupNorm(1, 3, affine=False)
        self.table = mint.nn.Embedding(3, 3)


def names_of(groups):
    """The names in each group, without the order."""
    return [{param.name for param in group["params"]} for group in groups[:-1]]


def test_vectors_scalars_biases_and_named_parameters_do_not_decay():
    """The rule of timm: the rank, the name bias, and patterns."""
    params = Stock().trainable_params()
    params.append(Parameter(np.ones((2, 2), np.float32), name="wide.bias"))
    groups = param_groups_weight_decay(params, 0.1, ("*_gain", "table.*"))
    decay = {"gamma_conv.weight", "beta.weight"}
    assert names_of(groups) == [{param.name for param in params} - decay, decay]
    assert [group["weight_decay"] for group in groups[:-1]] == [0.0, 0.1]


def test_norm_weights_weights_and_biases_of_stock_cells():
    """YOLOv5's rule goes by the cell, whatever the name says."""
    norm, weight, bias = names_of(param_groups_norm_bias(Stock(), 0.1))
    assert norm == {"norm.gamma", "ema.gamma"}
    assert weight == {"gamma_conv.weight", "beta.weight", "table.embedding_table", "own.weight", "beta_gain", "gamma"}
    assert bias == {"gamma_conv.bias", "norm.beta", "beta.bias", "ema.beta"}


def test_norm_weights_weights_and_biases_of_mint_cells():
    """The same cut where norms have weight and bias too."""
    norm, weight, bias = names_of(param_groups_norm_bias(Mint(), 0.1))
    assert norm == {"norm.weight", "weight.weight"}
    assert weight == {"bias.weight", "table.weight"}
    assert bias == {"bias.bias", "norm.bias", "weight.bias"}


def test_own_norms_and_bias_lr():
    """A class of the user's is a norm if they say so; only the biases get their learning rate."""
    norm, weight, bias = param_groups_norm_bias(Stock(), 0.1, bias_lr=[0.1, 0.01], norms=[RMSNorm])[:-1]
    assert "own.weight" in {param.name for param in norm["params"]}
    assert [group["weight_decay"] for group in (norm, weight, bias)] == [0.0, 0.1, 0.0]
    assert [group.get("lr") for group in (norm, weight, bias)] == [None, None, [0.1, 0.01]]


def test_gamma_and_beta_are_of_a_norm_only_in_a_norm():
    """In any other cell they are weights, whatever their shapes."""

    class Affine(nn.Cell):
        def __init__(self):
            super().__init__()
            self.gamma = Parameter(np.ones(3, np.float32))
            self.beta = Parameter(np.ones((3, 3), np.float32))
            self.bias = Parameter(np.ones(3, np.float32))

    for net, prefix in ((Affine(), ""), (nn.SequentialCell(Affine(), nn.LayerNorm((3,))), "0.")):
        *norms, weight, bias = names_of(param_groups_norm_bias(net, 0.1))
        assert weight == {f"{prefix}gamma", f"{prefix}beta"}
        assert bias == {f"{prefix}bias"} | ({"1.beta"} if prefix else set())
        assert norms == ([{"1.gamma"}] if prefix else [])
    assert param_groups_norm_bias(Affine(), 0.1)[0]["weight_decay"] == 0.1


def test_layers_are_matched_first_to_last():
    """Each layer's rate is layer_decay times that of the next; a list of rates is scaled item by item."""
    net = nn.SequentialCell(*(nn.Dense(3, 3) for _ in range(11)))
    layers = ("0.*", "1.*", "10.*", "*")
    groups = param_groups_layer_decay(net.trainable_params(), layers, 0.8, 0.1, layer_decay=0.5)[:-1]
    rates = {param.name: (group["lr"], group["weight_decay"]) for group in groups for param in group["params"]}
    assert rates["0.weight"] == (0.1, 0.1) and rates["0.bias"] == (0.1, 0.0)
    assert rates["1.weight"] == (0.2, 0.1) and rates["10.weight"] == (0.4, 0.1) and rates["9.bias"] == (0.8, 0.0)
    assert len(groups) == 8
    listed = param_groups_layer_decay(net.trainable_params(), layers, [0.8, 0.4], 0.1, layer_decay=0.5)
    assert listed[0]["lr"] == [0.1, 0.05]


def test_learning_rates_from_an_iterator_are_read_once():
    """They are the same for all layers, and for all that is made of the groups."""
    net = nn.SequentialCell(nn.Dense(3, 3), nn.Dense(3, 3))
    layers = param_groups_layer_decay(net.trainable_params(), ("0.*", "1.*"), iter([0.8, 0.4]), 0.1, layer_decay=0.5)
    assert [group["lr"] for group in layers[:-1]] == [[0.4, 0.2]] * 2 + [[0.8, 0.4]] * 2
    groups = param_groups_norm_bias(net, 0.1, bias_lr=(lr for lr in (0.8, 0.4)))
    for _ in range(2):
        assert AdamW(groups, lr=0.1).param_groups[1]["lr"] == [0.8, 0.4]


@pytest.mark.parametrize(
    "cut",
    [
        lambda net: param_groups_weight_decay(net.trainable_params(), 0.1),
        lambda net: param_groups_norm_bias(net, 0.1),
        lambda net: param_groups_layer_decay(net.trainable_params(), ("*",), 0.1, 0.1),
    ],
)
def test_what_is_not_trained_is_left_out_and_no_group_is_empty(cut):
    """Frozen parameters are in no group and not in the order; the order is the network's."""
    net = Stock()
    net.norm.gamma.requires_grad = False
    groups = cut(net)
    expected = [param.name for param in net.trainable_params()]
    assert [param.name for param in groups[-1]["order_params"]] == expected
    assert sorted(name for group in names_of(groups) for name in group) == sorted(expected)
    lone = nn.SequentialCell(nn.Dense(3, 3, has_bias=False))
    assert names_of(cut(lone)) == [{"0.weight"}]


def test_a_shared_parameter_is_in_one_group():
    """Tied weights are one parameter."""
    net = nn.SequentialCell(nn.Dense(3, 3), nn.Dense(3, 3))
    net[1].weight = net[0].weight
    groups = param_groups_norm_bias(net, 0.1)
    assert sum(len(group["params"]) for group in groups[:-1]) == len(groups[-1]["order_params"]) == 3


CUTS = {
    "weight decay": lambda net: param_groups_weight_decay(net.trainable_params(), 0.5, ("table.*",)),
    "layers": lambda net: param_groups_layer_decay(net.trainable_params(), ("t*", "*"), 0.1, 0.5, 0.25),
    "norm and bias": lambda net: param_groups_norm_bias(net, 0.5, bias_lr=0.7),
}


def momentum(groups):
    """One step of it from no momentum."""
    return nn.Momentum(groups, 0.1, 0.9), lambda param, grad, lr, decay: param - lr * (grad + decay * param)


def adamw(groups):
    """One step of it with a large eps, so that its size shows which gradient came."""
    return AdamW(
        groups, lr=0.1, eps=1.0
    ), lambda param, grad, lr, decay: param * (1 - lr * decay) - lr * grad / (abs(grad) + 1)


@pytest.mark.parametrize(
    ("mode", "make", "cut", "net"),
    [
        *itertools.product(("graph", "pynative"), (adamw,), CUTS, (Stock, Mint)),
        *itertools.product(("graph",), (momentum,), CUTS, (Stock, Mint)),
        ("composed", adamw, "norm and bias", Stock),
    ],
    indirect=["mode"],
)
def test_each_gradient_meets_its_parameter(mode, make, cut, net):
    """The gradients come in the network's order, which no cut keeps, to parameters of equal shapes."""
    net = net()
    params = net.trainable_params()
    for param in params:
        param.set_data(Tensor(np.full(param.shape, 2.0, np.float32)))
    groups = CUTS[cut](net)
    options = {
        param.name: (group.get("lr", 0.1), group["weight_decay"]) for group in groups[:-1] for param in group["params"]
    }
    assert [param.name for group in groups[:-1] for param in group["params"]] != [param.name for param in params]
    optimizer, rule = make(groups)
    grads = [0.25 * (1 + i) for i in range(len(params))]
    optimizer(tuple(ms.ops.full_like(param, grad) for param, grad in zip(params, grads)))
    for param, grad in zip(params, grads):
        expected = np.full(param.shape, rule(2.0, grad, *options[param.name]))
        np.testing.assert_allclose(param.asnumpy(), expected, rtol=1e-6, atol=1e-7, err_msg=param.name)


NET = nn.SequentialCell(nn.Dense(3, 3), nn.BatchNorm1d(3))
PARAMS = NET.trainable_params()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: param_groups_weight_decay(PARAMS, -1.0),
            ValueError,
            r"'weight_decay' must be in \[0, inf\), but got -1.0",
        ),
        (lambda: param_groups_weight_decay(PARAMS, "1"), TypeError, "'weight_decay' must be a number"),
        (
            lambda: param_groups_weight_decay(PARAMS, 0.1, ("0.*", "head.*")),
            ValueError,
            r"'no_decay' must match one of \['0.weight', .*\], but got 'head.\*'",
        ),
        (lambda: param_groups_weight_decay(PARAMS, 0.1, "0.*"), TypeError, "'no_decay' must be a tuple or list"),
        (lambda: param_groups_weight_decay(PARAMS[0], 0.1), TypeError, "'params' must be an iterable of Parameters"),
        (lambda: param_groups_weight_decay(NET, 0.1), TypeError, "'params' must be .*, but got SequentialCell"),
        (lambda: param_groups_weight_decay([1], 0.1), TypeError, "'params' must be .*, but got an element of int"),
        (lambda: param_groups_weight_decay([], 0.1), ValueError, "'params' must hold a parameter"),
        (lambda: param_groups_weight_decay([NET[1].moving_mean], 0.1), ValueError, r"but got \['1.moving_mean'\]"),
        (
            lambda: param_groups_layer_decay(PARAMS, ("0.*",), 0.1, 0.1),
            ValueError,
            r"'layers' must match every parameter, but got none for \['1.gamma', '1.beta'\]",
        ),
        (
            lambda: param_groups_layer_decay(PARAMS, ("*", "1.*"), 0.1, 0.1),
            ValueError,
            r"'layers' must be the first to match one of .*, but got \['1.\*'\]",
        ),
        (lambda: param_groups_layer_decay(PARAMS, "*", 0.1, 0.1), TypeError, "'layers' must be a tuple or list"),
        (
            lambda: param_groups_layer_decay(PARAMS, ("*",), -0.1, 0.1),
            ValueError,
            r"'lr' must be in \[0, inf\), but got",
        ),
        (lambda: param_groups_layer_decay(PARAMS, ("*",), [0.1, -0.1], 0.1), ValueError, r"'lr\[1\]' must be in"),
        (lambda: param_groups_layer_decay(PARAMS, ("*",), "0.1", 0.1), TypeError, "'lr' must be a number"),
        (
            lambda: param_groups_layer_decay(PARAMS, ("*",), [], 0.1),
            ValueError,
            "'lr' must be .*, but got an empty list",
        ),
        (lambda: param_groups_layer_decay(PARAMS, ("*",), np.zeros(0), 0.1), ValueError, "'lr' must be .*, but got an"),
        (
            lambda: param_groups_layer_decay(PARAMS, ("*",), nn.ExponentialDecayLR(0.1, 0.9, 4), 0.1),
            TypeError,
            "'lr' must be a number or one for each step, but got ExponentialDecayLR",
        ),
        (lambda: param_groups_layer_decay(PARAMS, ("*",), 0.1, float("nan")), ValueError, "'weight_decay' must be in"),
        (
            lambda: param_groups_layer_decay(PARAMS, ("*",), 0.1, 0.1, 0.0),
            ValueError,
            r"'layer_decay' must be in \(0, 1\]",
        ),
        (lambda: param_groups_norm_bias(PARAMS, 0.1), TypeError, "'net' must be a Cell, but got list"),
        (lambda: param_groups_norm_bias(NET, True), TypeError, "'weight_decay' must be a number"),
        (
            lambda: param_groups_norm_bias(NET, 0.1, bias_lr=-1),
            ValueError,
            r"'bias_lr' must be in \[0, inf\), but got -1",
        ),
        (
            lambda: param_groups_norm_bias(NET, 0.1, bias_lr=float("nan")),
            ValueError,
            "'bias_lr' must be .*, but got nan",
        ),
        (
            lambda: param_groups_norm_bias(NET, 0.1, bias_lr="x"),
            TypeError,
            "'bias_lr' must be a number .*, but got 'x'",
        ),
        (
            lambda: param_groups_norm_bias(NET, 0.1, bias_lr=True),
            TypeError,
            "'bias_lr' must be a number .*, but got True",
        ),
        (
            lambda: param_groups_norm_bias(NET, 0.1, bias_lr={}),
            TypeError,
            r"'bias_lr' must be a number .*, but got \{\}",
        ),
        (
            lambda: param_groups_norm_bias(NET, 0.1, bias_lr=[]),
            ValueError,
            "'bias_lr' must be .*, but got an empty list",
        ),
        (lambda: param_groups_norm_bias(NET, 0.1, bias_lr=[0.1, -0.1]), ValueError, r"'bias_lr\[1\]' must be in"),
        (lambda: param_groups_norm_bias(NET, 0.1, norms=["RMSNorm"]), TypeError, "'norms' must be classes"),
        (lambda: param_groups_norm_bias(NET, 0.1, norms=RMSNorm), TypeError, "'norms' must be classes"),
        (lambda: param_groups_norm_bias(nn.ReLU(), 0.1), ValueError, "'params' must hold a parameter"),
    ],
)
def test_bad_values_raise_and_name_themselves(call, kind, message):
    """Errors in MindSpore's form."""
    with pytest.raises(kind, match=f"^For 'param_groups_[a-z_]*', .*{message}"):
        call()
