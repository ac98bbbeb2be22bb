"""The copies of the workers of a group: all begin a closure with the same bits, and one worker stores them.

Member 0 fetches the values from the servers and hands them to the others. If each fetched its own, a value
that a callback assigns meanwhile, such as a learning rate, would reach some of them and not the others.
At the end the copies are equal, so one worker sends them. It sends values, not deltas: no other worker writes, and so
no bit is lost. A variable that the closure has not changed is not written: it may have been assigned meanwhile.
"""

from collections.abc import Iterable

import tensorflow as tf

from tfps.stages import EXCHANGE, in_stage
from tfps.strategy.variables import DenseVariable, SeedVariable
from tfps.training.allreduce.collectives import Collectives
from tfps.training.exchange import Exchange
from tfps.training.lanes import lanes, pack, unpack


class MirroredExchange(Exchange):
    """The pull of all workers of a group and the push of one of them, traced into one closure.

    Args:
        variables: the dense variables.
        collectives: the all-reduces of the closure.

    Attributes:
        variables: as given.
    """

    def __init__(self, variables: Iterable[DenseVariable], collectives: Collectives) -> None:
        # Member 0 draws the random numbers of one process, and its generators are stored.
        self.variables = list(variables)
        super().__init__(self.variables, order=collectives.order, draws=collectives.member)
        self._collectives = collectives
        self._first = tf.equal(collectives.member, 0)

    @in_stage(EXCHANGE)
    def first_difference(self) -> tf.Tensor:
        """Returns the number of the first variable whose copies differ between workers, from 1, else 0; float32.

        Nothing may make them differ. If a step does, in a way that its trace does not show, nobody would ever see it.
        """
        compared = [v for v in self.variables if not (v.carried or isinstance(v, SeedVariable))]
        if self._collectives.alone or not compared:
            return tf.zeros([])
        # The sum of the bits, in which each number counts. It may overflow, on all workers alike.
        bits = [tf.bitcast(pack([self.value_now(v)]), tf.int32) for v in compared]
        sums = tf.stack([tf.reduce_sum(tf.cast(one, tf.int64)) for one in bits])
        differs = tf.not_equal(self._collectives.reduce(sums, "Min"), self._collectives.reduce(sums, "Max"))
        places = {v.key: place for place, v in enumerate(self.variables)}
        numbers = tf.constant([1.0 + places[v.key] for v in compared])
        return tf.where(tf.reduce_any(differs), tf.gather(numbers, tf.argmax(tf.cast(differs, tf.int32))), 0.0)

    @in_stage(EXCHANGE)
    def store(self) -> None:
        """Writes the copies of member 0 to the servers."""
        tf.cond(self._first, self._store, lambda: tf.constant(False))

    def _buffer_on(self, device: str, variables: list[DenseVariable]) -> tf.Tensor:
        """Fetches packed values on member 0, and hands them to the others."""
        size = sum(lanes(v.shape.num_elements(), v.dtype) for v in variables)
        fetch = super()._buffer_on
        buffer = tf.cond(self._first, lambda: fetch(device, variables), lambda: tf.zeros([size]))
        # As integers, whose sum with zeros keeps all bits: a sum of floats need not keep those of an int64.
        bits = self._collectives.reduce(tf.bitcast(tf.ensure_shape(buffer, [size]), tf.int32))
        return tf.bitcast(bits, tf.float32)

    def _store(self) -> tf.Tensor:
        written: list[tf.Operation] = []
        for device, variables in self._by_server.items():
            values = [self.value_now(v) for v in variables]
            changed = [
                tf.reduce_any(tf.not_equal(value, self.pulled[v.key]))
                for v, value in zip(variables, values, strict=True)
            ]
            message = pack([*values, tf.stack(changed)])
            with tf.device(device):
                arrived = tf.identity(message)
                shapes = [*(v.shape for v in variables), tf.TensorShape([len(variables)])]
                *values, flags = unpack(arrived, shapes, [*(v.dtype for v in variables), tf.bool])
                for number, (variable, value) in enumerate(zip(variables, values, strict=True)):
                    written.append(_assign_if(flags[number], variable, value))
        with tf.control_dependencies(written):
            return tf.constant(True)


def _assign_if(flag: tf.Tensor, variable: DenseVariable, value: tf.Tensor) -> tf.Operation:
    def assign() -> tf.Tensor:
        write = tf.raw_ops.AssignVariableOp(resource=variable.home_handle, value=value)
        with tf.control_dependencies([write]):
            return tf.constant(True)

    return tf.cond(flag, assign, lambda: tf.constant(False))
