"""The loop over the steps of a group: it makes a step only if every worker of the group has a batch for it.

A worker without a batch cannot take part in the all-reduces of a step. So the workers agree: each counts the batches
that it has read ahead, and an all-reduce gives all of them the least count. When a worker has none left, the closure
ends on all of them, the others keep the batches that they have read, and the chief forms a smaller group.
"""

from typing import Any

import tensorflow as tf

from tfps.training.allreduce.collectives import Collectives
from tfps.training.batches import NextBatch, StoredBatch, WorkerBatches
from tfps.training.order import Int, Order
from tfps.training.turns import State, Turns


class AgreedTurns(Turns):
    """A loop whose state has one entry more: "agreed", the number of batches that every worker has read ahead.

    Args:
        collectives: the all-reduces of the closure.
        arguments: the arguments of `Turns`.
    """

    def __init__(self, collectives: Collectives, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._collectives = collectives

    def initial_state(self, next_batch: NextBatch, first: tf.experimental.Optional, order: Order) -> State:
        """Creates the state before the first step; see `Turns`."""
        state = super().initial_state(next_batch, first, order)
        return state | {"agreed": self._agree(state)}

    def _has(self, steps: int, state: State) -> tf.Tensor:
        return state["agreed"] >= steps

    def _turn(self, steps: int, state: State) -> tuple[State]:
        (state,) = super()._turn(steps, state)
        # This waits for no step of the turn: the batches were read before it.
        return (state | {"agreed": self._agree(state)},)

    def _agree(self, state: State) -> tf.Tensor:
        # Batches are read one after the other, so those that are there are the first ones.
        count = tf.add_n([tf.cast(batch.has_value(), tf.int32) for batch in state["batches"]])
        return self._collectives.reduce(count, "Min")


class KeptBatches:
    """The batches that a worker has read from an iterator and not trained. The next closure begins with them.

    Args:
        source: the iterator.
        count: the most batches that it keeps.
        epoch: a number of the epoch; batches that were kept in another one are dropped.
    """

    def __init__(self, source: WorkerBatches, count: int, epoch: Int) -> None:
        self._source, self._epoch = source, tf.cast(epoch, tf.int64)
        self._places = [StoredBatch(f"kept_{number}_{source.name}", source.element_spec) for number in range(count)]
        # [the epoch of the kept batches, the place of the next one, their number].
        self._state = tf.raw_ops.VarHandleOp(dtype=tf.int64, shape=[3], shared_name=f"tfps_kept_{source.name}")
        there = tf.raw_ops.VarIsInitializedOp(resource=self._state)
        # `cond` and not `where`: a variable that does not exist cannot be read.
        kept = tf.cond(there, self._read, lambda: tf.zeros([3], tf.int64))
        number = tf.where(tf.equal(kept[0], self._epoch), kept[2], 0)
        self._write(tf.zeros([], tf.int64), number)

    def next(self) -> tf.experimental.Optional:
        """Takes the next kept batch, or else reads one."""
        _, place, number = tf.unstack(self._read())

        def take() -> tf.experimental.Optional:
            self._write(place + 1, number)
            return tf.switch_case(tf.cast(place, tf.int32), [one.read for one in self._places])

        return tf.cond(place < number, take, self._source.next)

    def keep(self, state: State) -> None:
        """Keeps the batches that a loop has not trained."""
        for place, batch in zip(self._places, state["batches"], strict=True):
            place.store(batch)
        count = tf.add_n([tf.cast(batch.has_value(), tf.int64) for batch in state["batches"]])
        self._write(tf.zeros([], tf.int64), count)

    def _read(self) -> tf.Tensor:
        return tf.ensure_shape(tf.raw_ops.ReadVariableOp(resource=self._state, dtype=tf.int64), [3])

    def _write(self, place: tf.Tensor, number: tf.Tensor) -> None:
        tf.raw_ops.AssignVariableOp(resource=self._state, value=tf.stack([self._epoch, place, number]))
