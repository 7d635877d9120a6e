"""A network whose parameters follow another's."""

from collections.abc import Iterable, Mapping
from itertools import zip_longest

from mindspore import Parameter, Tensor, log, nn, ops

from ms_optim import _compiled, _direct, _host, _native
from ms_optim._clones import release_with
from ms_optim._state import are_replaced
from ms_optim._values import as_it_is, float64_parameter, settle
from ms_optim.arguments import COMMON, FLOATS
from ms_optim.ema.evaluation import Averaged, put
from ms_optim.ema.tensors import (
    average,
    check_parameters,
    shadow,
    shadow_dtype,
    sides,
    use_kernel,
    ways,
)


class ParameterEMA(Averaged, nn.Cell):
    """One network's average in another: a momentum encoder (MoCo) or a target network (DQN).

    Each call computes target <- decay*target + (1 - decay)*source, alone or within a larger compiled graph.

    Args:
        source (Union[nn.Cell, Iterable[Parameter]]): What is trained.
        target (Union[nn.Cell, Iterable[Parameter]]): What follows it, of the same structure, but under other names, as
            `target.update_parameters_name("target.")` gives. In float16 it hardly moves: it may be float32 then.
        decay (float): The momentum of MoCo, 1 - tau of a soft update, in [0, 1].
        buffer_update (str): "average" (integers are copied), "copy" or "skip" what requires no gradient in
            the source. Lists are averaged whole, and integers copied. Default: ``"skip"`` .

    Outputs:
        bool, True.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `decay` is out of range, or a parameter of the source and one of the target do not fit.

    Supported Platforms:
        ``CPU``. For ``Ascend`` and ``GPU`` a call is compiled and was not run; README says what is known.

    Examples:
        >>> from mindspore import nn
        >>> from ms_optim import ParameterEMA
        >>> net, target = nn.Dense(2, 3), nn.Dense(2, 3)
        >>> target.update_parameters_name("target.")
        >>> follow = ParameterEMA(net, target, decay=0.995)
        >>> follow.copy()  # hard update
        >>> follow()  # soft update
        True
    """

    owns: tuple[str, ...] = ()

    def __init__(
        self,
        source: nn.Cell | Iterable[Parameter],
        target: nn.Cell | Iterable[Parameter],
        decay: float,
        *,
        buffer_update: str = "skip",
    ):
        super().__init__()
        decay = COMMON["decay"].check("ParameterEMA", "decay", decay)
        COMMON["buffer_update"].check("ParameterEMA", "buffer_update", buffer_update)
        pairs = _pair(source, target)
        if isinstance(source, nn.Cell) and buffer_update == "skip":
            pairs = [(param, other) for param, other in pairs if param.requires_grad]
        if not pairs:
            raise ValueError("For 'ParameterEMA', 'source' must hold a parameter to average.")
        copies = isinstance(source, nn.Cell) and buffer_update == "copy"
        self.source = tuple(check_parameters("ParameterEMA", "source", [param for param, _ in pairs]))
        self.target = tuple(other for _, other in pairs)
        self._hold("tracked", self.source)
        self._hold("averages", self.target)
        self.now = Tensor(True)
        self.hyper_map = ops.HyperMap()
        self._decay = float64_parameter(decay, f"decay.{self.target[0].name}")
        self._set_path([copies and not param.requires_grad for param in self.source])

    def _set_path(self, copied):
        """Choose the native kernel or MindSpore's operators; these are copied, as integers are, and others averaged."""
        self.copied = tuple(own or param.dtype not in FLOATS for own, param in zip(copied, self.source))
        self._hold("_compiled_for", None)
        self.fused = _native.absence("ParameterEMA", "average") is None
        if self.fused:
            use_kernel(self, "ParameterEMA", self.target, self.source)
        self.ways = ways(self.fused, self.target, self.copied)

    def __call__(self):
        """Take one update: by the kernel on the tensors' own memory where that can be, or else compiled."""
        self._refuse_replaced("no update can be made")
        if not self.why_compiled and _direct.average(self.launch, self.source, self._weight()):
            return True
        with self._compiled_call():
            return _compiled.call(self)

    @property
    def why_compiled(self) -> str | None:
        """Why a call outside of a graph compiles; None if it does not, but runs the kernel at once."""
        changed = _direct.changed(type(self), ParameterEMA, "construct")
        absence = None if self.fused else _native.absence("ParameterEMA", "average")
        return changed or absence or _host.obstacle()

    def _weight(self):
        """What the average takes of the source, and whether it does, on the host."""
        return 1 - _host.memory(self._decay).item(), True

    def construct(self):
        """One soft update."""
        if self.fused:
            _compiled.check_again(self.check_averages)
            self.kernel(1 - self._decay, self.now, self.ways, *self.target, *self.source)
        else:
            self.hyper_map(ops.partial(average, sides(1 - self._decay), self.now), self.target, self.source, self.ways)
        return True

    def copy(self) -> None:
        """Copy the source into the target: a hard update."""
        self._refuse_replaced("'copy' has no effect")
        put(self.target, self.source)

    def _refuse_replaced(self, what):
        """Raise inside its own block, where the source is the target, and where the target is put back."""
        if self._is_inside or are_replaced(self.target):
            raise RuntimeError(f"For '{type(self).__name__}', {what} inside 'average_parameters'.")

    def legacy_parameters(self, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Averages that begin as the weights are, for files of versions that did not have them."""
        lacking = [
            (param.name, average)
            for param, average in zip(self.source, self.averages)
            if self.owns and average.name not in saved and isinstance(saved.get(param.name), Tensor)
        ]
        if lacking:
            log.warning(
                f"For '{type(self).__name__}', the file has no averages, as older ones have not: they begin as the "
                "weights."
            )
        return {average.name: saved[name].astype(average.dtype) for name, average in lacking}

    @classmethod
    def of(cls, network: nn.Cell, decay: float = 0.9999, *, buffer_update: str = "average") -> "ParameterEMA":
        """Make one whose target is beside the network, as "ema." and its names: float32 where the network is half.

        With `ema_update` after each step, and `swap_before_eval` and `swap_after_eval` around an evaluation, it is what
        trainers of MindSpore's libraries take as their average.

        Args:
            network (nn.Cell): What is trained.
            decay (float): In [0, 1]. Default: ``0.9999`` .
            buffer_update (str): "average", "copy" or "skip" what requires no gradient, as statistics of batch norms;
                integers are copied. Default: ``"average"`` .

        Returns:
            ParameterEMA, whose averages begin as the network is.

        Raises:
            TypeError, ValueError: As for one that is made of two.

        Examples:
            >>> from mindspore import nn
            >>> from ms_optim import ParameterEMA
            >>> net = nn.SequentialCell(nn.Dense(2, 3), nn.BatchNorm1d(3))
            >>> ema = ParameterEMA.of(net, decay=0.999)
            >>> ema.ema_update()  # after each step of the optimizer
            True
            >>> ema.swap_before_eval()
            >>> ema.swap_after_eval()
        """
        if not isinstance(network, nn.Cell):
            raise TypeError(f"For '{cls.__name__}', 'network' must be a Cell, but got {type(network).__name__}.")
        COMMON["buffer_update"].check(cls.__name__, "buffer_update", buffer_update)
        params = [param for param in network.get_parameters() if param.requires_grad or buffer_update != "skip"]
        copied = [buffer_update == "copy" and not param.requires_grad for param in params]
        averages = [shadow(param) for param in params]
        made = cls(params, averages, decay)
        release_with(made, params, averages)
        made._own_averages([average.name for average in averages])
        made._set_path(copied)
        return made

    def _own_averages(self, keys):
        """Have the averages among the Parameters of this Cell, by these keys: they are no other's."""
        self.owns = tuple(keys)
        for key, kept in zip(keys, self.averages):
            self.insert_param_to_cell(key, kept, check_name_contain_dot=False)

    def __reduce_ex__(self, protocol):
        self.refuse_inside("no copy can be made")
        settle(self.source)
        target = [(param, as_it_is(param)) for param in self.target]
        settle(param for param, now in target if now is param)
        target = [param if now is param else Parameter(now, param.name, param.requires_grad) for param, now in target]
        decay = self._decay.asnumpy().item()
        return _remade, (type(self), self.source, tuple(target), decay, self._decay.name, self.owns, self.copied)

    def ema_update(self) -> bool:
        """Take one update, as a call does; also inside a graph."""
        if _compiled.in_graph():
            return self.construct()
        return self()


def _remade(cls, source, target, decay, name, owns, copied):
    """One like another, over these Parameters; of copies and pickles."""
    made = cls(source, target, decay)
    made._decay.name = name
    if owns:
        made._own_averages(owns)
    made._set_path(copied)
    return made


def _pair(source, target):
    """The parameters of source and target side by side, once they are known to fit."""
    if isinstance(source, nn.Cell) != isinstance(target, nn.Cell):
        raise TypeError(
            "For 'ParameterEMA', 'source' and 'target' must be two Cells or two lists of Parameters, but "
            f"got {type(source).__name__} and {type(target).__name__}."
        )
    if isinstance(source, nn.Cell):
        source, target = source.parameters_and_names(), target.parameters_and_names()
    else:
        source, target = (
            [("", param) for param in check_parameters("ParameterEMA", name, params)]
            for name, params in (("source", source), ("target", target))
        )
    pairs = []
    for (name, param), (other_name, other) in zip_longest(source, target, fillvalue=("", None)):
        if (
            param is None
            or other is None
            or param.name == other.name
            or (name, param.shape) != (other_name, other.shape)
            or other.dtype not in (param.dtype, shadow_dtype(param))
        ):
            raise ValueError(
                "For 'ParameterEMA', 'source' and 'target' must pair parameters of the same place, shape "
                f"and dtype, but of different names, but got pair {len(pairs)}: {param} and {other}."
            )
        pairs.append((param, other))
    return pairs
