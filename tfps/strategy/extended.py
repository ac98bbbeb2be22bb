"""`Extended`: the half of a strategy that TensorFlow calls to create variables, run functions and distribute datasets.

TensorFlow splits a strategy into two objects. Users see the `tf.distribute.Strategy`; its `extended` object does the
work.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute import (
    distribute_lib,  # how to leave a replica is not public
    parameter_server_strategy_v2,  # the extended class is not public
)

from tfps import step
from tfps.checks import check_type
from tfps.cluster import devices
from tfps.cluster.remote_variable import remake
from tfps.errors import UnsupportedError
from tfps.strategy.arguments import ALLREDUCE
from tfps.types import Nest


class PlainVariable:
    """Makes a plain `tf.Variable` anew when its server was started again.

    Ownership: the variable owns this object, so that both end together.

    Args:
        variable: the variable, which is held weakly.
        device: the device of its server.
    """

    def __init__(self, variable: tf.Variable, device: str) -> None:
        self._variable, self._device = weakref.ref(variable), device

    @classmethod
    def of(cls, variable: tf.Variable, device: str) -> "PlainVariable":
        """Returns the object of a variable, and gives it to the variable."""
        variable._tfps_plain = cls(variable, device)
        return variable._tfps_plain

    def forget(self, device: str) -> None:
        """See `tfps.cluster.connection.Holder`."""
        variable = self._variable()
        if device == self._device and variable is not None:
            remake(variable, device)


class Extended(parameter_server_strategy_v2.ParameterServerStrategyV2Extended):
    """Turns `strategy.run` into a step, and places plain `tf.Variable`s by load instead of by count.

    Hand-written loops and legacy Keras create plain variables.
    """

    def _call_for_each_replica(self, fn: Callable[..., Nest], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Nest:
        strategy = self._container_strategy()
        strategy.connection.check()
        # A call outside a step comes from a hand-written loop. A step makes sense if there are dense variables to copy.
        eager = tf.executing_eagerly()
        if strategy.dense == ALLREDUCE and not eager and step.current() is None:
            raise UnsupportedError(
                '`dense` of the strategy must be "exchange" in a hand-written loop: the coordinator runs a function on '
                'one worker alone. Received: "allreduce". Valid: `fit` with a `train_step`.'
            )
        if strategy.run_in_step is not None and (eager or strategy.dense_variables) and step.current() is None:
            fn = strategy.run_in_step(fn)
        if eager:
            # TensorFlow would start a thread for the replica, where a debugger is of no use, and warn about the chief.
            with tf.distribute.ReplicaContext(strategy, replica_id_in_sync_group=0):
                return fn(*args, **kwargs)
        return super()._call_for_each_replica(fn, args, kwargs)

    def _experimental_distribute_dataset(
        self, dataset: tf.data.Dataset, options: tf.distribute.InputOptions | None
    ) -> tf.data.Dataset:
        # Within `create_per_worker_dataset`, each worker has a dataset of its own.
        if not tf.executing_eagerly():
            return super()._experimental_distribute_dataset(dataset, options)
        # Everything that takes the result divides it between the workers: `fit`, `evaluate`, `predict`.
        return dataset

    def _distribute_datasets_from_function(
        self,
        dataset_fn: Callable[[tf.distribute.InputContext], tf.data.Dataset],
        options: tf.distribute.InputOptions | None,
    ) -> tf.data.Dataset:
        if not tf.executing_eagerly():
            return super()._distribute_datasets_from_function(dataset_fn, options)
        # As TensorFlow does for parameter servers: one pipeline. It is made once and divided between the workers.
        dataset = dataset_fn(tf.distribute.InputContext(1, 0, num_replicas_in_sync=1))
        return check_type("dataset_fn", dataset, tf.data.Dataset, "a function that returns a tf.data.Dataset")

    def _create_variable_round_robin(self, next_creator: Callable[..., tf.Variable], **kwargs: Any) -> tf.Variable:
        strategy = self._container_strategy()
        strategy.connection.check()
        device = devices.server(strategy.factory.place_plain(kwargs))
        # The plan decides the device. The caller's device and colocation scopes must not override it.
        with tf.compat.v1.colocate_with(None, ignore_existing=True), tf.device(device):
            variable = next_creator(**kwargs)
        strategy.connection.add_holder(PlainVariable.of(variable, device))
        return variable


@contextlib.contextmanager
def cross_replica_mode(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Enters the mode in which TensorFlow allows entering the scope of a strategy, also from the trace of a step."""
    # TensorFlow keeps a stack of modes for each thread.
    distribute_lib._push_per_thread_mode(distribute_lib._CrossReplicaThreadMode(strategy))
    try:
        yield
    finally:
        distribute_lib._pop_per_thread_mode()
