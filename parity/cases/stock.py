"""What MindSpore ships: each optimizer that has a counterpart in PyTorch, with the same numbers in both words."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Stock:
    """An optimizer of MindSpore's.

    Args:
        place: Where it is in `mindspore`.
        counterpart: What it should be, by the name in `torch.optim`.
        settings: Arguments in torch's words, and in its own if they are others.
        state: By its own names of the tensors of a parameter, those of torch.
    """

    place: str
    counterpart: str
    settings: tuple[tuple[dict[str, Any], dict[str, Any]], ...]
    state: dict[str, str] = field(default_factory=dict)


def _same(place, counterpart, state, *settings):
    """One whose arguments are torch's."""
    return Stock(place, counterpart, tuple((each, each) for each in settings), state)


def _nn(name, counterpart, state, words, *settings):
    """One of `mindspore.nn`, with its words for torch's; None is a number that it has no argument for."""

    def own(each):
        made = {}
        for key, value in each.items():
            word = {"lr": "learning_rate", **words}.get(key, key)
            made |= dict(zip(word, value)) if isinstance(word, tuple) else {word: value} if word else {}
        return made

    return Stock(f"nn.{name}", counterpart, tuple((each, own(each)) for each in settings), state)


_BETAS = {"betas": ("beta1", "beta2")}
_MOMENTS = {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}
_EXPERIMENTAL = "experimental.optim"
_DECAYED = {"lr": 0.02, "weight_decay": 0.1}
_ADAM = ({"lr": 0.02}, {"lr": 0.02, "betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.1})
_AMSGRAD = {"lr": 0.02, "betas": (0.8, 0.9), "amsgrad": True}
_SGD = (
    {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1},
    {"lr": 0.02, "momentum": 0.9, "dampening": 0.3},
    {"lr": 0.02, "momentum": 0.9, "nesterov": True},
)
_RMSPROP = (
    {"lr": 0.02, "alpha": 0.9, "eps": 1e-8, "weight_decay": 0.1},
    {"lr": 0.02, "alpha": 0.9, "eps": 1e-3, "momentum": 0.9, "centered": True},
)
_RPROP = ({"lr": 0.02, "etas": (0.3, 1.4), "step_sizes": (1e-4, 1.0)},)
_ASGD = ({"lr": 0.02, "lambd": 0.1, "alpha": 0.6, "t0": 4.0, "weight_decay": 0.1},)
_ADADELTA = ({"lr": 0.5, "rho": 0.8, "eps": 1e-4, "weight_decay": 0.1},)
_ADAGRAD = ({"lr": 0.02, "initial_accumulator_value": 0.1, "eps": 1e-3, "weight_decay": 0.1},)
_ADAMAX = ({"lr": 0.02, "betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.1},)

STOCK: tuple[Stock, ...] = (
    _nn("SGD", "SGD", {"accum": "momentum_buffer"}, {}, *_SGD),
    _nn("Momentum", "SGD", {"moments": "momentum_buffer"}, {"nesterov": "use_nesterov"}, _SGD[0], _SGD[2]),
    _nn(
        "Adam",
        "Adam",
        {"moment1": "exp_avg", "moment2": "exp_avg_sq"},
        {**_BETAS, "amsgrad": "use_amsgrad"},
        *_ADAM,
        _AMSGRAD,
    ),
    _nn("LazyAdam", "Adam", {"moment1": "exp_avg", "moment2": "exp_avg_sq"}, _BETAS, *_ADAM),
    _nn("AdamWeightDecay", "AdamW", {"adam_m": "exp_avg", "adam_v": "exp_avg_sq"}, _BETAS, {"eps": 1e-8, **_DECAYED}),
    _nn("AdaMax", "Adamax", {"moment1": "exp_avg", "moment2": "exp_inf"}, _BETAS, *_ADAMAX),
    _nn("RMSProp", "RMSprop", {"mean_square": "square_avg"}, {"alpha": "decay", "eps": "epsilon"}, *_RMSPROP),
    _nn(
        "Adagrad",
        "Adagrad",
        {"accum": "sum"},
        {"initial_accumulator_value": "accum", "eps": None},
        {**_ADAGRAD[0], "eps": 1e-10},
    ),
    _nn("Adadelta", "Adadelta", {"accum": "square_avg", "accum_update": "acc_delta"}, {"eps": "epsilon"}, *_ADADELTA),
    _nn("Rprop", "Rprop", {"prev": "prev", "step_size": "step_size"}, {}, *_RPROP),
    _nn("ASGD", "ASGD", {"ax_": "ax"}, {}, *_ASGD),
    _same(f"{_EXPERIMENTAL}.SGD", "SGD", {"accum": "momentum_buffer"}, *_SGD),
    _same(f"{_EXPERIMENTAL}.Adam", "Adam", _MOMENTS, *_ADAM, _AMSGRAD),
    _same(f"{_EXPERIMENTAL}.AdamW", "AdamW", _MOMENTS, *_ADAM, _AMSGRAD),
    _same(f"{_EXPERIMENTAL}.Adamax", "Adamax", {"exp_avg": "exp_avg", "exp_inf": "exp_inf"}, *_ADAMAX),
    _same(f"{_EXPERIMENTAL}.NAdam", "NAdam", _MOMENTS, *_ADAM),
    _same(f"{_EXPERIMENTAL}.RAdam", "RAdam", _MOMENTS, *_ADAM),
    _same(f"{_EXPERIMENTAL}.RMSprop", "RMSprop", {"mean_square": "square_avg"}, *_RMSPROP),
    _same(f"{_EXPERIMENTAL}.Adagrad", "Adagrad", {"accum": "sum"}, *_ADAGRAD),
    _same(f"{_EXPERIMENTAL}.Adadelta", "Adadelta", {"accum": "square_avg", "accum_update": "acc_delta"}, *_ADADELTA),
    _same(f"{_EXPERIMENTAL}.Rprop", "Rprop", {"prev": "prev", "step_size": "step_size"}, *_RPROP),
    _same(f"{_EXPERIMENTAL}.ASGD", "ASGD", {"ax": "ax"}, *_ASGD),
    _same("mint.optim.SGD", "SGD", {"momentum_buf": "momentum_buffer"}, _SGD[0]),
    _same("mint.optim.Adam", "Adam", _MOMENTS, _ADAM[1]),
    _same("mint.optim.AdamW", "AdamW", _MOMENTS, _ADAM[1]),
)
