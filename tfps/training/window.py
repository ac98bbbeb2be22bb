"""GEO: a worker takes a window of batches, pulls the rows they touch once, trains locally, and pushes deltas.

The path of a window: (1) read its batches, and their ids with the function that hoisting has recorded; (2) one request
a server for the unique rows of the window and their slots; (3) steps on this compact copy, with the optimizer as it is;
(4) one push a server of `latest - pulled`, which the server adds. Nothing is left over: what a window learnt is with
the servers when it ends. Memory: twice the window's unique rows and their slots, and the window's batches.

`tfps.training.overlapped` runs the same parts of several windows beside one another.
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


Run = Callable[[Any, Any, Mapping[Hashable, Any]], Any]
"""A step: (lookups, batch, stand-ins) -> its logs."""


@dataclasses.dataclass(frozen=True)
class Pulled:
    """What the servers sent for a window.

    Args:
        places: for each lookup of the step the row of each id, int32, those of one batch after the other.
        tallies: for each table the ids of its rows, int64 [m], each once.
        rows: for each of `Window.held` its rows, [m, dim].
    """

    places: list[Any]
    tallies: list[Any]
    rows: list[Any]


class Window:
    """The batches of one window and the ids they ask for; grows batch by batch, then pulls, trains and pushes.

    Args:
        recording: of the step.
        spec: of a batch.
        mode: how it is trained.
        arrays: the tensors of the batches of a window that was read; new ones where None.

    Attributes:
        held: what a window holds rows of: (table or slot, number of its table in `Pulled.tallies`) each.
        capped: which of these, by number, are pushed by what others have moved them by meanwhile.
    """

    def __init__(self, recording: Recording, spec: Any, mode: WindowMode, arrays: Sequence[Any] | None = None) -> None:
        if recording.late:
            raise UnsupportedError(
                "GEO pulls the rows of a window before its steps, so the ids of every lookup must follow from the "
                f"inputs. Received: a lookup of table {recording.late[0].name!r} whose ids depend on something else."
            )
        self._recording, self._spec, self._mode = recording, spec, mode
        self._batches = Batches(spec, arrays)
        self._ids = [growing_array(tf.int64, [None]) for _ in recording.tables]
        self._tables = list({table.key: table for table in recording.tables}.values())
        self.held = [
            (one, number)
            for number, table in enumerate(self._tables)
            for one in [table, *mode.slots.get(table.key, ())]
        ]
        self.capped = [i for i, (one, _) in enumerate(self.held) if one.key in mode.capped]

    @property
    def arrays(self) -> list[Any]:
        """The tensors of the batches, for a loop to carry."""
        return self._batches.arrays

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

    def train(self, count: Any, run: Run, stamp: Any = None) -> tuple[Any, Any]:
        """Pulls, runs `count` steps, pushes; returns the last step's logs and what it measured of its drift.

        Args:
            count: int64 scalar.
            run: a step.
            stamp: of the push.
        """
        pulled = self.pull()
        deltas, logs = self.steps(count, pulled.places, pulled.rows, run)
        with tf.control_dependencies(deltas):
            # Not before the steps are done: what others have pushed by then counts.
            tallies = [tf.identity(ids) for ids in pulled.tallies]
        _, drift = self.push(tallies, deltas, [pulled.rows[i] for i in self.capped], stamp)
        return logs, drift

    def pull(self) -> Pulled:
        """The rows of its tables and their slots; each comes once."""
        asked = route(self._recording.tables, [ids.concat() for ids in self._ids])
        of_table = {one.table.key: one.tally for one in asked}
        tallies = [of_table[table.key] for table in self._tables]
        found = fetch([one for one, _ in self.held], [tallies[number] for _, number in self.held])
        return Pulled([one.group.table_places[one.index] for one in asked], tallies, [expand(one) for one in found])

    def steps(self, count: Any, places: Sequence[Any], rows: Sequence[Any], run: Run) -> tuple[list[Any], Any]:
        """Runs `count` steps; returns what they moved each of `held` by, and the last step's logs.

        Args:
            count: int64 scalar.
            places: of the pull.
            rows: for each of `held` what it begins with.
            run: a step.
        """
        recording = self._recording
        local = {one.key: LocalTable(one, begin) for (one, _), begin in zip(self.held, rows, strict=True)}

        def body(number: Any, logs: Any, starts: Any) -> Any:
            batch = self._batches.batch(tf.cast(number, tf.int32))
            ids = recording.ids(batch)
            sizes = tf.stack([tf.size(wanted) for wanted in ids]) if ids else starts
            positions = [
                tf.reshape(places[i][starts[i] : starts[i] + sizes[i]], tf.shape(wanted))
                for i, wanted in enumerate(ids)
            ]
            found = fetch([local[table.key] for table in recording.tables], positions) if ids else []
            return number + 1, run(recording.replay(found), batch, local), starts + sizes

        _, logs, _ = tf.while_loop(
            lambda number, *_: number < count,
            body,
            (tf.constant(0, tf.int64), tf.zeros(recording.result.shape), tf.zeros([len(places)], tf.int32)),
            parallel_iterations=1,
        )
        with tf.control_dependencies([logs]):
            return [local[one.key].delta() for one, _ in self.held], logs

    def push(
        self, tallies: Sequence[Any], deltas: Sequence[Any], base: Sequence[Any], stamp: Any = None
    ) -> tuple[list[Any], Any]:
        """Adds deltas on the servers; returns what was added of each, and what it measured of the drift.

        Args:
            tallies: of the pull.
            deltas: for each of `held`, of which those of slots whose table is not trained stay here.
            base: for each of `capped` the rows that servers would hold if nobody else had pushed meanwhile.
            stamp: of the push.
        """
        others = self._others(tallies, base)
        pushed = [
            delta * (share(delta, others[i], axis=1) if i in others else self.scale(i))
            for i, delta in enumerate(deltas)
        ]
        trained = [i for i, (_, number) in enumerate(self.held) if self._tables[number].key in self._mode.slots]
        add([(self.held[i][0], tallies[self.held[i][1]], pushed[i]) for i in trained], stamp)
        return pushed, measured([(pushed[i], others.get(i)) for i in trained if self._is_table(i)])

    def scale(self, i: int) -> float:
        """The share of the delta of one of `held` that is pushed, where it does not depend on others."""
        return self._mode.scales.get(self.held[i][0].key, 1.0)

    def _is_table(self, i: int) -> bool:
        one, number = self.held[i]
        return one is self._tables[number]

    def _noted(self, number: Any, batch: Any, arrays: Any, ids: Any) -> Any:
        noted = Batches(self._spec, arrays).with_batch(number, batch).arrays
        wanted = [tf.reshape(tf.cast(one, tf.int64), [-1]) for one in self._recording.ids(batch)]
        return noted, [array.write(number, one) for array, one in zip(ids, wanted, strict=True)]

    def _others(self, tallies: Sequence[Any], base: Sequence[Any]) -> dict[int, Any]:
        """What others have moved the rows of `capped` by meanwhile, after a look at what the servers hold."""
        if not self.capped:
            return {}
        looked = [self.held[i] for i in self.capped]
        found = fetch([one for one, _ in looked], [tallies[number] for _, number in looked])
        return {i: expand(now) - before for i, now, before in zip(self.capped, found, base, strict=True)}
