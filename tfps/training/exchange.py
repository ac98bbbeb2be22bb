"""Dense variables between servers and a worker: pulled as one buffer a server, pushed back as one buffer of deltas.

In between the worker works on copies of its own. What it pushes is `copy - pulled`, which the server adds, so that
whatever the Keras optimizer did is kept and no other worker's push is lost. With one worker that is the value one
process reaches (up to the rounding of one subtraction and one addition). Moving averages are no sums: see
`tfps.training.moving_averages`.
"""

import functools
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any

import tensorflow as tf

from tfps.embedding.push_dedup import PUSH_ID_LANES, PushId
from tfps.strategy.variables import DenseVariable, SeedVariable, StepVariable
from tfps.training import moving_averages
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


def damping(delta: Any, others: Any, axis: int | None = None) -> Any:
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


Values = dict[Hashable, Any]
"""A tensor for each variable, by its key."""


class Exchange:
    """One pull and one push, traced into one closure; `fetch` to `send` are the parts of several.

    Args:
        variables: what crosses.
        scales: by variable key, the share of its delta that is pushed; 1 where there is none.
        worker: number of the worker, an int64 scalar; random generators draw by it.
        capped: keys of float variables whose share follows from what others have moved them by meanwhile.

    Attributes:
        pulled: what `pull` filled the copies with.
        copies: handles of the worker's copies, by key.
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
        self.pulled: Values = {}
        self._variables = [v for of_server in self._by_server.values() for v in of_server]
        self.copies: Values = {v.key: local_copy(v) for v in self._variables}

    def pull(self) -> None:
        """Fills the worker's copies."""
        self.pulled = self.fetch()
        self.fill(self.pulled)

    def push(self, push_id: PushId | None = None) -> None:
        """Adds what the copies have moved by to what the servers hold.

        Args:
            push_id: a server that has applied it ignores the push.
        """
        self.send(self.deltas(self.pulled), self.pulled, push_id)

    def fetch(self) -> Values:
        """What the servers hold, by key; random generators as this worker draws."""
        values: Values = {}
        for device, variables in self._by_server.items():
            values |= self._held(device, variables)
            for variable in variables:
                if isinstance(variable, SeedVariable):
                    key = tf.stack([self._worker * _KEY_STEP, 0])
                    values[variable.key] += tf.cast(key, variable.dtype)
        return values

    def fill(self, values: Values) -> None:
        """Makes the worker's copies what is given for each."""
        for variable in self._variables:
            tf.raw_ops.AssignVariableOp(resource=self.copies[variable.key], value=values[variable.key])

    def deltas(self, since: Values) -> Values:
        """What the copies have moved by, as far as it is pushed; of a bool its value, of averages see there.

        Args:
            since: what they were filled with.
        """
        deltas: Values = {v.key: self._delta(v, since[v.key]) for v in self._variables if v.average is None}
        for v in self._variables:
            if moving_averages.is_average(v, deltas):
                deltas[v.key] = moving_averages.pushed(v, since[v.key], _read(self.copies[v.key], v), deltas)
            elif v.key not in deltas:
                deltas[v.key] = self._delta(v, since[v.key])
        return deltas

    def sums(self, values: Values, deltas: Values) -> Values:
        """Values and deltas added up; of a bool the delta, which is its value, of averages as the servers do it."""
        return {v.key: _sum(v, values[v.key], deltas) for v in self._variables}

    def send(self, deltas: Values, base: Values, push_id: PushId | None = None) -> Values:
        """Adds deltas to what the servers hold; returns what was added.

        Args:
            deltas: by key.
            base: what the servers would hold if nobody else had pushed meanwhile.
            push_id: a server that has applied it ignores the push.
        """
        pushed: Values = {}
        for device, variables in self._by_server.items():
            of_server: Values = {v.key: deltas[v.key] for v in variables}
            of_server |= self._shares(device, [v for v in variables if v.key in self._capped], deltas, base)
            kept = {v.key: moving_averages.kept(v, deltas) for v in variables if moving_averages.is_average(v, deltas)}
            parts = [tf.cast(part, tf.float32) for part in kept.values()]
            buffer = pack([*of_server.values(), *parts, *([push_id.lanes()] if push_id else [])])
            with tf.device(device):
                arrived = tf.identity(buffer)
                add = functools.partial(_add, variables, list(kept), arrived)
                if push_id:
                    push_id.ledger.apply_if_new(arrived[-PUSH_ID_LANES:], add)
                else:
                    add()
            pushed |= of_server
        return pushed

    def moved(self, variable: DenseVariable) -> Any:
        """What a copy has moved by since the pull; of a bool its value."""
        return self._delta(variable, self.pulled[variable.key])

    def _held(self, device: str, variables: list[DenseVariable]) -> Values:
        """What a server holds of some variables, by key."""
        with tf.device(device):
            buffer = pack([_read(v.home_handle, v) for v in variables])
        values = unpack(tf.identity(buffer), [v.shape for v in variables], [v.dtype for v in variables])
        return {v.key: value for v, value in zip(variables, values, strict=True)}

    def _shares(self, device: str, variables: list[DenseVariable], deltas: Values, base: Values) -> Values:
        """The shares of some deltas, after a look at what the server holds by now."""
        if not variables:
            return {}
        with tf.control_dependencies([deltas[v.key] for v in variables]):
            read_after = tf.no_op()
        with tf.control_dependencies([read_after]):
            now = self._held(device, variables)
        return {key: deltas[key] * damping(deltas[key], value - base[key]) for key, value in now.items()}

    def _delta(self, variable: DenseVariable, before: Any) -> Any:
        now = _read(self.copies[variable.key], variable)
        if variable.dtype == tf.bool:
            return now
        delta = now - before
        scale = self._scales.get(variable.key, 1.0)
        return delta if scale == 1.0 or not variable.dtype.is_floating else delta * tf.cast(scale, delta.dtype)


def _sum(variable: DenseVariable, value: Any, deltas: Values) -> Any:
    if variable.dtype == tf.bool:
        return deltas[variable.key]
    if moving_averages.is_average(variable, deltas):
        return moving_averages.moved(variable, value, deltas)
    return value + deltas[variable.key]


def _add(variables: list[DenseVariable], of_averages: list[Hashable], buffer: Any) -> list[Any]:
    """Adds a buffer of deltas to what a server holds; after them, in order, are the parts that averages keep."""
    sizes = sum(lanes(v.shape.num_elements(), v.dtype) for v in variables)
    deltas = unpack(buffer[:sizes], [v.shape for v in variables], [v.dtype for v in variables])
    kept = {key: buffer[sizes + number] for number, key in enumerate(of_averages)}
    added = [
        tf.raw_ops.AssignAddVariableOp(resource=variable.home_handle, value=delta)
        for variable, delta in zip(variables, deltas, strict=True)
        if variable.dtype != tf.bool and variable.key not in kept
    ]
    pushed = zip(variables, deltas, strict=True)
    return added + moving_averages.move((v, delta, kept[v.key]) for v, delta in pushed if v.key in kept)


def _read(handle: Any, variable: StepVariable) -> Any:
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=variable.dtype)
