"""The order that the chief sends to a worker with each closure, as one small tensor."""

import dataclasses
from typing import TypeAlias

import tensorflow as tf

LENGTH = 14
"""The number of elements in the tensor."""

Int: TypeAlias = int | tf.Tensor
"""An integer on the chief; an int64 scalar in the graph of a closure."""


@dataclasses.dataclass(frozen=True)
class Order:
    """The order for one closure.

    Example: the third closure of 16 steps of shard 1 is Order(steps=16, shard=1, first=32). If it is lost and repeated,
    its numbers stay the same, and servers recognise by them a push that they have applied.

    Args:
        steps: the most steps that the closure may run.
        shard: the number of the input shard; random generators use it too.
        first: the number of steps ordered for this shard before; fewer may have run.
        place: the place on the servers where the closure leaves gradients for an update that runs there; else 0.
        again: 1 to train the batch of the previous closure again, 0 to train the next batch.
        window: the most steps in each part of a closure that has several parts.
        number: the number that one process would give the first step of the closure; it counts from the first training.
        stride: the difference between the numbers of a step and the next one; 0 if the numbers are not known.
        group: the number of the group of workers that run this closure together, each on its own shard; 0 for a worker
            alone.
        members: the number of workers in the group.
        member: the number of this worker among them, from 0.
        epoch: the number of the input's iterators, for what a worker keeps from one closure to the next.
        rows_version: the version of all rows when the closure begins (`tfps.embedding.row_version`).
        row_uses: how often the worker may use a row that it keeps, each time by a step that updates it; 0 for never.
    """

    steps: Int
    shard: Int
    first: Int = 0
    place: Int = 0
    again: Int = 0
    window: Int = 0
    number: Int = 0
    stride: Int = 0
    group: Int = 0
    members: Int = 1
    member: Int = 0
    epoch: Int = 0
    rows_version: Int = 0
    row_uses: Int = 0

    @classmethod
    def read(cls, tensor: tf.Tensor) -> "Order":
        """Reads an order from the tensor that `tensor()` made."""
        # `tensor` wrote the fields in their order of definition; LENGTH is their number.
        return cls(*tf.unstack(tensor, num=LENGTH))

    def tensor(self) -> tf.Tensor:
        """Returns the order as an int64 tensor [LENGTH] on the chief; it is sent with the call."""
        # Under the worker's device the constant would be sent at once, and Python would block until the worker answers.
        with tf.device(None):
            return tf.constant(dataclasses.astuple(self), tf.int64)
