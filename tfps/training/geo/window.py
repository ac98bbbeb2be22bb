"""GEO: a worker takes a window of batches, pulls the rows they touch once, trains locally, and pushes deltas.

The path of a window: (1) read its batches, and with them the ids of the rows they look up; (2) one request a server for
the unique rows of the window and their slots; (3) steps on this compact copy, with the optimizer as it is; (4) one push
a server of `latest - pulled`, which the server adds. Nothing stays on the worker: what a window learnt is with the
servers when it ends. Memory: twice the window's unique rows and their slots, and the window's batches.

`train_one` does these parts one after the other; `tfps.training.geo.overlapped` does those of several windows beside
one another, in a loop, which is why a window can be taken apart into tensors and put together again.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import tensorflow as tf

from tfps.embedding.push_dedup import PushId
from tfps.embedding.table import Table
from tfps.training import moving_averages
from tfps.training.batches import NextBatch
from tfps.types import Nest, VariableKey

LoopTensor: TypeAlias = tf.Tensor | tf.TensorArray
"""What a loop can carry from turn to turn."""


@dataclasses.dataclass(frozen=True)
class WindowSettings:
    """What the windows of one model carry, and how much of their deltas they push.

    Args:
        slots: the optimizer's slot tables of each table that it trains, by the key of the table.
        scales: the factor of a delta when it is pushed, by the key of its table, slot table or dense variable; 1 where
            there is none.
        decays: decay of the slots that are moving averages, by the key of the slot table (see
            `tfps.training.moving_averages`). A row keeps as much as if each step of the window had it in its batch.
        capped: keys of tables and dense variables whose deltas are damped by what others have moved the same values
            meanwhile; of a table row by row (see `tfps.training.exchange.damping`).
    """

    slots: Mapping[VariableKey, Sequence[Table]]
    scales: Mapping[VariableKey, float]
    decays: Mapping[VariableKey, float] = dataclasses.field(default_factory=dict)
    capped: frozenset[VariableKey] = frozenset()


class Window(abc.ABC):
    """One window: it reads or takes batches, then pulls, trains and pushes.

    Its *tables* are tables and slot tables alike, numbered from 0; a slot table comes after its table and has the same
    row ids. Used while a closure is traced; every method traces a part of the graph.
    """

    @abc.abstractmethod
    def read(self, next_batch: NextBatch, first: tf.experimental.Optional, max_steps: tf.Tensor) -> tf.Tensor:
        """Reads up to `max_steps` batches; returns how many there were, int64.

        Args:
            next_batch: reads the next batch.
            first: the first one, which may be empty.
            max_steps: int64 scalar.
        """

    @abc.abstractmethod
    def take(self, batches: Sequence[Nest]) -> tf.Tensor:
        """Takes batches that the chief feeds; returns how many there are, int64."""

    @property
    @abc.abstractmethod
    def loop_tensors(self) -> list[LoopTensor]:
        """Every tensor of a pulled window except its rows; a loop carries them from turn to turn."""

    @abc.abstractmethod
    def with_tensors(self, tensors: Sequence[LoopTensor]) -> "Window":
        """A pulled window made of `loop_tensors`, like this one."""

    @abc.abstractmethod
    def without_batches(self) -> "Window":
        """A window like this one that has read nothing."""

    @abc.abstractmethod
    def pull(self) -> list[tf.Tensor]:
        """Asks the servers for the rows of each of its tables, [m, dim]; each row comes once."""

    @property
    @abc.abstractmethod
    def keys(self) -> list[tf.Tensor]:
        """The row ids of a pulled window, int64 [m], each id once; tables with the same rows share one of them."""

    @property
    @abc.abstractmethod
    def key_of(self) -> list[int]:
        """For each table in the window, the index into `keys` of its row ids."""

    @property
    @abc.abstractmethod
    def capped(self) -> list[int]:
        """The tables, by number, whose deltas are damped by what others have moved meanwhile."""

    @abc.abstractmethod
    def scale(self, table: int) -> tf.Tensor | float:
        """The factor of the delta of a table when it is pushed, unless it is capped."""

    @abc.abstractmethod
    def keep_factors(self, count: tf.Tensor) -> list[tf.Tensor | None]:
        """For each table the part of a moving average that `count` steps keep; None for what is no average."""

    @abc.abstractmethod
    def train(self, count: tf.Tensor, rows: Sequence[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Makes `count` steps; returns the deltas of all tables, and the logs of the last step as a vector.

        Args:
            count: int64 scalar.
            rows: what each table begins with.
        """

    @property
    @abc.abstractmethod
    def push_tensors(self) -> list[tf.Tensor]:
        """The tensors that `push` needs beside the deltas."""

    @property
    @abc.abstractmethod
    def empty_push(self) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """`push_tensors` and deltas of no rows at all."""

    @abc.abstractmethod
    def push(
        self,
        count: tf.Tensor,
        push_tensors: Sequence[tf.Tensor],
        deltas: Sequence[tf.Tensor],
        base: Sequence[tf.Tensor],
        push_id: PushId,
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Adds deltas on the servers; returns what was added to each table, and the drift, see `drift.measure_drift`.

        Args:
            count: steps that were made.
            push_tensors: of the window whose deltas these are.
            deltas: of each table; those of tables that are not trained stay on the worker.
            base: for each of `capped` the rows that servers would hold if nobody else had pushed meanwhile.
            push_id: a server that has applied it ignores the push.
        """


def keep_factors(decays: Sequence[float | None], count: tf.Tensor) -> list[tf.Tensor | None]:
    """The part that `count` steps keep of averages with these decays; one tensor for each different decay."""
    # One operation for each decay, not for each slot table: optimizers have two or three different ones.
    parts = {decay: None if decay is None else moving_averages.power_of_decay(decay, count) for decay in decays}
    return [parts[decay] for decay in decays]


def train_one(window: Window, count: tf.Tensor, push_id: PushId) -> tuple[tf.Tensor, tf.Tensor]:
    """Pulls a window that has its batches, makes `count` steps, pushes; returns the last logs and the drift.

    Args:
        window: the window.
        count: its batches, int64 scalar.
        push_id: id of its push.
    """
    # What follows is traced in the order of the path above; data flow alone decides when it runs.
    rows = window.pull()
    deltas, logs = window.train(count, rows)
    # Capped deltas are damped by what others have pushed until now, so the servers are asked after the steps.
    with tf.control_dependencies(deltas):
        push_tensors = [tf.identity(tensor) for tensor in window.push_tensors]
    _, drift = window.push(count, push_tensors, deltas, [rows[i] for i in window.capped], push_id)
    return logs, drift
