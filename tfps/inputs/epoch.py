"""One pass over the input: an iterator on every worker, or one on the chief."""

from collections.abc import Iterator
from typing import Protocol

import tensorflow as tf

from tfps.cluster.connection import add_user
from tfps.inputs.chief_dataset import move_to_this_context
from tfps.inputs.input_shards import InputShards
from tfps.inputs.iterators import WorkerIterator, make_iterator
from tfps.types import Nest


class Source(Protocol):
    """The input of an epoch; `WorkerInput` is one."""

    dataset: tf.data.Dataset
    devices: list[str]
    steps_per_epoch: int | None
    num_batches: int | None
    examples: int | None

    @property
    def shards(self) -> InputShards:
        """The datasets of the workers."""
        ...

    @property
    def element_spec(self) -> Nest:
        """Of one batch."""
        ...

    @property
    def is_fed(self) -> bool:
        """Whether the chief reads the batches."""
        ...

    @property
    def max_batches(self) -> int | None:
        """Batches an epoch can have at most, where that is known."""
        ...


class Epoch:
    """One pass over the input.

    States: new -> begun (`begin`, then `start` for each shard). A shard whose worker is lost starts again elsewhere.
    Ownership: the iterators on the workers end with the epoch, or with the connection to them.
    Threading: the main thread.

    Args:
        source: the input.

    Attributes:
        source: the input.
        hosts: for each shard the worker that reads it; empty before the epoch begins.
        iterators: for each shard its iterator.
        taken: for each shard the batches that were trained.
        number: counts the epochs of this dataset from 1; 0 before it begins.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.number = 0
        self.hosts: dict[int, int] = {}
        self.iterators: dict[int, WorkerIterator] = {}
        self.taken = [0] * len(source.devices)
        self._on_chief: Iterator[Nest] | None = None
        add_user(self)

    def __iter__(self) -> "Epoch":
        """Returns the epoch itself."""
        return self

    def __next__(self) -> Nest:
        """Reads the next batch on the chief."""
        if self._on_chief is None:
            self._on_chief = iter(move_to_this_context(self.source.dataset))
        return next(self._on_chief)

    def begin(self) -> None:
        """Numbers the epoch. Called before any shard starts."""
        self.source.shards.epochs += 1
        self.number = self.source.shards.epochs

    def release(self) -> None:
        """Lets go of the iterators, as the connection ends."""
        self.iterators.clear()

    def start(self, shard: int, host: int, kind: str) -> tuple[()]:
        """Starts the iterator of one shard, or continues the shard on another worker after the batches it trained.

        Args:
            shard: its number, which is that of the worker it was made for.
            host: the worker that reads it.
            kind: name of the closures that read it.

        Returns:
            Nothing, as a structure of tensors, which is what a call on a worker returns.
        """
        device = self.source.devices[host]
        with tf.device(device):
            if host == shard and shard not in self.hosts:
                handle = make_iterator(self.source.shards.dataset_on_worker(shard))
            else:
                # This dataset is new on its worker, so its shuffles have drawn for no epoch yet. It takes as many
                # beginnings as this epoch has a number: later ones (an evaluation, say) may have begun meanwhile.
                dataset = self.source.shards.make_remaining_on(shard, device, self.taken[shard])
                handle = make_iterator(dataset, self.number)
        self.hosts[shard], self.iterators[shard] = host, WorkerIterator(kind, handle)
        return ()
