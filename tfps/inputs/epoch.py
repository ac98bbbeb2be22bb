"""`Epoch`: one pass over the input, by an iterator on each worker or by one on the chief."""

from collections.abc import Iterator
from typing import Protocol

import tensorflow as tf

from tfps.cluster.connection import add_user
from tfps.inputs.chief_dataset import move_to_this_context
from tfps.inputs.input_shards import WHOLE, InputShards
from tfps.inputs.iterators import WorkerIterator
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
    worker. While one worker trains alone, it reads the whole input as shard 0, in the order of one process; `divide`
    then makes the shards.
    Ownership: the iterators on the workers end with the epoch, or with the connection to the workers.
    Threading: the main thread.

    Args:
        source: the input.

    Attributes:
        source: the input.
        hosts: for each shard, the worker that reads it; empty before the epoch begins.
        iterators: for each shard, its iterator.
        taken: for each shard, the number of batches that were trained.
        alone: whether one worker reads the whole input, as shard 0.
        number: the number of the epoch among the epochs of this dataset, from 1; 0 before it begins.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.number = 0
        self.hosts: dict[int, int] = {}
        self.iterators: dict[int, WorkerIterator] = {}
        self.taken = [0] * len(source.devices)
        self.alone = False
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

    @property
    def to_start(self) -> range:
        """The shards that have an iterator."""
        return range(1 if self.alone else len(self.taken))

    def begin(self, alone: bool = False) -> None:
        """Gives the epoch its number. The caller then starts the shards `to_start`.

        Args:
            alone: whether one worker reads the whole input; only if batch i of it belongs to shard i % N.
        """
        self.source.shards.epochs += 1
        self.number, self.alone = self.source.shards.epochs, alone
        if not alone:
            self.source.shards.forget_whole()

    def divide(self) -> None:
        """Divides the rest of the input, which one worker has read so far. The caller then starts the shards."""
        # Example: with 2 shards and 5 trained batches, 0, 2 and 4 are of shard 0, and 1 and 3 of shard 1.
        (trained, *_), shards = self.taken, len(self.taken)
        self.taken = [len(range(shard, trained, shards)) for shard in range(shards)]
        self.alone = False
        self.hosts.clear()
        self.iterators.clear()
        self.source.shards.forget_whole()

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
        shards, taken, part = self.source.shards, self.taken[shard], WHOLE if self.alone else shard
        if host == shard and shard not in self.hosts:
            handle = shards.begin(part, self.number, taken)
        else:
            handle = shards.begin_elsewhere(part, self.source.devices[host], self.number, taken)
        self.hosts[shard], self.iterators[shard] = host, WorkerIterator(kind, handle)
        return ()
