"""One step of all parameters, as MindSpore compiles it."""

from typing import Any

import mindspore as ms
from mindspore import Tensor, ops
from mindspore.ops.primitive import constexpr

from ms_optim import _compiled, _composed, _shards
from ms_optim._gradients import fits, wanted_of
from ms_optim._learning_rate import look_up


def note_graph(optimizer: Any) -> None:
    """Note that a graph other than its own has the step of an optimizer, if that is what compiles now."""
    if not _compiled.is_calling():
        optimizer._hold("is_in_graph", True)


@constexpr
def _bools(present):
    """Which gradients are there, as a Tensor that is known when a graph is compiled."""
    return Tensor(present)


class Step:
    """The step of an optimizer: its numbers, and the native kernel or the rule in MindSpore's operators.

    What it reads is laid out when the optimizer is made. What is known then is not asked of the graph: MindSpore takes
    as long to compile a condition, or a `not`, as several operators.
    """

    # Whether a graph other than its own has it, as of a training cell.
    is_in_graph = False

    def construct(self, gradients, present=None):
        """One step: the numbers of all parameters first, then the rule on each."""
        _compiled.check_again(self.refuse_count, len(gradients))
        here = self.present if present is None else present
        rows, moves = self.numbers_of_step(here)
        return self.apply_rule(gradients, rows, moves, here, self.laid_out)

    def numbers_of_step(self, present):
        """The numbers of a step, a row for each parameter, and which parameters move; those that are state are kept."""
        _compiled.check_again(self.note_graph)
        _compiled.check_again(self.warn_unseen)
        _compiled.check_again(self.refuse_parts)
        moves = ops.logical_and(self.trainable, _bools(present))
        steps = self.step_counts + ops.cast(moves, ms.float64)
        hyper = ops.unbind(ops.gather(ops.stack((self._learning_rates(), *self._numbers_now())), self.group_index, 1))
        numbers = self.scalars(steps, *self.scalar_state, *hyper)
        _compiled.check_again(self.check_numbers, _composed.length(numbers))
        if self.has_scalars:
            count = len(self.scalar_state)
            self.hyper_map(ops.partial(_composed.store, moves), self.scalar_state, numbers[:count], self.scalar_state)
            numbers = numbers[count:]
        ops.assign(self.step_counts, steps)
        ops.assign_add(self.global_step, self.global_step_increase_tensor)
        if self.has_reciprocal:
            numbers = (*numbers, self.reciprocal)
        return ops.stack(numbers, 1), moves

    def _numbers_now(self):
        """This step's hyperparameters, each a float64 vector over groups."""
        now = self.numbers
        if self.has_tables:  # each turn of the loop takes time to compile
            now = ()
            for kept in self.numbers:
                now = (*now, kept if kept.ndim == 1 else look_up(kept, self.global_step).reshape(kept.shape[1:]))
        return now

    def apply_rule(self, gradients, rows, moves, present, laid_out):
        """The rule on the parameters that are laid out, with their numbers and gradients."""
        gradients = tuple(gradients)
        columns = laid_out[1:]
        parameters, wanted, places = laid_out[0]
        wanted = wanted_of(wanted, present)
        if self.takes_wholes and _shards.in_slices():
            gradients = self.hyper_map(ops.partial(_shards.seen, self.refuse_slice), gradients, places)
        if self.fused:
            _compiled.check_again(self.check_state)
            layout, slots = columns
            done = self.hyper_map(fits, parameters, gradients, wanted)
            self.kernel(rows, moves, layout, *parameters, *gradients, *slots)
            return done
        return self._apply(gradients, self._cut(rows, moves, columns[-1]), parameters, wanted, columns)

    def _cut(self, rows, moves, dtypes):
        """What the rule takes of the numbers, for each parameter of a part, in the dtype of its computation."""
        one = _composed.cut(rows, moves, self.precisions[0], self.conditions_read, self.lerp_weights)
        if self.is_mixed:
            other = _composed.cut(rows, moves, self.precisions[1], self.conditions_read, self.lerp_weights)
            numbers, conditions = (), ()
            for i in range(rows.shape[0]):
                own = one if dtypes[i] == self.precisions[0] else other
                numbers, conditions = (*numbers, own[0][i]), (*conditions, own[1][i])
            one = numbers, conditions, one[2]
        return one

    def _apply(self, gradients, given, parameters, wanted, columns):
        """The rule on each parameter, in MindSpore's operators."""
        rows, conditions, moves = given
        slots, flags, axes, dtypes = columns
        if self.has_single:
            moves = self.hyper_map(_composed.without_axis, axes, moves)
            conditions = self.hyper_map(_composed.without_axis, axes, conditions)
        return self.hyper_map(self.rule, parameters, gradients, rows, conditions, moves, slots, flags, dtypes, wanted)

    def _learning_rates(self):
        """This step's learning rates, a float64 vector over groups."""
        rates = self.rate_sources
        if self.dynamic_lr:
            rates = ()
            for source in self.rate_sources:
                rate = source(self.global_step)
                _compiled.check_again(self.check_rate, rate.shape)
                rates = (*rates, rate.reshape(()).double())
        rates = ops.stack(rates)
        if self.later_rates is not None:
            rates = rates.where(ops.isnan(self.later_rates), self.later_rates)
        return rates
