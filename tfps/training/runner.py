"""Runs the closures of one model on the workers, numbered so that servers recognise a repeated one."""

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import tensorflow as tf

from tfps.inputs.epoch import Epoch
from tfps.inputs.iterators import WorkerIterator
from tfps.runtime.calls import Calls
from tfps.runtime.losses import WorkerLostError
from tfps.runtime.pool import WorkerPool
from tfps.training.closure import Floats, Result
from tfps.training.order import Order
from tfps.types import Nest


class Workers(Protocol):
    """The workers of a strategy."""

    closure_timeout_s: float

    @property
    def pool(self) -> WorkerPool:
        """Has a thread for each of them."""
        ...

    def host_of(self, shard: int) -> int:
        """The worker that does the work of a shard: its own, or another where that is gone."""
        ...


class Closures(Protocol):
    """The traced closures of a model; `tfps.training.traced_closures` has them."""

    @property
    def operations(self) -> int:
        """Operations of one step; 0 before one is traced."""
        ...

    def over_iterator(self, iterator: WorkerIterator, order: Order) -> tf.Tensor:
        """Runs a closure over an iterator, on the worker of the calling context."""
        ...

    def over_batches(self, batches: Sequence[Nest], order: Order) -> tf.Tensor:
        """Runs a closure over batches of the chief, on the worker of the calling context."""
        ...

    def start_shard(self, epoch: Epoch, shard: int) -> None:
        """Starts the iterator of a shard, or continues it on another worker after the batches that were trained."""
        ...

    def read(self, vector: Floats) -> Result:
        """Reads what a closure returned."""
        ...


class Runner:
    """Runs closures, for the epochs of a model and for single batches.

    Args:
        workers: run them.
        closures: their graphs.
        count: counts each result that is part of the training.

    Threading: the training loop's thread.
    """

    def __init__(self, workers: Workers, closures: Closures, count: Callable[[Result], None]) -> None:
        self.workers, self.closures, self.count = workers, closures, count
        self._ordered = [0] * len(workers.pool.devices)

    def order(self, shard: int, steps: int, window: int = 0) -> Order:
        """The order for the next closure of a shard; its number counts the steps that were ordered before it.

        Args:
            shard: of the input.
            steps: of the closure, at most.
            window: steps of each part of the closure, where it has several.
        """
        # Counted over all epochs of the model: the ledgers of the servers know the last number of each shard.
        first = self._ordered[shard]
        self._ordered[shard] += steps
        # Numbers are given when a closure is ordered, not when it runs, so that gaps do no harm: an input may end
        # early.
        return Order(steps, shard, first, window=window)

    def call(self, epoch: Epoch, order: Order, batches: Sequence[Nest] | None) -> Callable[[], tf.Tensor]:
        """The call that runs a closure of an epoch, over fed batches if there are some."""
        if batches is not None:
            return functools.partial(self.closures.over_batches, batches, order)
        # The iterator is looked up when the call runs: a shard that was lost has another one by then.
        return lambda: self.closures.over_iterator(epoch.iterators[order.shard], order)

    def calls(self, what: str) -> Calls:
        """Calls of one caller.

        Args:
            what: they are, for messages.
        """
        return Calls(self.workers.pool, what, self.workers.closure_timeout_s)

    def run_batch(self, batch: Nest) -> Result:
        """Runs one step on a batch, on the first worker, and waits for it; again on another if the worker is lost."""
        # One order for all attempts: a server that has applied the push of a lost one ignores the repeat.
        calls, order = self.calls("a step on one batch"), self.order(0, 1)
        while True:
            call = functools.partial(self.closures.over_batches, [batch], order)
            calls.submit(self.workers.host_of(order.shard), None, call)
            if not isinstance(vector := calls.take()[1], WorkerLostError):
                return self.closures.read(vector)
