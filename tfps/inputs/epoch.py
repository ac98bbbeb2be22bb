"""`Epoch`: one pass over the input, by an iterator on each worker or by one on the chief."""

import collections
import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

import tensorflow as tf

from tfps.cluster.connection import add_user
from tfps.inputs.chief_dataset import move_to_this_context
from tfps.inputs.input_shards import WHOLE, InputShards
from tfps.inputs.iterators import WorkerIterator
from tfps.inputs.place import Place, RandomStates, is_prefix, random_states, set_random_states
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
        place: where the epoch goes on that another program has begun; None to begin it.
        handed: the number of steps that the training loop has had there of `steps_per_epoch`.

    Attributes:
        source: the input.
        hosts: for each shard, the worker that reads it; empty before the epoch begins.
        iterators: for each shard, its iterator.
        taken: for each shard, the number of batches that were trained.
        alone: whether one worker reads the whole input, as shard 0.
        handed: as given; the first schedule of the epoch has so many steps less, and sets it to 0.
        number: the number of the epoch among the epochs of this dataset, from 1; 0 before it begins.
    """

    def __init__(self, source: Source, place: Place | None = None, handed: int = 0) -> None:
        self.source = source
        self._place = place
        self.handed = handed
        self._began: RandomStates | None = None
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
            self._begin_number()
            self._on_chief = self._read_on_chief()
        return next(self._on_chief)

    def _read_on_chief(self) -> Iterator[Nest]:
        """Begins to read the input on the chief, after the trained batches."""
        dataset = move_to_this_context(self.source.dataset)
        if self._place is None:
            return iter(dataset)
        # Each iterator advances a shuffle, also one that reads nothing.
        for _ in range(self.number - 1):
            iter(dataset)
        batches = iter(dataset)
        # Read again and dropped, and not skipped: what a generator draws for these batches, it must draw.
        collections.deque(itertools.islice(batches, sum(self.taken)), maxlen=0)
        return batches

    @property
    def to_start(self) -> range:
        """The shards that have an iterator."""
        return range(1 if self.alone else len(self.taken))

    def begin(self, alone: bool = False) -> None:
        """Gives the epoch its number. The caller then starts the shards `to_start`.

        Args:
            alone: whether one worker reads the whole input; only if batch i of it belongs to shard i % N.
        """
        self._begin_number()
        self.alone = alone and is_prefix(self.taken)
        if self.alone:
            self.taken = [sum(self.taken)] + [0] * (len(self.taken) - 1)
        else:
            self.source.shards.forget_whole()

    def _begin_number(self) -> None:
        """Gives the epoch its number, and the batches that were trained before."""
        shards = self.source.shards
        if self._place is not None:
            shards.epochs = self._place.number - 1
            self.taken = self._place.taken_by(len(self.taken))
            if self._place.began is not None:
                set_random_states(self._place.began)
        shards.epochs += 1
        self.number = shards.epochs
        self._began = random_states()

    def place(self, taken: Sequence[int]) -> Place:
        """Returns the place after the batches that were trained.

        Args:
            taken: for each shard, the number of its trained batches.
        """
        shards = self.source.shards
        in_order = self.alone or self.source.is_fed
        batches = (sum(taken),) if in_order else tuple(taken)
        return Place(self.number, batches, self.source.examples, shards.by_file, self._began, shards.order)

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
