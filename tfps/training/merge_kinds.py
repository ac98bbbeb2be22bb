"""Finds out how the values that several batches of one step assign to a variable become one value.

The batches are those of the workers of a global step, or those of the devices of one worker. All start from one value.
"""

from typing import Any

import tensorflow as tf

from tfps.strategy.variables import DenseVariable
from tfps.training.affine import Dependencies, Extreme, is_symbolic, outermost
from tfps.training.assignments import tell_unmerged
from tfps.training.merges import Merge
from tfps.types import VariableKey


class MergeKinds:
    """How the assignments of one traced step are merged.

    Args:
        sharers: the number of workers or devices that make such a step at a time.
        what: "workers" or "devices".
    """

    def __init__(self, sharers: int, what: str = "workers") -> None:
        self._sharers, self._what = sharers, what
        self._dependencies = Dependencies()
        self._kinds: dict[VariableKey, set[Merge]] = {}

    def note(self, variable: DenseVariable, value: tf.Tensor | None, added: float, indices: Any = None) -> None:
        """Takes note of an assignment, with the arguments of `tfps.step.Assignments.note`."""
        kind = Merge.MEAN
        if indices is not None:
            kind = Merge.FIRST_CHANGED if variable.dtype.is_integer else Merge.CHANGED
        elif value is not None:
            kind = self._kind_of(variable, value, added)
        self._kinds.setdefault(variable.key, set()).add(kind)

    def of(self, key: VariableKey) -> Merge:
        """Returns how the values of a variable are merged."""
        kinds = self._kinds.get(key, {Merge.MEAN})
        return next(iter(kinds)) if len(kinds) == 1 else Merge.MEAN

    def _kind_of(self, variable: DenseVariable, value: tf.Tensor, added: float) -> Merge:
        if variable.trainable:
            return Merge.MEAN
        keep = self._dependencies.keep_of(value, variable.handle)
        keep = keep if keep is None or not added else 1.0 + added * keep
        if keep is None:
            extreme = None if added else self._dependencies.extreme_of(value, variable.handle)
            if extreme is not None:
                return Merge.GREATEST if extreme is Extreme.GREATEST else Merge.LEAST
            if depends_on_batch(value):
                tell_unmerged(variable, self._sharers, self._what)
        elif not isinstance(keep, float) and keep.shape.rank:
            return Merge.FIRST_CHANGED if variable.dtype.is_integer else Merge.CHANGED
        if not variable.dtype.is_integer:
            return Merge.MEAN
        # A mean of integers would have to be rounded. Counts of what is in a batch add up to those of the joined batch.
        counts = isinstance(keep, float) and keep == 1.0
        if counts:
            return Merge.SUM if depends_on_batch(value) else Merge.MEAN
        return Merge.FIRST


_SAME_EVERYWHERE = ("Const", "ReadVariableOp", "CollectiveReduceV2")
"""The operations whose result is the same for all batches of a step, although they have no inputs or a state."""


def depends_on_batch(value: tf.Tensor) -> bool:
    """Returns whether a value depends on more than variables, constants and sums over the workers."""
    waiting, seen = [outermost(value)], set[int]()
    while waiting:
        tensor = waiting.pop()
        if not is_symbolic(tensor) or tensor.op.type in _SAME_EVERYWHERE or id(tensor.op) in seen:
            continue
        seen.add(id(tensor.op))
        # What reads an input or draws a random number is stateful.
        if not tensor.op.inputs or tensor.op.op_def.is_stateful:
            return True
        waiting += [outermost(source) for source in tensor.op.inputs]
    return False
