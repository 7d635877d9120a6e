"""Direct calls run the kernel on the tensors' own memory: they have the bits of compiled steps, whatever is queued."""

import threading

import mindspore as ms
import numpy as np
import pytest
from helpers import DENSE, UNGROUPED, assert_same, everything, loud, make_grads, make_params
from helpers.processes import resident
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer
from mindspore.nn.utils import no_init_parameters

import ms_optim
from ms_optim import EMA, SGD, AdamW, ParameterEMA, _host
from ms_optim._native import kernels_for
from parity.sides.mindspore import set_mode

NATIVE = sorted({name for name, cls in DENSE.items() if cls.update.__name__ in kernels_for("the tests")})
DTYPES = (ms.float16, ms.bfloat16, ms.float32, ms.float64)


class Warming(nn.learning_rate_schedule.LearningRateSchedule):
    """A schedule of a user's own."""

    def construct(self, global_step):
        """Rise."""
        return 0.01 * (global_step.float() + 1)


@pytest.fixture
def compiled(monkeypatch):
    """A function that runs another with direct calls compiled."""

    def run(function, *args):
        with monkeypatch.context() as patched:
            patched.setenv(_host.SWITCH, "0")
            return function(*args)

    return run


@pytest.fixture
def pair(compiled):
    """Compare two optimizers after steps on the same gradients: one direct, the other compiled."""

    def compare(made, steps, between=lambda optimizer, step: None):
        direct, other = made(), made()
        assert direct.why_compiled is None
        for step, grads in enumerate(steps):
            for optimizer, run in ((direct, lambda function, *args: function(*args)), (other, compiled)):
                between(optimizer, step)
                run(optimizer, grads() if callable(grads) else grads)
            assert_same(_bits(direct), _bits(other))

    return compare


def _bits(optimizer):
    found = everything(optimizer)
    return {name: np.ascontiguousarray(value).view(np.uint8) if value.ndim else value for name, value in found.items()}


def vectors(*sizes, dtype=ms.float32):
    """Parameters of ones."""
    return [Parameter(Tensor(np.ones(size), dtype), name=f"w{i}") for i, size in enumerate(sizes)]


@pytest.mark.parametrize("name", NATIVE)
def test_has_the_bits_of_a_compiled_step(name, graph, pair):
    """Of all dtypes, with groups, gradients that are absent or of other dtypes, a loss scale and what is frozen.

    Gradients of all dtypes meet parameters of all: not in each rule, but in all of them together.
    """
    cls, turn = DENSE[name], NATIVE.index(name)

    def make():
        made = [make_params(name, dtype) for dtype in DTYPES]
        params = [made[i % 4][i] for i in range(len(made[0]))]
        first, second = loud(cls), loud(cls, 1)
        own = {key: value for key, value in second.items() if key not in (*UNGROUPED, "exempt")}
        groups = [{"params": params[::2]}, {"params": params[1::2], **own}, {"order_params": params}]
        return cls(groups, **{**first, "loss_scale": 8.0})

    def between(optimizer, step):
        if step == 2:
            optimizer.freeze(optimizer.parameters[1].name)
            optimizer.param_groups[0]["lr"] = 0.07
        if step == 4:
            optimizer.unfreeze(optimizer.parameters[1].name)

    # Each pattern of dtypes and of what is absent compiles: there are two.
    steps = [
        [grad.astype(DTYPES[(turn + i % 2 + 2 * (j // 4) + j) % 4]) for j, grad in enumerate(grads)]
        for i, grads in enumerate(make_grads(name))
    ]
    for grads in steps[1::2]:
        grads[4] = None
    pair(make, list(map(tuple, steps)), between)


@pytest.mark.parametrize(
    "lr", [[0.1, 0.01], nn.CosineDecayLR(0.01, 1.0, 4), Warming()], ids=["list", "CosineDecayLR", "own"]
)
def test_follows_schedules(lr, either, pair):
    """Of all kinds, beside a group with a number."""

    def make():
        a, b = vectors(3, 4)
        return AdamW([{"params": [a], "lr": lr}, {"params": [b]}], lr=0.2)

    pair(make, [(Tensor(np.full(3, 0.5), ms.float32), Tensor(np.full(4, -2.0), ms.float32))] * 5)


class Giving(nn.learning_rate_schedule.LearningRateSchedule):
    """A schedule that gives the same at each step."""

    def __init__(self, *given):
        super().__init__()
        self.given = Tensor(given, ms.float32)

    def construct(self, global_step):
        """Give it."""
        return self.given


@pytest.mark.parametrize("rate", [-0.5, float("nan"), float("inf")])
def test_what_a_schedule_gives_must_be_a_rate(rate, either):
    """It is named, with the step; nothing has moved."""
    optimizer = AdamW(vectors(3), lr=Giving(rate))
    with pytest.raises(ValueError, match=rf"For 'AdamW', 'lr\[0\]' must be in \[0, inf\), but got {rate}"):
        optimizer((Tensor(np.ones(3), ms.float32),))
    assert optimizer.parameters[0].asnumpy().tolist() == [1, 1, 1]
    assert optimizer.step_counts.asnumpy().tolist() == [0]


@pytest.mark.parametrize("fused", [None, False])
def test_a_schedule_gives_one_number(fused, either):
    """Of a vector it is said what it is, in direct and in compiled steps."""
    optimizer = AdamW(vectors(3), lr=Giving(0.5, 0.25), fused=fused)
    with pytest.raises(ValueError, match=r"For 'AdamW', 'lr' must be a schedule that gives one .* shape \(2,\)"):
        optimizer((Tensor(np.ones(3), ms.float32),))


@pytest.mark.parametrize("schedule", ["constant", "averaged_model", "timm", "torch_ema", "yolov5", "zero_start"])
def test_averages_have_the_bits_of_a_compiled_step(schedule, graph, pair):
    """With buffers that are averaged and copied, at some steps only."""

    def make():
        buffers = [Parameter(Tensor([1.0, 2.0], ms.float32), name="mean"), Parameter(Tensor(0, ms.int64), name="n")]
        inner = AdamW(vectors((2, 3), 5), lr=0.1)
        return EMA(inner, 0.9, schedule=schedule, update_every=2, update_after_step=1, buffers=buffers)

    def between(optimizer, step):
        ops.assign(optimizer.tracked[-2], Tensor([step, -step], ms.float32))
        ops.assign(optimizer.tracked[-1], Tensor(step, ms.int64))

    grads = Tensor(np.arange(6).reshape(2, 3), ms.float32), Tensor(np.arange(5), ms.float32)
    pair(make, [grads] * 7, between)


def test_follows_a_network(either, compiled):
    """As a compiled update does."""
    targets = []
    for run in (lambda function: function(), compiled):
        source, target = vectors(3, 4), vectors(3, 4)
        for i, (param, other) in enumerate(zip(source, target)):
            other.name = f"target.{i}"
            ops.assign(param, Tensor(np.linspace(-1, 7, param.size), ms.float32))
        follow = ParameterEMA(source, target, 0.9)
        for _ in range(4):
            assert run(follow)
        targets.append([other.asnumpy() for other in target])
    for got, expected in zip(*targets):
        np.testing.assert_array_equal(got, expected)


def test_compiles_nothing(either, compilations):
    """Whatever the pattern of absent gradients."""
    optimizer = EMA(AdamW(vectors(3, 4, 5), lr=0.1))
    grads = [Tensor(np.ones(size), ms.float32) for size in (3, 4, 5)]
    for absent in range(8):
        optimizer(tuple(None if absent >> i & 1 else grad for i, grad in enumerate(grads)))
    assert compilations == []
    assert optimizer.step_counts.asnumpy().tolist() == [4] * 3


def test_goes_on_where_a_compiled_step_was_and_the_other_way_round(either):
    """Steps of a training cell and direct ones, in turn, have the bits of steps of one kind."""
    outcomes = []
    rng = np.random.default_rng(0)
    net = nn.Dense(4, 3, Tensor(rng.standard_normal((3, 4)), ms.float32), "zeros")
    optimizer = EMA(AdamW(net.trainable_params(), lr=0.05), 0.9)
    x, y = (Tensor(rng.standard_normal((5, n)), ms.float32) for n in (4, 3))
    loss = nn.WithLossCell(net, nn.MSELoss())
    cell, gradient = nn.TrainOneStepCell(loss, optimizer), ms.grad(loss, None, optimizer.parameters)
    first = everything(optimizer)
    # The cell compiles where direct steps were.
    for ways in (["direct"] * 6, ["direct", "direct", "cell"] * 2, ["cell", "direct"] * 3, ["cell"] * 6):
        ms_optim.restore(optimizer, {name: Tensor(value) for name, value in first.items()})
        for way in ways:
            cell(x, y) if way == "cell" else optimizer(gradient(x, y))
        outcomes.append({**everything(optimizer), **everything_of(net)})
    for found in outcomes[1:]:
        assert_same(found, outcomes[0])
    assert any(np.any(value != first[name]) for name, value in everything(optimizer).items())


def everything_of(net):
    """A copy of each Parameter of a network."""
    return {param.name: param.asnumpy().copy() for param in net.get_parameters()}


def odd_gradients():
    """Gradients of shape (4, 6) whose elements do not lie in order, from the beginning of their memory, by name."""
    numbers = np.random.default_rng(3).standard_normal((8, 12)).astype(np.float32)
    wide = Tensor(numbers)
    return {
        "transposed": Tensor(numbers[:6, :4].copy()).T,
        "every second": wide[::2, ::2],
        "a part": wide[2:6, 3:9],
        "rows": Tensor(numbers[:, :6].copy())[3:7],
        "repeated": Tensor(numbers[0, :6].copy()).broadcast_to((4, 6)),
        "product": ops.matmul(Tensor(numbers[:4]), Tensor(numbers[:6]).T),
        "half": wide[:4, :6].astype(ms.float16),
    }


@pytest.mark.parametrize("kind", list(odd_gradients()))
def test_gradients_that_do_not_lie_in_order(kind, either):
    """They are what they say, not what lies in their memory."""
    (direct,), (expected,) = vectors((4, 6)), vectors((4, 6))
    grad = odd_gradients()[kind]
    AdamW([direct], lr=0.1)((grad,))
    AdamW([expected], lr=0.1)((Tensor(grad.asnumpy().copy()),))
    np.testing.assert_array_equal(direct.asnumpy(), expected.asnumpy())


@pytest.mark.usefixtures("own_graph")
@pytest.mark.parametrize("path", ["direct", "compiled", "composed"])
def test_gradients_that_lie_in_what_is_written(path, either, monkeypatch):
    """The parameters themselves, each for the other, and a part of a slot: all are read before anything is written."""
    a, b, c = vectors((40000,), (40000,), (2,))
    ops.assign(a, Tensor(np.arange(40000) % 7, ms.float32))
    if path != "direct":
        monkeypatch.setenv(_host.SWITCH, "0")
    optimizer = SGD([a, b, c], lr=0.5, momentum=0.5, fused=None if path != "composed" else False)
    optimizer((Tensor(np.ones(40000), ms.float32),) * 2 + (Tensor([1, 1], ms.float32),))
    old = [param.asnumpy().copy() for param in (a, b, c)]
    buffers = [buffer.asnumpy().copy() for buffer in optimizer.momentum_buffer]
    grads = b, a, optimizer.momentum_buffer[0][1:3]
    expected = [
        value - np.float32(0.5) * (np.float32(0.5) * buffer + grad)
        for value, buffer, grad in zip(old, buffers, (old[1], old[0], buffers[0][1:3]))
    ]
    optimizer(grads)
    for param, value in zip((a, b, c), expected):
        np.testing.assert_array_equal(param.asnumpy(), value)


class Product(nn.Cell):
    """The sum of a product, of which the gradients of both factors are the other itself."""

    def __init__(self):
        super().__init__()
        self.a, self.b = vectors((4,), (4,))
        ops.assign(self.b, Tensor([1, 2, 3, 4], ms.float32))

    def construct(self):
        """Multiply."""
        return (self.a * self.b).sum()


@pytest.mark.parametrize("name", NATIVE)
def test_gradients_that_are_parameters_in_a_graph(name, either):
    """Both are read before one is written, with the bits of a direct call: MindSpore's own optimizers do otherwise."""
    net, other, make = Product(), Product(), DENSE[name]
    cell = nn.TrainOneStepCell(net, make(net.trainable_params(), lr=0.1))
    optimizer = make(other.trainable_params(), lr=0.1)
    for _ in range(3):
        cell()
        optimizer((other.b.copy(), other.a.copy()))
    assert_same(everything_of(net), everything_of(other))


@pytest.mark.usefixtures("own_graph")
def test_a_step_without_a_kernel_reads_before_it_writes(either):
    """Of two parameters, each of which is the gradient of the other."""
    steps = []
    for copied in (True, False):
        a, b = vectors((5,), (5,))
        ops.assign(b, Tensor([1, 2, 3, 4, 5], ms.float32))
        optimizer = SGD([a, b], lr=0.1, momentum=0.9, fused=False)
        for _ in range(3):
            optimizer((b.copy(), a.copy()) if copied else (b, a))
        steps.append(everything(optimizer))
    assert_same(*steps)


def test_what_lies_in_what_is_written_is_copied(either):
    """The tensor, a view, and a part of it, in order or not; and nothing else."""
    wide, other = vectors((4, 6), (4, 6))
    ops.assign(wide, Tensor(np.arange(24).reshape(4, 6), ms.float32))
    inside = [wide, wide.reshape(-1), wide[1:], wide.T, wide[:, 2:4], wide[3:, 5:]]
    outside = [other, other.T, wide.copy(), Tensor(np.ones(3, np.float32))]
    found = _host.apart([*inside, *outside], [wide])
    for tensor, apart in zip((*inside, *outside), found):
        np.testing.assert_array_equal(apart.asnumpy(), tensor.asnumpy())
    assert [tensor is apart for tensor, apart in zip((*inside, *outside), found)] == [False] * 6 + [True] * 4


def test_where_memory_is_not_told_what_is_written_is_copied(monkeypatch):
    """The parameter itself, if not what lies in it."""
    monkeypatch.setattr(_host, "all_there", False)
    (a, b), grad = vectors((4,), (4,)), Tensor(np.ones(4, np.float32))
    apart = _host.apart([a, grad], [a, b])
    assert apart[1] is grad and apart[0] is not a
    ops.assign(a, Tensor(np.zeros(4, np.float32)))
    np.testing.assert_array_equal(apart[0].asnumpy(), np.ones(4))


class Attention(nn.Cell):
    """One head, whose gradients come out of transposes and batched products."""

    def __init__(self, seed=0):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.q, self.k, self.v = (
            Parameter(Tensor(rng.standard_normal((6, 6)) / 3, ms.float32), name=name) for name in "qkv"
        )

    def construct(self, x):
        """Attend, and sum up."""
        q, k, v = x @ self.q, x @ self.k, x @ self.v.T
        return (ops.softmax(q @ k.swapaxes(-1, -2)) @ v).square().mean()


@pytest.mark.parametrize("name", ["AdamW"])
def test_trains_an_attention_layer_as_a_compiled_step_does(name, either, compiled):
    """Nothing waits between `value_and_grad` and the steps."""
    x = Tensor(np.random.default_rng(1).standard_normal((3, 5, 6)), ms.float32)
    nets = []
    for run in (lambda function, *args: function(*args), compiled):
        net = Attention()
        optimizer = DENSE[name](net.trainable_params(), lr=0.1)
        gradient = ms.value_and_grad(net, None, optimizer.parameters)
        for _ in range(6):
            run(optimizer, gradient(x)[1])
        nets.append(everything_of(net) | everything(optimizer))
    assert_same(*nets)


def test_waits_for_what_is_queued(either):
    """Gradients that are computed last, values read before, values read after: thirty times, without a pause."""
    (param,), (expected,) = vectors((300, 300)), vectors((300, 300))
    direct, other = SGD([param], lr=0.01), SGD([expected], lr=0.01)
    base = Tensor(np.random.default_rng(0).standard_normal((300, 300)), ms.float32)
    for i in range(30):
        before = param
        for _ in range(20):
            before = before * 1.0
        grad = base
        for _ in range(20):
            grad = ops.tanh(grad + 0.01 * i)
        direct((grad,))
        after = param * 2.0
        old = expected.asnumpy().copy()
        other((Tensor(grad.asnumpy().copy()),))
        np.testing.assert_array_equal(before.asnumpy(), old)
        np.testing.assert_array_equal(after.asnumpy(), expected.asnumpy() * 2)


def test_a_backward_pass_whose_parameters_have_moved(compiled):
    """What a step between the two passes changes is what it changes for a compiled step."""
    set_mode("pynative")  # in GRAPH_MODE both passes are one graph
    found = []
    for run in (lambda function, *args: function(*args), compiled):
        (param,) = vectors((50, 50))
        optimizer = SGD([param], lr=0.5)
        _, pullback = ms.vjp(lambda x, param=param: (x @ param) @ param, Tensor(np.eye(50), ms.float32))
        run(optimizer, (Tensor(np.full((50, 50), 0.1), ms.float32),))
        found.append(np.asarray(pullback(Tensor(np.ones((50, 50)), ms.float32))[0].asnumpy()))
    np.testing.assert_array_equal(*found)


def test_parameters_that_get_other_memory(either, tmp_path):
    """By `set_data`, `assign_value`, `load_param_into_net`, `ops.assign`, `restore`, `set_dtype` and averages."""
    net = nn.Dense(4, 3)
    optimizer = EMA(SGD(net.trainable_params(), lr=1.0), 0.5)
    ones = tuple(Tensor(np.ones(param.shape), ms.float32) for param in optimizer.parameters)

    def steps_from(values):
        optimizer(ones)
        for param in optimizer.parameters:
            np.testing.assert_array_equal(param.asnumpy(), np.full(param.shape, values - 1, np.float32))

    def filled(value):
        return {param.name: Tensor(np.full(param.shape, value), ms.float32) for param in optimizer.parameters}

    for param in optimizer.parameters:
        param.set_data(filled(3)[param.name])
    steps_from(3)
    for param in optimizer.parameters:
        param.assign_value(filled(4)[param.name])
    steps_from(4)
    ms.load_param_into_net(net, {name: Parameter(value, name=name) for name, value in filled(5).items()})
    steps_from(5)
    for param in optimizer.parameters:
        ops.assign(param, filled(6)[param.name])
    steps_from(6)
    ms_optim.restore(net, filled(7))
    steps_from(7)
    with optimizer.average_parameters():
        pass
    steps_from(6)


def test_a_parameter_that_becomes_a_view_of_itself(graph):
    """It lies where it lay, but its elements do not; so may a slot."""
    (param,), (expected,) = vectors((3, 3)), vectors((3, 3))
    grads = [Tensor(np.arange(9).reshape(3, 3) * scale, ms.float32) for scale in (1, -2, 3)]
    optimizer, other = (SGD([one], lr=0.5, momentum=0.5) for one in (param, expected))
    for step, grad in enumerate(grads):
        if step:
            for one, its in ((param, optimizer), (expected, other)):
                turned = its.momentum_buffer[0] if step == 1 else one
                turned.set_data(turned.T if its is optimizer else Tensor(turned.asnumpy().T.copy()))
        optimizer((grad,))
        other((grad,))
        np.testing.assert_array_equal(param.asnumpy(), expected.asnumpy())


def test_a_parameter_that_gets_another_dtype(graph):
    """It is named, also where there is no state that would not fit: a step that compiles refuses it too."""
    (param,) = vectors(3)
    plain, adamw = SGD([param], lr=1.0), AdamW([param], lr=1.0)
    for optimizer in (plain, adamw):
        optimizer((Tensor([1, 1, 1], ms.float32),))
    param.set_dtype(ms.float16)
    before = param.asnumpy().copy()
    for optimizer in (plain, adamw):
        name = type(optimizer).__name__
        with pytest.raises(TypeError, match=f"For '{name}', the dtype of 'w0' must be Float32, .* but got Float16"):
            optimizer((Tensor([1, 1, 1], ms.float32),))
    np.testing.assert_array_equal(param.asnumpy(), before)


def test_parameters_without_memory(either):
    """They are initialized by the first step, as by one that compiles."""
    with no_init_parameters():
        net = nn.Dense(4, 3, weight_init="ones", bias_init="zeros")
    optimizer = SGD(net.trainable_params(), lr=1.0)
    optimizer(tuple(Tensor(np.ones(param.shape), ms.float32) for param in optimizer.parameters))
    assert (net.weight.asnumpy() == 0).all() and (net.bias.asnumpy() == -1).all()


@pytest.mark.parametrize("at_fault", ["step", "average"])
@pytest.mark.parametrize("averaged", [False, True])
def test_an_interrupt_leaves_a_whole_step(averaged, at_fault, graph, monkeypatch):
    """Python raises what Ctrl-C asks for where a kernel returns: what belongs to its step is written all the same."""

    def make():
        optimizer = ms_optim.NAdam(vectors(3), lr=0.1)
        return EMA(optimizer, 0.5) if averaged else optimizer

    def step(optimizer):
        optimizer((Tensor([1.0, -2.0, 0.5], ms.float32),))

    interrupted, whole = make(), make()
    for optimizer in (interrupted, whole):
        step(optimizer)
    launch = interrupted.launch if averaged and at_fault == "average" else interrupted.stepper.launch

    def run(inputs, kernel=launch._run):
        kernel(inputs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(launch, "_run", run)
        step(interrupted)
    step(whole)
    assert_same(everything(interrupted), everything(whole))
    for optimizer in (interrupted, whole):
        step(optimizer)
    assert_same(everything(interrupted), everything(whole))


def test_another_thread_waits_for_the_average(graph, monkeypatch):
    """A call of the optimizer inside, which begins and does not come to its kernel, leaves one step and its average."""
    optimizer = SGD(vectors(3), lr=1.0)
    ema, gradient = EMA(optimizer, 0.5), (Tensor(np.ones(3), ms.float32),)
    refused = []

    def call_inside():
        with pytest.raises(ValueError, match="For 'SGD', 'gradients'"):
            optimizer((Tensor(np.ones(4), ms.float32),))
        refused.append(True)

    other = threading.Thread(target=call_inside)

    def run(inputs, kernel=ema.launch._run):
        kernel(inputs)
        other.start()
        other.join(0.2)

    with monkeypatch.context() as patched:
        patched.setattr(ema.launch, "_run", run)
        ema(gradient)
    other.join()
    assert refused and optimizer.step_counts.asnumpy().tolist() == [1]
    assert (optimizer.parameters[0].asnumpy()[0], ema.averages[0].asnumpy()[0]) == (0.0, 0.5)


def test_a_large_tensor(graph):
    """Of 40 million elements: the ends are those that they should be."""
    (param,) = vectors(40_000_000)
    grad = np.tile(np.arange(5, dtype=np.float32), 8_000_000)
    SGD([param], lr=0.5)((Tensor(grad),))
    assert np.array_equal(param.asnumpy(), 1 - np.float32(0.5) * grad)


@pytest.mark.parametrize("fused", [None, False])
def test_a_gradient_that_has_no_memory_yet(fused, either):
    """As MindSpore's initializers make it: its values are drawn."""
    param = Parameter(np.ones((2, 3), np.float32), name="weight")
    SGD([param], lr=0.5, fused=fused)((initializer("ones", (2, 3), ms.float32),))
    assert (param.asnumpy() == 0.5).all()


def test_memory_is_flat(graph):
    """Over 200 steps whose gradients are computed, copied and thrown away."""
    (param,) = vectors((100, 100))
    optimizer = EMA(AdamW([param], lr=1e-3))
    base, sizes = Tensor(np.random.default_rng(0).standard_normal((100, 100)), ms.float32), []
    for _ in range(3):
        for _ in range(100):
            optimizer(((base * 0.5).T,))
        sizes.append(resident())
    assert sizes[-1] - sizes[0] < 100 * 100 * 4 * 50  # a quarter of what they hold if nothing is let go


@pytest.mark.parametrize("at_fault", ["switch", "rule", "construct", "scalars", "mindspore", "fused"])
def test_what_compiles_says_why(at_fault, graph, monkeypatch, compilations):
    """`describe` does too, and the step is a compiled one."""
    cls, kwargs = AdamW, {}
    if at_fault == "switch":
        monkeypatch.setenv(_host.SWITCH, "0")
    if at_fault == "rule":
        cls = ms_optim.Lion
    if at_fault == "construct":
        cls = type("Own", (AdamW,), {"construct": lambda self, *args: AdamW.construct(self, *args)})
    if at_fault == "scalars":

        def scalars(step, lr, beta1, beta2, eps, weight_decay):
            return AdamW.scalars(step, lr, beta1, beta2, eps, weight_decay)

        cls = type("Own", (AdamW,), {"scalars": scalars})
    if at_fault == "mindspore":
        monkeypatch.setattr(_host, "all_there", False)
    if at_fault == "fused":
        kwargs["fused"] = False
    optimizer = cls(vectors(3), **kwargs)
    why = {
        "switch": "MS_OPTIM_DIRECT is 0",
        "rule": "the rule 'lion' has no kernel",
        "construct": "the class has a 'construct' of its own",
        "scalars": "the class has a 'scalars' of its own",
        "mindspore": "this version of MindSpore does not tell where tensors lie",
        "fused": "fused is False",
    }[at_fault]
    assert optimizer.why_compiled == why
    assert optimizer.describe().endswith(f"Direct calls are compiled, because {why}.")
    if at_fault in ("switch", "rule", "mindspore", "fused"):
        optimizer((Tensor([1, 1, 1], ms.float32),))
        assert len(compilations) == 1


def test_what_runs_at_once_says_so():
    """By `describe`."""
    assert AdamW(vectors(3)).describe().endswith("\nDirect calls run the native kernel at once.")


@pytest.mark.parametrize("kind", [EMA, ParameterEMA])
def test_what_is_averaged_is_checked_once(kind, either, monkeypatch):
    """And not at each step, which would take twice as long."""
    net = nn.Dense(3, 3)
    params = net.trainable_params()
    average = EMA(SGD(params)) if kind is EMA else ParameterEMA.of(net)
    launch, called = average.launch, []
    check = launch._check
    monkeypatch.setattr(launch, "_check", lambda: (called.append(1), check()))
    for _ in range(4):
        average(*([tuple(map(ops.ones_like, params))] if kind is EMA else []))
    assert 1 <= len(called) <= 2  # where it lies, and what it is of


@pytest.mark.parametrize("count", [1, 1000, 300_000])
def test_memory_that_the_system_gives_at_once(count):
    """Has what was in it."""
    tensor = Tensor(np.arange(count, dtype=np.float32))
    _host.populate(tensor)
    np.testing.assert_array_equal(tensor.asnumpy(), np.arange(count))
