"""Steps of a closure, and their state."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Real
from types import MappingProxyType
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from ms_optim import _shards
from ms_optim._composed import prepare_sums
from ms_optim._gradients import check_gradients
from ms_optim._groups import Group, Groups, Members, own_key
from ms_optim._state import Change, Stateful
from ms_optim._torch_layout import parts
from ms_optim._values import LIST, as_array, as_number, float64_parameter
from ms_optim.arguments import Choice, Kind, Number, Whole
from ms_optim.lbfgs.line_search import Point, reach, strong_wolfe
from ms_optim.lbfgs.vectors import (
    OnDevice,
    OnHost,
    backward,
    curvature_pair,
    dot,
    forward,
    largest,
    like_of,
    number,
    sum_of_magnitudes,
)
from ms_optim.optimizer import Params

# A pair of changes of gradient and parameters enters the history if their product is larger: the curvature is positive.
POSITIVE = 1e-10
REFUSAL = (
    "For 'LBFGS', a step must be optimizer.step(closure), where closure() returns the loss and its gradients as "
    "often as they are asked for, but got gradients: optimizer(gradients), nn.TrainOneStepCell and Model.train "
    "evaluate the loss once for each step."
)
COUNTS, VECTORS, HISTORY = ("func_evals", "n_iter"), ("d", "prev_flat_grad"), ("old_dirs", "old_stps")
NUMBERS, LISTED = ("ro", "H_diag"), (*HISTORY, "ro")
STATE = (*COUNTS, "d", "t", *HISTORY, "ro", "H_diag", "prev_flat_grad", "prev_loss")


@np.errstate(all="ignore")
def advance(state: dict, grad: Any, history_size: int) -> dict:
    """What the next iteration changes of the state: the history, with what the last one has shown, and the direction.

    The direction is minus the gradient times an inverse Hessian: H_diag, updated by each pair of the history.
    """
    if state["n_iter"] == 1:
        return {"d": -grad, "old_dirs": [], "old_stps": [], "ro": [], "H_diag": 1}
    old_dirs, old_stps, ro, scale = (state[name] for name in ("old_dirs", "old_stps", "ro", "H_diag"))
    y, s, ys, r, ratio = curvature_pair(grad, state["prev_flat_grad"], state["d"], like_of(state["t"], grad))
    if number(ys) > POSITIVE:
        kept = slice(max(0, len(ro) + 1 - history_size), None)
        old_dirs, old_stps, ro, scale = [*old_dirs[kept], y], [*old_stps[kept], s], [*ro[kept], r], ratio
    d, weights = -grad, []
    for y, s, r in zip(reversed(old_dirs), reversed(old_stps), reversed(ro)):
        d, weight = backward(d, y, s, r)
        weights.append(weight)
    d = d * scale
    for y, s, r, weight in zip(old_dirs, old_stps, ro, reversed(weights)):
        d = forward(d, y, s, r, weight)
    return {"d": d, "old_dirs": old_dirs, "old_stps": old_stps, "ro": ro, "H_diag": scale}


@np.errstate(all="ignore")
def first_length(state: dict, grad: Any, lr: float) -> float | np.ndarray:
    """The first step length of an iteration; the very first has no history to tell the scale, and is cautious."""
    if state["n_iter"] > 1:
        return lr
    cautious: Any = min(1.0, 1.0 / number(sum_of_magnitudes(grad)))
    return cautious * lr


class LBFGSGroup(Group):
    """The one group: its arguments, each of which may be set between steps."""

    _options: dict[str, Any] = {}

    def __init__(self, arguments: Mapping[str, Kind], learning_rate: Parameter, options: dict[str, Any]):
        super().__init__("LBFGS", arguments)
        self._kinds, self._learning_rate, self._options = arguments, learning_rate, options

    def __getitem__(self, name: str) -> Any:
        return float(self._learning_rate.asnumpy()) if name == "lr" else super().__getitem__(name)

    def _check(self, name, value):
        return self._kinds[name].check("LBFGS", name, value)

    def put(self, name: str, value: Any) -> None:
        """Set an argument to a checked value."""
        if name == "lr":
            ops.assign(self._learning_rate, Tensor(value, ms.float64))
        else:
            self._options[name] = value


class LBFGS(Stateful):
    """Quasi-Newton steps from a history of gradients, as `torch.optim.LBFGS` (2.13) computes them.

    It evaluates the loss as often as it needs to, so its step is not `optimizer(gradients)` but `step(closure)`; so it
    is not for `Model.train` and `nn.TrainOneStepCell`, which raise. The closure returns the loss and its gradients,
    where torch's calls `backward`; within a step it must be one function, of the same batch and without dropout.

    State, as torch keys it, all of it for the first parameter: `func_evals`, `n_iter`, `d`, `t`, `old_dirs`,
    `old_stps`, `ro`, `H_diag`, `prev_flat_grad` and `prev_loss`: 2 * history_size + 2 times the parameters.

    Args:
        params (Union[list[Parameter], list[tuple[str, Parameter]], list[dict]]): The parameters, alone or each with a
            name, or one group of them: a dict with the key "params" and any of the arguments below. Other keys of the
            group are kept, unless they seem to mean an argument. All of them are float32 or float64.
        lr (float): The first step length of each iteration, and without a line search the only one, in [0, inf).
            Default: ``1`` .
        max_iter (int): The iterations of one step, in [1, inf). Default: ``20`` .
        max_eval (Union[None, int]): How many evaluations of a step are enough, in [1, inf); None is max_iter * 5 // 4.
            Default: ``None`` .
        tolerance_grad (float): A step ends where no gradient is larger than this, in (-inf, inf). Default: ``1e-7`` .
        tolerance_change (float): A step ends when no parameter has moved by more than this, or the loss has moved by
            less, or its slope is less; in (-inf, inf). Default: ``1e-9`` .
        history_size (int): How many iterations are remembered, in [1, inf). Default: ``100`` .
        line_search_fn (Union[None, str]): "strong_wolfe", or None for steps of length lr. Default: ``None`` .

    Raises:
        TypeError: If an argument is of the wrong kind. Also if the optimizer is called with gradients.
        ValueError: If an argument is out of its range, there are several groups, a group has a key that seems to mean
            an argument and is none, or a parameter occurs twice.

    Note:
        A checkpoint of `mindspore.save_checkpoint` or `ms_optim.save(optimizer, ...)` holds the learning rate and not
        this state, which grows. `state_dict()` holds both, and so does `ms_optim.save(net, file, also={"lbfgs":
        optimizer})`, from which `ms_optim.resume` goes on. All of the arguments may be set in `param_groups[0]` between
        steps. There is no `freeze`: the history moves a parameter whose gradient is zero, as in torch; what is to stand
        still must not be given.

    Supported Platforms:
        ``CPU``. For ``Ascend`` and ``GPU`` a step is compiled and was not run; README says what is known.

    Examples:
        >>> import mindspore as ms
        >>> import ms_optim
        >>> from mindspore import nn, ops
        >>> net = nn.Dense(3, 1)
        >>> optimizer = ms_optim.LBFGS(net.trainable_params(), line_search_fn="strong_wolfe")
        >>> gradient = ms.value_and_grad(nn.WithLossCell(net, nn.MSELoss()), None, optimizer.parameters)
        >>> x = ops.eye(3)
        >>> y = x.sum(1, keepdims=True)
        >>> losses = [float(optimizer.step(lambda: gradient(x, y))) for _ in range(2)]
        >>> losses[1] < 1e-6
        True
    """

    takes_closure = True
    arguments = {
        "history_size": Whole(1),
        "line_search_fn": Choice(None, "strong_wolfe"),
        "lr": Number("[0, inf)"),
        "max_eval": Whole(1),
        "max_iter": Whole(1),
        "tolerance_change": Number("(-inf, inf)"),
        "tolerance_grad": Number("(-inf, inf)"),
    }

    def __init__(
        self,
        params: Params,
        lr: float = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ):
        if max_eval is None:
            max_eval = self.arguments["max_iter"].check("LBFGS", "max_iter", max_iter) * 5 // 4
        defaults = dict(
            lr=lr,
            max_iter=max_iter,
            max_eval=max_eval,
            tolerance_grad=tolerance_grad,
            tolerance_change=tolerance_change,
            history_size=history_size,
            line_search_fn=line_search_fn,
        )
        defaults = {name: self.arguments[name].check("LBFGS", name, value) for name, value in defaults.items()}
        groups = Groups("LBFGS", params, defaults, self.arguments)
        if len(groups) > 1:
            raise ValueError(f"For 'LBFGS', 'params' must be one group, but got {len(groups)}.")
        for param in groups.parameters:
            if param.dtype not in (ms.float32, ms.float64):
                raise TypeError(
                    f"For 'LBFGS', the dtype of '{param.name}' must be Float32 or Float64, but got {param.dtype}."
                )
        why = _shards.why_sliced(groups.parameters)
        if why:
            wanted = _shards.unsliced("its directions are made of all of them", groups.parameters)
            raise ValueError(f"For 'LBFGS', {wanted}, but {why}.")
        self._refuse_parameters(groups.parameters)
        super().__init__(0.0, groups.parameters)
        groups[0]["params"] = Members("LBFGS", groups.parameters)
        prepare_sums()
        self.learning_rate = float64_parameter(groups[0]["lr"], "learning_rate")
        dtype = ms.float64 if any(param.dtype == ms.float64 for param in groups.parameters) else ms.float32
        self.like = Tensor(0.0, dtype)
        self._on_device, self._on_host = (kind(self.parameters, self.like) for kind in (OnDevice, OnHost))
        self._group = LBFGSGroup(self.arguments, self.learning_rate, groups[0])
        self._kept_state: dict[str, Any] = {}
        self.settled = {*self.arguments, "learning_rate", "state"}

    @property
    def param_groups(self) -> tuple[Group]:
        """The group: read its arguments, or set them between steps, as in torch."""
        return (self._group,)

    @property
    def state(self) -> Mapping[str, Mapping]:
        """The state as torch has it: by the name of the first parameter, if there was a step; then by its keys.

        It cannot be set.

        Vectors are Tensors of all parameters end to end; numbers are Tensors where torch has Tensors. On CPU all of
        them are copies.
        """
        placed = self._placed(self._on_device, (*NUMBERS, "t"))
        return MappingProxyType({self.parameters[0].name: MappingProxyType(placed)} if placed else {})

    def _placed(self, where, numbers=NUMBERS):
        """The state, with vectors and numbers where they are to be."""
        state = {name: self._kept_state[name] for name in STATE if name in self._kept_state}
        for name in {*VECTORS, *HISTORY, *numbers} & state.keys():
            place = partial(where.place, scalar=name in numbers)
            state[name] = [*map(place, state[name])] if name in LISTED else place(state[name])
        return state

    def _told(self):
        group = {name: copy.deepcopy(value) for name, value in self._group.items() if name != "params"}
        return {
            "state": dict(enumerate(map(dict, self.state.values()))),
            "param_groups": [{**group, "params": list(range(len(self.parameters)))}],
        }

    def changes(self, state_dict: Mapping) -> list[Change]:
        """What `load_state_dict` does, one call for each thing that it writes; none of them is made.

        Vectors and numbers may be of any float dtype. Torch's "al", which says nothing more, may be there, and
        "param_names", to tell another order by.

        Raises:
            TypeError, ValueError: As `load_state_dict`.
        """
        state, groups = parts("LBFGS", state_dict)
        sizes = [len(group["params"]) for group in groups]
        if sizes != [len(self.parameters)]:
            raise ValueError(
                f"For 'LBFGS', 'state_dict' must have one group of {len(self.parameters)} parameters, but "
                f"got groups of {sizes}."
            )
        if not state.keys() <= {0}:
            raise ValueError(f"For 'LBFGS', 'state_dict' must have state of parameter 0 only, but got {list(state)}.")
        own, names = [param.name for param in self.parameters], groups[0].get("param_names", ())
        if any(name in own and name != other for name, other in zip(names, own)):
            raise ValueError(f"For 'LBFGS', 'param_names' must be in the order of {own}, but got {[*names]}.")
        given = {name: value for name, value in groups[0].items() if name not in ("params", "param_names")}
        extra = {name for name in given if name not in self.arguments and not own_key(name, self.arguments)}
        _compare("the group", given.keys() - extra, self.arguments.keys())
        given = {name: self._group.check(name, copy.deepcopy(value)) for name, value in given.items()}
        state = self._restored(state[0]) if state else {}
        found = [partial(self._group.__setitem__, name, given[name]) for name in self.arguments]
        return [
            *found,
            partial(self._group.replace_extra, {name: given[name] for name in extra}),
            partial(setattr, self, "_kept_state", state),
        ]

    def _made_of(self):
        return ([dict(self._group)],), {}

    def _restored(self, saved):
        """A state of torch's as this one keeps it; "al" is where torch's computes, and no state."""
        state = {name: self._restored_value(name, value) for name, value in saved.items() if name != "al"}
        _compare("the state", state.keys(), STATE if state.get("n_iter", 1) else COUNTS)
        lengths = [len(state.get(name, ())) for name in LISTED]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"For 'LBFGS', 'old_dirs', 'old_stps' and 'ro' of the state must be of one length, but got {lengths}."
            )
        return state

    def _restored_value(self, name, value):
        what, dtype = f"For 'LBFGS', '{name}' of the state", self.like.asnumpy().dtype
        if name in COUNTS:
            return as_number(value, what, whole=True)
        if name in ("t", "prev_loss") or (name == "H_diag" and type(value) is int):
            scalar = as_array(value, what, ())
            return scalar.astype(dtype) if name == "t" and hasattr(value, "dtype") else scalar.item()
        listed = name in LISTED
        if listed and not isinstance(value, LIST):
            raise ValueError(f"{what} must be a list, but got {type(value).__name__}.")
        shape = (sum(param.size for param in self.parameters),) if name in (*VECTORS, *HISTORY) else ()
        tensors = [Tensor(as_array(item, what, shape).astype(dtype)) for item in (value if listed else [value])]
        return tensors if listed else tensors[0]

    def _kept(self):
        state = self._kept_state
        lists = [item for name in LISTED for item in state.get(name, ())]
        return [*(state[name] for name in VECTORS if name in state), *lists]

    def step(self, closure: Callable[[], tuple[Tensor, tuple[Tensor | None, ...]]] | None = None) -> Tensor:
        """Take up to max_iter iterations.

        Args:
            closure (Callable): Called without arguments, it returns the loss, a scalar, and its gradients, a tuple in
                the order of `optimizer.parameters`; None stands for zeros, and so does the gradient of a parameter
                whose `requires_grad` is False. What `mindspore.value_and_grad(forward, None, optimizer.parameters)`
                returns is such a function, if `forward` has no arguments.

        Returns:
            Tensor, the loss before the first iteration.

        Raises:
            TypeError: If `closure` is no function or what it returns is not of this kind.
            ValueError: If the gradients do not fit the parameters.
            RuntimeError: If averages are in the place of the weights.
        """
        self.refuse_inside("no step can be taken")
        if not callable(closure):
            raise TypeError(
                "For 'LBFGS', 'closure' must be a function that returns a loss and its gradients, but got "
                f"{type(closure).__name__}."
            )
        lr, max_iter, max_eval, tolerance_grad, tolerance_change, history_size, line_search_fn = (
            self._group[name]
            for name in (
                "lr",
                "max_iter",
                "max_eval",
                "tolerance_grad",
                "tolerance_change",
                "history_size",
                "line_search_fn",
            )
        )
        first, grad, where = self._begin(closure)
        state = dict.fromkeys(COUNTS, 0) | self._placed(where)
        loss, evaluations, iteration = float(first), 1, 0
        done = number(largest(grad)) <= tolerance_grad
        while not done:
            iteration += 1
            state["n_iter"] += 1
            state |= advance(state, grad, history_size)
            state |= {"prev_flat_grad": grad, "prev_loss": loss, "t": first_length(state, grad, lr)}
            d, t = state["d"], state["t"]
            slope, longest = number(dot(grad, d)), number(largest(d))
            if slope > -tolerance_change:
                break
            origin = where.read()
            if line_search_fn:
                evaluate = partial(self._point, where, closure, origin, d)
                point, used = strong_wolfe(evaluate, Point(0, loss, grad, slope), t, longest, max_eval - evaluations)
                t, loss, grad = point.t, point.loss, point.grad
                evaluations += used
                state["t"] = t
            where.write(origin, t, d)
            if not line_search_fn and iteration < max_iter:
                result, gradients = self._evaluate(closure)
                loss, grad = float(result), where.flat(gradients)
                evaluations += 1
            done = (
                iteration == max_iter
                or evaluations >= max_eval
                or number(largest(grad)) <= tolerance_grad
                or reach(t, longest) <= tolerance_change
                or abs(loss - state["prev_loss"]) < tolerance_change
            )
        state["func_evals"] += evaluations
        self._kept_state = state
        return first

    def _evaluate(self, closure):
        """The loss, and its gradients."""
        result = closure()
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            got = (
                f"a {type(result).__name__} of {len(result)}"
                if isinstance(result, (tuple, list))
                else (type(result).__name__)
            )
            raise TypeError(f"For 'LBFGS', 'closure' must return a loss and its gradients, but got {got}.")
        loss, gradients = result
        if not isinstance(loss, (Tensor, Real)) or np.size(loss) != 1:
            got = f"shape {loss.shape}" if isinstance(loss, Tensor) else type(loss).__name__
            raise TypeError(f"For 'LBFGS', 'closure' must return a loss that is one number, but got {got}.")
        gradients = check_gradients("LBFGS", gradients, self.parameters)
        return loss, tuple(grad if param.requires_grad else None for grad, param in zip(gradients, self.parameters))

    def _begin(self, closure):
        """What the closure finds first, after which the parameters have their memory; and where vectors are then."""
        loss, gradients = self._evaluate(closure)
        where = self._on_host if self._on_host.usable() else self._on_device
        return loss, where.flat(gradients), where

    def _point(self, where, closure, origin, d, t):
        """What the closure finds at a step length."""
        where.write(origin, t, d)
        loss, gradients = self._evaluate(closure)
        grad = where.flat(gradients)
        return Point(t, float(loss), grad, number(dot(grad, d)))

    def __call__(self, *args):
        """Raise: the step of this optimizer takes a closure."""
        raise TypeError(REFUSAL)

    def construct(self, gradients):
        """Raise when a training cell is compiled."""
        raise TypeError(REFUSAL)


def _compare(what, got, expected):
    missing, unknown = sorted(set(expected) - set(got)), sorted(set(got) - set(expected), key=str)
    if missing or unknown:
        raise ValueError(
            f"For 'LBFGS', the keys of {what} must be {sorted(expected)}, but {missing} are missing and "
            f"{unknown} are unknown."
        )
