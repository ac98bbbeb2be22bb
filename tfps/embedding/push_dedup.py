"""Exactly-once pushes: each push carries a number, and a server drops a number that it has already applied.

A worker may die after it has pushed to some servers and not to others. Another worker then repeats its steps and pushes
to all servers with the same numbers. A server that has already applied a number drops the push.

Example: the pushes 64 and 128 of input shard 2 are applied, so each server has 128 in its ledger for shard 2. The
worker dies after push 192 has reached server 0 only. The worker that resumes shard 2 pushes 192 again. Server 0 has 192
in its ledger and drops the push; server 1 has 128 and applies it.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from tfps.errors import UnsupportedError

PUSH_ID_LANES = 4
"""Float32 elements that a push id takes in a message: two 64-bit integers."""

PUSHES = 64
"""The largest number of pushes in one step. Each optimizer pushes once each time that a step applies it."""

_HANDLES = "_tfps_ledger_handles"
"""The attribute of a graph that holds its ledger handles, by ledger name and device."""


@dataclasses.dataclass(frozen=True)
class PushLedger:
    """The number of the last push that a server has applied, for each sender. It is a named variable on each server.

    Threading: pushes of different senders may arrive at the same time. The pushes of one sender come one by one,
    because it repeats a push only after the first attempt has failed. Cost: 8 bytes for each sender on each server.

    Args:
        name: a name that no other ledger has.
        senders: the number of senders, one for each input shard.
    """

    name: str
    senders: int

    @property
    def variable_name(self) -> str:
        """The name of the variable on each server. The owner of the ledger makes it, with `initial_value`."""
        return f"tfps_ledger_{self.name}"

    def initial_value(self) -> tf.Tensor:
        """Returns zeros, int64 [senders]. The numbers of pushes are above 0, so to this ledger every push is new."""
        return tf.zeros([self.senders], tf.int64)

    def apply_if_new(self, push_id: tf.Tensor, operations: Callable[[], object]) -> tf.Tensor:
        """Runs operations unless their push is already applied. The caller makes the server the current device.

        A sender retries only after its first push has failed, so no other push with this number can arrive between the
        check and the update.

        Args:
            push_id: the lanes of a `PushId`, float32 [PUSH_ID_LANES].
            operations: a function that traces the operations.

        Returns:
            A tensor that is ready when the operations have run or were skipped.
        """
        # The lanes are the bits of two int64 numbers.
        sender, number = tf.unstack(tf.bitcast(tf.reshape(push_id, [2, 2]), tf.int64), num=2)
        handle = self._handle_in(number.graph, number.device)
        last = tf.gather(tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.int64), sender)
        # The record is written before the update runs. If the server dies in between, it loses both the rows and the
        # record, so they never disagree.
        with tf.control_dependencies([last]):
            recorded = tf.raw_ops.ResourceScatterMax(resource=handle, indices=sender, updates=number)

        def run() -> tf.Tensor:
            operations()
            return tf.constant(0)

        with tf.control_dependencies([recorded]):
            return tf.cond(number > last, run, lambda: tf.constant(0))

    def _handle(self) -> tf.Tensor:
        """Makes an operation that finds the ledger by its name on the current device."""
        return tf.raw_ops.VarHandleOp(dtype=tf.int64, shape=[self.senders], shared_name=self.variable_name)

    def _handle_in(self, graph: tf.Graph, device: str) -> tf.Tensor:
        """Returns the handle for a graph and device, the same one each time.

        TensorFlow orders the stateful operations of a graph by their resource tensor. Because there is only one handle,
        it runs the checks and records of all pushes in the graph one after the other.
        """
        handles = getattr(graph, _HANDLES, None)
        if handles is None:
            # An attribute of the graph, so that the handles are freed together with the graph.
            setattr(graph, _HANDLES, handles := {})
        if (self.name, device) not in handles:
            with tf.control_dependencies(None), tf.device(device):
                handles[self.name, device] = self._handle()
        return handles[self.name, device]


@dataclasses.dataclass(frozen=True)
class PushId:
    """The identity of one push: its sender and its number.

    Args:
        ledger: the ledger of the servers.
        sender: the index of the sender in the ledger, an int64 scalar.
        number: the number of the push, an int64 scalar above 0. A sender's numbers increase.
    """

    ledger: PushLedger
    sender: tf.Tensor
    number: tf.Tensor

    def nth(self, push: int) -> "PushId":
        """Returns the id of push number `push` of a step, counted from 0. `self.number` is a multiple of `PUSHES`.

        Raises:
            UnsupportedError: the step makes more than `PUSHES` pushes.
        """
        # Steps are `PUSHES` numbers apart, so one more push would take the first number of the next step.
        if push >= PUSHES:
            raise UnsupportedError(f"a step must apply optimizers to tables at most {PUSHES} times. Received: more.")
        return dataclasses.replace(self, number=self.number + push)

    def lanes(self) -> tf.Tensor:
        """Returns the bits of sender and number as float32 [PUSH_ID_LANES], for a float32 message."""
        return tf.reshape(tf.bitcast(tf.stack([self.sender, self.number]), tf.float32), [-1])
