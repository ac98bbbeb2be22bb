"""GEO: a worker takes a window of batches, pulls the rows they need once, trains locally, and pushes deltas.

The path of a window: (1) read its batches, and with them the ids of the rows they look up; (2) send each server one
request for the unique rows of the window and their slots; (3) run steps on this compact copy, with the unchanged
optimizer; (4) push `latest - pulled` to each server, which adds it. Nothing stays on the worker: everything that a
window learns is on the servers when it ends. Memory: twice the window's unique rows and their slots, and the window's
batches.

`train_one` runs these parts one after the other. `tfps.training.geo.overlapped` runs those of several windows beside
each other in a loop, so a window can be taken apart into tensors and put together again.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import tensorflow as tf

from tfps.embedding.push_dedup import PushId
from tfps.embedding.requested_rows import RequestedOfKind
from tfps.embedding.table import Table
from tfps.training import moving_averages
from tfps.training.batches import NextBatch
from tfps.types import Nest, VariableKey

LoopTensor: TypeAlias = tf.Tensor | tf.TensorArray
"""A value that a loop can carry from turn to turn."""


@dataclasses.dataclass(frozen=True)
class WindowSettings:
    """What the windows of one model carry, and how much of their deltas they push.

    Args:
        slots: the optimizer's slot tables for each table that it trains, by the key of the table.
        scales: the factor for a pushed delta, by the key of its table, slot table or dense variable; 1 without entry.
        decays: the decays of slots that are moving averages, by the key of the slot table (see
            `tfps.training.moving_averages`). A row decays as if every step of the window had it in its batch.
        capped: the keys of tables and dense variables whose deltas are damped by what others have added to the same
            values meanwhile; for a table row by row (see `tfps.training.exchange.damping`).
    """

    slots: Mapping[VariableKey, Sequence[Table]]
    scales: Mapping[VariableKey, float]
    decays: Mapping[VariableKey, float] = dataclasses.field(default_factory=dict)
    capped: frozenset[VariableKey] = frozenset()


class Window(abc.ABC):
    """One window: it gets its batches, then pulls, trains and pushes.

    Its *tables* are tables and slot tables alike, numbered from 0. A slot table comes after its table and has the same
    row ids. A window is used while a closure is traced; each method traces a part of the graph.
    """

    @abc.abstractmethod
    def read(self, next_batch: NextBatch, first: tf.experimental.Optional, max_steps: tf.Tensor) -> tf.Tensor:
        """Reads up to `max_steps` batches; returns their number, int64.

        Args:
            next_batch: reads the next batch.
            first: the first batch, which may be empty.
            max_steps: int64 scalar.
        """

    @abc.abstractmethod
    def take(self, batches: Sequence[Nest]) -> tf.Tensor:
        """Stores batches that the chief feeds; returns their number, int64."""

    @property
    @abc.abstractmethod
    def loop_tensors(self) -> list[LoopTensor]:
        """The tensors of a pulled window except its rows; a loop carries them from turn to turn."""

    @abc.abstractmethod
    def with_tensors(self, tensors: Sequence[LoopTensor]) -> "Window":
        """Creates a pulled window from `loop_tensors`, like this one."""

    @abc.abstractmethod
    def without_batches(self) -> "Window":
        """Creates a window like this one that has read nothing."""

    @abc.abstractmethod
    def pull(self) -> list[tf.Tensor]:
        """Requests the rows of each of its tables from the servers, [m, dim]; each row comes once."""

    @property
    @abc.abstractmethod
    def requested_rows(self) -> list[RequestedOfKind]:
        """The rows that `pull` has requested of each shard, without those of slots, unless `train` counts them."""

    @property
    @abc.abstractmethod
    def keys(self) -> list[tf.Tensor]:
        """The row ids of a pulled window, int64 [m] without repeats; tables with the same rows share a vector."""

    @property
    @abc.abstractmethod
    def key_of(self) -> list[int]:
        """For each table in the window, the index into `keys` of its row ids."""

    @property
    @abc.abstractmethod
    def capped(self) -> list[int]:
        """The numbers of the tables whose deltas are damped by what others have added meanwhile."""

    @abc.abstractmethod
    def scale(self, table: int) -> tf.Tensor | float:
        """Returns the factor for the pushed delta of a table, unless it is capped."""

    @abc.abstractmethod
    def keep_factors(self, count: tf.Tensor) -> list[tf.Tensor | None]:
        """Returns for each table the part of a moving average that remains after `count` steps; None for no average."""

    @abc.abstractmethod
    def train(self, count: tf.Tensor, rows: Sequence[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Runs `count` steps; returns the deltas of all tables, and the logs of the last step as a vector.

        Args:
            count: int64 scalar.
            rows: the rows that each table starts from.
        """

    @property
    @abc.abstractmethod
    def push_tensors(self) -> list[tf.Tensor]:
        """The tensors that `push` needs beside the deltas."""

    @property
    @abc.abstractmethod
    def empty_push(self) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """The `push_tensors` and deltas of a window without rows."""

    @abc.abstractmethod
    def push(
        self,
        count: tf.Tensor,
        push_tensors: Sequence[tf.Tensor],
        deltas: Sequence[tf.Tensor],
        base: Sequence[tf.Tensor],
        push_id: PushId,
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Pushes deltas to the servers; returns the added deltas of each table, and the drift (see `measure_drift`).

        Args:
            count: the number of steps that ran.
            push_tensors: the tensors of the window that made these deltas.
            deltas: the deltas of each table; the deltas of a frozen table stay on the worker.
            base: for each table in `capped`, the rows that servers would have without the pushes of others.
            push_id: a server that has applied it ignores the push.
        """


def keep_factors(decays: Sequence[float | None], count: tf.Tensor) -> list[tf.Tensor | None]:
    """Returns the part of averages with these decays that remains after `count` steps."""
    # One operation for each different decay, not for each slot table: optimizers have only two or three of them.
    parts = {decay: None if decay is None else moving_averages.power_of_decay(decay, count) for decay in decays}
    return [parts[decay] for decay in decays]


def train_one(window: Window, count: tf.Tensor, push_id: PushId) -> tuple[tf.Tensor, tf.Tensor]:
    """Pulls a window that has its batches, runs `count` steps and pushes; returns the last logs and the drift.

    Args:
        window: the window, which has its batches.
        count: the number of its batches, int64 scalar.
        push_id: the id of its push.
    """
    # Traced in the order of the path above. The data flow alone decides when each part runs.
    rows = window.pull()
    deltas, logs = window.train(count, rows)
    # Servers must be read after the steps: capped deltas are damped by all that others have pushed until then.
    with tf.control_dependencies(deltas):
        push_tensors = [tf.identity(tensor) for tensor in window.push_tensors]
    _, drift = window.push(count, push_tensors, deltas, [rows[i] for i in window.capped], push_id)
    return logs, drift
