"""What is noted of the steps of a training beside its numbers, and said where two trainings part."""

import math

import numpy as np
import pytest
import torch
from helpers.recorded import network
from mindspore import Parameter, Tensor
from torch.amp import GradScaler
from torch.nn.utils import clip_grad, clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm

import ms_optim
import parity
from parity.hunt.parting import compare_runs
from parity.runs import Step, Writer, read

# As torch has them: this module is imported before anything is recorded.
BEFORE = clip_grad._group_tensors_by_device_and_dtype, GradScaler.step


class Mine(torch.optim.SGD):
    """An optimizer of no known name, whose runs are compared by their steps."""


def sgd(net):
    """One that is cheap."""
    return Mine(net.parameters(), lr=0.1)


def backward(net, scale=1.0):
    """Gradients of one batch."""
    net.zero_grad()
    (net(torch.ones(2, 4)).square().mean() * net.scale * scale).backward()


def noted(folder):
    """The notes of each step."""
    return [dict(step.notes) for step in read(folder).steps]


def test_clipping_is_noted_however_it_is_called(tmp_path):
    """Each time, with the maximum and what was found; of which parameters, if not of all."""
    net = network()
    optimizer, other = sgd(net[:2]), torch.optim.SGD([net[2].weight], lr=0.1)
    with parity.record(optimizer, tmp_path / "run", model=net):
        backward(net)
        norm = clip_grad_norm_(net.parameters(), 0.1)
        optimizer.step()
        other.step()
        backward(net)
        largest = torch.nn.utils.clip_grad_norm_(net[0].bias, max_norm=torch.tensor(0.5), norm_type=math.inf)
        clip_grad_value_((param for param in net[0].parameters()), 0.001, foreach=False)
        clip_grad_norm_(net[2].parameters(), 0.1)  # of none that this optimizer has
        total = get_total_norm([param.grad for param in net[0].parameters()])
        clip_grads_with_norm_(net[0].parameters(), 0.25, total)
        optimizer.step()
        optimizer.step()
    first, second, third = noted(tmp_path / "run")
    assert first == {"clip_grad_norm": [{"max_norm": pytest.approx(0.1), "norm": float(norm)}]}
    assert second["clip_grad_norm"] == [
        {"max_norm": 0.5, "norm": float(largest), "norm_type": math.inf, "params": ["0.bias"]},
        {"max_norm": 0.25, "norm": float(total)},
    ]
    (values,) = second["clip_grad_value"]
    assert values["clip_value"] == 0.001 < values["largest"] and third == {}


def test_what_is_watched_is_left_as_it_was(tmp_path):
    """After an error too; recordings that are open at once end in any order, and each has its own notes."""
    net = network()
    one, other = sgd(net[:2]), torch.optim.SGD([net[2].weight], lr=0.1)
    first, second = (parity.record(each, tmp_path / name, model=net) for each, name in ((one, "a"), (other, "b")))
    scaler = GradScaler("cpu", init_scale=4.0)
    with pytest.raises(ZeroDivisionError), second:
        first.__enter__()
        backward(net, scaler.scale(torch.tensor(1.0)))
        scaler.unscale_(one)
        clip_grad_norm_(net[0].parameters(), 0.1)
        scaler.step(one)
        scaler.update()
        other.step()
        raise ZeroDivisionError
    assert clip_grad._group_tensors_by_device_and_dtype is not BEFORE[0]
    clip_grad_norm_(net[0].parameters(), 0.2)
    one.step()
    first.__exit__(None, None, None)
    assert (clip_grad._group_tensors_by_device_and_dtype, GradScaler.step) == BEFORE
    assert [[*step] for step in noted(tmp_path / "a")] == [["clip_grad_norm", "loss_scale"], ["clip_grad_norm"]]
    assert noted(tmp_path / "b") == [{}]


def test_what_is_said_goes_with_the_next_step(tmp_path):
    """As it was then, in both frameworks; not with one after it, if that is left out, but if it is skipped."""
    net = network()
    optimizer, scaler, batch = sgd(net), GradScaler("cpu", init_scale=4.0), torch.zeros(2)
    with parity.record(optimizer, tmp_path / "torch", model=net, every=2) as run:
        for step, said in enumerate([{"mean": np.float32(0.5)}, {"left": "out"}, {"batch": batch}, {}]):
            backward(net, scaler.scale(torch.tensor(1.0)))
            if step == 2:
                net.scale.grad.fill_(torch.nan)
                clip_grad_value_(net.parameters(), 1.0)
            run.note(**said)
            batch += 1
            scaler.step(optimizer)
            scaler.update()
    assert noted(tmp_path / "torch") == [
        {"loss_scale": 4.0, "mean": 0.5},
        {"skipped": 1, "loss_scale": 2.0, "batch": [2.0, 2.0]},
    ]
    with pytest.raises(TypeError, match="what 'note' is given as 'net' must be a value of JSON, but got Sequential"):
        run.note(net=[net])
    with pytest.raises(ValueError, match="a note must have another name than 'skipped', which counts steps"):
        run.note(skipped=1)
    weight = Parameter(np.ones(3, np.float32), name="w")
    optimizer = ms_optim.SGD([weight], lr=0.5, loss_scale=16.0)
    with parity.record(optimizer, tmp_path / "mindspore", every=2) as run:
        for said in ({}, {"left": "out"}, {"epoch": 2, "clip": Tensor([1.0])}):
            run.note(**said)
            optimizer((Tensor(np.ones(3, np.float32)),))
    run = read(tmp_path / "mindspore")
    assert [step.notes for step in run.steps] == [{"loss_scale": 16.0}, {"loss_scale": 16.0, "epoch": 2, "clip": [1.0]}]
    assert run.steps[0].gradients["w"].tolist() == [0.0625] * 3  # those that the rule has taken


def test_a_skipped_step_is_said_where_runs_part(tmp_path):
    """Of two trainings in torch on other batches since; and where nothing differs but their number."""

    def run(name, overflows=(), steps=4):
        net, scaler = network(), GradScaler("cpu", init_scale=4.0, backoff_factor=0.5)
        optimizer = sgd(net)
        with parity.record(optimizer, tmp_path / name, model=net):
            for step in range(steps):
                net.zero_grad()
                scaler.scale(net(torch.full((2, 4), 1.0 + step)).square().mean() * net.scale).backward()
                if step in overflows:
                    net.scale.grad.fill_(torch.inf)
                scaler.step(optimizer)
                scaler.update()
        return read(tmp_path / name)

    first = run("first")
    found = compare_runs(first, run("middle", (2,)))
    assert (found.finding.step, found.finding.whose) == (2, "gradient")
    assert found.noted == ("the second skipped 1 step before step 2", "loss_scale is 4 and 2")
    found = compare_runs(run("last", (2, 3)), first)
    assert str(found) == (
        "first part at step 2, steps: the first has 2 steps and the second 4\n"
        "noted: the first skipped 2 steps after its last"
    )
    assert not found.equal


WEIGHT = np.linspace(1, 2, 4, dtype=np.float32)


def written(folder, notes, factors=(1.0, 1.0, 1.0), **header):
    """A run by NumPy alone, with the notes of each step, and gradients times a factor."""
    writer = Writer(folder, "Mine", [{"params": ["w"], "lr": 0.1}], {"w": WEIGHT}, **header)
    weight = WEIGHT
    for said, factor in zip(notes, factors):
        weight = weight - np.float32(0.1 * factor)
        writer.add(Step([{"lr": 0.1}], {"w": np.full_like(WEIGHT, factor)}, {"w": weight}, {}, notes=said))
    return read(folder)


CLIP = {"max_norm": 1.0, "norm": 5.25}
# The notes of a step in both runs, and what is said.
SAID = {
    "the same": (
        {"clip_grad_norm": [CLIP], "epoch": 1},
        {"epoch": 1, "clip_grad_norm": [{**CLIP, "norm": 5.2501}]},
        (),
    ),
    "a loss scale": ({"loss_scale": 65536.0}, {}, ("loss_scale is 65536 and 1",)),
    "no loss scale": ({"loss_scale": 1.0}, {}, ()),
    "clipped in one": (
        {"clip_grad_norm": [CLIP]},
        {},
        ("gradients were clipped to a norm of 1 (theirs was 5.25) in the first, and not in the second",),
    ),
    "clipped otherwise": (
        {"clip_grad_norm": [{**CLIP, "norm_type": math.inf}]},
        {"clip_grad_norm": [{**CLIP, "params": ["v"]}] * 5},
        (
            "gradients were clipped to a norm of 1 of order inf (theirs was 5.25) in the first, and "
            + ", then ".join(["to a norm of 1 (theirs was 5.25), of w"] * 3)
            + " and 2 times more in the second",
        ),
    ),
    "values": (
        {"clip_grad_value": [{"clip_value": 0.5, "largest": 3.0}]},
        {"clip_grad_value": [{"clip_value": 0.5, "largest": 2.0}]},
        (
            "gradients were clipped to values of 0.5 (the largest was 3) in the first, and to values of 0.5 (the "
            "largest was 2) in the second",
        ),
    ),
    "what was said": (
        {"epoch": 1, "seed": 3, "clip_grad_norm": 1.0},
        {"epoch": 2, "file": "b", "clip_grad_norm": 2.0},
        (
            "epoch is 1 and 2",
            "seed is 3 in the first alone",
            "clip_grad_norm is 1 and 2",
            "file is b in the second alone",
        ),
    ),
    "skipped": (
        {"skipped": 2},
        {"skipped": 3},
        ("the first skipped 2 steps before step 20", "the second skipped 3 steps before step 20"),
    ),
}


@pytest.mark.parametrize("what", SAID)
def test_notes_that_differ_are_said(what, tmp_path):
    """Of the step at which runs part, beside whose it is, and only there; skipped steps of those before it too."""
    one, other, said = SAID[what]
    first = written(tmp_path / "first", [{"epoch": 7}, {"skipped": 1}, one], every=10)
    second = written(tmp_path / "second", [{"epoch": 8}, {"skipped": 1}, other], (1.0, 1.0, 3.0), every=10)
    second = type(second)(second.header, {"v": second.initial["w"]}, {}, [renamed(step) for step in second.steps])
    second.header["groups"][0]["params"] = ["v"]
    found = compare_runs(first, second, names={"v": "w"})
    assert (found.finding.step, found.finding.whose) == (20, "gradient"), str(found)
    assert found.noted == said
    assert ("noted: " in str(found)) == bool(said)


def renamed(step):
    """A step whose parameter has another name."""
    named = {kind: {"v": getattr(step, kind)["w"]} for kind in ("gradients", "parameters")}
    return type(step)(**{**vars(step), **named})


def test_notes_part_no_runs(tmp_path):
    """What is equal is equal, whatever was noted of it."""
    found = compare_runs(written(tmp_path / "a", [{"epoch": 1}] * 3), written(tmp_path / "b", [{}] * 3))
    assert found.equal and found.noted == () and "noted" not in str(found)
