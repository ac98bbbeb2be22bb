"""Windows that a model trains in one call, for models whose step is so small that its graph costs more than its work.

Any model may offer two methods

    def window_lookups(self, batches): ...
    def train_window(self, batches, rows, steps): ...

GEO training then calls these methods instead of its `train_step`. `batches` has the structure of a batch, with the
tensors of all batches of the window one after the other; `steps`, an int64 scalar, says how many there are.
`window_lookups` returns the rows that the window needs: a list of (variable of an Embedding, ids of any shape), all
trainable and of one width. `train_window` gets these rows and their slots (`rows.matrices`, `rows.positions`; see
`tfps.embedding.window_rows`), trains, counts `steps` in `optimizer.iterations`, and returns the delta of each of the
matrices, and logs as a `train_step` does. Both run while a graph is traced, and dense variables are the worker's
copies, as in a step. `tfps.models.SkipGram` is such a model.

Memory: the window's unique rows and slots four times (as pulled, padded for training, as deltas, and as the message of
the deltas), and the window's batches.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import tensorflow as tf

from tfps.embedding.push_dedup import PushId
from tfps.embedding.requested_rows import RequestedOfKind
from tfps.embedding.window_rows import WindowRows, pull_window, push_window
from tfps.errors import UnsupportedError
from tfps.training.batches import Batches, NextBatch, read_next_unless
from tfps.training.exchange import damping
from tfps.training.geo.drift import measure_drift
from tfps.training.geo.window import LoopTensor, Window, WindowSettings, keep_factors
from tfps.types import Nest

Lookups: TypeAlias = Sequence[tuple[tf.Variable, tf.Tensor]]
"""Pairs of (variable of an Embedding, ids of any shape)."""


@dataclasses.dataclass(frozen=True)
class WindowMethods:
    """The two methods of a model that trains whole windows.

    Args:
        lookups: its `window_lookups`.
        train: its `train_window`.
    """

    lookups: Callable[[Nest], Lookups]
    train: Callable[[Nest, WindowRows, tf.Tensor], tuple[Sequence[tf.Tensor], Mapping[str, tf.Tensor]]]


TrainWindow: TypeAlias = Callable[[Nest, WindowRows, tf.Tensor], tuple[Sequence[tf.Tensor], tf.Tensor]]
"""(batches, rows, steps) -> deltas, logs as a vector."""


class WholeWindow(Window):
    """The batches of one window, which the model trains in one call.

    All tables have the same width, so their rows form one matrix, and each slot forms another. These matrices are the
    "tables" of the `Window`, and all have the same row ids.

    Args:
        lookups: returns the tables and ids of the rows that batches need.
        train: trains the batches.
        spec: the specs of the tensors of a batch.
        settings: what the windows of this model carry and push.
    """

    def __init__(
        self, lookups: Callable[[Nest], Lookups], train: TrainWindow, spec: Nest, settings: WindowSettings
    ) -> None:
        self._lookups, self._train, self._spec, self._settings = lookups, train, spec, settings
        self._batches: Nest = None
        self._rows: WindowRows

    def read(self, next_batch: NextBatch, first: tf.experimental.Optional, max_steps: tf.Tensor) -> tf.Tensor:
        """Reads batches and concatenates them."""

        def body(count: tf.Tensor, batch: tf.experimental.Optional, arrays: list[tf.TensorArray]) -> Nest:
            # As in a `StepWindow`, but without the ids of the batch: the model names the rows itself.
            arrays = Batches(self._spec, arrays).with_batch(tf.cast(count, tf.int32), batch.get_value()).arrays
            return count + 1, read_next_unless(count + 1 >= max_steps, next_batch, batch), arrays

        count, _, arrays = tf.while_loop(
            lambda count, batch, arrays: batch.has_value(),
            body,
            (tf.constant(0, tf.int64), first, Batches(self._spec).arrays),
            parallel_iterations=1,
        )
        self._batches = Batches(self._spec, arrays).concatenate()
        return count

    def take(self, batches: Sequence[Nest]) -> tf.Tensor:
        """Stores fed batches and concatenates them."""
        stored = Batches(self._spec)
        for number, batch in enumerate(batches):
            stored = stored.with_batch(number, batch)
        self._batches = stored.concatenate()
        return tf.constant(len(batches), tf.int64)

    @property
    def loop_tensors(self) -> list[LoopTensor]:
        """The batches, and the requests for their rows."""
        return [*_tensors(self._batches), *self._rows.requests]

    def with_tensors(self, tensors: Sequence[LoopTensor]) -> "WholeWindow":
        """Creates a pulled window from `loop_tensors`."""
        other = self.without_batches()
        batches = len(_tensors(self._batches))
        other._batches = _with_tensors(self._batches, tensors[:batches])
        # Without matrices: the state of the loop has the rows that the window starts from.
        other._rows = self._rows.with_requests(tensors[batches:], [None] * len(self._rows.groups))
        return other

    def without_batches(self) -> "WholeWindow":
        """Creates a window of the same model that has read nothing."""
        return WholeWindow(self._lookups, self._train, self._spec, self._settings)

    def pull(self) -> list[tf.Tensor]:
        """Requests the rows of all batches.

        Raises:
            UnsupportedError: a table is frozen. The model itself changes rows within a window. If the deltas of one
                table were not pushed, the others would have been trained against rows that nobody else has.
        """
        # A Keras variable wraps its table.
        lookups = [(getattr(variable, "_value", variable), ids) for variable, ids in self._lookups(self._batches)]
        frozen = [table.name for table, _ in lookups if table.key not in self._settings.slots]
        if frozen:
            raise UnsupportedError(
                "every table of `window_lookups` must be trainable, because in GEO mode the model trains all rows of "
                f"a window at once; an optimizer without GEO leaves frozen tables alone. Received: {frozen}."
            )
        self._rows = pull_window(lookups, [self._settings.slots[table.key] for table, _ in lookups])
        return self._rows.matrices

    @property
    def requested_rows(self) -> list[RequestedOfKind]:
        """None: the logs of `train` count them, which gets the requests."""
        return []

    @property
    def keys(self) -> list[tf.Tensor]:
        """A single vector of row ids, as there is a single matrix of rows."""
        return [self._rows.keys]

    @property
    def key_of(self) -> list[int]:
        """The index of the single vector, for the rows and for each slot."""
        return [0] * len(self._rows.groups)

    @property
    def capped(self) -> list[int]:
        """The number of the row matrix if its deltas are damped by what others have added meanwhile; never a slot."""
        # Either all tables of a model are capped or none is.
        return [0] if any(table.key in self._settings.capped for table in self._rows.groups[0].tables) else []

    def scale(self, table: int) -> tf.Tensor | float:
        """Returns the factor of each row, [M, 1], or one factor if all are equal."""
        scales = self._settings.scales
        return self._rows.spread_by_table([scales.get(one.key, 1.0) for one in self._rows.groups[table].tables])

    def keep_factors(self, count: tf.Tensor) -> list[tf.Tensor | None]:
        """Returns for the rows and each slot the part of a moving average that remains after `count` steps."""
        return keep_factors([self._settings.decays.get(group.tables[0].key) for group in self._rows.groups], count)

    def train(self, count: tf.Tensor, rows: Sequence[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Trains the window with the model's own method.

        Raises:
            UnsupportedError: the model did not return one delta for each matrix.
        """
        # The matrices are an argument: with overlap a window starts from rows that differ from the pulled ones.
        deltas, logs = self._train(self._batches, self._rows.with_requests(self._rows.requests, rows), count)
        if len(deltas) != len(rows):
            raise UnsupportedError(
                f"`train_window` must return one delta for each of `rows.matrices`, {len(rows)}, and logs. "
                f"Received: {len(deltas)} deltas."
            )
        # The model returns `end - begin` for a slot. For an average, `end - keep * begin` is pushed.
        factors = self.keep_factors(count)
        return [
            delta if keep is None else delta + (1 - keep) * begin
            for delta, keep, begin in zip(deltas, factors, rows, strict=True)
        ], logs

    @property
    def push_tensors(self) -> list[tf.Tensor]:
        """The requests for the rows, which also address the deltas."""
        return self._rows.requests

    @property
    def empty_push(self) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Requests and deltas of no rows."""
        return self._rows.empty_requests, [matrix[:0] for matrix in self._rows.matrices]

    def push(
        self,
        count: tf.Tensor,
        push_tensors: Sequence[tf.Tensor],
        deltas: Sequence[tf.Tensor],
        base: Sequence[tf.Tensor],
        push_id: PushId,
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Damps or scales the deltas and adds them with one push a server."""
        # The deltas may belong to an earlier window than this one: the requests in `push_tensors` name their rows.
        window = self.with_tensors(self.loop_tensors)
        window._rows = self._rows.with_requests(push_tensors, [None] * len(deltas))
        # All deltas are scaled first. Capped rows are damped instead.
        pushed, others = [delta * window.scale(i) for i, delta in enumerate(deltas)], None
        if window.capped:
            others = window._rows.pull_again() - base[0]
            pushed[0] = deltas[0] * damping(deltas[0], others, axis=1)
        push_window(window._rows, pushed, self.keep_factors(count), push_id)
        return pushed, measure_drift([(pushed[0], others)])


def _tensors(batches: Nest) -> list[tf.Tensor]:
    return [leaf for leaf in tf.nest.flatten(batches, expand_composites=True) if leaf is not None]


def _with_tensors(batches: Nest, tensors: Sequence[tf.Tensor]) -> Nest:
    """Packs other tensors into the structure of batches."""
    remaining = iter(tensors)
    leaves = tf.nest.flatten(batches, expand_composites=True)
    filled = [None if leaf is None else next(remaining) for leaf in leaves]
    return tf.nest.pack_sequence_as(batches, filled, expand_composites=True)
