"""Runs of one's own: recorded in torch, in files, and replayed where torch is not installed."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.recorded import STEPS, network, opened, trained
from mindspore import nn
from safetensors.numpy import load_file, save_file

import ms_optim
import parity
from parity.__main__ import main
from parity.cases import CASES
from parity.cases.problems import synthetic
from parity.hunt.diagnosis import diagnose
from parity.hunt.parting import Incomparable, compare_runs
from parity.runs import Step, Writer, read
from parity.runs.reading import Unreadable
from parity.runs.replay import Unjudged, named, replay

ROOT = Path(__file__).parents[2]


def judged(folder, **kwargs):
    """The verdict of each leg."""
    return {leg: verdict for leg, verdict, _ in replay(read(folder), **kwargs)}


def groups(net, **options):
    """Two, of which one has arguments of its own."""
    return [{"params": net[0].parameters(), **options}, {"params": [*net[2].parameters(), net.scale]}]


MADE = {
    "SGD": lambda net: torch.optim.SGD(groups(net, momentum=0.0), lr=0.1, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda net: torch.optim.AdamW(groups(net, betas=(0.5, 0.9)), lr=0.02, amsgrad=True, weight_decay=0.1),
    "NAdam": lambda net: torch.optim.NAdam(groups(net, momentum_decay=0.1), lr=0.02),
    "Adafactor": lambda net: torch.optim.Adafactor(groups(net, d=2.0), lr=0.02),
    "Rprop": lambda net: torch.optim.Rprop(groups(net, etas=(0.3, 1.5)), lr=0.02),
}


@pytest.mark.parametrize("name", MADE)
def test_a_run_replays_on_every_path(name, tmp_path):
    """With groups; each leg is as near to float64 as torch is, in the parameters and all of the state."""
    net = network()
    run = trained(MADE[name](net), net, tmp_path / "run")
    assert run.steps == STEPS and run.seconds > 0
    recorded = read(tmp_path / "run")
    assert recorded.header["optimizer"] == name and len(recorded.steps) == STEPS
    assert all(np.isfinite(step.loss) for step in recorded.steps)
    verdicts = judged(tmp_path / "run", modes=("graph", "pynative") if name == "AdamW" else ("graph",))
    assert all(verdict.passed for verdict in verdicts.values()), {leg: str(found) for leg, found in verdicts.items()}
    fast = [] if name == "Adafactor" else ["native", "direct"]
    assert [leg.split()[1] for leg in verdicts if leg.startswith("graph")] == ["composed", *fast]
    kinds = {kind for kind, slots in recorded.steps[0].state.items() for kind in slots}
    assert {kind for verdict in verdicts.values() for kind in verdict.scores} >= kinds | {"parameter"}


def test_all_that_a_loop_may_do(tmp_path):
    """A schedule, clipping, absent gradients, weights and numbers that are changed between steps, a late start."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=torch.tensor(0.05), weight_decay=0.2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    trained(optimizer, net, tmp_path / "before", 2)

    def between(step):
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        schedule.step()
        if step == 1:
            net.scale.grad = None
        if step == 2:
            optimizer.param_groups[0]["betas"] = (0.8, 0.99)
        if step == 3:
            net[0].weight.data.clamp_(-0.1, 0.1)

    trained(optimizer, net, tmp_path / "run", between=between)
    recorded = read(tmp_path / "run")
    assert {*recorded.initial_state} == {name for name, _ in net.named_parameters()}
    assert "scale" not in recorded.steps[1].gradients and [*recorded.steps[3].before] == ["0.weight"]
    assert len({step.groups[0]["lr"] for step in recorded.steps}) > 3
    assert recorded.steps[2].groups[0]["betas"] == [0.8, 0.99]
    verdicts = judged(tmp_path / "run")
    assert all(verdict.passed for verdict in verdicts.values()), {leg: str(found) for leg, found in verdicts.items()}


def test_what_is_frozen_has_no_state(tmp_path):
    """In torch, and stands still in both; what is unfrozen late has none before."""
    net = network()
    net[0].bias.requires_grad_(False)
    net.scale.requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.02)
    trained(optimizer, net, tmp_path / "run", between=lambda step: net.scale.requires_grad_(step > 1))
    recorded = read(tmp_path / "run")
    assert "0.bias" not in recorded.steps[-1].state and "scale" in recorded.steps[-1].state
    verdicts = judged(tmp_path / "run")
    assert all(verdict.passed for verdict in verdicts.values()), {leg: str(found) for leg, found in verdicts.items()}


def test_state_that_is_missing_parts(tmp_path):
    """What torch keeps and an optimizer with a state does not is no equal state."""
    net = network()
    trained(torch.optim.AdamW(net.parameters(), lr=0.02, amsgrad=True), net, tmp_path / "run")
    (verdict,) = judged(tmp_path / "run", build=lambda params: ms_optim.AdamW(params, lr=0.02)).values()
    assert "max_exp_avg_sq of '0.weight' is missing" in verdict.problems


def test_sparse_gradients(tmp_path):
    """Rows and their values."""
    torch.manual_seed(0)
    table = torch.nn.Embedding(9, 3, sparse=True)
    optimizer = torch.optim.SparseAdam(table.parameters(), lr=0.1)
    with parity.record(optimizer, tmp_path / "run", model=table):
        for step in range(3):
            optimizer.zero_grad()
            table(torch.tensor([1, step, 1, 8])).square().sum().backward()
            optimizer.step()
    rows, values = read(tmp_path / "run").steps[2].gradients["weight"]
    assert rows.tolist() == [1, 2, 8] and values.shape == (3, 3)
    assert all(verdict.passed for verdict in judged(tmp_path / "run").values())


@pytest.mark.parametrize("closure", [False, True])
def test_gradients_are_those_that_the_rule_saw(closure, tmp_path):
    """Some forms of a step alter them, as SGD for several tensors at once; a closure computes them in the step."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, foreach=True)
    seen = []

    def evaluated():
        optimizer.zero_grad()
        loss = (net(torch.ones(8, 4)) * net.scale).square().mean()
        loss.backward()
        seen.append(net[0].weight.grad.numpy().copy())
        return loss

    with parity.record(optimizer, tmp_path / "run", model=net):
        for step in range(3):
            if closure:
                optimizer.step(evaluated) if step else optimizer.step(closure=evaluated)
            else:
                evaluated()
                optimizer.step()
    assert not np.array_equal(net[0].weight.grad.numpy(), seen[-1])  # altered
    for step, expected in zip(read(tmp_path / "run").steps, seen, strict=True):
        np.testing.assert_array_equal(step.gradients["0.weight"], expected)
    assert all(verdict.passed for verdict in judged(tmp_path / "run").values())


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_skips_is_none(fused, tmp_path):
    """Nothing has moved, so that it is counted alone; other gradients are recorded as they are unscaled."""
    net = network()
    optimizer, scaler = torch.optim.AdamW(net.parameters(), fused=fused), torch.amp.GradScaler("cpu", init_scale=256.0)
    with parity.record(optimizer, tmp_path / "run", model=net) as run:
        for step in range(5):
            optimizer.zero_grad()
            scaler.scale(net(torch.ones(2, 4)).square().mean() * net.scale).backward()
            if step in (1, 3, 4):
                net[0].bias.grad[0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
    assert run.steps == 2
    recorded = read(tmp_path / "run")
    assert [step.notes for step in recorded.steps] == [{"loss_scale": 256.0}, {"skipped": 1, "loss_scale": 128.0}]
    assert recorded.header["after"] == {"skipped": 2}
    assert all(verdict.passed for verdict in judged(tmp_path / "run").values())


def test_what_parts_is_named(tmp_path):
    """Another gradient in one step: step, tensor and element; other numbers in all of them."""
    net = network()
    trained(torch.optim.AdamW(net.parameters(), lr=0.02), net, tmp_path / "run")
    file = tmp_path / "run" / "000003.safetensors"
    tensors, metadata = opened(file)
    tensors["gradient/2.bias"][1] *= 1.5
    save_file(tensors, file, metadata)
    for verdict in judged(tmp_path / "run").values():
        assert not verdict.passed
        found = verdict.divergence
        assert (found.step, found.parameter, found.element) == (3, "2.bias", (1,))
    other = judged(tmp_path / "run", build=lambda params: ms_optim.Adam(params, lr=0.02))
    assert {leg: verdict.divergence.step for leg, verdict in other.items()} == {"graph": 0}
    stock = judged(tmp_path / "run", build=lambda params: nn.AdamWeightDecay(params, 0.02, weight_decay=0.01))
    assert not stock["graph"].passed and [*stock["graph"].scores] == ["parameter"]


def test_a_float64_run_is_left_as_it_is(tmp_path):
    """Its twin has tensors of its own."""
    lasts = []
    for folder in ("run", None):
        net = network().double()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        if folder:
            trained(optimizer, net, tmp_path / folder, 3, dtype=torch.float64)
        else:
            rng = torch.Generator().manual_seed(1)
            for _ in range(3):
                optimizer.zero_grad()
                (net(torch.randn(8, 4, generator=rng).double()) * net.scale).square().mean().backward()
                optimizer.step()
        lasts.append(net[0].weight.detach().clone())
    assert torch.equal(*lasts)
    last = read(tmp_path / "run").steps[-1]
    assert all((last.double_parameters[name] == value).all() for name, value in last.parameters.items())


def test_names_come_from_the_groups_too(tmp_path):
    """And `first` bounds what is recorded."""
    net = network()
    optimizer = torch.optim.SGD(net.named_parameters(), lr=0.1)
    run = trained(optimizer, net, tmp_path / "named", first=2)
    assert run.steps == 2 and len(read(tmp_path / "named").steps) == 2
    with parity.record(optimizer, tmp_path / "other"):
        optimizer.step()
    assert [*read(tmp_path / "other").initial] == [name for name, _ in net.named_parameters()]


def test_what_cannot_be_recorded(tmp_path):
    """Is named, before the first step or in it."""
    net = network()
    with pytest.raises(
        TypeError, match=r"For 'record', 'optimizer' must be a torch\.optim\.Optimizer or a .*, but got int"
    ):
        parity.record(1, tmp_path / "run")
    with pytest.raises(TypeError, match="must evaluate a closure once in a step, but got LBFGS"):
        parity.record(torch.optim.LBFGS(net.parameters()), tmp_path / "run", model=net)
    plain = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="'model' must have a name for each parameter of the optimizer, but got a par"):
        parity.record(plain, tmp_path / "run")
    with pytest.raises(ValueError, match="'first' must be an int of at least 1 or None, but got 0"):
        parity.record(plain, tmp_path / "run", model=net, first=0)
    with pytest.raises(TypeError, match=r"'model' must be a torch.nn.Module or None, but got str"):
        parity.record(plain, tmp_path / "run", model="net")
    with pytest.raises(TypeError, match=r"'options' must be among \['every', 'elements', 'seed'\], but got \['evry'\]"):
        parity.record(plain, tmp_path / "run", model=net, evry=2)
    with pytest.raises(TypeError, match="'folder' must be a str or a Path, but got 5"):
        parity.record(plain, 5, model=net)
    assert not (tmp_path / "run").exists()
    run = trained(plain, net, tmp_path / "run", 1)
    for loss, got in (("1.5", "'1.5'"), (None, "None"), (torch.ones(2), r"shape \(2,\)")):
        with pytest.raises(
            TypeError, match=f"what 'loss' is given must be a number or have one element, but got {got}"
        ):
            run.loss(loss)
    with pytest.raises(FileExistsError, match=r"For 'Writer', 'folder' must not hold a run, but '.*' has .*'run.json'"):
        parity.record(plain, tmp_path / "run", model=net)
    with (
        pytest.raises(ValueError, match="'optimizer' must keep its groups of parameters, but they are others now"),
        parity.record(plain, tmp_path / "grown", model=net),
    ):
        plain.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
        plain.step()
    plain.step()  # the hooks are gone


def written(folder, optimizer="SGD", weight=None, **kwargs):
    """A run of two steps by NumPy alone."""
    weight = np.ones(2, np.float32) if weight is None else weight
    writer = Writer(folder, optimizer, [{"params": ["w"], "lr": 0.5}], {"w": weight}, **kwargs)
    for factor in (0.5, 0.25):
        value = (weight * factor).astype(weight.dtype)
        gradients = {"w": np.asarray(weight * 2 * factor).astype(weight.dtype)}
        writer.add(Step([{"lr": 0.5}], gradients, {"w": value}, {}, {"w": value.astype(np.float64)}))
    return folder


def test_what_numpy_writes_is_replayed(tmp_path):
    """Whatever framework the numbers are of, in either format."""
    folder = written(tmp_path / "run")
    assert all(verdict.passed for verdict in judged(folder).values())
    for file in folder.glob("*.safetensors"):
        tensors, metadata = opened(file)
        said = {f"metadata/{key}": np.array(value) for key, value in metadata.items()}
        np.savez(file.with_suffix(".npz"), **tensors, **said)
        file.unlink()
    assert all(verdict.passed for verdict in judged(folder).values())


def test_bfloat16_is_kept_by_its_bits(tmp_path):
    """And read as float32."""
    weight = np.array([1.0, -0.0078125, 3.0e38], np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    folder = written(tmp_path / "run", weight=weight.view(np.float32), bfloat16=["w"])
    raw = load_file(folder / "initial.safetensors")
    assert raw["parameter/w"].dtype == np.uint16
    run = read(folder)
    np.testing.assert_array_equal(run.initial["w"].view(np.uint32), weight)
    state = {"w": {"step": np.float32(257), "exp_avg": np.ones(3, np.float32)}}
    Writer(tmp_path / "late", "AdamW", [{"params": ["w"]}], run.initial, state, ["w"])
    kept = read(tmp_path / "late").initial_state["w"]
    assert kept["step"] == 257 and kept["exp_avg"].dtype == np.float32  # which bfloat16 does not hold, and does
    assert run.header["dtypes"] == {"w": "bfloat16"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_half_precision_is_replayed(name, dtype, tmp_path):
    """Judged by what torch rounds to the same dtype, and by float64."""
    net = network().to(dtype)
    optimizer = MADE[name](net)
    for group in optimizer.param_groups if name == "AdamW" else ():
        group["eps"] = 1e-2  # what float16 has beside a second moment that it rounds to zero
    trained(optimizer, net, tmp_path / "run", dtype=dtype)
    verdicts = judged(tmp_path / "run")
    assert all(verdict.passed for verdict in verdicts.values()), {leg: str(found) for leg, found in verdicts.items()}
    composed = ["graph composed"] if dtype == torch.float16 else []
    assert [*verdicts] == [*composed, "graph native", "graph direct"]
    wrong = {
        "SGD": lambda params: ms_optim.SGD(params, 0.11, 0.9),
        "AdamW": lambda params: ms_optim.Adam(params, 0.02, eps=1e-2),
    }
    assert not any(verdict.passed for verdict in judged(tmp_path / "run", build=wrong[name]).values())
    run = read(tmp_path / "run")
    with pytest.raises(Unjudged, match="the parameters of 'run' must be float32 or float64, but not so"):
        diagnose(run)
    with pytest.raises(Incomparable, match="the parameters must be float32 or float64, but not so"):
        compare_runs(run, run)


def test_dtypes_that_are_mixed_are_not_judged(tmp_path):
    """A limit in ulps would be that of one of them."""
    net = network()
    net[0].to(torch.float16)
    with parity.record(torch.optim.SGD(net.parameters(), lr=0.1), tmp_path / "run", model=net):
        pass
    with pytest.raises(Unjudged, match=r"must be of one of .*, but got \['float16', 'float32'\]"):
        judged(tmp_path / "run")


def test_folders_of_arrays(tmp_path):
    """A file for each array, as np.save writes them."""
    folder = written(tmp_path / "run")
    for file in folder.glob("*.safetensors"):
        tensors, metadata = opened(file)
        for key, value in tensors.items():
            (file.with_suffix("") / key).parent.mkdir(parents=True, exist_ok=True)
            np.save(file.with_suffix("") / f"{key}.npy", value)
        said = {key: json.loads(value) for key, value in metadata.items()}
        (file.with_suffix("") / "metadata.json").write_text(json.dumps(said))
        file.unlink()
    assert read(folder).steps[0].groups == [{"lr": 0.5}]
    assert all(verdict.passed for verdict in judged(folder).values())


def test_some_elements_of_large_tensors(tmp_path):
    """The same in every run of a seed; what is elementwise is replayed on them, and nothing else is."""
    for folder, options in {"one": {}, "other": {"seed": 1}, "again": {}}.items():
        net = network()
        trained(MADE["AdamW"](net), net, tmp_path / folder, elements=7, **options)
    one, other, again = (read(tmp_path / folder) for folder in ("one", "other", "again"))
    assert one.header["sample"] == {"elements": 7, "seed": 0, "shapes": {**one.header["sample"]["shapes"]}}
    assert one.header["sample"]["shapes"]["0.weight"] == [6, 4]
    shapes = {name: value.shape for name, value in one.steps[0].parameters.items()}
    assert shapes == {"0.weight": (7,), "0.bias": (6,), "2.weight": (7,), "2.bias": (3,), "scale": ()}
    assert one.steps[0].state["2.weight"]["exp_avg"].shape == one.steps[0].gradients["2.weight"].shape == (7,)
    assert np.isin(one.initial["0.weight"], network()[0].weight.detach().numpy()).all()
    assert compare_runs(one, again).equal
    with pytest.raises(Incomparable, match="must say alike which elements are there, as 'sample', but got"):
        compare_runs(one, other)
    assert all(verdict.passed for verdict in judged(tmp_path / "one").values())
    for name in ("Adafactor", "Muon"):  # of which one takes no vectors, which is not what is wrong
        net = network()
        params = net.parameters() if name == "Adafactor" else [net[0].weight, net[2].weight]
        trained(getattr(torch.optim, name)(params), net, tmp_path / name, elements=7)
        for judge in (replay, lambda run: [diagnose(run)]):
            match = f"^For 'parity', 'run' must have all elements, because a step of {name} looks at whole tensors, but"
            with pytest.raises(Unjudged, match=match):
                list(judge(read(tmp_path / name)))


def test_some_of_many_steps(tmp_path):
    """Two runs are compared by them, with the weights that each begins with; a replay needs them all."""
    for folder, factor in {"one": 1.0, "same": 1.0, "other": 3.0}.items():
        net = network()

        def between(step, net=net, factor=factor):
            if step == 4:
                net[0].weight.grad *= factor

        run = trained(MADE["SGD"](net), net, tmp_path / folder, between=between, every=2)
        assert run.steps == 3
    one, same, other = (read(tmp_path / folder) for folder in ("one", "same", "other"))
    assert sorted(path.stem for path in (tmp_path / "one").glob("0*")) == ["000000", "000002", "000004"]
    assert {*one.steps[1].before} == {*one.initial} and not one.steps[0].before
    assert compare_runs(one, same).equal
    found = compare_runs(one, other).finding
    assert (found.step, found.whose) == (4, "gradient") and "'0.weight'" in found.text
    for judge in (replay, lambda run: [diagnose(run)]):
        with pytest.raises(Unjudged, match=r"^For 'parity', 'run' must have each step, but got one of 2"):
            list(judge(one))


@pytest.mark.parametrize("options", [{"every": 0}, {"elements": 0}, {"elements": True}, {"every": 1.5}])
def test_what_is_left_out_is_a_whole_number(options, tmp_path):
    """Of 1 at least."""
    (name,), net = options, network()
    with pytest.raises(ValueError, match=rf"'{name}' must be an int in \[1, inf\)"):
        parity.record(torch.optim.SGD(net.parameters(), lr=0.1), tmp_path / "run", net, **options)


def test_what_cannot_be_read(tmp_path):
    """A folder without a run, a file, another format, a damaged file and a step that is missing are named."""
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"'folder' must hold a run with a run.json, but got"):
            read(place)
    folder = written(tmp_path / "run")
    (folder / ".000002.safetensors.1").write_bytes(b"a step that was not finished")
    assert len(read(folder).steps) == 2
    header = (folder / "run.json").read_text()
    for text, message in [
        ("{", "must be JSON"),
        ("[]", "must be 'parity run 1', but got 'list'"),
        (json.dumps({"format": "other"}), "must be 'parity run 1', but got 'other'"),
        (json.dumps({"format": "parity run 1", "groups": [], "dtypes": {}}), r"no \['optimizer'\]"),
    ]:
        (folder / "run.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            read(folder)
    for key, value, message in [
        ("optimizer", 3, "'optimizer' in '.*run.json' must be the name of a class, but got 3"),
        ("dtypes", [], "'dtypes' in '.*' must be a dtype for each parameter, but got "),
        (
            "dtypes",
            {"w": "int3"},
            "'dtypes' in .* must be those of the parameters, .* got 'int3' for 'w', which is fl",
        ),
        ("groups", {}, "'groups' in .* must be a list of objects with a list 'params' of names, but got {}"),
        (
            "groups",
            [{"params": "w"}],
            "'groups' in .* must be a list of objects with a list 'params' of names, but got ",
        ),
        (
            "groups",
            [{"params": [["w"]]}],
            "'groups' in .* must be a list of objects with a list 'params' of names, but",
        ),
        ("groups", [{"params": ["w", "w"]}], r"'groups' in .* must be of each of \['w'\] once"),
        ("groups", [{"params": []}], r"'groups' in .* must be of each of \['w'\] once"),
        ("groups", [{"params": ["x"]}], r"'groups' in .* must be of each of \['w'\] once"),
        ("every", 0, r"'every' in .* must be an integer in \[1, inf\), but got 0"),
        ("every", "x", r"'every' in .* must be an integer in \[1, inf\), but got 'x'"),
        ("average", 3, "'average' in .* must be an object, but got 3"),
        ("after", 3, "'after' in .* must be an object, but got 3"),
        *(
            ("after", {"skipped": skipped}, rf"'after\.skipped' in .* must be a number of steps, but got {skipped!r}")
            for skipped in ("two", -1, 1.5, True, None)
        ),
        (
            "sample",
            {"elements": 5, "seed": 0, "shapes": {"w": 5}},
            "'sample' in .* must be 'elements', 'seed' and 'shapes', but got",
        ),
        ("sample", {"elements": 5}, "'sample' in .* must be 'elements', 'seed' and 'shapes', but got {'elements': 5}"),
    ]:
        (folder / "run.json").write_text(json.dumps({**json.loads(header), key: value}))
        with pytest.raises(ValueError, match=message):
            read(folder)
        assert main(["diagnose", str(folder)]) == 2
    for said in ({"groups": [{"params": ["w"], "lr": "x"}]}, {"average": {"decoy": 1}}):
        (folder / "run.json").write_text(json.dumps({**json.loads(header), **said}))
        with pytest.raises(Unjudged, match=r"For 'parity', 'run' must have numbers that SGD takes, but: .*(lr|decoy)"):
            list(replay(read(folder)))
    (folder / "run.json").write_text(json.dumps({**json.loads(header), "groups": [{"params": ["w"]}, {"params": []}]}))
    with pytest.raises(ValueError, match=r"000001.safetensors' must have the numbers of 2 groups, but got"):
        read(folder).steps[1]
    (folder / "run.json").write_text(header)
    step = folder / "000001.safetensors"
    step.write_bytes(step.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"000001.safetensors' must be a whole file of a run, but got"):
        read(folder).steps[1]
    save_file({"weights/w": np.ones(2)}, step)
    with pytest.raises(ValueError, match=r"must begin with \['parameter', .*but got 'weights/w'"):
        read(folder).steps[1]
    (folder / "000000.safetensors").unlink()
    with pytest.raises(ValueError, match=r"must have each step from 0 once, but got \[1\]"):
        read(folder)


def test_steps_that_cannot_be_read(tmp_path):
    """What is wrong with one is named, and nothing is judged by it."""
    folder = written(tmp_path / "run")
    step = folder / "000001.safetensors"
    whole, (tensors, metadata) = step.read_bytes(), opened(step)
    for change, message in [
        ({"metadata": {"groups": "[]"}}, r"must have the numbers of 1 groups, but got \[\]"),
        ({"metadata": {"loss": '"1.0"'}}, "the loss in '.*' must be a number, but got '1.0'"),
        ({"gradient/w": np.ones(3, np.float32)}, r"gradient of 'w' in '.*' must be of shape \(2,\), but is of \(3,\)"),
        ({"before/w": np.ones((2, 1), np.float32)}, r"before of 'w' in '.*' must be of shape \(2,\)"),
        ({"gradient/w": np.ones(2, np.int32)}, "gradient of 'w' in '.*' must be floats, but is int32"),
        ({"metadata": {"notes": '{"skipped": -1}'}}, "'skipped' in '.*' must be a number of steps, but got -1"),
        ({"gradient/x": np.ones(2, np.float32)}, r"must be of \['w'\], but got gradient of 'x'"),
        ({"parameter/w": None}, r"must have each parameter, but got no \['w'\]"),
        ({"metadata": {"groups": "5"}}, "must have the numbers of 1 groups, but got 5"),
        ({"metadata": {"notes": "[1]"}}, r"the notes in '.*' must be an object, but got \[1\]"),
        ({"metadata": {"bfloat16": "5"}}, "'bfloat16' in '.*' must be keys of tensors of uint16, but got 5"),
        (
            {"metadata": {"bfloat16": '["parameter/w"]'}},
            "'bfloat16' in '.*' must be keys of tensors of uint16, but got",
        ),
        ({"state/momentum_buffer/x": np.ones(2)}, r"must be of \['w'\], but got state of 'x'"),
        (
            {"rows/w": np.array([0, 7])},
            r"rows of 'w' in '.*' must be places .* of shape \(2,\), but got \[0, 7\] for \(2,",
        ),
        ({"rows/w": np.ones(2)}, r"rows of 'w' in '.*' must be places"),
        ({"rows/x": np.array([0])}, "rows of 'x' in '.*' must be places .* for None"),
    ]:
        said = {**metadata, **change.pop("metadata", {})}
        kept = {key: value for key, value in {**tensors, **change}.items() if value is not None}
        save_file(kept, step, said)
        with pytest.raises(Unreadable, match=message):
            read(folder).steps[1]
        for verb in (["diagnose", str(folder)], ["replay", str(folder)], ["compare", str(folder), str(folder)]):
            assert main(verb) == 2
    step.write_bytes(whole[:-3])
    assert main(["replay", str(folder)]) == 2
    step.unlink()
    packed = {**tensors, **{f"metadata/{key}": value for key, value in metadata.items()}}
    np.savez(folder / "000001.npz", **packed)
    content = (folder / "000001.npz").read_bytes()
    assert read(folder).steps[1].parameters.keys() == {"w"}
    (folder / "000001.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(Unreadable, match="must be a whole file of a run, but got"):
        read(folder).steps[1]
    np.savez(folder / "000001.npz", **{**packed, "parameter/w": np.array(["a", "b"])})
    with pytest.raises(Unreadable, match=r"'parameter/w' in '.*' must be of numbers, but is of <U1"):
        read(folder).steps[1]
    (folder / "000001.npz").unlink()
    (folder / "000001").mkdir()
    (folder / "000001" / "metadata.json").write_text("[1]")
    with pytest.raises(Unreadable, match=r"must be a whole file of a run, but got metadata that is \[1\]"):
        read(folder).steps[1]
    (folder / "000001" / "metadata.json").unlink()
    (folder / "000001").rmdir()
    save_file(tensors, step, {**metadata, "groups": '[{"lr": null}]'})
    with pytest.raises(
        Unjudged, match="the numbers of step 1 must be such as ours takes, but: For 'SGD', 'lr' must be"
    ):
        list(replay(read(folder)))


def test_a_twin_may_drift(tmp_path):
    """A little at each step, which is rounding; but it takes the steps."""
    weight = np.ones(2, np.float32)
    writer = Writer(tmp_path / "run", "SGD", [{"params": ["w"], "lr": 0.5}], {"w": weight})
    for step in range(1, 20):
        value = np.full(2, 1 + step * 2.0**-10)
        drifted = {"w": value + step * 2.0**-15}
        writer.add(Step([{"lr": 0.5}], {"w": -weight / 2**9}, {"w": value.astype(np.float32)}, {}, drifted))
    assert len([*replay(read(tmp_path / "run"))]) == 3


@pytest.mark.parametrize(("name", "options"), [("SGD", {"momentum": 0.9}), ("AdamW", {}), ("AdamW", {"lr": 1e-7})])
def test_a_twin_that_was_left_behind_judges_nothing(name, options, tmp_path):
    """State that was cleared between steps is not its own: by what it does another momentum would be as good."""
    net = network()
    optimizer = getattr(torch.optim, name)(net.parameters(), **{"lr": 0.02, **options})
    trained(optimizer, net, tmp_path / "run", 12, lambda step: optimizer.state.clear() if step % 5 == 0 else None)
    with pytest.raises(Unjudged, match="twin of 'run' must take the steps that were recorded, but step 5 takes "):
        list(replay(read(tmp_path / "run")))
    assert main(["replay", str(tmp_path / "run")]) == 2


def test_an_eps_that_goes_by_the_dtype_is_that_of_the_parameters(tmp_path):
    """In the float64 twin too, or its steps are others where gradients are tiny."""
    net = network()
    with torch.no_grad():
        net.scale.copy_(1e-4)
    trained(torch.optim.Adafactor(net.parameters(), lr=0.02), net, tmp_path / "run")
    assert read(tmp_path / "run").header["groups"][0]["eps"] == [None, 1e-3]
    verdicts = judged(tmp_path / "run")
    assert all(verdict.passed for verdict in verdicts.values()), {leg: str(found) for leg, found in verdicts.items()}
    assert diagnose(read(tmp_path / "run")).is_right


def test_numbers_in_tensors_are_float64_in_the_twin(tmp_path):
    """Of float32 tensors torch computes the numbers of a step in float32, which is no truth."""
    ends = []
    for kind in (float, torch.tensor):
        net = network()
        made = torch.optim.Adamax(net.parameters(), lr=kind(float(np.float32(0.1))), foreach=False)
        trained(made, net, tmp_path / kind.__name__, 1)
        run = read(tmp_path / kind.__name__)
        ends.append(run.steps[0].double_parameters["scale"] - np.float64(run.initial["scale"]))
    assert ends[0] == pytest.approx(ends[1], rel=1e-14)


class Around(torch.optim.SGD):
    """One that steps by another, of its own."""

    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.base = torch.optim.SGD(self.param_groups, lr)

    def step(self, closure=None):
        """Let the other step."""
        self.base.step()


class Counting(torch.optim.SGD):
    """One whose rate falls with what it has seen."""

    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.seen = []

    def step(self, closure=None):
        """Step, and remember it."""
        self.seen.append(1)
        self.param_groups[0]["lr"] = 0.1 / len(self.seen)
        super().step()


class Noisy(torch.optim.SGD):
    """One that draws noise."""

    @torch.no_grad()
    def step(self, closure=None):
        """Step, and a little elsewhere."""
        super().step()
        for param in self.param_groups[0]["params"]:
            param.add_(1e-2 * torch.randn_like(param))


class Asking(torch.optim.SGD):
    """One that evaluates a closure, which its twin has not."""

    def step(self, closure=None):
        """Evaluate, and step."""
        closure()
        super().step()


@pytest.mark.parametrize("cls", [Around, Counting, Noisy, Asking])
@pytest.mark.filterwarnings("ignore:For 'record', the float64 twin")
def test_a_training_does_not_notice_its_twin(cls, tmp_path):
    """Whatever its optimizer holds, draws or asks for."""
    ends = []
    for folder in (tmp_path / "run", None):
        net = network()
        optimizer = cls(net.parameters(), 0.1)

        def closure(net=net):
            net.zero_grad()
            (net(torch.ones(2, 4)) * net.scale).square().mean().backward()

        with parity.record(optimizer, folder, model=net) if folder else contextlib.nullcontext():
            for _ in range(3):
                closure()
                optimizer.step(closure)
        ends.append([param.detach().clone() for param in net.parameters()])
    assert all(map(torch.equal, *ends))
    assert len(read(tmp_path / "run").steps) == 3


def test_a_twin_that_fails_is_warned_of(tmp_path):
    """Once: the run has no truth, but all else."""
    net = network()
    optimizer = Asking(net.parameters(), 0.1)
    with (
        parity.record(optimizer, tmp_path / "run", model=net),
        pytest.warns(UserWarning, match="twin of Asking") as told,
    ):
        for _ in range(2):
            optimizer.step(lambda: (net(torch.ones(2, 4)) * net.scale).square().mean().backward())
    assert len(told) == 1
    assert compare_runs(read(tmp_path / "run"), read(tmp_path / "run")).equal
    with pytest.raises(Unjudged, match="must have the steps of a float64 twin, but got none"):
        list(replay(read(tmp_path / "run"), build=lambda params: ms_optim.SGD(params, lr=0.1)))


def test_state_that_is_no_number_is_left_out(tmp_path):
    """And named, once."""

    class Telling(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            super().step()
            for param in self.param_groups[0]["params"]:
                self.state[param]["told"] = {"of": 1}

    net = network()
    with pytest.warns(UserWarning, match="but 'told', which is left out, is dict") as told:
        trained(Telling(net.parameters(), lr=0.1, momentum=0.9), net, tmp_path / "run")
    assert len(told) == 1
    assert {*read(tmp_path / "run").steps[-1].state["scale"]} == {"momentum_buffer"}


def test_a_group_may_be_empty(tmp_path):
    """As that of the biases of a network without any."""
    net = network()
    given = [{"params": [*net.parameters()]}, {"params": [], "weight_decay": 0.0}]
    trained(torch.optim.AdamW(given, lr=0.02), net, tmp_path / "run")
    assert diagnose(read(tmp_path / "run")).is_right
    assert all(verdict.passed for verdict in judged(tmp_path / "run").values())


def test_nan_is_no_change(tmp_path):
    """Of what was not touched between steps."""
    net = network()

    def spoil(step):
        if step == 1:
            net.scale.grad.fill_(float("nan"))

    trained(torch.optim.AdamW(net.parameters(), lr=0.02), net, tmp_path / "run", between=spoil)
    run = read(tmp_path / "run")
    assert np.isnan(run.steps[-1].parameters["0.weight"]).all() and not any(step.before for step in run.steps)


def test_what_cannot_be_judged(tmp_path):
    """No steps, no twin, no such optimizer, a number that is compiled, a function that is not there."""
    folder = written(tmp_path / "unknown", "Sophia")
    with pytest.raises(Unjudged, match=r"must be of one of \[.*'AdamW'.*\], but got 'Sophia'"):
        judged(folder)
    Writer(tmp_path / "empty", "SGD", [{"params": ["w"], "lr": 0.5}], {"w": np.ones(2, np.float32)})
    with pytest.raises(Unjudged, match="'run' must have steps, but got none"):
        judged(tmp_path / "empty")
    writer = Writer(tmp_path / "single", "SGD", [{"params": ["w"]}], {"w": np.ones(2, np.float32)})
    writer.add(Step([{}], {}, {"w": np.ones(2, np.float32)}, {}))
    with pytest.raises(Unjudged, match="must have the steps of a float64 twin, but got none"):
        judged(tmp_path / "single")
    writer = Writer(tmp_path / "other", "SGD", [{"params": ["w"]}], {"w": np.ones(2, np.float32)})
    writer.add(Step([{}], {}, {"w": np.ones(2, np.float32)}, {}, {"w": np.array([1.0, 1.01])}))
    with pytest.raises(Unjudged, match=r"must take the steps .*, but step 0 takes parameter of 'w' 0\.01 away"):
        judged(tmp_path / "other")
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    trained(optimizer, net, tmp_path / "flag", between=lambda step: optimizer.param_groups[0].update(maximize=step > 2))
    with pytest.raises(Unjudged, match=r"'maximize' of group 0 must stay False, .* but it is True in step 3"):
        judged(tmp_path / "flag")
    with pytest.raises(Unjudged, match="'optimizer' must be MODULE:FUNCTION, but got 'nowhere:build'"):
        named("nowhere:build")
    with pytest.raises(Unjudged, match="'optimizer' must name a function, but got"):
        named("sys:path")


def raising(params):
    """No optimizer."""
    raise RuntimeError("mine")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (raising, "'optimizer' must be made, but raised RuntimeError: mine"),
        (lambda params: 3, "'optimizer' must give a mindspore.nn.Optimizer that takes gradients, but gave 3"),
        (ms_optim.LBFGS, "'optimizer' must give a mindspore.nn.Optimizer that takes gradients, but gave LBFGS"),
        (
            lambda params: ms_optim.SGD(params[1:]),
            r"'optimizer' must be of all parameters, but left out \['scale'\]",
        ),
        (
            lambda params: nn.Momentum(params, 0.1, 0.9),
            "'run' must begin with the first step for Momentum, which takes",
        ),
        (ms_optim.SGD, "'run' must begin with state that fits, but: For 'SGD', the state of"),
    ],
)
def test_a_run_that_began_before_it_was_recorded(build, message, tmp_path):
    """Is gone on with by what takes over its state; anything else is named."""
    net = network()
    optimizer = torch.optim.Adam(net.parameters())
    for param in net.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    trained(optimizer, net, tmp_path / "run", 2)
    with pytest.raises(Unjudged, match=f"^For 'parity', {message}"):
        list(replay(read(tmp_path / "run"), build))
    assert judged(tmp_path / "run")


class Raising(nn.Optimizer):
    """One that takes no step."""

    def __init__(self, params):
        super().__init__(0.1, params)

    def construct(self, gradients):
        """Nothing."""
        raise KeyError("mine")


def test_an_optimizer_that_takes_no_step_is_not_judged(tmp_path, capsys, monkeypatch):
    """Nor is a module that is broken; what was raised is said, and the runs after it are replayed."""
    torch.manual_seed(0)
    table = torch.nn.Embedding(9, 3, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    with parity.record(optimizer, tmp_path / "sparse", model=table):
        table(torch.tensor([1, 2])).square().sum().backward()
        optimizer.step()
    folder = written(tmp_path / "run")
    assert main(["replay", str(tmp_path / "sparse"), str(folder)]) == 2
    said = capsys.readouterr()
    assert "For 'replay', 'optimizer' must take step 0, but raised TypeError: For 'SGD', 'gradients' must" in said.err
    assert "graph direct: passed" in said.out and "1 of 2 runs are followed on every path" in said.out
    for mode in ("graph", "pynative"):
        with pytest.raises(Unjudged, match=r"'optimizer' must take step 0, but raised .*Error: .*mine.*$"):
            list(replay(read(folder), Raising, (mode,)))
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in (("crooked", "x = = 1"), ("unready", "x = undefined")):
        (tmp_path / f"{name}.py").write_text(text)
        assert main(["replay", str(folder), "--optimizer", f"{name}:build"]) == 2
        assert f"'optimizer' must be MODULE:FUNCTION, but got '{name}:build': " in capsys.readouterr().err


def test_bfloat16_that_nothing_here_writes(tmp_path):
    """Is not judged, and so not passed."""
    net = network().bfloat16()
    trained(torch.optim.Adafactor(net.parameters()), net, tmp_path / "run", 2, dtype=torch.bfloat16)
    assert main(["replay", str(tmp_path / "run")]) == 2
    with pytest.raises(Unjudged, match=r"must not be of bfloat16 on CPU, where .* there is no kernel of Adafactor"):
        list(replay(read(tmp_path / "run")))


def test_steps_beyond_six_digits(tmp_path):
    """Are read in their order; what is left of another run is none."""
    weight = np.ones(2, np.float32)
    writer = Writer(tmp_path / "run", "SGD", [{"params": ["w"], "lr": 0.5}], {"w": weight}, every=250_000)
    for step in range(6 * 250_000):
        if writer.is_due():
            writer.add(Step([{"lr": 0.5}], {"w": weight}, {"w": weight * step}, {}))
    assert [step.parameters["w"][0] for step in read(tmp_path / "run").steps] == [250_000.0 * i for i in range(6)]
    (tmp_path / "beside").mkdir()
    for name in ("20260101.log", "initial_lr.txt", "run.json.bak"):  # which are none of a run's
        (tmp_path / "beside" / name).touch()
    Writer(tmp_path / "beside", "SGD", [{"params": ["w"], "lr": 0.5}], {"w": weight})
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(FileExistsError, match="For 'Writer', 'folder' must not hold a run, but"):
        Writer(tmp_path / "run", "SGD", [{"params": ["w"], "lr": 0.5}], {"w": weight})


BLOCKED = """
import importlib.machinery, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == {blocked!r} else None

    def create_module(self, spec):
        raise ImportError("there is none here")

sys.meta_path.insert(0, Blocked())
from parity.__main__ import main
from parity.cases import networks
networks.BLOCKS = networks.BLOCKS[:1]  # which take less to compile
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_each_side_runs_without_the_other(tmp_path):
    """The commands: recorded where there is no MindSpore, replayed where there is no torch."""
    folder = str(tmp_path / "run")

    def run(blocked, *argv):
        code = BLOCKED.format(blocked=blocked)
        command = [sys.executable, "-c", code, *argv]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    done = run("mindspore", "record", "--optimizer", "SGD", "--steps", "4", folder)
    assert done.returncode == 0, done.stderr
    assert "recorded 4 steps of SGD(" in done.stdout and f"python -m parity replay {folder}" in done.stdout
    done = run("torch", "replay", folder)
    assert done.returncode == 0, done.stderr
    assert [line.partition(": passed: parameter")[0] for line in done.stdout.splitlines()[1:]] == [
        "graph composed",
        "graph native",
        "graph direct",
    ]


def test_exit_codes(tmp_path, capsys):
    """1 if something parts, 2 if there is nothing to judge; and why."""
    assert main(["replay", str(tmp_path)]) == 2
    assert "must hold a run with a run.json" in capsys.readouterr().err
    folder = written(tmp_path / "run")
    assert main(["replay", str(folder), "--mode", "both"]) == 0
    assert main(["replay", str(folder), "--device", "Ascend"]) == 2
    assert "MindSpore must find the device 'Ascend'" in capsys.readouterr().err
    shutil.copy(folder / "000000.safetensors", folder / "000001.safetensors")
    assert main(["replay", str(folder)]) == 1
    assert "failed: first leaves the reference at step 1, parameter of 'w'" in capsys.readouterr().out
    assert main(["replay", str(written(tmp_path / "other", "Sophia"))]) == 2
    assert "but got 'Sophia'" in capsys.readouterr().err


def test_cases_are_recorded_to_be_replayed_elsewhere(tmp_path, capsys, monkeypatch):
    """Those of the suite, with groups, sparse gradients and what torch lacks; several are replayed at once."""
    part = "twin.weight", "ema.gain", "flip.beta", "late.bias"
    monkeypatch.setattr("parity.__main__.synthetic", lambda steps: synthetic(steps).part(part))
    names = ["SGD", "MomentumAGC", "LBFGS", "SparseAdam", "EMA"]
    assert main([*names, "--steps", "3", "--record", str(tmp_path / "cases")]) == 0
    folders = sorted(path.name for path in (tmp_path / "cases").iterdir())
    wanted = [f"{name}-{i}" for name in ("EMA", "MomentumAGC", "SGD", "SparseAdam") for i in range(len(CASES[name]))]
    said = capsys.readouterr().out
    assert folders == wanted and f"recorded {len(wanted)} cases into" in said
    assert [line.partition(":")[0] for line in said.splitlines()[:-2]] == ["LBFGS cannot be recorded"]
    chosen = [str(tmp_path / "cases" / name) for name in ("SGD-6", "SparseAdam-1", "EMA-3")]
    assert main(["replay", *chosen]) == 0
    said = capsys.readouterr().out
    assert "3 of 3 runs are followed on every path" in said and "exempt" not in said
    assert str(CASES["EMA"][3]) in said and said.count("ema ") == 3
    assert str(CASES["SGD"][6]) in said and "graph native: passed" in said
    assert main(["replay", chosen[0], str(tmp_path)]) == 2
    assert main(["SGD", "--record", str(tmp_path / "cases")]) == 2
    assert "must not hold a run" in capsys.readouterr().out
