"""Exactly-once pushes: each push carries a number, and a server drops a number it has already applied.

A worker that dies may have pushed to some servers and not to others. Another worker then makes its steps again and
pushes to all servers, with the same numbers; a server that has applied one of them ignores what comes with it.

Example: shard 2 of the input has had its pushes 64 and 128 applied, so the ledger of a server holds 128 for it. The
worker dies after push 192 reached server 0 only. Whoever resumes shard 2 pushes 192 again: server 0 has 192 in its
ledger and drops it, server 1 has 128 and applies it.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from tfps.errors import UnsupportedError

PUSH_ID_LANES = 4
"""Float32 lanes that a push id takes in a message: two integers of 64 bits."""

PUSHES = 64
"""Pushes of one step at most: its optimizers make one each time that they are applied."""

_HANDLES = "_tfps_ledger_handles"


@dataclasses.dataclass(frozen=True)
class PushLedger:
    """The number of the last push of each sender that a server has applied: a variable on each server, found by name.

    Threading: pushes of different senders may arrive at once. Those of one sender follow one another: it sends a push
    again only after the first attempt has failed. Cost: 8 bytes a sender and server.

    Args:
        name: which no other ledger has.
        senders: number of senders, one for each input shard.
    """

    name: str
    senders: int

    @property
    def variable_name(self) -> str:
        """The name of the variable on each server. Whoever owns the ledger makes it, with `initial_value`."""
        return f"tfps_ledger_{self.name}"

    def initial_value(self) -> tf.Tensor:
        """The last push of each sender, int64 [senders]. Numbers are above 0, so with zeros every push is new."""
        return tf.zeros([self.senders], tf.int64)

    def apply_if_new(self, push_id: tf.Tensor, operations: Callable[[], object]) -> tf.Tensor:
        """Runs operations if their push has not been applied. Call it with the server as the device.

        A sender retries only after its first push has failed, so no other push with this number can arrive between the
        check and the update.

        Args:
            push_id: float32 [PUSH_ID_LANES], the lanes of a `PushId`.
            operations: traces them; what they return is not used.

        Returns:
            A tensor that is there once they are done, or were skipped.
        """
        # The lanes are the bits of two int64.
        sender, number = tf.unstack(tf.bitcast(tf.reshape(push_id, [2, 2]), tf.int64), num=2)
        handle = self._handle_in(number.graph, number.device)
        last = tf.gather(tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.int64), sender)
        # Recorded before the update runs. If the server dies in between, rows and record are lost together.
        with tf.control_dependencies([last]):
            recorded = tf.raw_ops.ResourceScatterMax(resource=handle, indices=sender, updates=number)

        def run() -> tf.Tensor:
            operations()
            return tf.constant(0)

        with tf.control_dependencies([recorded]):
            return tf.cond(number > last, run, lambda: tf.constant(0))

    def _handle(self) -> tf.Tensor:
        return tf.raw_ops.VarHandleOp(dtype=tf.int64, shape=[self.senders], shared_name=self.variable_name)

    def _handle_in(self, graph: tf.Graph, device: str) -> tf.Tensor:
        """One handle for each graph and device.

        TensorFlow orders the stateful operations of a graph by the tensor of their resource. With one handle the
        checks and records of all pushes of the graph follow one another.
        """
        handles = getattr(graph, _HANDLES, None)
        if handles is None:
            setattr(graph, _HANDLES, handles := {})  # an attribute of the graph, so that they go when it does
        if (self.name, device) not in handles:
            with tf.control_dependencies(None), tf.device(device):
                handles[self.name, device] = self._handle()
        return handles[self.name, device]


@dataclasses.dataclass(frozen=True)
class PushId:
    """Identifies one push: who sends it, and its number.

    Args:
        ledger: of the servers.
        sender: who sends it, an int64 scalar.
        number: int64 scalar, above 0; the numbers of a sender grow.
    """

    ledger: PushLedger
    sender: tf.Tensor
    number: tf.Tensor

    def nth(self, push: int) -> "PushId":
        """The id of one push of several in a step, counted from 0; `number` is a multiple of `PUSHES`.

        Raises:
            UnsupportedError: the step makes too many, and this id would be one of the next step's.
        """
        if push >= PUSHES:
            raise UnsupportedError(f"a step must apply optimizers to tables at most {PUSHES} times. Received: more.")
        return dataclasses.replace(self, number=self.number + push)

    def lanes(self) -> tf.Tensor:
        """The bits of sender and number as float32 [PUSH_ID_LANES], to be part of a float32 message."""
        return tf.reshape(tf.bitcast(tf.stack([self.sender, self.number]), tf.float32), [-1])
