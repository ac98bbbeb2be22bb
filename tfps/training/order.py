"""What the chief tells a worker with each closure, as one small tensor."""

import dataclasses
from typing import Any

import tensorflow as tf

LENGTH = 6
"""Elements of the tensor."""


@dataclasses.dataclass(frozen=True)
class Order:
    """One closure: integers on the chief, int64 scalars in the graph of a closure.

    Args:
        steps: to make at most.
        shard: number of the worker whose shard of the input it is; random generators draw by it.
        first: steps that were ordered before it of this shard, whether or not there were so many.
        place: where the contribution of a synchronous step waits on the servers.
        again: 1 to take the batch of the closure before once more, 0 to take the next.
        window: steps of a window or a span at most, where a closure has several of them.
    """

    steps: Any
    shard: Any
    first: Any = 0
    place: Any = 0
    again: Any = 0
    window: Any = 0

    @classmethod
    def read(cls, tensor: Any) -> "Order":
        """The order in a tensor from `tensor()`."""
        return cls(*tf.unstack(tensor, num=LENGTH))

    def tensor(self) -> Any:
        """int64 [LENGTH], on the chief: it crosses with the call.

        A constant made on the worker's device is sent at once, and Python stands still until the worker answers.
        """
        with tf.device(None):
            return tf.constant(dataclasses.astuple(self), tf.int64)
