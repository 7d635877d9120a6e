"""One step of all parameters, as MindSpore compiles it."""

from typing import Any

from mindspore import Tensor, ops

from ms_optim import _compiled, _composed, _pieces, _shards
from ms_optim._gradients import fits, refuse_count
from ms_optim._learning_rate import look_up


def note_graph(optimizer: Any) -> None:
    """Note that a graph other than its own has the step of an optimizer, if that is what compiles now."""
    if not _compiled.is_calling():
        optimizer._hold("is_in_graph", True)


class Step:
    """The step of an optimizer: its numbers, and the native kernel or the rule in MindSpore's operators.

    What it reads is laid out when the optimizer is made.
    """

    # Whether a graph other than its own has it, as of a training cell.
    is_in_graph = False

    def construct(self, gradients, present=None):
        """One step: the numbers of all parameters first, then the rule on each."""
        if len(gradients) != len(self.parameters):
            refuse_count(self.cls_name, len(self.parameters), len(gradients))
        if present is None:
            present = self.present
        rows, moves = self.numbers_of_step(present)
        return self.apply_rule(gradients, rows, moves, present)

    def numbers_of_step(self, present):
        """The numbers of a step, a row for each parameter, and which parameters move; those that are state are kept."""
        _compiled.check_again(self.note_graph)
        _compiled.check_again(self.warn_unseen)
        _compiled.check_again(self.refuse_parts)
        moves = self.trainable.logical_and(Tensor(present))
        steps = self.step_counts + moves.double()
        hyper = ops.unbind(ops.gather(ops.stack((self._learning_rates(), *self._numbers_now())), self.group_index, 1))
        numbers = self.scalars(steps, *self.scalar_state, *hyper)
        _compiled.check_again(self.check_numbers, _composed.length(numbers))
        if self.has_scalars:
            count = len(self.scalar_state)
            self.hyper_map(ops.partial(_composed.store, moves), self.scalar_state, numbers[:count], self.scalar_state)
            numbers = numbers[count:]
        ops.assign(self.step_counts, steps)
        ops.assign_add(self.global_step, self.global_step_increase_tensor)
        if self.fused or self.need_scale:
            numbers = (*numbers, self.reciprocal)
        return ops.stack(numbers, 1), moves

    def _numbers_now(self):
        """This step's hyperparameters, each a float64 vector over groups."""
        if not self.has_tables:  # each turn of the loop below takes time to compile
            return self.numbers
        now = ()
        for kept in self.numbers:
            now = (*now, kept if kept.ndim == 1 else look_up(kept, self.global_step).reshape(kept.shape[1:]))
        return now

    def apply_rule(self, gradients, rows, moves, present, part=None):
        """The rule on the parameters from one place to another, or on all, with the numbers and gradients of these."""
        gradients = tuple(gradients)
        if not self.elementwise and _shards.in_slices():
            (places,) = _pieces.some((self.places,), part)
            gradients = self.hyper_map(ops.partial(_shards.seen, self.refuse_slice), gradients, places)
        if self.fused:
            _compiled.check_again(self.check_state)
            parameters, wanted = _pieces.some((self.parameters, self.wanted), part)
            done = self.hyper_map(fits, parameters, gradients, present, wanted)
            layout, slots = self.layout, self.kernel_slots
            if part is not None:
                begin, end = part
                layout, slots = layout[begin:end], slots[self.slots_before[begin] : self.slots_before[end]]
            self.kernel(rows, moves, layout, *parameters, *gradients, *slots)
            return done
        return self._apply(gradients, self._cut(rows, moves, part), present, part)

    def _cut(self, rows, moves, part):
        """What the rule takes of the numbers, for each parameter of a part, in the dtype of its computation."""
        one = _composed.cut(rows, moves, self.precisions[0], self.conditions_read, self.lerp_weights)
        if len(self.precisions) == 1:
            return one
        other = _composed.cut(rows, moves, self.precisions[1], self.conditions_read, self.lerp_weights)
        numbers, conditions = (), ()
        begin = 0 if part is None else part[0]
        for i in range(rows.shape[0]):
            own = one if self.computed_in[begin + i] == self.precisions[0] else other
            numbers, conditions = (*numbers, own[0][i]), (*conditions, own[1][i])
        return numbers, conditions, one[2]

    def _apply(self, gradients, given, present, part):
        """The rule on each parameter of a part, in MindSpore's operators."""
        rows, conditions, moves = given
        columns = (self.parameters, self.slot_table, self.flags, self.wanted)
        parameters, slots, flags, wanted = _pieces.some(columns, part)
        return self.hyper_map(self.rule, parameters, gradients, rows, conditions, moves, slots, flags, present, wanted)

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
