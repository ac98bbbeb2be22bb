"""A window that is trained step by step: the model's `train_step` runs on rows that the worker has pulled."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from tfps.embedding.local_table import LocalTable
from tfps.embedding.lookup import expand, fetch
from tfps.embedding.lookup_group import LookupGroup, route
from tfps.embedding.push import add
from tfps.embedding.push_dedup import PushId
from tfps.embedding.requested_rows import RequestedOfKind, requested_rows
from tfps.errors import UnsupportedError
from tfps.training.batches import Batches, NextBatch, make_growing_array, read_next_unless
from tfps.training.closure import add_logs
from tfps.training.exchange import damping
from tfps.training.geo.drift import measure_drift
from tfps.training.geo.window import LoopTensor, Window, WindowSettings, keep_factors
from tfps.training.hoisting import Recording
from tfps.types import Nest, VariableKey

Run: TypeAlias = Callable[[Any, Nest, Mapping[VariableKey, Any], PushId | None], tf.Tensor]
"""Traces a step: (lookups, batch, local tables by the key of their table, id of its pushes) -> its logs as a vector."""

StepPushId: TypeAlias = Callable[[tf.Tensor], PushId]
"""Returns the id of the pushes of a step, by its number in the window."""


class StepWindow(Window):
    """The batches of one window and the ids that they look up; grows batch by batch.

    Args:
        recording: the recording of the step.
        spec: the specs of the tensors of a batch.
        settings: what the windows of this model carry and push.
        run: traces a step.
        push_id: returns the id of the pushes of a step, by its number in the window, for tables that are not in the
            window; None if a step cannot push.

    Raises:
        UnsupportedError: the ids of a lookup depend on more than the input, and steps cannot push.
    """

    def __init__(
        self, recording: Recording, spec: Nest, settings: WindowSettings, run: Run, push_id: StepPushId | None
    ) -> None:
        if recording.late_tables and push_id is None:
            raise UnsupportedError(
                "`overlap` of GEO pulls all rows of a window before its steps, so the ids of every lookup must follow "
                f"from the inputs. Received: a lookup of table {recording.late_tables[0].name!r} whose ids depend on "
                "something else. Valid: overlap=False."
            )
        # A table whose ids a step finds out is not in the window: its rows stay on the servers, and each step looks
        # them up and updates them there, as in asynchronous training.
        recording.make_all_late(recording.late_tables)
        self._push_id = push_id if recording.late_tables else None
        self._recording, self._spec, self._settings, self._run = recording, spec, settings, run
        self._batches = Batches(spec)
        # For each lookup, the positions of its ids in the pulled rows, for all batches one after the other.
        self._places: list[tf.Tensor] = []
        self._keys: list[tf.Tensor] = []
        self._groups: dict[int, LookupGroup] = {}
        self._ids = [make_growing_array(tf.int64, [None]) for _ in recording.tables]
        self._trained = list({table.key: table for table in recording.tables}.values())
        with_slots = [[table, *settings.slots.get(table.key, ())] for table in self._trained]
        self._tables = list(itertools.chain.from_iterable(with_slots))
        # Example: two tables with one slot each have tables [t0, s0, t1, s1] and key_of [0, 0, 1, 1].
        self._key_of = [number for number, tables in enumerate(with_slots) for _ in tables]

    def read(self, next_batch: NextBatch, first: tf.experimental.Optional, max_steps: tf.Tensor) -> tf.Tensor:
        """Reads batches, and computes their ids with the recorded operations."""

        def body(
            count: tf.Tensor, batch: tf.experimental.Optional, arrays: list[tf.TensorArray], ids: list[tf.TensorArray]
        ) -> Nest:
            arrays, ids = self._with_batch(tf.cast(count, tf.int32), batch.get_value(), arrays, ids)
            return count + 1, read_next_unless(count + 1 >= max_steps, next_batch, batch), arrays, ids

        count, _, arrays, self._ids = tf.while_loop(
            lambda count, batch, arrays, ids: batch.has_value(),
            body,
            (tf.constant(0, tf.int64), first, self._batches.arrays, self._ids),
            parallel_iterations=1,
        )
        self._batches = Batches(self._spec, arrays)
        return count

    def take(self, batches: Sequence[Nest]) -> tf.Tensor:
        """Stores fed batches and computes their ids."""
        arrays = self._batches.arrays
        for number, batch in enumerate(batches):
            arrays, self._ids = self._with_batch(number, batch, arrays, self._ids)
        self._batches = Batches(self._spec, arrays)
        return tf.constant(len(batches), tf.int64)

    @property
    def loop_tensors(self) -> list[LoopTensor]:
        """The batches, places and keys."""
        return [*self._batches.arrays, *self._places, *self._keys]

    def with_tensors(self, tensors: Sequence[LoopTensor]) -> "StepWindow":
        """Creates a pulled window from `loop_tensors`."""
        # The tensors hold only what changes from turn to turn; the rest depends on the recording.
        other = self.without_batches()
        # Split in the order of `loop_tensors`.
        remaining, counts = iter(tensors), (len(self._batches.arrays), len(self._places), len(self._keys))
        arrays, other._places, other._keys = (list(itertools.islice(remaining, count)) for count in counts)
        other._batches = Batches(self._spec, arrays)
        return other

    def without_batches(self) -> "StepWindow":
        """Creates a window of the same step that has read nothing."""
        return StepWindow(self._recording, self._spec, self._settings, self._run, self._push_id)

    def pull(self) -> list[tf.Tensor]:
        """Requests the rows of all lookups of all batches at once."""
        # All lookups are routed together, so an id that two lookups of a table share is requested once.
        # Examples keep their shape, so that an error about an id can name the example.
        shapes = [_example_shape(shape) for shape in self._recording.shapes]
        wanted = [tf.reshape(ids.concat(), shape) for ids, shape in zip(self._ids, shapes, strict=True)]
        routed = route(self._recording.tables, wanted)
        self._groups = {id(lookup.group): lookup.group for lookup in routed}
        ids_of = {lookup.table.key: lookup.table_ids for lookup in routed}
        self._keys = [ids_of[table.key] for table in self._trained]
        self._places = [tf.reshape(lookup.group.table_places[lookup.index], [-1]) for lookup in routed]
        found = fetch(self._tables, [self._keys[number] for number in self._key_of])
        return [expand(rows) for rows in found]

    @property
    def requested_rows(self) -> list[RequestedOfKind]:
        """The rows that `pull` has requested of each shard, without those of slots."""
        return requested_rows(self._groups.values())

    @property
    def keys(self) -> list[tf.Tensor]:
        """For each table that the step looks up, the ids of its rows."""
        return self._keys

    @property
    def key_of(self) -> list[int]:
        """For each table in the window, the index into `keys` of its row ids."""
        return self._key_of

    @property
    def capped(self) -> list[int]:
        """The numbers of the tables whose deltas are damped by what others have added meanwhile."""
        return [i for i, table in enumerate(self._tables) if table.key in self._settings.capped]

    def scale(self, table: int) -> float:
        """Returns the factor in the settings for a table."""
        return self._settings.scales.get(self._tables[table].key, 1.0)

    def keep_factors(self, count: tf.Tensor) -> list[tf.Tensor | None]:
        """Returns for each table the part of a moving average that remains after `count` steps."""
        return keep_factors([self._settings.decays.get(table.key) for table in self._tables], count)

    def train(self, count: tf.Tensor, rows: Sequence[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Runs the step over each batch, on local tables that stand in for the tables on the servers."""
        recording, places = self._recording, self._places
        local: dict[VariableKey, LocalTable] = {
            table.key: LocalTable(table, begin, self._keys[key])
            for table, begin, key in zip(self._tables, rows, self._key_of, strict=True)
        }

        def body(number: tf.Tensor, logs: tf.Tensor, starts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            batch = self._batches.batch(tf.cast(number, tf.int32))
            ids = recording.ids(batch)
            # The places of all batches lie one after the other. `starts` has where this batch begins, for each lookup.
            sizes = tf.stack([tf.size(lookup_ids) for lookup_ids in ids]) if ids else starts
            positions = [
                tf.reshape(places[i][starts[i] : starts[i] + sizes[i]], tf.shape(lookup_ids))
                for i, lookup_ids in enumerate(ids)
            ]
            found = fetch([local[table.key] for table in recording.tables], positions) if ids else []
            push_id = None if self._push_id is None else self._push_id(number)
            logs = add_logs(logs, self._run(recording.replay(found), batch, local, push_id))
            return number + 1, logs, starts + sizes

        _, logs, _ = tf.while_loop(
            lambda number, *_: number < count,
            body,
            (tf.constant(0, tf.int64), tf.zeros(recording.result.shape), tf.zeros([len(places)], tf.int32)),
            parallel_iterations=1,
        )
        # The steps write to variables of the worker. The loop returns the logs after all steps have written.
        with tf.control_dependencies([logs]):
            factors = self.keep_factors(count)
            return [local[table.key].delta(keep) for table, keep in zip(self._tables, factors, strict=True)], logs

    @property
    def push_tensors(self) -> list[tf.Tensor]:
        """The row ids."""
        return self._keys

    @property
    def empty_push(self) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Row ids and deltas of no rows."""
        return [ids[:0] for ids in self._keys], [tf.zeros([0, table.dim], table.dtype) for table in self._tables]

    def push(
        self,
        count: tf.Tensor,
        push_tensors: Sequence[tf.Tensor],
        deltas: Sequence[tf.Tensor],
        base: Sequence[tf.Tensor],
        push_id: PushId,
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Damps or scales the deltas and adds them with one push a server."""
        ids = [push_tensors[number] for number in self._key_of]
        others = self._moved_by_others(ids, base)
        pushed = [
            delta * (damping(delta, others[i], axis=1) if i in others else self.scale(i))
            for i, delta in enumerate(deltas)
        ]
        # A frozen table has no entry in `slots`: steps read its rows but do not change them.
        trained = [i for i, number in enumerate(self._key_of) if self._trained[number].key in self._settings.slots]
        factors = self.keep_factors(count)
        add([(self._tables[i], ids[i], pushed[i], factors[i]) for i in trained], push_id)
        without_slots = [i for i in trained if self._tables[i] is self._trained[self._key_of[i]]]
        return pushed, measure_drift([(pushed[i], others.get(i)) for i in without_slots])

    def _with_batch(
        self, number: tf.Tensor | int, batch: Nest, arrays: list[tf.TensorArray], ids: list[tf.TensorArray]
    ) -> tuple[list[tf.TensorArray], list[tf.TensorArray]]:
        """Writes a batch and the flat ids of its lookups at position `number`."""
        written = Batches(self._spec, arrays).with_batch(number, batch).arrays
        flat = [tf.reshape(tf.cast(lookup_ids, tf.int64), [-1]) for lookup_ids in self._recording.ids(batch)]
        return written, [array.write(number, lookup_ids) for array, lookup_ids in zip(ids, flat, strict=True)]

    def _moved_by_others(self, ids: Sequence[tf.Tensor], base: Sequence[tf.Tensor]) -> dict[int, tf.Tensor]:
        """Returns the changes that others made to the rows of `capped` tables; pulls these rows again."""
        if not self.capped:
            return {}
        found = fetch([self._tables[i] for i in self.capped], [ids[i] for i in self.capped])
        return {i: expand(now) - before for i, now, before in zip(self.capped, found, base, strict=True)}


def _example_shape(shape: tf.TensorShape) -> list[int]:
    """Returns the shape of a lookup's ids over a whole window: [-1, ids of an example], or [-1] if that is unknown."""
    each = [-1] if shape.rank is None else shape[1:].as_list()
    return [-1] if None in each or -1 in each or 0 in each else [-1, *each]
