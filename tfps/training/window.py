"""GEO: a worker takes a window of batches, pulls the rows they touch once, trains locally, and pushes deltas.

The path of a window: (1) read its batches, and their ids with the function that hoisting has recorded; (2) one request
a server for the unique rows of the window and their slots; (3) steps on this compact copy, with the optimizer as it is;
(4) one push a server of `latest - pulled`, which the server adds. Nothing is left over: what a window learnt is with
the servers when it ends. Memory: twice the window's unique rows and their slots, and the window's batches.
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfps.embedding.local_table import LocalTable
from tfps.embedding.lookup import expand, fetch, route
from tfps.embedding.push import add
from tfps.embedding.table import Table
from tfps.errors import UnsupportedError
from tfps.training.batches import Batches, growing_array, next_unless
from tfps.training.drift import measured
from tfps.training.exchange import share
from tfps.training.hoisting import Recording


@dataclasses.dataclass(frozen=True)
class WindowMode:
    """How a window is trained.

    Args:
        slots: the optimizer's slot tables of each table that it trains, by the key of the table.
        scales: share of a table's delta that is pushed, by the key of the table or slot table; 1 where there is none.
        capped: keys of tables and dense variables whose share follows from what others have moved them by meanwhile,
            of a table for each row (see `tfps.training.exchange.share`).
    """

    slots: Mapping[Hashable, Sequence[Table]]
    scales: Mapping[Hashable, float]
    capped: frozenset[Hashable] = frozenset()


class Window:
    """The batches of one window and the ids they ask for; grows batch by batch, then trains.

    Args:
        recording: of the step.
        spec: of a batch.
        mode: how it is trained.

    Attributes:
        drift: what it has moved, a tensor, once it is trained.
    """

    def __init__(self, recording: Recording, spec: Any, mode: WindowMode) -> None:
        if recording.late:
            raise UnsupportedError(
                "GEO pulls the rows of a window before its steps, so the ids of every lookup must follow from the "
                f"inputs. Received: a lookup of table {recording.late[0].name!r} whose ids depend on something else."
            )
        self._recording, self._spec, self._mode = recording, spec, mode
        self._batches = Batches(spec)
        self.drift: Any = None
        self._ids = [growing_array(tf.int64, [None]) for _ in recording.tables]

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

    def train(self, count: Any, run: Callable[[Any, Any, Mapping[Hashable, Any]], Any], stamp: Any = None) -> Any:
        """Pulls, runs `count` steps, pushes; returns the last step's logs.

        Args:
            count: int64 scalar.
            run: (lookups, batch, stand-ins) -> logs of a step.
            stamp: of the push.
        """
        asked = route(self._recording.tables, [ids.concat() for ids in self._ids])
        local, tallies = self._pull(asked)
        places = [one.group.table_places[one.index] for one in asked]

        def body(number: Any, logs: Any, starts: Any) -> Any:
            batch = self._batches.batch(tf.cast(number, tf.int32))
            ids = self._recording.ids(batch)
            sizes = tf.stack([tf.size(wanted) for wanted in ids]) if ids else starts
            positions = [
                tf.reshape(places[i][starts[i] : starts[i] + sizes[i]], tf.shape(wanted))
                for i, wanted in enumerate(ids)
            ]
            found = fetch([local[table.key] for table in self._recording.tables], positions) if ids else []
            return number + 1, run(self._recording.replay(found), batch, local), starts + sizes

        logs = tf.zeros(self._recording.result.shape)
        start = tf.zeros([len(places)], tf.int32)
        _, logs, _ = tf.while_loop(
            lambda number, *_: number < count,
            body,
            (tf.constant(0, tf.int64), logs, start),
            parallel_iterations=1,
        )
        with tf.control_dependencies([logs]):
            # Not before the steps are done: what others have pushed by then counts.
            ids = {key: tf.identity(tally) for key, tally in tallies.items()}
        self._push(local, ids, stamp)
        return logs

    def _noted(self, number: Any, batch: Any, arrays: Any, ids: Any) -> Any:
        noted = Batches(self._spec, arrays).with_batch(number, batch).arrays
        wanted = [tf.reshape(tf.cast(one, tf.int64), [-1]) for one in self._recording.ids(batch)]
        return noted, [array.write(number, one) for array, one in zip(ids, wanted, strict=True)]

    def _pull(self, asked: Sequence[Any]) -> tuple[dict[Hashable, LocalTable], dict[Hashable, Any]]:
        """The rows of the tables and their slots, and the unique ids they have, by key."""
        tables = {one.table.key: one.table for one in asked}
        tallies = {one.table.key: one.tally for one in asked}
        for key in list(tables):
            for slot in self._mode.slots.get(key, ()):
                tables[slot.key], tallies[slot.key] = slot, tallies[key]
        found = fetch(list(tables.values()), [tallies[key] for key in tables]) if tables else []
        return {one.table.key: LocalTable(one.table, expand(one)) for one in found}, tallies

    def _push(self, local: Mapping[Hashable, LocalTable], tallies: Mapping[Hashable, Any], stamp: Any) -> None:
        others = self._others(local, tallies)
        deltas = []
        for table in {table.key: table for table in self._recording.tables}.values():
            slots = self._mode.slots.get(table.key)
            for moved in [table, *slots] if slots is not None else []:
                delta = local[moved.key].delta()
                if moved.key in others:
                    factor = share(delta, others[moved.key], axis=1)
                else:
                    factor = self._mode.scales.get(moved.key, 1.0)
                deltas.append((moved, tallies[moved.key], delta * factor))
        add(deltas, stamp)
        self.drift = measured([(delta, others.get(one.key)) for one, _, delta in deltas if one.key in self._mode.slots])

    def _others(self, local: Mapping[Hashable, LocalTable], tallies: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """What others have moved the rows of capped tables by meanwhile, after a look at what the servers hold."""
        tables = [t for t in {t.key: t for t in self._recording.tables}.values() if t.key in self._mode.capped]
        found = fetch(tables, [tallies[table.key] for table in tables]) if tables else []
        return {one.table.key: expand(one) - local[one.table.key].pulled for one in found}
