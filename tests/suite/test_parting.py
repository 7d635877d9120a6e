"""Where two runs part, and whose it is: causes that are planted are told apart and named."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.recorded import network, opened, trained
from safetensors.numpy import save_file

import parity
from parity.__main__ import main
from parity.hunt import search
from parity.hunt.causes import state_apart
from parity.hunt.diagnosis import diagnose
from parity.hunt.gradients import Seen, gradients_apart
from parity.hunt.parting import Incomparable, compare_runs
from parity.runs import Step, Writer, read

STEPS = 10


def groups(net, **of_vectors):
    """Matrices, and what is none."""
    vectors = [param for param in net.parameters() if param.ndim < 2]
    return [{"params": [param for param in net.parameters() if param.ndim > 1]}, {"params": vectors, **of_vectors}]


def adamw(net, **options):
    """The optimizer of the first run."""
    return torch.optim.AdamW(groups(net), **{"lr": 0.02, "weight_decay": 0.1, **options})


def sgd(net):
    """One without state."""
    return torch.optim.SGD(net.parameters(), lr=0.02)


def run(folder, make=adamw, plant=lambda step, net, optimizer: None, before=lambda net: None, rate=None):
    """A training with a learning rate that falls, in which `plant` may do something before each step."""
    net = network()
    before(net)
    optimizer = make(net)

    def between(step):
        for group in optimizer.param_groups:
            group["lr"] = (rate or (lambda step: 0.02 * 0.9**step))(step)
        plant(step, net, optimizer)

    trained(optimizer, net, folder, STEPS, between)
    return read(folder)


def scale(net, factor):
    """Multiply all gradients."""
    for param in net.parameters():
        param.grad.mul_(factor)


def planted(*, at, **grads):
    """A cause in one step: the gradient of one parameter is multiplied."""

    def plant(step, net, optimizer):
        if step == at:
            for name, factor in grads.items():
                net.get_parameter(name.replace("_", ".")).grad.mul_(factor)

    return plant


def emptied(optimizer, param):
    """Zero the state of a parameter."""
    for value in optimizer.state[param].values():
        value.zero_()


# What the second run has, at which step they part, whose it is, and what is said.
PLANTED = {
    "a rate one step late": (
        {"rate": lambda step: 0.02 * 0.9 ** max(step - 1, 0)},
        (1, "numbers", "lr is 0.018 and 0.02 for all: the second has the learning rates of one step before"),
    ),
    "another rate at one step": (
        {"rate": lambda step: 0.02 * 0.9 ** (step if step != 7 else 3)},
        (7, "numbers", "lr is 0.009565938 and 0.01458 for all"),
    ),
    "a step that is left out": (
        {"rate": lambda step: 0.02 * 0.9 ** (step + (step >= 6))},
        (
            6,
            "numbers",
            "lr is 0.01062882 and 0.009565938 for all: from here on the second has those of the step after, as if it "
            "had left out one",
        ),
    ),
    "betas of one group": (
        {"make": lambda net: torch.optim.AdamW(groups(net, betas=(0.8, 0.999)), weight_decay=0.1)},
        (0, "numbers", "betas is (0.9, 0.999) and (0.8, 0.999) for scale, 0.bias, 2.bias"),
    ),
    "no decay of vectors": (
        {"make": lambda net: torch.optim.AdamW(groups(net, weight_decay=0.0), weight_decay=0.1)},
        (0, "numbers", "weight_decay is 0.1 and 0 for scale, 0.bias, 2.bias"),
    ),
    "a sum for a mean": (
        {"plant": lambda step, net, optimizer: scale(net, 24.0)},
        (0, "gradient", "all of the second are those of the first times 24, of norms "),
    ),
    "clipping in one of them": (
        {"plant": lambda step, net, optimizer: torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)},
        (0, "gradient", "and 0.1: a mean for a sum, a loss scale, a number of devices, or clipping in one of them"),
    ),
    "the gradient of one layer": (
        {"plant": lambda step, net, optimizer: net[2].weight.grad.mul_(1.01)},
        (
            0,
            "gradient",
            "1 of 5 differ, the last of the network '2.weight' by 0.0099; in the second it is that of the first times "
            "1.01",
        ),
    ),
    "the gradient of one layer later": (
        {"plant": lambda step, net, optimizer: net[0].bias.grad.add_(0.01) if step == 6 else None},
        (6, "gradient", "1 of 5 differ, the last of the network '0.bias' by "),
    ),
    "NaN at one step": (
        {"plant": lambda step, net, optimizer: net[2].bias.grad[1].fill_(float("nan")) if step == 4 else None},
        (4, "gradient", "NaN in one alone: 2.bias"),
    ),
    "a gradient that is absent": (
        {"plant": lambda step, net, optimizer: setattr(net.scale, "grad", None) if step == 2 else None},
        (2, "gradient", "there is one of scale in the first alone"),
    ),
    "other weights": (
        {"before": lambda net: net[0].weight.data.mul_(1.001)},
        (-1, "weights", "1 of 5 differ, the last of the network '0.weight' by 0.001"),
    ),
    "weights that were changed between steps": (
        {"plant": lambda step, net, optimizer: net[0].weight.data.mul_(1.001) if step == 6 else None},
        (
            6,
            "weights",
            "they were changed after the step before, in the second alone: 1 of 5 differ, the last of the network "
            "'0.weight' by 0.001",
        ),
    ),
    "state that was lost": (
        {"plant": lambda step, net, optimizer: optimizer.state.clear() if step == 8 else None},
        (8, "optimizer", "of the second, it follows AdamW with this mistake: the state of all begun anew at step 8"),
    ),
    "state of one tensor that was lost": (
        {"plant": lambda step, net, optimizer: emptied(optimizer, net[0].bias) if step == 3 else None},
        (3, "optimizer", "follows AdamW with this mistake: the state of '0.bias' begun anew at step 3"),
    ),
    "another optimizer": (
        {"make": lambda net: torch.optim.NAdam(groups(net), lr=0.02, weight_decay=0.1, decoupled_weight_decay=True)},
        (0, "optimizer", "the first is AdamW, the second NAdam"),
    ),
    "another optimizer of other numbers": (
        {"make": lambda net: torch.optim.Adagrad(groups(net), lr=0.01)},
        (0, "numbers", "the first is AdamW, the second Adagrad; eps is 1e-08 and 1e-10 for all; weight_decay"),
    ),
}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The run that all others are compared with."""
    return run(tmp_path_factory.mktemp("first") / "run")


@pytest.mark.parametrize("cause", PLANTED)
def test_planted_causes_are_told_apart(cause, first, tmp_path):
    """The step, whose it is, and what."""
    options, (step, whose, text) = PLANTED[cause]
    found = compare_runs(first, run(tmp_path / "run", **options))
    assert (found.finding.step, found.finding.whose) == (step, whose), str(found)
    assert text in found.finding.text and not found.equal
    clipped = "gradients were clipped to a norm of 0.1 (theirs was "
    if cause == "clipping in one of them":
        (noted,) = found.noted
        assert noted.startswith(clipped) and noted.endswith(") in the second, and not in the first")
        assert str(found).endswith(f"\nnoted: {noted}")
    else:
        assert found.noted == ()


def test_a_loss_and_its_gradients_times_the_same(first, tmp_path):
    """Are no other data; a loss that is another without them is."""
    second = run(tmp_path / "run", plant=lambda step, net, optimizer: scale(net, 24.0))
    for factor, text in (
        (24.0, "the second is the first times 24, and so are all gradients: a mean"),
        (23.0, "other data"),
    ):
        steps = [replace(step, loss=step.loss * factor) for step in second.steps]
        found = compare_runs(first, type(second)(second.header, second.initial, second.initial_state, steps))
        assert (found.finding.step, found.finding.whose) == (0, "loss") and text in found.finding.text, str(found)


def test_the_optimizer_is_diagnosed(first, tmp_path):
    """From numbers that are said and gradients that are the same: an epsilon that is another."""

    class Wrong(torch.optim.AdamW):
        def step(self, closure=None):
            told = [group["eps"] for group in self.param_groups]
            for group in self.param_groups:
                group["eps"] = 1e-4
            super().step()
            for group, eps in zip(self.param_groups, told):
                group["eps"] = eps

    Wrong.__name__ = "AdamW"
    second = run(tmp_path / "run", lambda net: Wrong(groups(net), lr=0.02, weight_decay=0.1))
    found = compare_runs(first, with_eps(second, 1e-8))
    assert (found.finding.step, found.finding.whose) == (0, "optimizer"), str(found)
    assert "of the second, it follows AdamW with this mistake: eps 0.0001 for 1e-08 (ratio " in found.finding.text


def with_eps(run, eps):
    """The run with another number said."""
    steps = [
        type(step)(**{**vars(step), "groups": [{**group, "eps": eps} for group in step.groups]}) for step in run.steps
    ]
    header = {**run.header, "groups": [{**group, "eps": eps} for group in run.header["groups"]]}
    return type(run)(header, run.initial, run.initial_state, steps)


def test_the_same_training_does_not_part(first, tmp_path):
    """Nor does one whose rounding is another, which drifts."""
    again = compare_runs(first, run(tmp_path / "again"))
    assert again.equal and max(again.drift) == 0.0 and again.verdict is None
    other = run(tmp_path / "other", plant=lambda step, net, optimizer: scale(net, 1 + 1e-6))
    found = compare_runs(first, other)
    assert found.equal and 0 < found.drift[1] < found.drift[-1] < 1e-3
    assert "no step of 10 parts them" in str(found) and "after the last" in str(found)


class Norm(torch.nn.Module):
    """A normalization over the batch, before which no bias matters."""

    def forward(self, inputs):
        """Normalize."""
        return (inputs - inputs.mean(0)) / (inputs.var(0, unbiased=False) + 1e-5).sqrt()


@pytest.mark.parametrize("known", [True, False])
def test_noise_is_no_gradient(known, tmp_path):
    """That of a bias before a normalization is rounding alone, and AdamW goes by it; nothing else drifts for that."""

    def noisy(name, plant=lambda step, net, optimizer: None):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(4, 6), Norm(), torch.nn.Linear(6, 3))
        net.register_parameter("scale", torch.nn.Parameter(torch.tensor(1.5)))
        optimizer, drawn = torch.optim.AdamW(net.parameters(), lr=0.01), torch.Generator().manual_seed(len(name))

        def between(step):
            net[0].bias.grad.copy_(1e-8 * torch.randn(6, generator=drawn))
            plant(step, net, optimizer)

        trained(optimizer, net, tmp_path / name, STEPS, between)
        found = read(tmp_path / name)
        return found if known else type(found)({**found.header, "optimizer": "Mine"}, *list(vars(found).values())[1:])

    one = noisy("one")
    found = compare_runs(one, noisy("another"))
    assert found.equal and max(found.drift) < 1e-5, str(found)
    lost = compare_runs(one, noisy("third", lambda step, net, optimizer: step == 5 and emptied(optimizer, net[2].bias)))
    assert (lost.finding.step, lost.finding.whose) == (5, "optimizer"), str(lost)
    scaled = compare_runs(one, noisy("the fourth", lambda step, net, optimizer: step == 7 and scale(net, 1.01)))
    assert (scaled.finding.step, scaled.finding.whose) == (7, "gradient"), str(scaled)


def embedded(folder, make, plant=lambda step, net: None, steps=5):
    """A training of an embedding, whose gradients are of the rows that were looked up, and small."""
    torch.manual_seed(0)
    net, drawn = torch.nn.Embedding(1000, 6, sparse=True), torch.Generator().manual_seed(1)
    optimizer = make(net)
    with parity.record(optimizer, folder, model=net):
        for step in range(steps):
            optimizer.zero_grad()
            (net(torch.randint(0, 1000, (16,), generator=drawn)).square().mean() * 1e-2).backward()
            plant(step, net)
            optimizer.step()
    return read(folder)


def doubled(step, net):
    """Another gradient from a step on."""
    if step >= 2:
        net.weight.grad = net.weight.grad * 2


SPARSE = {
    "SparseAdam": lambda net: torch.optim.SparseAdam(net.parameters(), lr=0.01),
    "SGD": lambda net: torch.optim.SGD(net.parameters(), lr=0.1),
    "Adagrad": lambda net: torch.optim.Adagrad(net.parameters(), lr=0.1),
}


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_gradients_are_compared_by_their_values(name, tmp_path):
    """And not by the numbers of their rows, which are larger; each run follows its rule."""
    one = embedded(tmp_path / "one", SPARSE[name])
    assert compare_runs(one, embedded(tmp_path / "same", SPARSE[name])).equal and diagnose(one).is_right
    found = compare_runs(one, embedded(tmp_path / "other", SPARSE[name], doubled)).finding
    assert (found.step, found.whose) == (2, "gradient") and "those of the first times 2" in found.text


def test_a_sparse_gradient_may_be_dense_in_the_other():
    """As of an embedding in another framework."""
    rows, values = np.array([3, 1, 3]), np.arange(6, dtype=np.float32).reshape(3, 2) + 1
    whole = np.zeros((5, 2), np.float32)
    np.add.at(whole, rows, values)
    for other, is_apart in ((whole, False), (2 * whole, True)):
        for pair in (((rows, values), other), (other, (rows, values))):
            steps = [Step([], {"w": grad}, {}, {}) for grad in pair]
            assert (gradients_apart(*steps, {"w": "w"}, 0, 0.0, Seen()) is not None) == is_apart


def test_a_small_branch_is_no_noise(tmp_path):
    """If its gradient is the other times something; what else is so small is said, and how far apart it ends."""

    def branched(name, change):
        torch.manual_seed(0)
        net = torch.nn.ModuleDict({"main": torch.nn.Linear(4, 8), "aux": torch.nn.Linear(4, 8)})
        optimizer, drawn = torch.optim.AdamW(net.parameters(), lr=0.01), torch.Generator().manual_seed(1)
        with parity.record(optimizer, tmp_path / name, model=net):
            for _ in range(8):
                optimizer.zero_grad()
                x = torch.randn(8, 4, generator=drawn)
                (net["main"](x).square().mean() * 100 + net["aux"](x).square().mean() * 1e-5).backward()
                change(net["aux"])
                optimizer.step()
        return read(tmp_path / name)

    one = branched("one", lambda aux: None)
    turned = compare_runs(one, branched("turned", lambda aux: aux.weight.grad.neg_()))
    assert (turned.finding.step, turned.finding.whose) == (0, "gradient") and "'aux.weight' by 2" in turned.finding.text
    lost = compare_runs(one, branched("lost", lambda aux: [param.grad.zero_() for param in aux.parameters()]))
    assert lost.equal and {*lost.noise} == {"aux.weight", "aux.bias"} and lost.noise["aux.weight"] > 0.01
    assert "but for aux.weight, aux.bias, which end " in str(lost) and "are taken for noise" in str(lost)


class Attention(torch.nn.Module):
    """A layer of a transformer, of which the keys' bias changes nothing."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
        self.head = torch.nn.Linear(16, 10)

    def forward(self, inputs):
        """Logits."""
        return self.head(self.layer(inputs).mean(1))


def perceptron():
    """Units that rounding may switch on or off."""
    sizes = (32, 64), (64, 64), (64, 10)
    layers = [part for size in sizes for part in (torch.nn.Linear(*size), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers[:-1])


def fitted(folder, make, shape, steps, flip=False, plant=lambda step, net: None, rate=1e-3):
    """A training on one batch, whose loss vanishes; `flip` has the images in another order, so that sums round."""
    torch.manual_seed(0)
    net = make()
    optimizer, inputs = torch.optim.AdamW(net.parameters(), lr=rate), torch.randn(32, *shape)
    targets = torch.randint(0, 10, (32,))
    if flip:
        inputs, targets = inputs.flip(0), targets.flip(0)
    with parity.record(optimizer, folder, model=net) as recording:
        for step in range(steps):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(inputs), targets)
            loss.backward()
            plant(step, net)
            recording.loss(loss.item())
            optimizer.step()
    return read(folder)


def smooth():
    """No unit of it is switched."""
    return torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 10))


@pytest.mark.parametrize(("make", "rate"), [(smooth, 0.01), (perceptron, 1e-3)])
def test_a_loss_that_vanishes_parts_nothing(make, rate, tmp_path):
    """Its gradients are sums of what cancels, and a unit that rounding switches changes those of all before it."""
    one, other = (fitted(tmp_path / str(flip), make, (32,), 200, flip, rate=rate) for flip in (False, True))
    found = compare_runs(one, other)
    assert found.equal and found.drift[-1] < 1e-3, str(found)
    assert "at the first step, from the same weights, gradients are at most" in str(found)
    for step, name in found.chosen.items():
        rows = [np.abs(run.steps[step].gradients[name]).reshape(64, -1).sum(1) for run in (one, other)]
        assert 0 < (np.abs(rows[0] - rows[1]) > 1e-4 * rows[0].mean()).sum() <= 16
    assert make is smooth or "gradients of few units differ at" in str(found)


LATE = {
    "one layer": lambda net: net.layer.linear1.weight.grad.mul_(1.15),
    "all": lambda net: [param.grad.mul_(1.1) for param in net.parameters()],
    "a bias": lambda net: net.layer.linear1.bias.grad.zero_(),
}


@pytest.mark.parametrize("what", [None, *LATE])
def test_the_keys_of_an_attention_hide_nothing(what, tmp_path):
    """AdamW moves their bias by noise alone, further than all else drifts."""
    plant = lambda step, net: what and step >= 8 and LATE[what](net)  # noqa: E731
    one = fitted(tmp_path / "one", Attention, (6, 16), 12)
    found = compare_runs(one, fitted(tmp_path / "other", Attention, (6, 16), 12, True, plant))
    assert max(found.drift) < 1e-4
    assert found.equal if what is None else (found.finding.step, found.finding.whose) == (8, "gradient"), str(found)
    if what is None:
        assert {*found.noise} == {"layer.self_attn.in_proj_bias"} and found.noise.popitem()[1] > 1e-3


BASE = np.linspace(-1, 1, 12) * 1e-8
SMALL = {
    "twice": (2 * BASE, True),
    "turned": (-BASE, True),
    "twice, of few elements": (2 * BASE[:4], False),
    "about the same": (BASE * (1 + 0.02 * np.cos(np.arange(12))), False),
    "nothing": (0 * BASE, False),
    "something else": (BASE[::-1] ** 2 * 1e8, False),
    "larger": (BASE + 1e-5 * np.cos(np.arange(12)), True),
}


@pytest.mark.parametrize("what", SMALL)
def test_what_is_noise(what):
    """What is small, and not a multiple of what the other has."""
    other, is_apart = SMALL[what]
    steps = [Step([], {"large": np.ones(9), "small": grad}, {}, {}) for grad in (BASE[: other.size], other)]
    seen = Seen()
    finding = gradients_apart(*steps, {"large": "large", "small": "small"}, 0, 0.0, seen)
    assert (finding is not None, {*seen.noise}) == (is_apart, set() if is_apart else {"small"})


def test_what_parts_between_recorded_steps_is_found(tmp_path):
    """Where one of several is there, the weights part further than they drift."""

    def few(name, plant):
        net = network()
        optimizer = adamw(net)
        between = lambda step: step == 5 and plant(net, optimizer)  # noqa: E731
        trained(optimizer, net, tmp_path / name, 12, between, every=2)
        return read(tmp_path / name)

    one = few("one", lambda net, optimizer: None)
    again = compare_runs(one, few("again", lambda net, optimizer: None))
    assert again.equal and "not by a rule: For 'parity', 'run' must have each step, but got one of 2" in str(again)
    for name, plant in (
        ("state", lambda net, optimizer: optimizer.state.clear()),
        ("weights", lambda net, optimizer: net[0].weight.data.mul_(1.01)),
    ):
        found = compare_runs(one, few(name, plant)).finding
        assert (found.step, found.whose) == (6, "weights") and "after the last step that is there, " in found.text


def test_the_same_nan_is_no_difference(tmp_path):
    """Nor is the same infinity; what else there is beside it is compared."""
    for value in (float("nan"), float("inf")):

        def broken(step, net, optimizer, value=value):
            if step == 4:
                net[2].bias.grad[0] = value

        one = run(tmp_path / f"one{value}", plant=broken)
        assert compare_runs(one, run(tmp_path / f"same{value}", plant=broken)).equal
        other = run(tmp_path / f"other{value}", plant=lambda *given: (scale(given[1], 1.01), broken(*given)))
        assert compare_runs(one, other).finding.whose == "gradient"


def test_a_run_is_equal_to_itself(tmp_path, monkeypatch):
    """Though it follows nothing that is known: then two are compared by their steps."""
    monkeypatch.setattr(search, "TOGETHER", 1)

    def odd(step, net, optimizer):
        for slots in optimizer.state.values():
            slots["exp_avg"].mul_(0.7)

    one = run(tmp_path / "one", plant=odd, rate=lambda step: 0.02)
    found = compare_runs(one, one)
    assert found.equal and "not by a rule: of the first, it follows none of " in str(found)
    other = run(
        tmp_path / "other",
        plant=lambda step, net, optimizer: odd(step, net, optimizer) or (step == 6 and emptied(optimizer, net[0].bias)),
        rate=lambda step: 0.02,
    )
    found = compare_runs(one, other).finding
    assert (found.step, found.whose) == (6, "optimizer")


def test_what_none_stands_for_is_no_other_number(tmp_path):
    """As the first eps of Adafactor."""
    runs = [
        run(tmp_path / str(eps), lambda net, eps=eps: torch.optim.Adafactor(groups(net), eps=(eps, 1e-3)))
        for eps in (None, 2.0**-23, 1e-6)
    ]
    assert compare_runs(runs[0], runs[1]).equal
    assert compare_runs(runs[0], runs[2]).finding.whose == "numbers"


def test_what_is_far_apart_says_little(tmp_path):
    """Which is said; and of what is further from the truth than rounding takes it, that no single step shows why."""
    rate = {"rate": lambda step: 0.02}
    one = run(tmp_path / "one", sgd, **rate)
    other = run(tmp_path / "other", sgd, plant=lambda step, net, optimizer: scale(net, 1 + 9e-5), **rate)
    found = compare_runs(one, other)
    assert found.equal and "are compared loosely" not in str(found)
    far = type(found)(3, None, (0.0, 1e-5, 2e-3, 0.3), allowed=(1e-4, 1e-3, 0.2))
    assert "from step 2 on they are so far apart, 0.002, that losses and gradients are compared loosely" in str(far)
    net = network().double()
    trained(sgd(net), net, tmp_path / "truth", STEPS, dtype=torch.float64)
    judged = compare_runs(one, other, read(tmp_path / "truth"))
    assert not judged.equal and "what parts them is in no single step:\nno step of 10 parts them" in str(judged)


def test_a_float64_run_is_a_truth(first, tmp_path):
    """By which both are judged, as a free run is."""
    net = network().double()
    trained(adamw(net), net, tmp_path / "truth", STEPS, dtype=torch.float64)
    truth = read(tmp_path / "truth")
    second = run(tmp_path / "second", rate=lambda step: 0.02)
    constant = run(tmp_path / "constant", rate=lambda step: 0.02)
    assert compare_runs(constant, second, truth).verdict.passed
    found = compare_runs(constant, first, truth)
    assert not found.equal and found.finding.whose == "numbers"
    short = type(truth)(truth.header, truth.initial, truth.initial_state, truth.steps[:3])
    with pytest.raises(Incomparable, match=r"'truth' must have 10 steps of .*, but has 3\."):
        compare_runs(constant, second, short)
    with pytest.raises(Incomparable, match=r"'truth' must have 10 steps of .*, but lacks"):
        compare_runs(constant, second, written(tmp_path / "none", {"w": np.ones(2, np.float32)}))


def written(folder, initial, loss=None, steps=3, optimizer="Mine", rate=0.1):
    """A run of an optimizer that nothing is known of by its name, whose steps may be of another rate than it says."""
    writer = Writer(folder, optimizer, [{"params": [*initial], "lr": 0.1}], initial)
    now = dict(initial)
    for _ in range(steps):
        grads = {name: np.ones_like(value) for name, value in now.items()}
        now = {name: value - np.float32(rate) * grads[name] for name, value in now.items()}
        writer.add(Step([{"lr": 0.1}], grads, now, {}, loss=loss))
    return read(folder)


def test_rules_that_are_not_known_are_compared_by_their_steps(tmp_path):
    """The same gradients go in; and the loss is before them."""
    weight = np.linspace(1, 2, 4, dtype=np.float32)
    one = written(tmp_path / "one", {"w": weight}, loss=1.0)
    other = written(tmp_path / "other", {"w": weight}, loss=1.0)
    assert compare_runs(one, other).equal
    file = tmp_path / "other" / "000001.safetensors"
    tensors, metadata = opened(file)
    tensors["parameter/w"] -= 0.01
    save_file(tensors, file, metadata)
    found = compare_runs(one, other).finding
    assert (found.step, found.whose) == (1, "optimizer")
    assert "the same gradients go in, and other steps come out: 1 of 1 differ" in found.text
    later = written(tmp_path / "later", {"w": weight}, loss=1.1)
    shorter = compare_runs(one, written(tmp_path / "shorter", {"w": weight}, loss=1.0, steps=2))
    assert str(shorter) == "first part at step 2, steps: the first has 3 steps and the second 2"
    found = compare_runs(one, later).finding
    assert (found.step, found.whose) == (0, "loss") and "1 and 1.1, 0.091 apart" in found.text


def test_one_whose_rule_is_not_known_is_judged_by_that_of_the_other(tmp_path):
    """Whichever is the first."""
    weight = np.linspace(1, 2, 4, dtype=np.float32)
    known = written(tmp_path / "known", {"w": weight}, optimizer="SGD")
    other = written(tmp_path / "other", {"w": weight}, rate=0.1005)
    for pair, word in (((known, other), "second"), ((other, known), "first")):
        found = compare_runs(*pair)
        assert not found.equal and found.finding.whose == "optimizer", str(found)
        assert found.finding.text.startswith(f"of the {word}, it follows SGD with this mistake: "), str(found)
    for one, two in ((known, written(tmp_path / "same", {"w": weight})), (other, other)):
        assert compare_runs(one, two).equal and compare_runs(two, one).equal


def test_names_are_matched(tmp_path):
    """If they are not the same, as given; what has none is named."""
    weight, gain = np.ones((2, 3), np.float32), np.ones(3, np.float32)
    one = written(tmp_path / "one", {"fc.weight": weight, "norm.weight": gain})
    bare = written(tmp_path / "bare", {"fc.weight": weight, "norm.gamma": gain})
    found = compare_runs(one, bare).finding
    assert found.whose == "names" and "only in the first ['norm.weight'], only in the second ['norm.g" in found.text
    assert compare_runs(one, bare, names={"norm.gamma": "norm.weight"}).equal
    moved = compare_runs(one, one, names={"fc.weight": "norm.weight"}).finding
    assert moved.text == "only in the first ['fc.weight'], only in the second ['norm.weight']"
    with pytest.raises(Incomparable, match=r"'names' must be of \['fc.weight', 'norm.gamma'\], but got \['x'\]"):
        compare_runs(one, bare, names={"x": "norm.weight"})
    for names in ({"norm.gamma": "x"}, {"norm.gamma": "fc.weight", "fc.weight": "fc.weight"}):
        with pytest.raises(
            Incomparable, match=r"'names' must go to \['fc.weight', 'norm.weight'\], each once, but got"
        ):
            compare_runs(one, bare, names=names)
    with pytest.raises(Incomparable, match=r"must have parameters in common, but got \['fc.weight', 'norm.weight'\]"):
        compare_runs(one, written(tmp_path / "none", {"a": gain}))
    with pytest.raises(Incomparable, match="must have steps, but got none"):
        compare_runs(one, written(tmp_path / "empty", {"fc.weight": weight}, steps=0))
    shapes = written(tmp_path / "shapes", {"fc.weight": weight.T.copy(), "norm.weight": gain})
    assert "shapes differ: fc.weight (2, 3) and (3, 2)" in compare_runs(one, shapes).finding.text


def test_command(tmp_path, capsys):
    """A table of what differs; exit codes."""
    run(tmp_path / "first")
    run(tmp_path / "second", plant=lambda step, net, optimizer: net[2].weight.grad.mul_(1.01))
    argv = ["compare", str(tmp_path / "first"), str(tmp_path / "second")]
    assert main(argv) == 1
    said = capsys.readouterr().out
    assert "first part at step 0, gradient: 1 of 5 differ" in said and "norm in RUN_A" in said
    assert main([*argv[:2], argv[1]]) == 0
    assert "no step of 10 parts them" in capsys.readouterr().out
    assert main([*argv, "--truth", str(tmp_path / "none")]) == 2
    (tmp_path / "names.json").write_text(json.dumps(["scale"]))
    assert main([*argv, "--names", str(tmp_path / "names.json")]) == 2
    assert "'names' must be a JSON object of names" in capsys.readouterr().err
    (tmp_path / "names.json").write_text("{")
    assert main([*argv, "--names", str(tmp_path / "names.json")]) == 2
    assert "'names' must be a file of JSON, but got" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*argv, "--tensors", "-1"])
    assert "--tensors must be at least 0, but got -1" in capsys.readouterr().err
    (tmp_path / "names.json").write_text(json.dumps({"none": "scale"}))
    assert main([*argv, "--names", str(tmp_path / "names.json")]) == 2
    assert "'names' must be of" in capsys.readouterr().err


@pytest.mark.parametrize("make", [adamw, lambda net: torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)])
def test_a_resume_that_lost_its_state_parts(make, tmp_path):
    """Before the first step, though each run follows its rule."""

    def resumed(folder, change):
        net = network()
        optimizer = make(net)
        for param in net.parameters():
            param.grad = torch.full_like(param, 0.5)
        optimizer.step()
        optimizer = change(optimizer, net)
        trained(optimizer, net, folder, STEPS)
        return read(folder)

    def halved(optimizer, net):
        for slots in optimizer.state.values():
            slots["exp_avg" if "exp_avg" in slots else "momentum_buffer"] *= 0.5
        return optimizer

    whole = resumed(tmp_path / "whole", lambda optimizer, net: optimizer)
    assert compare_runs(whole, resumed(tmp_path / "again", lambda optimizer, net: optimizer)).equal
    for change, said in (
        (lambda optimizer, net: make(net), "the first alone goes on with that of all"),
        (halved, "5 of 1?5 differ"),
    ):
        found = compare_runs(whole, resumed(tmp_path / said[:9].strip(), change))
        assert not found.equal and (found.finding.step, found.finding.whose) == (-1, "state")
        assert re.search(said, str(found)), str(found)


def test_a_truth_judges_rounding_alone(first, tmp_path):
    """Not other steps, parameters or numbers."""
    net = network().double()
    trained(adamw(net), net, tmp_path / "truth", STEPS, dtype=torch.float64)
    truth = read(tmp_path / "truth")
    constant = run(tmp_path / "constant", rate=lambda step: 0.02)
    assert compare_runs(constant, constant, truth).equal
    shorter = type(constant)(constant.header, constant.initial, constant.initial_state, constant.steps[:-1])
    found = compare_runs(constant, shorter, type(truth)(truth.header, truth.initial, {}, truth.steps[:-1]))
    assert found.verdict.passed and not found.equal and found.finding.whose == "steps"
    once = run(tmp_path / "once", rate=lambda step: 0.02 * (1 + 1e-5 * (step == 2)))
    found = compare_runs(constant, once, truth)
    assert found.verdict.passed and not found.equal and found.finding.whose == "numbers"


def test_a_truth_is_the_first_in_float64(tmp_path):
    """And no run in float32, or from other weights."""
    weight = np.linspace(1, 2, 4)
    one, truth = (written(tmp_path / str(dtype), {"w": weight.astype(dtype)}) for dtype in ("float32", "float64"))
    assert compare_runs(one, one, truth).equal
    with pytest.raises(Incomparable, match=r"'truth' must be in float64, but got \['float32'\]"):
        compare_runs(one, one, one)
    other = written(tmp_path / "other", {"w": weight * 1.01})
    with pytest.raises(Incomparable, match="'truth' must begin with the weights of the first, but 1 of 1 differ, "):
        compare_runs(one, one, other)
    later = [one.steps[0], *(replace(step, groups=[{"lr": 0.2}]) for step in truth.steps[1:])]
    faster = type(truth)(truth.header, truth.initial, truth.initial_state, later)
    with pytest.raises(Incomparable, match=r"of the first, but at step 1, numbers: lr is 0\.1 and 0\.2 for all"):
        compare_runs(one, one, faster)


def test_a_truth_has_the_eps_that_none_is_in_float32(tmp_path):
    """That of Adafactor is another number in float64, and where gradients are tiny, other steps."""

    def adafactor(name, dtype, **options):
        net = network().to(dtype)
        optimizer = torch.optim.Adafactor(net.parameters(), **options)
        trained(optimizer, net, tmp_path / name, 4, lambda step: scale(net, 1e-7), dtype=dtype)
        return read(tmp_path / name)

    first, truth = (adafactor(str(dtype), dtype) for dtype in (torch.float32, torch.float64))
    with pytest.raises(
        Incomparable,
        match=r"of the first, but .* eps is \(1.1920929e-07, 0.001\) and \(2.220446e-16, 0.001\) "
        r"\(what \(None, 0.001\) is in float32 and in float64\) for all",
    ):
        compare_runs(first, first, truth)
    given = adafactor("given", torch.float64, eps=(2.0**-23, 1e-3))
    assert compare_runs(first, first, given).equal
    off = abs(truth.steps[-1].parameters["0.weight"] - given.steps[-1].parameters["0.weight"]).max()
    rounding = abs(first.steps[-1].parameters["0.weight"] - given.steps[-1].parameters["0.weight"]).max()
    assert off > 1000 * rounding


def test_a_truth_excuses_no_other_rule(tmp_path):
    """What a rule tells is no rounding: state that is another after the last step, though no weight shows it."""
    net = network().double()
    trained(adamw(net), net, tmp_path / "truth", STEPS, dtype=torch.float64)
    one, _ = (run(tmp_path / name, rate=lambda step: 0.02) for name in ("one", "other"))
    file = tmp_path / "other" / f"{STEPS - 1:06}.safetensors"
    tensors, metadata = opened(file)
    tensors["state/exp_avg/0.bias"] *= 2
    save_file(tensors, file, metadata)
    found = compare_runs(one, read(tmp_path / "other"), read(tmp_path / "truth"))
    assert found.verdict.passed and not found.equal and found.finding.whose == "optimizer", str(found)


def test_averages_are_made_alike(first):
    """What they are made with is in the headers."""
    one, other = (
        type(first)({**first.header, "average": {"decay": decay}}, first.initial, first.initial_state, first.steps)
        for decay in (0.5, 0.999)
    )
    found = compare_runs(one, other)
    assert not found.equal and "numbers: of the averages, decay is 0.5 and 0.999" in str(found)
    assert compare_runs(one, first).equal and compare_runs(one, one).equal


def test_what_tells_no_state_has_lost_none(first):
    """As MindSpore's own optimizers, which went on with it all the same."""
    state = {name: {"exp_avg": np.ones(value.shape), "step": np.array(3.0)} for name, value in first.initial.items()}
    one = type(first)(first.header, first.initial, state, first.steps)
    silent = [replace(step, state={}) for step in first.steps]
    other = type(first)(first.header, first.initial, {}, silent)
    assert state_apart(one, other, {name: name for name in first.initial}) is None
    assert state_apart(one, first, {name: name for name in first.initial}).whose == "state"
