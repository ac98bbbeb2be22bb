"""Pushes that count once, however often they are sent: each carries a push_id, and a server knows the last it has seen.

A worker that dies may have pushed to some servers and not to others. Whoever does its work again pushes all of it, with
the same push_ids; a server that has seen a push_id lets what comes with it pass.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfps.errors import UnsupportedError

PUSH_ID_LANES = 4
"""Float32 lanes that a push_id takes in a message."""

PUSHES = 64
"""Pushes of one step at most: its optimizers make one each time that they are applied."""

_HANDLES = "_tfps_ledger_handles"


@dataclasses.dataclass(frozen=True)
class PushLedger:
    """The last push_ids that each server has seen: a variable on each, found by name.

    Args:
        name: which no other has.
        shares: how many senders there are; the push_ids of each grow.
    """

    name: str
    shares: int

    @property
    def variable_name(self) -> str:
        """The name of the variable on each server. Whoever owns the ledger makes it, with `initial_value`."""
        return f"tfps_ledger_{self.name}"

    def initial_value(self) -> tf.Tensor:
        """The last push of each sender, int64 [senders], before the first: 0, as numbers begin at 1."""
        return tf.zeros([self.shares], tf.int64)

    def apply_if_new(self, push_id: Any, operations: Callable[[], Any]) -> Any:
        """Runs operations if it is the first time that a push_id comes; to be called with the server as the device.

        Senders do not send at once what they send again, so between the look and the note nobody else comes.

        Args:
            push_id: float32 [PUSH_ID_LANES] of a `PushId`.
            operations: traces them; they return nothing that is used.
        """
        share, number = tf.unstack(tf.bitcast(tf.reshape(push_id, [2, 2]), tf.int64), num=2)
        handle = self._handle_in(number.graph, number.device)
        last = tf.gather(tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.int64), share)
        with tf.control_dependencies([last]):
            noted = tf.raw_ops.ResourceScatterMax(resource=handle, indices=share, updates=number)

        def run() -> Any:
            operations()
            return tf.constant(0)

        with tf.control_dependencies([noted]):
            return tf.cond(number > last, run, lambda: tf.constant(0))

    def _handle(self) -> Any:
        return tf.raw_ops.VarHandleOp(dtype=tf.int64, shape=[self.shares], shared_name=self.variable_name)

    def _handle_in(self, graph: Any, device: str) -> Any:
        """One handle for each graph and device, so that the looks and notes of its pushes are made in their order."""
        handles = getattr(graph, _HANDLES, None)
        if handles is None:
            setattr(graph, _HANDLES, handles := {})  # with the graph, so that they go when it does
        if (self.name, device) not in handles:
            with tf.control_dependencies(None), tf.device(device):
                handles[self.name, device] = self._handle()
        return handles[self.name, device]


@dataclasses.dataclass(frozen=True)
class PushId:
    """What a push is known by.

    Args:
        ledger: of the servers.
        share: who sends, an int64 scalar.
        number: int64 scalar, above 0; a share's numbers grow.
    """

    ledger: PushLedger
    share: Any
    number: Any

    def nth(self, push: int) -> "PushId":
        """That of one push of several, counted from 0; `number` is a multiple of `PUSHES`.

        Raises:
            UnsupportedError: there are too many: the next push_ids are those of another step.
        """
        if push >= PUSHES:
            raise UnsupportedError(f"a step must apply optimizers to tables at most {PUSHES} times. Received: more.")
        return dataclasses.replace(self, number=self.number + push)

    def lanes(self) -> Any:
        """float32 [PUSH_ID_LANES], its bits."""
        return tf.reshape(tf.bitcast(tf.stack([self.share, self.number]), tf.float32), [-1])
