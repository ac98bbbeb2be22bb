"""How the steps of a closure assign dense variables, and how the servers merge what several workers assign.

A server adds the deltas of all workers. That is right for a variable that steps only add to, such as a weight that an
optimizer moves or a counter. An assignment that does not keep all of the old value needs something else, because the
sum of two workers' deltas would overshoot: two workers that both set 1.0 to 0.0 would leave -1.0. Four kinds:

1. *added*: `v.assign(v + x)`, `v.assign_add(x)`. Deltas are added.
2. *kept in part*: `v.assign(d * v + x)`, a moving average. k such steps keep d^k of the value; the server composes them
   (see `tfps.training.moving_averages`), so it has what one process has after the steps of all workers.
3. *replaced*: `v.assign(x)`, and every other value of a variable that does not train. That is d = 0: the value of the
   last push remains. A closure that does not come to the assignment keeps all.
4. *mixed*: any other value of a variable that trains, such as clipped weights. Each of N workers moves the server's
   value by 1 / N of the way to its own. The result lies between the workers' values, so it obeys a clip, too.

A step does not say which kind it has; `tfps.training.affine` finds out from its trace. `keep` is a number of the
worker, one for each variable of kind 2 or 3: 1 when a closure begins, multiplied by d in each assignment.
"""

import contextlib
from collections.abc import Iterator, Sequence

import tensorflow as tf

from tfps.strategy.variables import DenseVariable, SeedVariable
from tfps.training.affine import Dependencies, Keep
from tfps.types import VariableKey


class Assignments:
    """The assignments of the steps of one closure.

    Attributes:
        keeps: the handle of the worker's `keep` of each variable of kind 2 and 3, by variable key.
        mixed: the keys of the variables of kind 4.

    Threading: one thread traces a closure. Cost: two operations on the worker for each assignment of kind 2 or 3.
    """

    def __init__(self) -> None:
        # An assignment may be traced in a branch or a loop, but the closure reads the same `keep` at its end.
        self._graph = tf.compat.v1.get_default_graph()
        self.keeps: dict[VariableKey, tf.Tensor] = {}
        self.mixed: set[VariableKey] = set()
        self._dependencies = Dependencies()
        self._skips: list[frozenset[int] | None] = []

    def note(self, variable: DenseVariable, value: tf.Tensor | None, added: float) -> None:
        """Records an assignment; called before it is traced.

        Args:
            variable: the variable.
            value: the assigned or added value; None for one that overwrites a part of the variable.
            added: 0 for an assignment; 1 if the value is added to the variable, -1 if it is subtracted.
        """
        # A declared average has a decay, and the state of a generator only grows.
        if variable.average is not None or isinstance(variable, SeedVariable):
            return
        if any(skipped is None or id(variable) in skipped for skipped in self._skips):
            return
        keep = None if value is None else self._dependencies.keep_of(value, variable.handle)
        if added and keep is not None:
            keep = 1.0 + added * keep
        if variable.latest:
            keep = 0.0
        elif keep is None and variable.trainable:
            # The servers apply the constraint of a layer themselves, after they have added.
            if variable.constraint is None:
                self.mixed.add(variable.key)
            return
        elif keep is None or not (variable.dtype.is_floating or _is_one(keep)):
            # Integers and flags have no fractions: they are added to, or replaced.
            keep = 0.0
        if not _is_one(keep):
            self._multiply(variable.key, keep)

    @contextlib.contextmanager
    def skipped(self, variables: Sequence[DenseVariable] | None) -> Iterator[None]:
        """Takes no note of assignments to some variables within; None for all variables."""
        before = self._skips
        self._skips = before + [None if variables is None else frozenset(id(variable) for variable in variables)]
        try:
            yield
        finally:
            self._skips = before

    def reset(self) -> None:
        """Sets each `keep` to 1: no step has been made since the values were pulled."""
        for handle in self.keeps.values():
            tf.raw_ops.AssignVariableOp(resource=handle, value=tf.ones([]))

    def read(self, key: VariableKey) -> tf.Tensor:
        """Reads the `keep` of a variable, a float32 scalar."""
        return tf.raw_ops.ReadVariableOp(resource=self.keeps[key], dtype=tf.float32)

    def _multiply(self, key: VariableKey, keep: Keep) -> None:
        if key not in self.keeps:
            with self._graph.as_default(), tf.control_dependencies(None), tf.device(None):
                handle = self.keeps[key] = tf.raw_ops.VarHandleOp(
                    dtype=tf.float32, shape=[], shared_name=f"tfps_keep_{key}", name="keep"
                )
                # The step around this assignment comes later in the graph, so this runs first.
                tf.raw_ops.AssignVariableOp(resource=handle, value=tf.ones([]))
        value = tf.zeros([]) if isinstance(keep, float) and keep == 0.0 else keep * self.read(key)
        tf.raw_ops.AssignVariableOp(resource=self.keeps[key], value=value)


def _is_one(keep: Keep) -> bool:
    return isinstance(keep, float) and keep == 1.0
