"""`Epoch`: one pass over the input, by an iterator on each worker or by one on the chief."""

from collections.abc import Iterator
from typing import Protocol

import tensorflow as tf

from tfps.cluster.connection import add_user
from tfps.inputs.chief_dataset import move_to_this_context
from tfps.inputs.input_shards import InputShards
from tfps.inputs.iterators import WorkerIterator, make_iterator
from tfps.types import Nest


class Source(Protocol):
    """The input of an epoch. `WorkerInput` implements it."""

    dataset: tf.data.Dataset
    devices: list[str]
    steps_per_epoch: int | None
    num_batches: int | None
    examples: int | None

    @property
    def shards(self) -> InputShards:
        """The shard of each worker."""
        ...

    @property
    def element_spec(self) -> Nest:
        """The structure of one batch: the shape and dtype of each tensor."""
        ...

    @property
    def is_fed(self) -> bool:
        """Whether the chief reads the batches."""
        ...

    @property
    def in_turn(self) -> bool:
        """Whether batch i of the input belongs to shard i % N."""
        ...

    @property
    def max_batches(self) -> int | None:
        """The largest number of batches in an epoch; None if it is unknown."""
        ...


class Epoch:
    """One pass over the input.

    States: new -> begun (`begin`, then `start` for each shard). A shard whose worker is lost starts again on another
    worker. Ownership: the iterators on the workers end with the epoch, or with the connection to the workers.
    Threading: the main thread.

    Args:
        source: the input.

    Attributes:
        source: the input.
        hosts: for each shard, the worker that reads it; empty before the epoch begins.
        iterators: for each shard, its iterator.
        taken: for each shard, the number of batches that were trained.
        number: the number of the epoch among the epochs of this dataset, from 1; 0 before it begins.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.number = 0
        self.hosts: dict[int, int] = {}
        self.iterators: dict[int, WorkerIterator] = {}
        self.taken = [0] * len(source.devices)
        self._on_chief: Iterator[Nest] | None = None
        # The connection calls `release` when it ends, because no iterator on a worker may outlive it.
        add_user(self)

    def __iter__(self) -> "Epoch":
        """Returns the epoch itself."""
        return self

    def __next__(self) -> Nest:
        """Reads the next batch on the chief."""
        # Made by the first call: if the workers read the input, the chief must not open it.
        if self._on_chief is None:
            self._on_chief = iter(move_to_this_context(self.source.dataset))
        return next(self._on_chief)

    def begin(self) -> None:
        """Gives the epoch its number. The caller does this before it starts any shard."""
        self.source.shards.epochs += 1
        self.number = self.source.shards.epochs

    def release(self) -> None:
        """Drops the iterators when the connection ends."""
        self.iterators.clear()

    def start(self, shard: int, host: int, kind: str) -> tuple[()]:
        """Starts the iterator of one shard, or resumes the shard on another worker after its trained batches.

        Args:
            shard: the number of the shard, which is also the number of the worker that it is meant for.
            host: the worker that reads the shard.
            kind: the name of the closures that read the shard.

        Returns:
            An empty structure of tensors, because a call on a worker returns a structure.
        """
        device = self.source.devices[host]
        with tf.device(device):
            if host == shard and shard not in self.hosts:
                handle = make_iterator(self.source.shards.dataset_on_worker(shard))
            else:
                # The dataset is new on this worker, so its shuffles have not drawn numbers for any epoch. The iterator
                # begins `number` times to reach the order of this epoch. The count in `shards.epochs` may be larger,
                # because a later epoch (of an evaluation, say) may have begun meanwhile.
                dataset = self.source.shards.make_remaining_on(shard, device, self.taken[shard])
                handle = make_iterator(dataset, self.number)
        self.hosts[shard], self.iterators[shard] = host, WorkerIterator(kind, handle)
        return ()
