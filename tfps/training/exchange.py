"""Dense variables between servers and a worker: pulled as one buffer a server, pushed back as one buffer of deltas.

In between the worker works on copies of its own. What it pushes is `copy - pulled`, which the server adds, so that
whatever the Keras optimizer did is kept and no other worker's push is lost. With one worker that is the value one
process reaches (up to the rounding of one subtraction and one addition).
"""

import functools
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any

import tensorflow as tf

from tfps.embedding.once import LANES, Stamp
from tfps.strategy.variables import DenseVariable, SeedVariable, StepVariable
from tfps.training.lanes import lanes, pack, unpack

_KEY_STEP = 104_729
"""How far the keys of two workers' random generators are apart; worker 0 draws what one process would."""

_CAP = 1.5
"""How far workers may move a value together, in windows of one of them; more learns faster, and diverges sooner."""


def local_copy(variable: StepVariable) -> Any:
    """Handle of the worker's own copy: a resource of the worker's resource manager, found by name."""
    return tf.raw_ops.VarHandleOp(
        dtype=variable.dtype, shape=variable.shape, shared_name=f"tfps_copy_{variable.key}", name="local_copy"
    )


def share(delta: Any, others: Any, axis: int | None = None) -> Any:
    """The share of a delta that is pushed where workers begin from one value and do not see each other's windows.

    s = clip(1.5 - max(0, <delta, others>/<delta, delta>), 0, 1): all of it where nobody else moved the value, or moved
    it elsewhere; less, the further others have already gone the same way, so that together they go one and a half times
    as far as one of them alone, and do not overshoot by as many times as there are workers.

    Args:
        delta: what this worker's window moved the value by.
        others: what the server's value has moved by since the window began.
        axis: of the elements that share one factor; all of them where None.
    """
    along = tf.reduce_sum(delta * others, axis, keepdims=True)
    length = tf.reduce_sum(delta * delta, axis, keepdims=True)
    return tf.clip_by_value(_CAP - tf.maximum(tf.math.divide_no_nan(along, length), 0.0), 0.0, 1.0)


class Exchange:
    """One pull and one push, traced into one closure.

    Args:
        variables: what crosses.
        scales: by variable key, the share of its delta that is pushed; 1 where there is none.
        worker: number of the worker, an int64 scalar; random generators draw by it.
        capped: keys of float variables whose share follows from what others have moved them by meanwhile.
    """

    def __init__(
        self,
        variables: Iterable[DenseVariable],
        scales: Mapping[Hashable, float] | None = None,
        worker: Any = 0,
        capped: Collection[Hashable] = (),
    ) -> None:
        self._by_server: dict[str, list[DenseVariable]] = {}
        for variable in variables:
            self._by_server.setdefault(variable.home_handle.device, []).append(variable)
        self._scales = scales or {}
        self._capped = capped
        self._worker = tf.cast(worker, tf.int64)
        self._pulled: dict[Hashable, Any] = {}
        self.copies: dict[Hashable, Any] = {}

    def pull(self) -> list[Any]:
        """Fills the worker's copies; returns the assignments."""
        operations = []
        for device, variables in self._by_server.items():
            with tf.device(device):
                buffer = pack([_read(v.home_handle, v) for v in variables])
            values = unpack(tf.identity(buffer), [v.shape for v in variables], [v.dtype for v in variables])
            for variable, value in zip(variables, values, strict=True):
                self.copies[variable.key] = local_copy(variable)
                if isinstance(variable, SeedVariable):
                    value += tf.cast(tf.stack([self._worker * _KEY_STEP, 0]), value.dtype)
                self._pulled[variable.key] = value
                operations.append(tf.raw_ops.AssignVariableOp(resource=self.copies[variable.key], value=value))
        return operations

    def push(self, stamp: Stamp | None = None) -> list[Any]:
        """Adds what the copies have moved by to what the servers hold; returns the additions.

        Args:
            stamp: a server that has seen it lets the push pass.
        """
        operations = []
        for device, variables in self._by_server.items():
            deltas: dict[Hashable, Any] = {v.key: self._delta(v) for v in variables}
            deltas |= self._shares(device, [v for v in variables if v.key in self._capped], deltas)
            buffer = pack([*deltas.values(), *([stamp.lanes()] if stamp else [])])
            with tf.device(device):
                arrived = tf.identity(buffer)
                add = functools.partial(_add, variables, arrived)
                operations += [stamp.ledger.once(arrived[-LANES:], add)] if stamp else add()
        return operations

    def _shares(self, device: str, variables: list[DenseVariable], deltas: Mapping[Hashable, Any]) -> dict[Any, Any]:
        """The shares of some deltas, after a look at what the server holds by now."""
        if not variables:
            return {}
        with tf.control_dependencies([deltas[v.key] for v in variables]):
            read_after = tf.no_op()
        with tf.device(device), tf.control_dependencies([read_after]):
            buffer = pack([_read(v.home_handle, v) for v in variables])
        now = unpack(tf.identity(buffer), [v.shape for v in variables], [v.dtype for v in variables])
        return {
            v.key: deltas[v.key] * share(deltas[v.key], value - self._pulled[v.key])
            for v, value in zip(variables, now, strict=True)
        }

    def moved(self, variable: DenseVariable) -> Any:
        """What a copy has moved by since the pull; of a bool its value."""
        return self._delta(variable)

    def _delta(self, variable: DenseVariable) -> Any:
        now, before = _read(self.copies[variable.key], variable), self._pulled[variable.key]
        if variable.dtype == tf.bool:
            return now
        delta = now - before
        scale = self._scales.get(variable.key, 1.0)
        return delta if scale == 1.0 or not variable.dtype.is_floating else delta * tf.cast(scale, delta.dtype)


def _add(variables: list[DenseVariable], buffer: Any) -> list[Any]:
    """Adds a buffer of deltas to what a server holds."""
    sizes = sum(lanes(v.shape.num_elements(), v.dtype) for v in variables)
    parts = unpack(buffer[:sizes], [v.shape for v in variables], [v.dtype for v in variables])
    return [
        tf.raw_ops.AssignAddVariableOp(resource=variable.home_handle, value=part)
        for variable, part in zip(variables, parts, strict=True)
        if variable.dtype != tf.bool
    ]


def _read(handle: Any, variable: StepVariable) -> Any:
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=variable.dtype)
