"""How the steps of a closure assign dense variables, and how the servers merge what several workers assign.

A server adds the deltas of all workers. That is right for a variable that steps only add to, such as a weight that an
optimizer moves or a counter. An assignment that does not keep all of the old value needs something else, because the
sum of two workers' deltas would overshoot: two workers that both set 1.0 to 0.0 would leave -1.0. Five kinds:

1. *added*: `v.assign(v + x)`, `v.assign_add(x)`. Deltas are added.
2. *kept in part*: `v.assign(d * v + x)`, a moving average. k such steps keep d^k of the value; the server composes them
   (see `tfps.training.moving_averages`), so it has what one process has after the steps of all workers.
   Where elements differ, d is a tensor: `v.scatter_update(rows)` and `v.assign(tf.where(mask, x, v))` replace some
   elements and keep the others.
3. *replaced*: `v.assign(x)`, and every other value of a variable that does not train. That is d = 0: the value of the
   last push remains. A closure that does not come to the assignment keeps all. If the value depends on the old value,
   what other workers assigned meanwhile is lost, which is logged.
4. *extreme*: `v.assign(tf.maximum(v, x))`, a running greatest or least value. The server takes the greatest value of
   its own and the pushed one.
5. *mixed*: any other value of a variable that trains, such as clipped weights. Each of N workers moves the server's
   value by 1 / N of the way to its own. The result lies between the workers' values and the value before, so it obeys
   a clip if the first value does, and comes closer with each push if not.

A step does not say which kind it has; `tfps.training.affine` finds out from its trace. `keep` is a number of the
worker, one for each variable of kind 2 or 3: 1 when a closure begins, multiplied by d in each assignment. It is a
tensor of the shape of the variable if some d is one.
"""

import logging
from typing import Any

import tensorflow as tf

from tfps.strategy.variables import DenseVariable, SeedVariable
from tfps.training.affine import Dependencies, Extreme, Keep, keep_outside
from tfps.training.skips import Skips
from tfps.types import VariableKey

_LOG = logging.getLogger("tfps")


class Assignments(Skips):
    """The assignments of the steps of one closure.

    Args:
        workers: the number of workers that assign.

    Attributes:
        keeps: the handle of the worker's `keep` of each variable of kind 2 and 3, by variable key.
        extremes: the keys of the variables of kind 4, and which value remains.
        mixed: the keys of the variables of kind 5.

    Threading: one thread traces a closure. Cost: two operations on the worker for each assignment of kind 2 or 3.
    """

    def __init__(self, workers: int = 1) -> None:
        super().__init__()
        self._workers = workers
        # An assignment may be traced in a branch or a loop, but the closure reads the same `keep` at its end.
        self._graph = tf.compat.v1.get_default_graph()
        self.keeps: dict[VariableKey, tf.Tensor] = {}
        self.extremes: dict[VariableKey, Extreme] = {}
        self.mixed: set[VariableKey] = set()
        # The variables that were added to: an extreme of such a sum has no merge.
        self._added: set[VariableKey] = set()
        # The part of each `keep` that differs from element to element, of the shape of its variable.
        self._elements: dict[VariableKey, tuple[tf.Tensor, tf.TensorShape]] = {}
        self._dependencies = Dependencies()

    def note(self, variable: DenseVariable, value: tf.Tensor | None, added: float, indices: Any = None) -> None:
        """Records an assignment; called before it is traced.

        Args:
            variable: the variable.
            value: the assigned or added value, of the slices if there are `indices`; None if nothing is known.
            added: 0 for an assignment; 1 if the value is added to the variable, -1 if it is subtracted.
            indices: the indices of the slices that are overwritten, as in `tf.scatter_nd`; None otherwise.
        """
        # A declared average has a decay, and the state of a generator only grows.
        if variable.average is not None or isinstance(variable, SeedVariable):
            return
        if self.is_skipped(variable):
            return
        keep = self._keep_of(variable, value, added, indices)
        if variable.latest:
            keep = 0.0
        elif keep is None and variable.trainable:
            # The servers apply the constraint of a layer themselves, after they have added.
            if variable.constraint is None:
                self.mixed.add(variable.key)
            return
        elif keep is None:
            extreme = None if value is None or added else self._dependencies.extreme_of(value, variable.handle)
            if extreme is not None and self._is_first(variable.key, extreme):
                self.extremes[variable.key] = extreme
                return
            tell_unmerged(variable, self._workers)
            keep = 0.0
        if variable.key in self.extremes:
            # Both kinds together have no merge.
            del self.extremes[variable.key]
            tell_unmerged(variable, self._workers)
            keep = 0.0
        if _is_one(keep):
            self._added.add(variable.key)
        else:
            self._multiply(variable, keep)

    def _keep_of(self, variable: DenseVariable, value: tf.Tensor | None, added: float, indices: Any) -> Keep | None:
        """Returns what an assignment keeps of the old value; arguments as for `note`."""
        if indices is not None:
            if value is not None and self._dependencies.depends(value, variable.handle):
                tell_unmerged(variable, self._workers)
            return keep_outside(indices, variable.shape)
        keep = None if value is None else self._dependencies.keep_of(value, variable.handle)
        return 1.0 + added * keep if added and keep is not None else keep

    def _is_first(self, key: VariableKey, extreme: Extreme) -> bool:
        """Returns whether a variable may be an extreme of this kind: it was not assigned otherwise."""
        return self.extremes.get(key, extreme) is extreme and key not in self._added and key not in self.keeps

    def reset(self) -> None:
        """Sets each `keep` to 1: no step has been made since the values were pulled."""
        for handle in self.keeps.values():
            tf.raw_ops.AssignVariableOp(resource=handle, value=tf.ones([]))
        for handle, shape in self._elements.values():
            tf.raw_ops.AssignVariableOp(resource=handle, value=tf.ones(shape))

    def read(self, key: VariableKey) -> tf.Tensor:
        """Reads the `keep` of a variable: float32, a scalar or of the shape of the variable."""
        keep = _read(self.keeps[key])
        return keep * _read(self._elements[key][0]) if key in self._elements else keep

    def keeps_all(self, key: VariableKey) -> tf.Tensor:
        """Returns the `keep` of a variable that was not assigned."""
        return tf.ones(self._elements[key][1] if key in self._elements else [])

    def _multiply(self, variable: DenseVariable, keep: Keep) -> None:
        key = variable.key
        if key not in self.keeps:
            self.keeps[key] = self._make_keep(f"tfps_keep_{key}", tf.TensorShape([]))
        handle = self.keeps[key]
        if not isinstance(keep, float) and keep.shape.rank != 0:
            if key not in self._elements:
                made = self._make_keep(f"tfps_keeps_{key}", variable.shape)
                self._elements[key] = made, variable.shape
            handle = self._elements[key][0]
            keep = tf.broadcast_to(keep, variable.shape)
        value = tf.zeros([]) if isinstance(keep, float) and keep == 0.0 else keep * _read(handle)
        tf.raw_ops.AssignVariableOp(resource=handle, value=value)

    def _make_keep(self, name: str, shape: tf.TensorShape) -> tf.Tensor:
        """Makes a `keep` of 1 on the worker and returns its handle."""
        with self._graph.as_default(), tf.control_dependencies(None), tf.device(None):
            handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=shape, shared_name=name, name="keep")
            # The step around an assignment comes later in the graph, so this runs first.
            tf.raw_ops.AssignVariableOp(resource=handle, value=tf.ones(shape))
            return handle


def tell_unmerged(variable: DenseVariable, sharers: int, what: str = "workers") -> None:
    """Logs once for each variable that workers, or devices of one, lose what others assign.

    Args:
        variable: the variable; its new value is computed from the old one.
        sharers: the number of workers or devices that assign it.
        what: "workers" or "devices".
    """
    # A worker carries the state of a stateful RNN by itself, which is logged elsewhere.
    if sharers > 1 and not variable.carried and not variable.told:
        variable.told = True
        _LOG.warning(
            "variable %r is assigned a value that is computed from its old value in a way that %d %s cannot "
            "merge: a part of what they assign is lost. Sums, averages, greatest and least values, and replaced "
            "elements are merged.",
            variable.name,
            sharers,
            what,
        )


def _read(handle: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)


def _is_one(keep: Keep) -> bool:
    return isinstance(keep, float) and keep == 1.0
