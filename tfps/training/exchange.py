"""Dense variables between servers and a worker: pulled as one buffer a server, pushed back as one buffer of deltas.

In between the worker works on copies of its own. It pushes `copy - pulled`, and the server adds that, so the update of
the Keras optimizer counts, whatever it is, and no other worker's push is lost. With one worker the result is the value
that one process reaches, up to the rounding of one subtraction and one addition. Moving averages do not add up: see
`tfps.training.moving_averages`.

Example: two workers pull 10.0; one moves its copy to 9.0 and pushes -1.0, the other moves its copy to 10.5 and pushes
0.5; the server has 9.5, whoever comes first.
Cost: one message a server each way, whatever the number of variables.
"""

import functools
from collections.abc import Collection, Iterable, Mapping
from typing import TypeAlias

import tensorflow as tf

from tfps.embedding.push_dedup import PUSH_ID_LANES, PushId
from tfps.strategy.variables import DenseVariable, SeedVariable, StepVariable
from tfps.training import moving_averages
from tfps.training.lanes import lanes, pack, unpack
from tfps.types import VariableKey

_KEY_STEP = 104_729
"""Distance between the keys of two workers' random generators; worker 0 draws what one process would."""

_CAP = 1.5
"""How far workers may move a value together, as a multiple of one worker's delta; more learns faster, and diverges
sooner.
"""


def local_copy(variable: StepVariable) -> tf.Tensor:
    """Handle of the worker's own copy: a resource of the worker's resource manager, found by name."""
    return tf.raw_ops.VarHandleOp(
        dtype=variable.dtype, shape=variable.shape, shared_name=f"tfps_copy_{variable.key}", name="local_copy"
    )


def damping(delta: tf.Tensor, others: tf.Tensor, axis: int | None = None) -> tf.Tensor:
    """The factor of a delta when it is pushed, where workers begin from one value and do not see each other's steps.

    s = clip(1.5 - max(0, <delta, others>/<delta, delta>), 0, 1). The factor is 1 where nobody else moved the value, or
    moved it in another direction. It is smaller the further others have already moved it in the same direction, so that
    all workers together move it one and a half times as far as one of them alone, and do not overshoot by their number.

    Example: delta = 2 and others = 2 give 0.5, so 1 is pushed and the value moves by 3 in all; others = 3 give 0.

    Args:
        delta: what this worker's window moved the value by.
        others: by how much others have moved the server's value since this worker pulled it.
        axis: axis of the elements that have one factor together; all elements where None.
    """
    along = tf.reduce_sum(delta * others, axis, keepdims=True)
    length = tf.reduce_sum(delta * delta, axis, keepdims=True)
    return tf.clip_by_value(_CAP - tf.maximum(tf.math.divide_no_nan(along, length), 0.0), 0.0, 1.0)


Values: TypeAlias = dict[VariableKey, tf.Tensor]
"""A tensor for each variable, by its key."""


class Exchange:
    """One pull and one push, traced into one closure; a closure of several uses their parts, `fetch` to `send`.

    Args:
        variables: the variables that cross.
        scales: by variable key, the factor of its delta when it is pushed; 1 where there is none.
        worker: number of the worker, an int64 scalar; random generators draw by it.
        capped: keys of float variables whose deltas are damped by what others have moved them meanwhile.

    Attributes:
        pulled: the values that `pull` filled the copies with.
        copies: handles of the worker's copies, by key.
    """

    def __init__(
        self,
        variables: Iterable[DenseVariable],
        scales: Mapping[VariableKey, float] | None = None,
        worker: tf.Tensor | int = 0,
        capped: Collection[VariableKey] = (),
    ) -> None:
        # By device of the server, so that each gets one message. Dictionaries keep their order: both ends rely on it.
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
        """Adds the deltas of the copies on the servers.

        Args:
            push_id: a server that has applied it ignores the push.
        """
        self.send(self.deltas(self.pulled), self.pulled, push_id)

    def fetch(self) -> Values:
        """Gets the values that the servers have; random generators with the key of this worker."""
        values: Values = {}
        for device, variables in self._by_server.items():
            values |= self._values_on(device, variables)
            for variable in variables:
                # Without a key of its own, each worker would draw the same dropout masks.
                if isinstance(variable, SeedVariable):
                    key = tf.stack([self._worker * _KEY_STEP, 0])
                    values[variable.key] += tf.cast(key, variable.dtype)
        return values

    def fill(self, values: Values) -> None:
        """Assigns values to the worker's copies."""
        for variable in self._variables:
            tf.raw_ops.AssignVariableOp(resource=self.copies[variable.key], value=values[variable.key])

    def deltas(self, since: Values) -> Values:
        """Deltas of the copies, scaled; of a bool its value; of a moving average what is pushed of it.

        Args:
            since: the values that the copies were filled with.
        """
        # Averages come last: what is pushed of one follows from the delta of the counter of its steps.
        deltas: Values = {v.key: self._delta(v, since[v.key]) for v in self._variables if v.average is None}
        for v in self._variables:
            if moving_averages.is_average(v, deltas):
                deltas[v.key] = moving_averages.push_value(v, since[v.key], _read(self.copies[v.key], v), deltas)
            elif v.key not in deltas:
                deltas[v.key] = self._delta(v, since[v.key])
        return deltas

    def sums(self, values: Values, deltas: Values) -> Values:
        """Adds deltas to values as the servers do it."""
        return {v.key: _sum(v, values[v.key], deltas) for v in self._variables}

    def send(self, deltas: Values, base: Values, push_id: PushId | None = None) -> Values:
        """Adds deltas on the servers; returns what was added.

        Args:
            deltas: by key.
            base: the values that servers would have if nobody else had pushed meanwhile; read for capped variables.
            push_id: a server that has applied it ignores the push.
        """
        pushed: Values = {}
        for device, variables in self._by_server.items():
            of_server: Values = {v.key: deltas[v.key] for v in variables}
            of_server |= self._damp(device, [v for v in variables if v.key in self._capped], deltas, base)
            averages = [v for v in variables if moving_averages.is_average(v, deltas)]
            factors = [tf.cast(moving_averages.keep_factor(v, deltas), tf.float32) for v in averages]
            # The message: deltas in the order of the variables, factors in that of the averages, the id.
            buffer = pack([*of_server.values(), *factors, *([push_id.lanes()] if push_id else [])])
            with tf.device(device):
                # With the server as the device: the message crosses here.
                arrived = tf.identity(buffer)
                add = functools.partial(_add, variables, [v.key for v in averages], arrived)
                if push_id:
                    push_id.ledger.apply_if_new(arrived[-PUSH_ID_LANES:], add)
                else:
                    add()
            pushed |= of_server
        return pushed

    def delta_since_pull(self, variable: DenseVariable) -> tf.Tensor:
        """The delta of a copy since the pull; of a bool its value."""
        return self._delta(variable, self.pulled[variable.key])

    def _values_on(self, device: str, variables: list[DenseVariable]) -> Values:
        """The values that a server has of some variables: one message."""
        with tf.device(device):
            # Packed on the server: one tensor crosses, however many variables there are.
            buffer = pack([_read(v.home_handle, v) for v in variables])
        values = unpack(tf.identity(buffer), [v.shape for v in variables], [v.dtype for v in variables])
        return {v.key: value for v, value in zip(variables, values, strict=True)}

    def _damp(self, device: str, variables: list[DenseVariable], deltas: Values, base: Values) -> Values:
        """Some deltas, damped by what others have moved the variables meanwhile: asks the server what it has now."""
        if not variables:
            return {}
        # The later the server is asked, the more of the others' pushes count: not before the steps are done.
        with tf.control_dependencies([deltas[v.key] for v in variables]):
            read_after = tf.no_op()
        with tf.control_dependencies([read_after]):
            now = self._values_on(device, variables)
        return {key: deltas[key] * damping(deltas[key], value - base[key]) for key, value in now.items()}

    def _delta(self, variable: DenseVariable, before: tf.Tensor) -> tf.Tensor:
        now = _read(self.copies[variable.key], variable)
        if variable.dtype == tf.bool:
            return now
        # A counter of steps is an integer: its delta is exact, and never scaled.
        delta = now - before
        scale = self._scales.get(variable.key, 1.0)
        return delta if scale == 1.0 or not variable.dtype.is_floating else delta * tf.cast(scale, delta.dtype)


def _sum(variable: DenseVariable, value: tf.Tensor, deltas: Values) -> tf.Tensor:
    if variable.dtype == tf.bool:
        return deltas[variable.key]
    if moving_averages.is_average(variable, deltas):
        return moving_averages.value_after(variable, value, deltas)
    return value + deltas[variable.key]


def _add(variables: list[DenseVariable], averages: list[VariableKey], buffer: tf.Tensor) -> list[tf.Operation]:
    """Adds the deltas of a message on a server; see `Exchange.send` for its layout."""
    # After the deltas come the factors of averages, one lane each, then the push id.
    sizes = sum(lanes(v.shape.num_elements(), v.dtype) for v in variables)
    deltas = unpack(buffer[:sizes], [v.shape for v in variables], [v.dtype for v in variables])
    factors = {key: buffer[sizes + number] for number, key in enumerate(averages)}
    added = [
        tf.raw_ops.AssignAddVariableOp(resource=variable.home_handle, value=delta)
        for variable, delta in zip(variables, deltas, strict=True)
        if variable.dtype != tf.bool and variable.key not in factors
    ]
    pushed = zip(variables, deltas, strict=True)
    return added + moving_averages.compose((v, delta, factors[v.key]) for v, delta in pushed if v.key in factors)


def _read(handle: tf.Tensor, variable: StepVariable) -> tf.Tensor:
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=variable.dtype)
