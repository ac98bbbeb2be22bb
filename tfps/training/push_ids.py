"""The push ids of one model's closures, so that no server applies a push twice."""

import itertools
from typing import NamedTuple

import tensorflow as tf

from tfps.cluster import devices
from tfps.embedding.push_dedup import PUSHES, PushId, PushLedger
from tfps.runtime.remote_variables import RemoteVariable
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.order import Order

_NUMBERS = itertools.count()


class PushIds(NamedTuple):
    """The ids of what one part of a closure pushes.

    Args:
        rows: id of the push of rows.
        dense: id of the push of dense variables.
    """

    rows: PushId
    dense: PushId


class PushLedgers:
    """The two ledgers of a model, one for rows and one for dense variables, on every server.

    Why two: a step pushes rows while the dense variables cross once a closure, so their numbers grow differently.

    Args:
        strategy: whose servers have them. Each gets a variable for each ledger, made here and destroyed with this.
    """

    def __init__(self, strategy: ParameterServerStrategy) -> None:
        name, workers = str(next(_NUMBERS)), strategy.num_workers
        # Ledgers are found by name on a server. Names are never used again within a program: another model must not
        # find the numbers of this one.
        self._rows, self._dense = PushLedger(f"{name}_rows", workers), PushLedger(f"{name}_dense", workers)
        self._variables = strategy.remote_variables.make_owned(self)
        for server in range(strategy.num_servers):
            for ledger in (self._rows, self._dense):
                self._variables.make(RemoteVariable(devices.server(server), ledger.variable_name), ledger.initial_value)

    def ids(self, order: Order, done: tf.Tensor | int) -> PushIds:
        """The ids of what is pushed after `done` steps of a closure.

        A closure that is made again has the same order, hence the same ids.
        Example: order.first = 32 and done = 4 give the number 36 for dense variables, and 36 * PUSHES for rows, as a
        step may push rows several times.
        """
        # Numbers grow within a shard, and shards are told apart by the ledger, so each push has an id of its own.
        number = order.first + tf.cast(done, tf.int64)
        return PushIds(PushId(self._rows, order.shard, number * PUSHES), PushId(self._dense, order.shard, number))
