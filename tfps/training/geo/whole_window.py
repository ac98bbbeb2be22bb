"""Windows that a model trains in one go: for models whose step is so small that a graph of it costs more than its work.

Any model may offer two methods

    def window_lookups(self, batches): ...
    def train_window(self, batches, rows, steps): ...

and is then asked for whole windows in GEO mode, instead of for steps by its `train_step`. `batches` has the structure
of a batch, with the tensors of all batches of the window one after the other; `steps`, an int64 scalar, says how many
they were. `window_lookups` returns what rows they need: a list of (variable of an Embedding, ids of any shape), all
trainable and of one width. `train_window` gets these rows and their slots (`rows.matrices`, `rows.positions`; see
`tfps.embedding.window_rows`), trains, counts `steps` in `optimizer.iterations`, and returns what it moved each of the
matrices by, and logs as a `train_step` does. Both run while a graph is traced, and dense variables are the worker's
copies, as in a step. `tfps.models.SkipGram` is such a model.

Memory: the window's unique rows and slots four times (as pulled, padded to train on, by how much they moved, and as the
message that says so), and the window's batches.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfps.embedding.window_rows import WindowRows, pull_window, push_window
from tfps.errors import UnsupportedError
from tfps.training.batches import Batches, next_unless
from tfps.training.exchange import damping
from tfps.training.geo.drift import measured
from tfps.training.geo.window import WindowSettings, kept_of


@dataclasses.dataclass(frozen=True)
class WindowMethods:
    """What a model offers.

    Args:
        lookups: its `window_lookups`.
        train: its `train_window`.
    """

    lookups: Callable[[Any], Sequence[tuple[Any, Any]]]
    train: Callable[[Any, WindowRows, Any], tuple[Sequence[Any], Mapping[str, Any]]]


class WholeWindow:
    """The batches of one window, which the model trains; the same parts as `tfps.training.geo.window.Window` has.

    Args:
        lookups: gives what rows batches need.
        train: (batches, rows, steps) -> deltas, logs as a vector.
        spec: of a batch.
        mode: how it is trained.
    """

    def __init__(
        self, lookups: Callable[[Any], Any], train: Callable[..., Any], spec: Any, mode: WindowSettings
    ) -> None:
        self._lookups, self._train, self._spec, self._mode = lookups, train, spec, mode
        self._batches: Any = None
        self._rows: WindowRows

    def read(self, next_batch: Callable[[], Any], first: Any, max_steps: Any) -> Any:
        """Takes up to `max_steps` batches; returns how many, int64.

        Args:
            next_batch: gives the next batch as a `tf.experimental.Optional`, empty at the end of the input.
            first: the first one.
            max_steps: int64 scalar.
        """

        def body(count: Any, batch: Any, arrays: Any) -> Any:
            arrays = Batches(self._spec, arrays).with_batch(tf.cast(count, tf.int32), batch.get_value()).arrays
            return count + 1, next_unless(count + 1 >= max_steps, next_batch, batch), arrays

        count, _, arrays = tf.while_loop(
            lambda count, batch, arrays: batch.has_value(),
            body,
            (tf.constant(0, tf.int64), first, Batches(self._spec).arrays),
            parallel_iterations=1,
        )
        self._batches = Batches(self._spec, arrays).joined()
        return count

    def take(self, batches: Sequence[Any]) -> Any:
        """Takes batches that were fed; returns how many, int64."""
        joined = Batches(self._spec)
        for number, batch in enumerate(batches):
            joined = joined.with_batch(number, batch)
        self._batches = joined.joined()
        return tf.constant(len(batches), tf.int64)

    @property
    def carried(self) -> list[Any]:
        """The tensors that make it up once it is pulled, but its rows, for a loop to carry."""
        return [*_tensors(self._batches), *self._rows.requests]

    def like(self, carried: Sequence[Any] = ()) -> "WholeWindow":
        """Another window, made up of such tensors; one without batches where there are none."""
        other = WholeWindow(self._lookups, self._train, self._spec, self._mode)
        if carried:
            batches = len(_tensors(self._batches))
            other._batches = _with_tensors(self._batches, carried[:batches])
            other._rows = self._rows.with_requests(carried[batches:], [None] * len(self._rows.groups))
        return other

    def pull(self) -> list[Any]:
        """Its rows, then each slot, [M, dim] each.

        Raises:
            UnsupportedError: a table is frozen. What moves within a window is the model's affair, so to hold back its
                deltas alone would train the others against rows that had moved.
        """
        lookups = [(getattr(variable, "_value", variable), ids) for variable, ids in self._lookups(self._batches)]
        frozen = [table.name for table, _ in lookups if table.key not in self._mode.slots]
        if frozen:
            raise UnsupportedError(
                "every table of `window_lookups` must be trainable, as GEO has such a model train all of a window's "
                f"rows in one go; an optimizer that is not in GEO mode leaves frozen tables alone. Received: {frozen}."
            )
        self._rows = pull_window(lookups, [self._mode.slots[table.key] for table, _ in lookups])
        return self._rows.matrices

    @property
    def keys(self) -> list[Any]:
        """Ids of its rows, each once: one vector, as it holds one matrix of rows."""
        return [self._rows.keys]

    @property
    def key_of(self) -> list[int]:
        """For the rows and each slot which of `keys` are its ids."""
        return [0] * len(self._rows.groups)

    @property
    def capped(self) -> list[int]:
        """Which of rows and slots are pushed by what others have moved them by meanwhile."""
        return [0] if any(table.key in self._mode.capped for table in self._rows.groups[0].tables) else []

    def scale(self, i: int) -> Any:
        """The share of a delta of rows or a slot that is pushed, where it does not depend on others."""
        return self._rows.shared_by_table([self._mode.scales.get(one.key, 1.0) for one in self._rows.groups[i].tables])

    def steps(self, count: Any, rows: Sequence[Any]) -> tuple[list[Any], Any]:
        """Trains; returns by what it moved rows and slots, of averages what it added to them, and the logs.

        Args:
            count: batches there are, int64 scalar.
            rows: what rows and slots begin with.

        Raises:
            UnsupportedError: the model did not return one delta for each.
        """
        deltas, logs = self._train(self._batches, self._rows.with_requests(self._rows.requests, rows), count)
        if len(deltas) != len(rows):
            raise UnsupportedError(
                f"`train_window` must return one delta for each of `rows.matrices`, {len(rows)}, and logs. "
                f"Received: {len(deltas)} deltas."
            )
        kept = self.kept(count)
        return [
            delta if part is None else delta + (1 - part) * begin
            for delta, part, begin in zip(deltas, kept, rows, strict=True)
        ], logs

    @property
    def sent(self) -> list[Any]:
        """The tensors that a push needs beside the deltas."""
        return self._rows.requests

    @property
    def nothing(self) -> tuple[list[Any], list[Any]]:
        """What a push of no rows needs, and its deltas."""
        return self._rows.no_requests, [matrix[:0] for matrix in self._rows.matrices]

    def push(
        self, count: Any, sent: Sequence[Any], deltas: Sequence[Any], base: Sequence[Any], push_id: Any = None
    ) -> tuple[list[Any], Any]:
        """Adds deltas on the servers; returns what was added, and what it measured of the drift.

        Args:
            count: steps that were made.
            sent: of `sent`.
            deltas: of rows and slots.
            base: for each of `capped` the rows that servers would hold if nobody else had pushed meanwhile.
            push_id: of the push.
        """
        window = self.like(self.carried)
        window._rows = self._rows.with_requests(sent, [None] * len(deltas))
        pushed, others = [delta * window.scale(i) for i, delta in enumerate(deltas)], None
        if window.capped:
            others = window._rows.now() - base[0]
            pushed[0] = deltas[0] * damping(deltas[0], others, axis=1)
        push_window(window._rows, pushed, self.kept(count), push_id)
        return pushed, measured([(pushed[0], others)])

    def kept(self, count: Any) -> list[Any]:
        """Of rows and each slot the part that `count` steps keep, of averages; None of all others."""
        return kept_of([self._mode.decays.get(group.tables[0].key) for group in self._rows.groups], count)


def _tensors(batches: Any) -> list[Any]:
    return [leaf for leaf in tf.nest.flatten(batches, expand_composites=True) if leaf is not None]


def _with_tensors(batches: Any, tensors: Sequence[Any]) -> Any:
    left = iter(tensors)
    leaves = tf.nest.flatten(batches, expand_composites=True)
    filled = [None if leaf is None else next(left) for leaf in leaves]
    return tf.nest.pack_sequence_as(batches, filled, expand_composites=True)
