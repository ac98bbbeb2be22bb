"""GEO: a worker takes a window of batches, pulls the rows they touch once, trains locally, and pushes deltas.

The path of a window: (1) read its batches, and their ids with the function that hoisting has recorded; (2) one request
a server for the unique rows of the window and their slots; (3) steps on this compact copy, with the optimizer as it is;
(4) one push a server of `latest - pulled`, which the server adds. Nothing is left over: what a window learnt is with
the servers when it ends. Memory: twice the window's unique rows and their slots, and the window's batches.

`tfps.training.geo.overlapped` runs the same parts of several windows beside one another.
"""

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfps.embedding.local_table import LocalTable
from tfps.embedding.lookup import expand, fetch, route
from tfps.embedding.push import add
from tfps.embedding.table import Table
from tfps.errors import UnsupportedError
from tfps.training import moving_averages
from tfps.training.batches import Batches, growing_array, next_unless
from tfps.training.exchange import damping
from tfps.training.geo.drift import measured
from tfps.training.hoisting import Recording


@dataclasses.dataclass(frozen=True)
class WindowSettings:
    """How a window is trained.

    Args:
        slots: the optimizer's slot tables of each table that it trains, by the key of the table.
        scales: share of a table's delta that is pushed, by the key of the table; 1 where there is none.
        decays: of the slots that are moving averages, by the key of the slot table (see
            `tfps.training.moving_averages`). All rows of a window keep what its steps keep of a row that is in each of
            their batches.
        capped: keys of tables and dense variables whose share follows from what others have moved them by meanwhile,
            of a table for each row (see `tfps.training.exchange.damping`).
    """

    slots: Mapping[Hashable, Sequence[Table]]
    scales: Mapping[Hashable, float]
    decays: Mapping[Hashable, float] = dataclasses.field(default_factory=dict)
    capped: frozenset[Hashable] = frozenset()


Run = Callable[[Any, Any, Mapping[Hashable, Any]], Any]
"""A step: (lookups, batch, stand-ins) -> its logs."""


class Window:
    """The batches of one window and the ids they ask for; grows batch by batch, then pulls, trains and pushes.

    Args:
        recording: of the step.
        spec: of a batch.
        mode: how it is trained.
        run: a step.

    Attributes:
        keys: once it is pulled, for each table the ids of its rows, int64 [m], each once.
        key_of: for each table and slot that it holds rows of which of `keys` are its ids.
        capped: which of these, by number, are pushed by what others have moved them by meanwhile.
    """

    def __init__(self, recording: Recording, spec: Any, mode: WindowSettings, run: Run) -> None:
        if recording.late:
            raise UnsupportedError(
                "GEO pulls the rows of a window before its steps, so the ids of every lookup must follow from the "
                f"inputs. Received: a lookup of table {recording.late[0].name!r} whose ids depend on something else."
            )
        self._recording, self._spec, self._mode, self._run = recording, spec, mode, run
        self._batches = Batches(spec)
        self._places: list[Any] = []
        self.keys: list[Any] = []
        self._ids = [growing_array(tf.int64, [None]) for _ in recording.tables]
        self._tables = list({table.key: table for table in recording.tables}.values())
        held = [[table, *mode.slots.get(table.key, ())] for table in self._tables]
        self._held = [one for of_table in held for one in of_table]
        self.key_of = [number for number, of_table in enumerate(held) for _ in of_table]
        self.capped = [i for i, one in enumerate(self._held) if one.key in mode.capped]

    def read(self, next_batch: Callable[[], Any], first: Any, max_steps: Any) -> Any:
        """Takes up to `max_steps` batches; returns how many, int64.

        Args:
            next_batch: gives the next batch as a `tf.experimental.Optional`, empty at the end of the input.
            first: the first one.
            max_steps: int64 scalar.
        """

        def body(count: Any, batch: Any, arrays: Any, ids: Any) -> Any:
            arrays, ids = self._noted(tf.cast(count, tf.int32), batch.get_value(), arrays, ids)
            return count + 1, next_unless(count + 1 >= max_steps, next_batch, batch), arrays, ids

        count, _, arrays, self._ids = tf.while_loop(
            lambda count, batch, arrays, ids: batch.has_value(),
            body,
            (tf.constant(0, tf.int64), first, self._batches.arrays, self._ids),
            parallel_iterations=1,
        )
        self._batches = Batches(self._spec, arrays)
        return count

    def take(self, batches: Sequence[Any]) -> Any:
        """Takes batches that were fed; returns how many, int64."""
        arrays: Any = self._batches.arrays
        for number, batch in enumerate(batches):
            arrays, self._ids = self._noted(number, batch, arrays, self._ids)
        self._batches = Batches(self._spec, arrays)
        return tf.constant(len(batches), tf.int64)

    @property
    def carried(self) -> list[Any]:
        """What makes it up once it is pulled, but its rows, for a loop to carry."""
        return [*self._batches.arrays, *self._places, *self.keys]

    def like(self, carried: Sequence[Any] = ()) -> "Window":
        """Another window, made up of such tensors; one without batches where there are none."""
        other = Window(self._recording, self._spec, self._mode, self._run)
        if carried:
            left, counts = iter(carried), (len(self._batches.arrays), len(self._places), len(self.keys))
            arrays, other._places, other.keys = (list(itertools.islice(left, count)) for count in counts)
            other._batches = Batches(self._spec, arrays)
        return other

    def pull(self) -> list[Any]:
        """The rows of each table and slot that it holds rows of, [m, dim] each; each row comes once."""
        asked = route(self._recording.tables, [ids.concat() for ids in self._ids])
        of_table = {one.table.key: one.table_ids for one in asked}
        self.keys = [of_table[table.key] for table in self._tables]
        self._places = [one.group.table_places[one.index] for one in asked]
        found = fetch(self._held, [self.keys[number] for number in self.key_of])
        return [expand(one) for one in found]

    def steps(self, count: Any, rows: Sequence[Any]) -> tuple[list[Any], Any]:
        """Runs `count` steps; returns what they moved each table by, of averages what they added, and the last logs.

        Args:
            count: int64 scalar.
            rows: what each table and slot begins with.
        """
        recording = self._recording
        places = self._places
        local = {one.key: LocalTable(one, begin) for one, begin in zip(self._held, rows, strict=True)}

        def body(number: Any, logs: Any, starts: Any) -> Any:
            batch = self._batches.batch(tf.cast(number, tf.int32))
            ids = recording.ids(batch)
            sizes = tf.stack([tf.size(wanted) for wanted in ids]) if ids else starts
            positions = [
                tf.reshape(places[i][starts[i] : starts[i] + sizes[i]], tf.shape(wanted))
                for i, wanted in enumerate(ids)
            ]
            found = fetch([local[table.key] for table in recording.tables], positions) if ids else []
            return number + 1, self._run(recording.replay(found), batch, local), starts + sizes

        _, logs, _ = tf.while_loop(
            lambda number, *_: number < count,
            body,
            (tf.constant(0, tf.int64), tf.zeros(recording.result.shape), tf.zeros([len(places)], tf.int32)),
            parallel_iterations=1,
        )
        with tf.control_dependencies([logs]):
            kept = self.kept(count)
            return [local[one.key].delta(part) for one, part in zip(self._held, kept, strict=True)], logs

    @property
    def sent(self) -> list[Any]:
        """The tensors that a push needs beside the deltas."""
        return self.keys

    @property
    def nothing(self) -> tuple[list[Any], list[Any]]:
        """What a push of no rows needs, and its deltas."""
        return [ids[:0] for ids in self.keys], [tf.zeros([0, one.dim], one.dtype) for one in self._held]

    def push(
        self, count: Any, sent: Sequence[Any], deltas: Sequence[Any], base: Sequence[Any], push_id: Any = None
    ) -> tuple[list[Any], Any]:
        """Adds deltas on the servers; returns what was added of each, and what it measured of the drift.

        Args:
            count: steps that were made.
            sent: of `sent`.
            deltas: of each table and slot; those of slots whose table is not trained stay here.
            base: for each of `capped` the rows that servers would hold if nobody else had pushed meanwhile.
            push_id: of the push.
        """
        ids = [sent[number] for number in self.key_of]
        others = self._others(ids, base)
        pushed = [
            delta * (damping(delta, others[i], axis=1) if i in others else self.scale(i))
            for i, delta in enumerate(deltas)
        ]
        trained = [i for i, number in enumerate(self.key_of) if self._tables[number].key in self._mode.slots]
        kept = self.kept(count)
        add([(self._held[i], ids[i], pushed[i], kept[i]) for i in trained], push_id)
        of_tables = [i for i in trained if self._held[i] is self._tables[self.key_of[i]]]
        return pushed, measured([(pushed[i], others.get(i)) for i in of_tables])

    def scale(self, i: int) -> float:
        """The share of the delta of a table or slot that is pushed, where it does not depend on others."""
        return self._mode.scales.get(self._held[i].key, 1.0)

    def kept(self, count: Any) -> list[Any]:
        """Of the rows of each table and slot the part that `count` steps keep, of averages; None of all others."""
        return kept_of([self._mode.decays.get(one.key) for one in self._held], count)

    def _noted(self, number: Any, batch: Any, arrays: Any, ids: Any) -> Any:
        noted = Batches(self._spec, arrays).with_batch(number, batch).arrays
        wanted = [tf.reshape(tf.cast(one, tf.int64), [-1]) for one in self._recording.ids(batch)]
        return noted, [array.write(number, one) for array, one in zip(ids, wanted, strict=True)]

    def _others(self, ids: Sequence[Any], base: Sequence[Any]) -> dict[int, Any]:
        """What others have moved the rows of `capped` by meanwhile, after a look at what the servers hold."""
        if not self.capped:
            return {}
        found = fetch([self._held[i] for i in self.capped], [ids[i] for i in self.capped])
        return {i: expand(now) - before for i, now, before in zip(self.capped, found, base, strict=True)}


def kept_of(decays: Sequence[float | None], count: Any) -> list[Any]:
    """The part that `count` steps keep of averages with these decays, one tensor for all that are alike."""
    parts = {decay: None if decay is None else moving_averages.keep(decay, count) for decay in decays}
    return [parts[decay] for decay in decays]


def train_one(window: Any, count: Any, push_id: Any = None) -> tuple[Any, Any]:
    """Pulls a window that was read, makes its `count` steps, pushes; returns the last logs and the drift.

    Args:
        window: a `Window`, or a `WholeWindow`.
        count: int64 scalar.
        push_id: of the push.
    """
    rows = window.pull()
    deltas, logs = window.steps(count, rows)
    with tf.control_dependencies(deltas):
        # Not before the steps are done: what others have pushed by then counts.
        sent = [tf.identity(tensor) for tensor in window.sent]
    _, drift = window.push(count, sent, deltas, [rows[i] for i in window.capped], push_id)
    return logs, drift
