"""The push ids of one model's closures, by which a server applies each push only once."""

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
    """The ids of the pushes of one part of a closure.

    Args:
        rows: the id of the push of rows.
        dense: the id of the push of dense variables.
    """

    rows: PushId
    dense: PushId


class PushLedgers:
    """The two push ledgers of a model on every server, one for rows and one for dense variables.

    There are two because every step pushes rows, but dense variables are pushed once a closure: their numbers differ.

    Args:
        strategy: the strategy of the servers. Each server has a variable for each ledger, for as long as this object.
    """

    def __init__(self, strategy: ParameterServerStrategy) -> None:
        name, workers = str(next(_NUMBERS)), strategy.num_workers
        # A server finds a ledger by its name. A program never uses a name twice, because a new model must not find the
        # push numbers of an earlier one.
        self._rows, self._dense = PushLedger(f"{name}_rows", workers), PushLedger(f"{name}_dense", workers)
        self._variables = strategy.remote_variables.make_owned(self)
        for server in range(strategy.num_servers):
            for ledger in (self._rows, self._dense):
                self._variables.make(RemoteVariable(devices.server(server), ledger.variable_name), ledger.initial_value)

    def ids(self, order: Order, done: tf.Tensor | int) -> PushIds:
        """Returns the ids of the pushes after `done` steps of a closure.

        A repeated closure has the same order and therefore the same ids.
        Example: order.first = 32 and done = 4 give the number 36 for dense variables, and 36 * PUSHES for rows, because
        one step may push rows several times.
        """
        # Numbers grow within a shard and the ledger keeps shards apart, so each push has a unique id.
        number = order.first + tf.cast(done, tf.int64)
        return PushIds(PushId(self._rows, order.shard, number * PUSHES), PushId(self._dense, order.shard, number))
