"""What the chief tells a worker with each closure, as one small tensor."""

import dataclasses
from typing import TypeAlias

import tensorflow as tf

LENGTH = 6
"""Elements of the tensor."""

Int: TypeAlias = int | tf.Tensor
"""An integer on the chief, an int64 scalar in the graph of a closure."""


@dataclasses.dataclass(frozen=True)
class Order:
    """The order for one closure.

    Example: the third closure of 16 steps of shard 1 is Order(steps=16, shard=1, first=32). Made again after a loss it
    has the same numbers, and servers that have applied a push of it know the push by them.

    Args:
        steps: steps to make, at most.
        shard: number of the input shard; random generators draw by it.
        first: steps of this shard that were ordered before, whether or not there were so many.
        place: number of the place on the servers where the closure leaves its result for an update by them; 0 for
            closures that leave none.
        again: 1 to take the batch of the closure before once more, 0 to take the next.
        window: steps in each part of a closure that has several, at most.
    """

    steps: Int
    shard: Int
    first: Int = 0
    place: Int = 0
    again: Int = 0
    window: Int = 0

    @classmethod
    def read(cls, tensor: tf.Tensor) -> "Order":
        """The order in a tensor from `tensor()`."""
        # The fields in their order, as `tensor` wrote them; LENGTH is their number.
        return cls(*tf.unstack(tensor, num=LENGTH))

    def tensor(self) -> tf.Tensor:
        """int64 [LENGTH], on the chief; it crosses with the call."""
        # A constant made on the worker's device is sent at once, and Python stands still until the worker answers.
        with tf.device(None):
            return tf.constant(dataclasses.astuple(self), tf.int64)
