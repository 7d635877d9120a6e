"""L-BFGS (Liu and Nocedal 1989, "On the limited memory BFGS method for large scale optimization")."""

import functools
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from numbers import Real

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.ops import MultitypeFuncGraph

from ms_optim._learning_rate import float64_parameter
from ms_optim._state import layout
from ms_optim._values import LIST, as_array, as_number, plain
from ms_optim.arguments import NOTES, check, check_gradients, parse_groups
from ms_optim.lbfgs.line_search import Point, reach, strong_wolfe
from ms_optim.optimizer import Params

# A pair of changes of gradient and parameters enters the history if their product is larger: the curvature is positive.
POSITIVE = 1e-10
REFUSAL = (
    "For 'LBFGS', a step must be optimizer.step(closure), where closure() returns the loss and its gradients as "
    "often as they are asked for, but got gradients: optimizer(gradients), nn.TrainOneStepCell and Model.train "
    "evaluate the loss once for each step."
)
COUNTS, VECTORS, HISTORY = ("func_evals", "n_iter"), ("d", "prev_flat_grad"), ("old_dirs", "old_stps")
STATE = (*COUNTS, "d", "t", *HISTORY, "ro", "H_diag", "prev_flat_grad", "prev_loss")


class Graph(nn.Cell):
    """A function of tensors, compiled once for each of their shapes and dtypes, in both modes."""

    def __init__(self, function: Callable):
        super().__init__()
        self.function = function

    def __call__(self, *tensors):
        """Run it."""
        return self.compile_and_run(*tensors)

    def construct(self, *tensors):
        """Call it."""
        return self.function(*tensors)


@Graph
def dot(a, b):
    """The sum of products, accumulated in float64."""
    return (a.double() * b.double()).sum().to(a.dtype)


@Graph
def largest(vector):
    """The largest magnitude; NaN if there is one, which the maximum passes over on CPU."""
    return vector.abs().max().where(ops.isnan(vector).logical_not().all(), float("nan"))


@Graph
def changes(grad, previous, d, t):
    """How gradient and parameters have changed, y and s; y*s and its reciprocal; y*s / y*y."""
    y, s = grad - previous, d * t
    ys = dot(y, s)
    return y, s, ys, 1 / ys, ys / dot(y, y)


@Graph
def backward(q, y, s, r):
    """Go one pair back in the history: q without what is along y, and how much that is."""
    weight = dot(s, q) * r
    return q - weight * y, weight


@Graph
def forward(d, y, s, r, weight):
    """Go one pair forward."""
    return d + (weight - dot(y, d) * r) * s


_ravel = MultitypeFuncGraph("ravel")
_write = MultitypeFuncGraph("write")


@_ravel.register("Tensor", "Tensor")
def _raveled(like, tensor):
    return tensor.reshape(-1).to(like.dtype)


@_write.register("Tensor", "Tensor", "Number")
def _written(vector, param, begin):
    piece = ops.slice(vector, (begin,), (param.size,))
    ops.assign(param, piece.reshape(param.shape).to(param.dtype))
    return True


@Graph
def flat(like, *tensors):
    """What the tensors hold, end to end, in the dtype of the first argument."""
    return ops.cat(ops.HyperMap()(ops.partial(_ravel, like), tensors))


class Reader(nn.Cell):
    """The parameters as one vector, in the dtype of `like`."""

    def __init__(self, parameters: ParameterTuple, like: Tensor):
        super().__init__(auto_prefix=False)
        self.parameters, self.like = parameters, like

    def __call__(self):
        """Read it."""
        return self.compile_and_run()

    def construct(self):
        """Lay the parameters end to end."""
        return flat(self.like, *self.parameters)


class Writer(nn.Cell):
    """Puts the parameters at origin + t * d; a graph of its own, for one that reads them too loses float64's digits."""

    def __init__(self, parameters: ParameterTuple):
        super().__init__(auto_prefix=False)
        self.parameters = parameters
        self.begins = tuple(np.cumsum([0, *(param.size for param in parameters)])[:-1].tolist())
        self.hyper_map = ops.HyperMap()

    def __call__(self, origin: Tensor, t: Tensor, d: Tensor):
        """Write it."""
        return self.compile_and_run(origin, t, d)

    def construct(self, origin, t, d):
        """Give each parameter its part."""
        return self.hyper_map(ops.partial(_write, origin + t * d), self.parameters, self.begins)


def number(scalar: Tensor) -> np.ndarray:
    """A scalar of the device on the host, as `Point` has it."""
    return scalar.asnumpy().reshape(1)


def tensor_of(value: float | np.ndarray, like: Tensor) -> Tensor:
    """A number of the host on the device, in the dtype of `like`."""
    return Tensor(np.reshape(value, ()), like.dtype)


def advance(state: dict, grad: Tensor, history_size: int) -> dict:
    """What the next iteration changes of the state: the history, with what the last one has shown, and the direction.

    The direction is minus the gradient times an inverse Hessian: H_diag, updated by each pair of the history.
    """
    if state["n_iter"] == 1:
        return {"d": -grad, "old_dirs": [], "old_stps": [], "ro": [], "H_diag": 1}
    old_dirs, old_stps, ro, scale = (state[name] for name in ("old_dirs", "old_stps", "ro", "H_diag"))
    y, s, ys, r, ratio = changes(grad, state["prev_flat_grad"], state["d"], tensor_of(state["t"], grad))
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
def first_length(state: dict, grad: Tensor, lr: float) -> float | np.ndarray:
    """The first step length of an iteration; the very first has no history to tell the scale, and is cautious."""
    return lr if state["n_iter"] > 1 else min(1.0, 1.0 / number(dot(grad, grad.sign()))) * lr


class Group(MutableMapping):
    """The one group: its arguments, each of which may be set between steps.

    A scheduler may also leave there what torch's leave, such as "initial_lr".
    """

    def __init__(self, learning_rate: Parameter, options: dict):
        self._learning_rate, self._options = learning_rate, options

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)

    def __getitem__(self, name: str):
        return float(self._learning_rate.asnumpy()) if name == "lr" else self._options[name]

    def __setitem__(self, name: str, value):
        value = self.checked(name, value)
        if name == "lr":
            ops.assign(self._learning_rate, Tensor(value, ms.float64))
        else:
            self._options[name] = value

    def __delitem__(self, name: str):
        if name not in NOTES:
            raise KeyError(f"For 'LBFGS', what can be deleted from the group must be in {NOTES}, but got {name!r}.")
        del self._options[name]

    def checked(self, name: str, value):
        """A value that may be set.

        Raises:
            KeyError: If there is no such argument.
            TypeError, ValueError: If the value is none of those that it may have.
        """
        if name in NOTES:
            return as_number(value, f"For 'LBFGS', '{name}'")
        names = [key for key in self if key != "params" and key not in NOTES]
        if name not in names:
            raise KeyError(f"For 'LBFGS', what can be set in the group must be in {names}, but got {name!r}.")
        return check("LBFGS", name, plain(value, f"For 'LBFGS', '{name}'"))


class LBFGS(nn.Optimizer):
    """Quasi-Newton steps from a history of gradients, as `torch.optim.LBFGS` (2.13) computes them.

    It evaluates the loss as often as it needs to, so its step is not `optimizer(gradients)` but `step(closure)`; so it
    is not for `Model.train` and `nn.TrainOneStepCell`, which raise. The closure returns the loss and its gradients,
    where torch's calls `backward`; within a step it must be one function, of the same batch and without dropout.

    State, as torch keys it, all of it for the first parameter: `func_evals`, `n_iter`, `d`, `t`, `old_dirs`,
    `old_stps`, `ro`, `H_diag`, `prev_flat_grad` and `prev_loss`: 2 * history_size + 2 times the parameters.

    Args:
        params (Union[list[Parameter], list[dict]]): The parameters, all of which are float32 or float64, or one group
            of them: a dict with the key "params" and any of the arguments below.
        lr (float): The first step length of each iteration, and without a line search the only one, in [0, inf).
            Default: ``1`` .
        max_iter (int): The iterations of one step, in [1, inf). Default: ``20`` .
        max_eval (Union[None, int]): How many evaluations of a step are enough, in [1, inf); None is max_iter * 5 // 4.
            Default: ``None`` .
        tolerance_grad (float): A step ends where no gradient is larger than this. Default: ``1e-7`` .
        tolerance_change (float): A step ends when no parameter has moved by more than this, or the loss has moved by
            less, or its slope is less. Default: ``1e-9`` .
        history_size (int): How many iterations are remembered, in [1, inf). Default: ``100`` .
        line_search_fn (Union[None, str]): "strong_wolfe", or None for steps of length lr. Default: ``None`` .

    Raises:
        TypeError: If an argument is of the wrong kind, or the optimizer is called with gradients.
        ValueError: If an argument is out of its range, there are several groups, a group has a key that is not an
            argument, or a parameter occurs twice.

    Note:
        A checkpoint of `mindspore.save_checkpoint(optimizer, ...)` holds the learning rate and not this state, which
        grows; `state_dict()` holds both. All of the arguments may be set in `param_groups[0]` between steps.

    Supported Platforms:
        ``Ascend`` ``GPU`` ``CPU``

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
            max_eval = check("LBFGS", "max_iter", max_iter) * 5 // 4
        defaults = dict(
            lr=lr,
            max_iter=max_iter,
            max_eval=max_eval,
            tolerance_grad=tolerance_grad,
            tolerance_change=tolerance_change,
            history_size=history_size,
            line_search_fn=line_search_fn,
        )
        groups, parameters, _ = parse_groups("LBFGS", params, defaults)
        if len(groups) > 1:
            raise ValueError(f"For 'LBFGS', 'params' must be one group, but got {len(groups)}.")
        for param in parameters:
            if param.dtype not in (ms.float32, ms.float64):
                raise TypeError(
                    f"For 'LBFGS', the dtype of '{param.name}' must be Float32 or Float64, but got {param.dtype}."
                )
        rate = check("LBFGS", "lr", groups[0]["lr"])
        super().__init__(0.0, parameters)
        groups[0]["params"] = parameters
        self.learning_rate = float64_parameter(rate, "learning_rate")
        dtype = ms.float64 if any(param.dtype == ms.float64 for param in parameters) else ms.float32
        self.like = Tensor(0.0, dtype)
        self.read, self.write = Reader(self.parameters, self.like), Writer(self.parameters)
        self._group = Group(self.learning_rate, groups[0])
        self._state = {}

    @property
    def param_groups(self) -> tuple[Group]:
        """The group: read its arguments, or set them between steps, as in torch."""
        return (self._group,)

    @property
    def state(self) -> dict[str, dict]:
        """The state as torch has it: by the name of the first parameter, if there was a step; then by its keys.

        Vectors are Tensors of all parameters end to end; numbers are Tensors where torch has Tensors.
        """
        if not self._state:
            return {}
        kept = {name: self._state[name] for name in STATE if name in self._state}
        kept |= {name: list(kept[name]) for name in (*HISTORY, "ro") if name in kept}
        if isinstance(kept.get("t"), np.ndarray):
            kept["t"] = tensor_of(kept["t"], self.like)
        return {self.parameters[0].name: kept}

    def state_dict(self, *, destination: dict | None = None, prefix: str = "", keep_vars: bool = False) -> dict:
        """State and arguments in torch's layout.

        Args:
            destination (Union[None, dict]): Where a Cell around this one collects Parameters, as `Cell.state_dict`
                says. Default: ``None`` .
            prefix (str): Of their keys. Default: ``""`` .
            keep_vars (bool): Whether they are the Parameters themselves. Default: ``False`` .

        Returns:
            dict, {"state": {0: state}, "param_groups": [group]}, whose "params" are 0, 1, ... What it holds does not
            change when the optimizer goes on.
        """
        if destination is not None:
            return super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        group = {name: value for name, value in self._group.items() if name != "params"}
        return {
            "state": dict(enumerate(self.state.values())),
            "param_groups": [{**group, "params": list(range(len(self.parameters)))}],
        }

    def load_state_dict(self, state_dict: Mapping):
        """Continue from what `state_dict()` of this or of torch's optimizer gave.

        Args:
            state_dict (Mapping): In torch's layout; vectors and numbers may be Tensors or arrays, of any float dtype.
                Torch's "al", which says nothing more, may be there, and "param_names", to tell another order by.

        Raises:
            TypeError: If an argument is of the wrong kind.
            ValueError: If keys, values or the order of the parameters do not fit. Nothing is changed then.
        """
        state, groups = layout("LBFGS", state_dict)
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
        options = {name: value for name, value in groups[0].items() if name not in ("params", "param_names")}
        _compare("the group", options.keys() - set(NOTES), self._group.keys() - {"params", *NOTES})
        options = {name: self._group.checked(name, value) for name, value in options.items()}
        state = self._restored(state[0]) if state else {}
        for name in self._group.keys() & set(NOTES):
            del self._group[name]
        self._group.update(options)
        self._state = state

    def _restored(self, saved):
        """A state of torch's as this one keeps it; "al" is where torch's computes, and no state."""
        state = {name: self._restored_value(name, value) for name, value in saved.items() if name != "al"}
        _compare("the state", state.keys(), STATE if state.get("n_iter", 1) else COUNTS)
        lengths = [len(state.get(name, ())) for name in (*HISTORY, "ro")]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"For 'LBFGS', 'old_dirs', 'old_stps' and 'ro' of the state must be of one length, but got {lengths}."
            )
        return state

    def _restored_value(self, name, value):
        what, dtype = f"For 'LBFGS', '{name}' of the state", ms.dtype_to_nptype(self.like.dtype)
        if name in COUNTS:
            return as_number(value, what, whole=True)
        if name in ("t", "prev_loss") or (name == "H_diag" and type(value) is int):
            scalar = as_array(value, what, ())
            return scalar.astype(dtype) if name == "t" and hasattr(value, "dtype") else scalar.item()
        listed = name in (*HISTORY, "ro")
        if listed and not isinstance(value, LIST):
            raise ValueError(f"{what} must be a list, but got {type(value).__name__}.")
        shape = (sum(param.size for param in self.parameters),) if name in (*VECTORS, *HISTORY) else ()
        tensors = [Tensor(as_array(item, what, shape).astype(dtype)) for item in (value if listed else [value])]
        return tensors if listed else tensors[0]

    @property
    def state_bytes(self) -> int:
        """The memory of the state that is on the device."""
        vectors = [self._state[name] for name in VECTORS if name in self._state]
        return sum(
            vector.nbytes
            for vector in [*vectors, *(item for name in (*HISTORY, "ro") for item in self._state.get(name, ()))]
        )

    def step(self, closure: Callable[[], tuple[Tensor, tuple[Tensor | None, ...]]]) -> Tensor:
        """Take up to max_iter iterations.

        Args:
            closure (Callable): Called without arguments, it returns the loss, a scalar, and its gradients, a tuple in
                the order of `optimizer.parameters`; None stands for zeros. What `mindspore.value_and_grad(forward,
                None, optimizer.parameters)` returns is such a function, if `forward` has no arguments.

        Returns:
            Tensor, the loss before the first iteration.

        Raises:
            TypeError: If `closure` is no function or what it returns is not of this kind.
            ValueError: If the gradients do not fit the parameters.
        """
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
        state = dict.fromkeys(COUNTS, 0) | self._state
        first, grad = self._evaluate(closure)
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
            origin = self.read()
            if line_search_fn:
                evaluate = functools.partial(self._point, closure, origin, d)
                point, used = strong_wolfe(evaluate, Point(0, loss, grad, slope), t, longest, max_eval - evaluations)
                t, loss, grad = point.t, point.loss, point.grad
                evaluations += used
                state["t"] = t
            self.write(origin, tensor_of(t, d), d)
            if not line_search_fn and iteration < max_iter:
                result, grad = self._evaluate(closure)
                loss = float(result)
                evaluations += 1
            done = (
                iteration == max_iter
                or evaluations >= max_eval
                or number(largest(grad)) <= tolerance_grad
                or reach(t, longest) <= tolerance_change
                or abs(loss - state["prev_loss"]) < tolerance_change
            )
        state["func_evals"] += evaluations
        self._state = state
        return first

    def _evaluate(self, closure):
        """The loss, and its gradient as a vector."""
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
        return loss, flat(
            self.like,
            *(ops.zeros_like(param) if grad is None else grad for grad, param in zip(gradients, self.parameters)),
        )

    def _point(self, closure, origin, d, t):
        """What the closure finds at a step length."""
        self.write(origin, tensor_of(t, d), d)
        loss, grad = self._evaluate(closure)
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
