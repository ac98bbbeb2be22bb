"""Sums over the workers of a group, by TensorFlow's collectives, and the groups that the chief forms.

The workers of a group run one closure together. Each all-reduce of the closure ends once every worker of the group has
come to it, and gives all of them the same bits.
Cost: a ring sends each number twice, in 2 * (N - 1) messages of each worker, and waits for the slowest.

What ends a group: a worker whose step fails never comes to the next all-reduce, so the chief cancels the closures of
the others. TensorFlow then still keeps what arrived for the old group, so later closures are of new groups. A worker
that dies ends the collectives of all workers for good: TensorFlow has no way to begin them again.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import cancellation  # how to cancel a function is not public

from tfps.stages import EXCHANGE, in_stage
from tfps.training.order import Int, Order

_RANGE = 1 << 16
"""The numbers of one range: of the groups of a mode, and of the all-reduces of a graph."""

# Keys are int32.
_NUMBERS = itertools.cycle(range(1, (1 << 15) - 1))


class Collectives:
    """Traces the all-reduces of one closure.

    All workers of a group run graphs with the same all-reduces, in which these get the same numbers.

    Args:
        mode: the number of the mode, see `Groups`.
        order: the order of the closure, which names the group.
        first: the number of the first all-reduce. Graphs that run at the same time with all-reduces of different
            sizes must not share numbers.
        alone: whether no group ever has more than one worker.

    Attributes:
        order: as given.
        alone: as given.
    """

    def __init__(self, mode: int, order: Order, first: int, alone: bool) -> None:
        self.order, self.alone = order, alone
        self._key = tf.cast(order.group, tf.int32) + mode * _RANGE
        self._size = tf.cast(order.members, tf.int32)
        self._numbers = itertools.count(first)

    @in_stage(EXCHANGE)
    def reduce(self, value: tf.Tensor, kind: str = "Add") -> tf.Tensor:
        """Returns the sum of a tensor over the workers, in its shape.

        Args:
            value: float32, float64, int32 or int64; the same shape and type on all workers.
            kind: "Add", or "Min" or "Max" for the least or the greatest value of each element.
        """
        if self.alone:
            return tf.identity(value)
        reduced = tf.raw_ops.CollectiveReduceV2(
            input=value,
            group_size=self._size,
            group_key=self._key,
            instance_key=next(self._numbers),
            ordering_token=[],
            merge_op=kind,
            final_op="Id",
            # TensorFlow chooses: a ring over CPUs, NCCL over cards.
            communication_hint="auto",
            # The chief waits, and cancels: an all-reduce may wait for a worker that reads its input slowly.
            timeout_seconds=0.0,
            max_subdivs_per_device=-1,
        )
        return tf.ensure_shape(reduced, value.shape)

    @property
    def member(self) -> Int:
        """The number of this worker in the group."""
        return self.order.member


class Groups:
    """The groups of workers that one mode has formed, and the cancellation of what they run.

    Threading: the main thread.

    Attributes:
        number: the number of the mode; no other mode of the process has it.
        names: the names of the dense variables that closures exchange.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.number = next(_NUMBERS)
        self._found: dict[tuple[int, ...], int] = {}
        self._keys, self._graphs = itertools.count(1), itertools.count(1)
        self._manager = cancellation.CancellationManager()
        # What was in force before `hold`: another fit may run within one.
        self._outer: Any = None
        self._holds = False

    def instances(self) -> int:
        """Returns the number of the first all-reduce of a new graph over an iterator."""
        return next(self._graphs) * _RANGE

    def key(self, members: Sequence[int]) -> int:
        """Returns the number of a group, the same for the same workers until `cancel`."""
        found = tuple(members)
        if found not in self._found:
            self._found[found] = next(self._keys)
        return self._found[found]

    def hold(self) -> None:
        """Makes functions that are called from now on end with an error when `cancel` is called."""
        # TensorFlow keeps one manager for all threads. So it is set for as long as calls are under way, and not by each
        # call: the end of one would take it from another that is about to begin.
        if not self._holds:
            self._outer, self._holds = cancellation.context(), True
            cancellation.CancellationManagerContext(self._manager).__enter__()

    def release(self) -> None:
        """Undoes `hold`; no call may be under way."""
        if self._holds:
            context = cancellation.CancellationManagerContext(self._outer)
            context.__enter__() if self._outer is not None else context.__exit__(None, None, None)
            self._outer, self._holds = None, False
        if self._manager.is_cancelled:
            self._manager = cancellation.CancellationManager()

    def cancel(self) -> None:
        """Cancels the calls of all groups, until `release`, and lets later closures be of new groups."""
        self._manager.start_cancel()
        self._found.clear()
