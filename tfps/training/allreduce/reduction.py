"""What the workers of a group make equal in a step: the gradients of dense variables, and what the step assigns.

If worker i has n_i examples in its batch and the gradient g_i, all use `sum_i(n_i * g_i) / sum_i(n_i)`, the gradient of
the concatenated batch for a loss that is a mean over examples. The optimizer of each worker then makes the same update.
Values that depend on the batch and that a step assigns, such as the averages of a BatchNormalization, are merged at the
end of the step (`tfps.training.merges`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfps import step
from tfps.step import Gradient
from tfps.strategy.variables import DenseVariable, SeedVariable
from tfps.training.affine import Dependencies
from tfps.training.allreduce.collectives import Collectives
from tfps.training.exchange import Values
from tfps.training.merge_kinds import MergeKinds, depends_on_batch
from tfps.training.merges import EXTREMES, Merge
from tfps.training.skips import Skips
from tfps.types import VariableKey


class MeanReducer:
    """Reduces the gradients of one step; implements `tfps.step.Reducer`.

    Args:
        collectives: the all-reduces of the closure.
        examples: the number of examples in the worker's batch, a float32 scalar.
    """

    def __init__(self, collectives: Collectives, examples: tf.Tensor) -> None:
        self._collectives, self._examples = collectives, examples

    def mean(self, gradients: Sequence[Gradient]) -> list[tf.Tensor]:
        """Returns the mean of each gradient over all examples; zeros if no worker has an example."""
        # IndexedSlices of a dense variable become dense: workers have different rows.
        return weighted_means(self._collectives, [tf.convert_to_tensor(one) for one in gradients], self._examples)


def weighted_means(collectives: Collectives, values: Sequence[tf.Tensor], weight: tf.Tensor) -> list[tf.Tensor]:
    """Returns the means of tensors over the workers, by one all-reduce.

    Args:
        collectives: the all-reduces of the closure.
        values: float tensors with static shapes.
        weight: the weight of this worker, a float32 scalar.
    """
    dtype = _widest(values)
    flat = tf.concat([tf.reshape(tf.cast(value, dtype), [-1]) for value in values] + [tf.ones([1], dtype)], 0)
    # The mean over an empty batch may be NaN, which a plain product with 0 would keep.
    total = collectives.reduce(tf.math.multiply_no_nan(flat, tf.cast(weight, dtype)))
    means = tf.math.divide_no_nan(total, total[-1])
    *parts, _ = tf.split(means, [*(value.shape.num_elements() for value in values), 1])
    return [tf.cast(tf.reshape(part, v.shape), v.dtype) for part, v in zip(parts, values, strict=True)]


def weighted_sums(
    collectives: Collectives, values: Sequence[tf.Tensor], weights: Sequence[tf.Tensor], weight: tf.Tensor
) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Returns the sum over the workers of each tensor times its weight, and the sum of `weight`; by one all-reduce."""
    dtype = _widest(values)
    flat = [
        tf.reshape(tf.math.multiply_no_nan(tf.cast(value, dtype), tf.cast(one, dtype)), [-1])
        for value, one in zip(values, weights, strict=True)
    ]
    sizes = [value.shape.num_elements() for value in values]
    total = collectives.reduce(tf.concat([*flat, tf.reshape(tf.cast(weight, dtype), [1])], 0))
    *parts, count = tf.split(total, [*sizes, 1])
    return [
        (tf.cast(tf.reshape(part, value.shape), value.dtype), count[0])
        for part, value in zip(parts, values, strict=True)
    ]


class StepMerges(Skips):
    """The assignments of the steps of one closure that have to be merged; implements `tfps.step.Assignments`.

    Args:
        variables: the variables of which the worker has copies.
        workers: the number of workers of the strategy.
    """

    def __init__(self, variables: Sequence[DenseVariable], workers: int) -> None:
        super().__init__()
        self._variables = variables
        self._kinds, self._dependencies = MergeKinds(workers), Dependencies()
        self._assigned: set[VariableKey] = set()

    def note(self, variable: DenseVariable, value: tf.Tensor | None, added: float, indices: Any = None) -> None:
        """Records an assignment."""
        if self.is_skipped(variable):
            return
        # Each worker draws its own random numbers, and carries the state of its own sequences.
        if isinstance(variable, SeedVariable) or variable.carried:
            return
        current = step.current()
        # A value that follows from variables and reduced gradients alone is the same on all workers, unless it is
        # assigned in a branch.
        inside = current is not None and current.is_inside
        known = value is not None and not depends_on_batch(value) and not self._depends_on_merged(value)
        if known and not inside and not (tf.is_tensor(indices) and depends_on_batch(indices)):
            return
        self._kinds.note(variable, value, added, indices)
        self._assigned.add(variable.key)

    def begin(self, copies: Mapping[VariableKey, tf.Tensor]) -> Values:
        """Reads the values that have to be merged at the end of a step; called before the step is traced."""
        # Known from the recording of the step. The reads that turn out to be needless are pruned.
        return {v.key: _read(copies[v.key], v) for v in self._merged()}

    def end(
        self,
        copies: Mapping[VariableKey, tf.Tensor],
        before: Values,
        collectives: Collectives,
        examples: tf.Tensor,
    ) -> None:
        """Merges what the step has assigned, and assigns the results on all workers."""
        # A worker alone would only add rounding.
        variables = [] if collectives.alone else [v for v in self._merged() if v.key in before]
        means: list[tuple[DenseVariable, tf.Tensor, tf.Tensor]] = []
        for v in variables:
            kind, old, now = self._kinds.of(v.key), before[v.key], _read(copies[v.key], v)
            if kind in EXTREMES:
                name = "Max" if kind is Merge.GREATEST else "Min"
                # An empty batch changes no extreme. Numbers of 8 bytes keep all values.
                wide = tf.float64 if v.dtype.is_floating else tf.int64
                value = collectives.reduce(tf.cast(tf.where(examples > 0.0, now, old), wide), name)
                _write(copies[v.key], tf.cast(value, v.dtype))
            elif v.dtype.is_integer and kind is not Merge.MEAN:
                _write(copies[v.key], old + _merge_integers(kind, now - old, collectives, examples))
            elif v.dtype == tf.bool:
                means.append((v, tf.zeros([]), tf.cast(now, tf.float32)))
            else:
                means.append((v, old, tf.cast(now - old, tf.float32) if v.dtype.is_integer else now - old))
        if means:
            self._merge_floats(means, copies, collectives, examples)

    def _depends_on_merged(self, value: tf.Tensor) -> bool:
        """Returns whether a value follows from a variable that differs between workers until the end of the step."""
        return any(self._dependencies.depends(value, variable.handle) for variable in self._merged())

    def _merged(self) -> list[DenseVariable]:
        return [v for v in self._variables if v.key in self._assigned]

    def _merge_floats(
        self,
        moved: Sequence[tuple[DenseVariable, tf.Tensor, tf.Tensor]],
        copies: Mapping[VariableKey, tf.Tensor],
        collectives: Collectives,
        examples: tf.Tensor,
    ) -> None:
        """Merges deltas of floats and values of bools; `moved` has each variable with its old value."""
        values, weights = [], []
        for v, _, delta in moved:
            kind = self._kinds.of(v.key)
            values.append(delta)
            weights.append(tf.cast(examples > 0.0, tf.float32) if kind is Merge.SUM else examples)
            # The weights of an element are those of the workers that changed it.
            values.append(tf.cast(tf.not_equal(delta, 0.0), tf.float32) if kind is Merge.CHANGED else tf.ones(v.shape))
            weights.append(examples)
        sums = weighted_sums(collectives, values, weights, examples)
        for (v, old, _), (total, count), (changed, _) in zip(moved, sums[::2], sums[1::2], strict=True):
            kind = self._kinds.of(v.key)
            if v.dtype == tf.bool:
                # The value of most workers. A step without examples changes nothing.
                now = tf.where(count > 0.0, total > 0.5 * tf.cast(count, total.dtype), _read(copies[v.key], v))
                _write(copies[v.key], now)
            else:
                merged = total if kind is Merge.SUM else tf.math.divide_no_nan(total, tf.cast(changed, total.dtype))
                # A mean of integers is rounded.
                _write(copies[v.key], old + tf.cast(tf.round(merged) if v.dtype.is_integer else merged, v.dtype))


def _widest(values: Sequence[tf.Tensor]) -> tf.DType:
    """Returns the type in which tensors are summed: float32 unless one of them is wider."""
    return tf.float64 if any(value.dtype == tf.float64 for value in values) else tf.float32


def _merge_integers(kind: Merge, delta: tf.Tensor, collectives: Collectives, examples: tf.Tensor) -> tf.Tensor:
    """Merges deltas of integers, exactly: their sum, or the delta of the first worker, of each element if need be."""
    takes_part = tf.broadcast_to(examples > 0.0, tf.shape(delta))
    if kind is not Merge.SUM:
        chosen = takes_part & tf.not_equal(delta, 0) if kind is Merge.FIRST_CHANGED else takes_part
        member = tf.cast(collectives.member, tf.int32)
        none = tf.int32.max
        first = collectives.reduce(tf.where(chosen, member, none), "Min")
        takes_part = tf.equal(first, member) & chosen
    wide = tf.where(takes_part, tf.cast(delta, tf.int64), tf.zeros([], tf.int64))
    return tf.cast(collectives.reduce(wide), delta.dtype)


def _read(handle: tf.Tensor, variable: DenseVariable) -> tf.Tensor:
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=variable.dtype)


def _write(handle: tf.Tensor, value: tf.Tensor) -> None:
    tf.raw_ops.AssignVariableOp(resource=handle, value=value)
