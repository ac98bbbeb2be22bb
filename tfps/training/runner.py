"""Runs the closures of one model on the workers, and numbers them so that servers recognise a repeated one."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import tensorflow as tf

from tfps.embedding import row_version
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
        """The pool, with a thread for each worker."""
        ...

    def host_of(self, shard: int) -> int:
        """Returns the worker that runs the closures of a shard: its own worker, or another one after a loss."""
        ...


class Closures(Protocol):
    """The traced closures of a model, as in `tfps.training.traced_closures`."""

    @property
    def operations(self) -> int:
        """The number of operations in one step; 0 before a step is traced."""
        ...

    def over_iterator(self, iterator: WorkerIterator, order: Order) -> tf.Tensor:
        """Runs a closure over an iterator, on the worker of the calling context."""
        ...

    def over_batches(self, batches: Sequence[Nest], order: Order) -> tf.Tensor:
        """Runs a closure over fed batches, on the worker of the calling context."""
        ...

    def start_shards(self, epoch: Epoch) -> None:
        """Starts the iterators of an epoch that has begun or was divided."""
        ...

    def start_shard(self, epoch: Epoch, shard: int) -> None:
        """Starts the iterator of a shard. After a loss it skips the batches that were trained."""
        ...

    def read(self, vector: Floats) -> Result:
        """Parses the vector that a closure returned."""
        ...


class Runner:
    """Runs closures for the epochs of a model and for single batches.

    Args:
        workers: the workers that run the closures.
        closures: the graphs of the closures.
        count: called with each result that is part of the training.

    Attributes:
        trained: the number of steps that the model was trained for before the epoch, for the numbers of steps.
        lookahead: returns the number of steps of an epoch that may begin beyond those that were handed out, for a
            number of workers that train; None for any number.

    Threading: the training loop's thread.
    """

    def __init__(self, workers: Workers, closures: Closures, count: Callable[[Result], None]) -> None:
        self.workers, self.closures, self.count = workers, closures, count
        self.lookahead: Callable[[int], int | None] = lambda workers: None
        self.trained = 0
        self._ordered = [0] * len(workers.pool.devices)

    def order(
        self, shard: int, steps: int, window: int = 0, number: int = 0, stride: int = 0, row_uses: int = 0
    ) -> Order:
        """Creates the order for the next closure of a shard, numbered by the steps ordered before.

        Args:
            shard: the input shard.
            steps: the most steps that the closure may run.
            window: the most steps in each part of the closure, if it has several.
            number: the number of its first step among the steps of all shards in this epoch.
            stride: the difference between the numbers of two of its steps; 0 if they are not known.
            row_uses: how often its worker may use a row that it keeps.
        """
        # The count runs over all epochs of the model, as ledgers on the servers keep the last number of each shard.
        first = self._ordered[shard]
        self._ordered[shard] += steps
        # Closures get their number when they are ordered, not when they run. An input that ends early leaves gaps,
        # which are harmless: numbers only have to grow.
        number += self.trained
        return Order(steps, shard, first, window=window, number=number, stride=stride, row_uses=row_uses)

    def call(self, epoch: Epoch, order: Order, batches: Sequence[Nest] | None) -> Callable[[], tf.Tensor]:
        """Returns the call that runs a closure of an epoch, over fed batches if there are any."""
        if batches is not None:
            return functools.partial(self.closures.over_batches, batches, order)
        # The iterator is looked up when the call runs: a lost shard has a new iterator by then.
        return lambda: self.closures.over_iterator(epoch.iterators[order.shard], order)

    def calls(self, what: str) -> Calls:
        """Creates the calls of one caller.

        Args:
            what: a description of the calls, for messages.
        """
        return Calls(self.workers.pool, what, self.workers.closure_timeout_s)

    def run_batch(self, batch: Nest) -> Result:
        """Runs one step on a batch on the first worker and waits for it; repeats it elsewhere if the worker is lost."""
        # Other code may change rows between two batches.
        row_version.change()
        # All attempts have the same order, so a server that has applied the push of a lost one ignores the repeat.
        calls, order = self.calls("a step on one batch"), self.order(0, 1)
        while True:
            call = functools.partial(self.closures.over_batches, [batch], order)
            worker = self.workers.host_of(order.shard)
            calls.submit(worker, None, call)
            if not isinstance(vector := calls.take()[1], WorkerLostError):
                return dataclasses.replace(self.closures.read(vector), worker=worker)
