"""The exchange of dense variables: pulled as one buffer a server, pushed back as one buffer of deltas a server.

Between pull and push the worker changes its own copies. It pushes `copy - pulled`, and the server adds that. So any
Keras optimizer works unchanged, and no push overwrites the push of another worker. With one worker the result equals
that of one process, except for the rounding of one subtraction and one addition. Moving averages and values that steps
overwrite do not add up; see `tfps.training.moving_averages` and `tfps.training.assignments`.

Example: two workers pull 10.0. One moves its copy to 9.0 and pushes -1.0, the other moves its copy to 10.5 and pushes
0.5. The server then has 9.5, whichever push came first.
Cost: one message a server in each direction, for any number of variables.
"""

import contextlib
import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from tfps.embedding.push_dedup import PUSH_ID_LANES, PushId
from tfps.stages import EXCHANGE, in_stage
from tfps.strategy.variables import DenseVariable, SeedVariable, SmallTable, StepVariable
from tfps.training import moving_averages
from tfps.training.affine import Extreme
from tfps.training.assignments import Assignments
from tfps.training.coded_message import coded_deltas, coded_values
from tfps.training.exclusive import exclusive
from tfps.training.lanes import lanes, pack, unpack
from tfps.training.order import Int, Order
from tfps.types import VariableKey

_KEY_STEP = 104_729
"""Distance between the random generator keys of two workers. Worker 0 draws the same numbers as a single process."""

_CAP = 1.5
"""The limit on how far all workers together move a value, in deltas of one worker.

A higher limit learns faster but diverges sooner.
"""


def local_copy(variable: StepVariable, device_number: int | None = None) -> tf.Tensor:
    """Returns the handle of the worker's own copy, a resource of the worker that is found by name.

    Args:
        variable: the variable.
        device_number: the number of a device that has a further copy for itself; None for the copy that steps update.
    """
    suffix = "" if device_number is None else f"_on_{device_number}"
    return tf.raw_ops.VarHandleOp(
        dtype=variable.dtype, shape=variable.shape, shared_name=f"tfps_copy_{variable.key}{suffix}", name="local_copy"
    )


def damping(delta: tf.Tensor, others: tf.Tensor, axis: int | None = None) -> tf.Tensor:
    """Returns the factor that damps a pushed delta where workers start from one value without seeing each other.

    s = clip(1.5 - max(0, <delta, others>/<delta, delta>), 0, 1). The factor is 1 where no other worker moved the value,
    or all of them moved it in another direction. It shrinks as others have moved the value further in the same
    direction. So all workers together move a value at most one and a half times as far as one of them alone.

    Example: delta = 2 and others = 2 give 0.5, so 1 is pushed and the value moves by 3 in total. others = 3 gives 0.

    Args:
        delta: the change that this worker's window made to the value.
        others: the change that other workers made to the server's value since this worker pulled it.
        axis: the axis along which elements share one factor; None if all elements share one.
    """
    along = tf.reduce_sum(delta * others, axis, keepdims=True)
    length = tf.reduce_sum(delta * delta, axis, keepdims=True)
    return tf.clip_by_value(_CAP - tf.maximum(tf.math.divide_no_nan(along, length), 0.0), 0.0, 1.0)


Values: TypeAlias = dict[VariableKey, tf.Tensor]
"""A tensor for each variable, by its key."""


class Exchange:
    """One pull and one push, traced into one closure. A closure with several of them calls their parts.

    Args:
        variables: the dense variables to exchange.
        scales: the factor for the pushed delta of a variable, by variable key; 1 where it has no entry.
        order: the order of the closure.
        capped: the keys of float variables whose deltas are damped by what other workers have added meanwhile.
        workers: the number of workers that push to these variables.
        draws: a number that closures which start from the same values do not share. It offsets the keys of random
            generators; by default the shard of the order.

    Attributes:
        assignments: takes note of what the steps assign to the copies; it decides how servers merge it.
        pulled: the values that `pull` assigned to the copies.
        copies: handles of the worker's copies, by key.
    """

    def __init__(
        self,
        variables: Iterable[DenseVariable],
        scales: Mapping[VariableKey, float] | None = None,
        order: Order | None = None,
        capped: Collection[VariableKey] = (),
        workers: int = 1,
        draws: Int | None = None,
    ) -> None:
        # Grouped by server device, as each server gets one message. Both ends rely on the order of these dictionaries.
        self._by_server: dict[str, list[DenseVariable]] = {}
        for variable in variables:
            self._by_server.setdefault(variable.home_handle.device, []).append(variable)
        self._scales = scales or {}
        self._capped = capped
        self._order, self._workers = order or Order(0, 0), workers
        self._draws = self._order.shard if draws is None else draws
        # Without an order this is no closure of an epoch, and it reads what the servers have.
        self._carries = order is not None
        self.assignments = Assignments(workers)
        self.pulled: Values = {}
        self._variables = [v for on_server in self._by_server.values() for v in on_server]
        self.copies: Values = {v.key: local_copy(v) for v in self._variables}

    def part(self, keys: Collection[VariableKey]) -> "Exchange":
        """Returns the exchange of some of the variables, with the same copies and pulled values."""
        variables = [v for v in self._variables if v.key in keys]
        part = Exchange(variables, self._scales, self._order, self._capped, self._workers, self._draws)
        part.assignments = self.assignments
        # The same handles, because TensorFlow orders the reads and writes of one handle in a graph.
        part.copies = {key: self.copies[key] for key in part.copies}
        part.pulled = {key: self.pulled[key] for key in part.copies}
        return part

    def pull(self) -> None:
        """Fetches the values of the servers and assigns them to the worker's copies."""
        self.pulled = self.fetch()
        self.fill(self.pulled)

    def push(self, push_id: PushId | None = None) -> None:
        """Pushes the deltas of the copies, which the servers add.

        Args:
            push_id: a server that has applied it ignores the push.
        """
        self.send(self.deltas(self.pulled), self.pulled, push_id)

    @in_stage(EXCHANGE)
    def fetch(self) -> Values:
        """Fetches the values from the servers; the keys of random generators are offset for this worker."""
        values: Values = {}
        for device, variables in self._by_server.items():
            values |= self._values_on(device, variables)
            for variable in variables:
                # With the same key all workers would draw the same dropout masks.
                if isinstance(variable, SeedVariable):
                    key = tf.stack([tf.cast(self._draws, tf.int64) * _KEY_STEP, 0])
                    values[variable.key] += tf.cast(key, variable.dtype)
                elif variable.carried and self._carries:
                    values[variable.key] = self._carry_on(variable, values[variable.key])
        return values

    @in_stage(EXCHANGE)
    def fill(self, values: Values) -> None:
        """Assigns values to the worker's copies."""
        for variable in self._variables:
            tf.raw_ops.AssignVariableOp(resource=self.copies[variable.key], value=values[variable.key])
        self.assignments.reset()

    @in_stage(EXCHANGE)
    def no_deltas(self) -> Values:
        """Returns deltas that change nothing on the servers, in the form of those that `deltas` returns."""
        nothing = {key: tf.zeros_like(value) for key, value in self.pulled.items()}
        nothing |= {key: self.pulled[key] / self._workers for key in self.assignments.mixed}
        nothing |= {key: self.pulled[key] for key in self.assignments.extremes}
        return nothing | {_keep_key(key): self.assignments.keeps_all(key) for key in self.assignments.keeps}

    @in_stage(EXCHANGE)
    def deltas(self, since: Values) -> Values:
        """Returns the scaled deltas of the copies; for a bool and an extreme its value, for an average its push value.

        Args:
            since: the values that the copies started from.
        """
        # Averages come last: their push values depend on the delta of their step counter.
        deltas: Values = {v.key: self._delta(v, since[v.key]) for v in self._variables if v.average is None}
        deltas |= {_keep_key(key): self.assignments.read(key) for key in self.assignments.keeps}
        for v in self._variables:
            if v.key in self.assignments.extremes:
                deltas[v.key] = _read(self.copies[v.key], v)
            elif self._is_composed(v, deltas):
                now = _read(self.copies[v.key], v)
                factor = None if moving_averages.is_product(v) else self._factor(v, deltas)
                deltas[v.key] = moving_averages.push_value(v, since[v.key], now, factor)
            elif v.key not in deltas:
                deltas[v.key] = self._delta(v, since[v.key])
        return deltas

    @in_stage(EXCHANGE)
    def sums(self, values: Values, deltas: Values) -> Values:
        """Adds deltas to values in the same way as the servers do."""
        return {v.key: self._sum(v, values[v.key], deltas) for v in self._variables}

    @in_stage(EXCHANGE)
    def send(self, deltas: Values, base: Values, push_id: PushId | None = None) -> Values:
        """Sends deltas to the servers, which add them; returns the added deltas.

        Args:
            deltas: the delta of each variable, by key.
            base: the values that servers would have without the pushes of others; only read for capped variables.
            push_id: a server that has applied it ignores the push.
        """
        pushed: Values = {}
        for device, variables in self._by_server.items():
            on_server: Values = {v.key: deltas[v.key] for v in variables}
            averages = [v for v in variables if self._is_composed(v, deltas)]
            extremes: dict[VariableKey, Extreme] = {
                v.key: self.assignments.extremes[v.key] for v in variables if v.key in self.assignments.extremes
            }
            others = [v for v in variables if not (v.key in extremes or self._is_composed(v, deltas))]
            capped = [v for v in others if v.key in self._capped]
            on_server |= self._damp(device, capped, deltas, base)
            factors = [tf.cast(self._factor(v, deltas), tf.float32) for v in averages]
            # The message: deltas in the order of the variables, factors in the order of the averages, then the push id.
            buffer = pack([*on_server.values(), *factors, *([push_id.lanes()] if push_id else [])])
            summed = {v.key for v in others}
            mean = {v.key for v in averages if v.average is not None and v.average.decay is not None}
            codec = coded_deltas(variables, summed, mean, device)
            buffer = buffer if codec is None else codec.encode(buffer)
            with tf.device(device):
                # The server is the device here, so this is where the message crosses the network.
                arrived = tf.identity(buffer)
                arrived = arrived if codec is None else codec.decode(arrived)
                shapes: dict[VariableKey, tf.TensorShape] = {
                    v.key: factor.shape for v, factor in zip(averages, factors, strict=True)
                }
                add = functools.partial(_add, variables, shapes, extremes, arrived)
                if push_id:
                    push_id.ledger.apply_if_new(arrived[-PUSH_ID_LANES:], add)
                else:
                    add()
            pushed |= on_server
        return pushed | {key: value for key, value in deltas.items() if key not in pushed}

    def delta_since_pull(self, variable: DenseVariable) -> tf.Tensor:
        """Returns the delta of a copy since the pull; for a bool its value."""
        return self._delta(variable, self.pulled[variable.key])

    def value_now(self, variable: DenseVariable) -> tf.Tensor:
        """Returns the value of a copy."""
        return _read(self.copies[variable.key], variable)

    def _is_composed(self, variable: DenseVariable, deltas: Values) -> bool:
        """Returns whether a push scales the value of the server before it adds to it."""
        return variable.key not in self.assignments.extremes and (
            moving_averages.is_average(variable, deltas)
            or variable.key in self.assignments.keeps
            or variable.key in self.assignments.mixed
        )

    def _factor(self, variable: DenseVariable, deltas: Values) -> tf.Tensor:
        """Returns what a push scales the value of the server by."""
        if variable.average is not None:
            return moving_averages.keep_factor(variable, deltas)
        if variable.key in self.assignments.mixed:
            return tf.constant(1.0 - 1.0 / self._workers, variable.dtype)
        return deltas[_keep_key(variable.key)]

    def _sum(self, variable: DenseVariable, value: tf.Tensor, deltas: Values) -> tf.Tensor:
        delta = deltas[variable.key]
        if variable.key in self.assignments.extremes:
            return extreme(self.assignments.extremes[variable.key], value, delta)
        if self._is_composed(variable, deltas):
            return moving_averages.value_after(variable, value, delta, self._factor(variable, deltas))
        return delta if variable.dtype == tf.bool else _constrain(variable, value + delta)

    def _carry_on(self, variable: DenseVariable, value: tf.Tensor) -> tf.Tensor:
        """Returns what the worker's last closure ended with, or what `begin_carrying` has set."""
        copy = self.copies[variable.key]
        # A worker that took the place of another has no value yet, and begins with the server's.
        kept = tf.raw_ops.VarIsInitializedOp(resource=copy)
        return tf.ensure_shape(tf.cond(kept, lambda: _read(copy, variable), lambda: value), variable.shape)

    def _values_on(self, device: str, variables: list[DenseVariable]) -> Values:
        """Fetches the values of some variables from their server in one message."""
        buffer = self._buffer_on(device, variables)
        values = unpack(buffer, [v.shape for v in variables], [v.dtype for v in variables])
        return {v.key: value for v, value in zip(variables, values, strict=True)}

    def _buffer_on(self, device: str, variables: list[DenseVariable]) -> tf.Tensor:
        """Fetches the values of some variables from their server, packed by `pack`."""
        codec = coded_values(variables)
        with tf.device(device):
            # Packed on the server: a single tensor crosses the network, for any number of variables.
            buffer = pack([_read(v.home_handle, v) for v in variables])
            buffer = buffer if codec is None else codec.encode(buffer)
        arrived = tf.identity(buffer)
        return arrived if codec is None else codec.decode(arrived)

    def _damp(self, device: str, variables: list[DenseVariable], deltas: Values, base: Values) -> Values:
        """Damps deltas by what other workers have added meanwhile, which takes one more message from the server."""
        if not variables:
            return {}
        # The server is read after the steps: the later, the more pushes of others are seen.
        with tf.control_dependencies([deltas[v.key] for v in variables]):
            read_after = tf.no_op()
        with tf.control_dependencies([read_after]):
            now = self._values_on(device, variables)
        # A small table is damped row by row, like a table: workers may have moved different rows.
        axes: dict[VariableKey, int | None] = {v.key: 1 if isinstance(v, SmallTable) else None for v in variables}
        return {key: deltas[key] * damping(deltas[key], value - base[key], axes[key]) for key, value in now.items()}

    def _delta(self, variable: DenseVariable, before: tf.Tensor) -> tf.Tensor:
        now = _read(self.copies[variable.key], variable)
        if variable.dtype == tf.bool:
            return now
        # A step counter is an integer: its delta is exact and never scaled.
        delta = now - before
        scale = self._scales.get(variable.key, 1.0)
        return delta if scale == 1.0 or not variable.dtype.is_floating else delta * tf.cast(scale, delta.dtype)


def begin_carrying(values: Sequence[tuple[DenseVariable, np.ndarray[Any, Any]]]) -> tuple[()]:
    """Sets the copies of variables that each worker carries on by itself; called with a worker as the device.

    Args:
        values: the variables, and their values on the servers.
    """
    for variable, value in values:
        tf.raw_ops.AssignVariableOp(resource=local_copy(variable), value=tf.constant(value, variable.dtype))
    return ()


def extreme(kind: Extreme, value: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Returns the greatest or the least of two values, element by element; for bools "or" or "and"."""
    if value.dtype == tf.bool:
        return (tf.logical_or if kind is Extreme.GREATEST else tf.logical_and)(value, other)
    return (tf.maximum if kind is Extreme.GREATEST else tf.minimum)(value, other)


def _add(
    variables: list[DenseVariable],
    averages: Mapping[VariableKey, tf.TensorShape],
    extremes: Mapping[VariableKey, Extreme],
    buffer: tf.Tensor,
) -> list[tf.Operation]:
    """Adds the deltas of a message on the server; `Exchange.send` has its layout.

    Args:
        variables: the variables of the server.
        averages: the shapes of the factors of those that are scaled, by key, in the order of the message.
        extremes: those of which the greatest or the least value remains.
        buffer: the message.
    """
    # After the deltas come the factors of averages, and then the push id.
    sizes = sum(lanes(v.shape.num_elements(), v.dtype) for v in variables)
    deltas = unpack(buffer[:sizes], [v.shape for v in variables], [v.dtype for v in variables])
    end = sizes + sum(shape.num_elements() for shape in averages.values())
    unpacked = unpack(buffer[sizes:end], list(averages.values()), [tf.float32] * len(averages))
    factors = dict(zip(averages, unpacked, strict=True))
    pushed = list(zip(variables, deltas, strict=True))
    scaled = [(v, delta, factors[v.key]) for v, delta in pushed if v.key in factors]
    added: list[tf.Operation] = []
    # Most messages need no lock, and all messages of a model agree on it.
    parted = bool(extremes) or any(v.constraint is not None for v in variables) or moving_averages.reads_first(scaled)
    with exclusive(added) if parted else contextlib.nullcontext():
        # A bool has no sum: where no step assigns it, the server keeps its own value.
        added += [
            tf.raw_ops.AssignAddVariableOp(resource=variable.home_handle, value=delta)
            for variable, delta in pushed
            if variable.dtype != tf.bool and variable.key not in {*factors, *extremes}
        ]
        added += moving_averages.compose(scaled)
        for variable, pushed_value in pushed:
            if variable.key in extremes:
                value = extreme(extremes[variable.key], _read(variable.home_handle, variable), pushed_value)
                added.append(tf.raw_ops.AssignVariableOp(resource=variable.home_handle, value=value))
        for variable in variables:
            if variable.constraint is not None:
                # The sum of deltas that each respect a constraint need not respect it.
                value = _constrain(variable, _read(variable.home_handle, variable))
                added.append(tf.raw_ops.AssignVariableOp(resource=variable.home_handle, value=value))
    return added


def _constrain(variable: DenseVariable, value: tf.Tensor) -> tf.Tensor:
    return value if variable.constraint is None else tf.cast(variable.constraint(value), variable.dtype)


def _keep_key(key: VariableKey) -> VariableKey:
    """Returns the key of the `keep` of a variable among the deltas; the keys of dense variables are numbers from 0."""
    # A number as well, because loops sort the keys of what they carry.
    assert isinstance(key, int)
    return -1 - key


def _read(handle: tf.Tensor, variable: StepVariable) -> tf.Tensor:
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=variable.dtype)
