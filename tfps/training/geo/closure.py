"""A closure of GEO training: one window of steps on rows that the worker has pulled, or several overlapping windows."""

import functools
from collections.abc import Sequence

import tensorflow as tf

from tfps import step
from tfps.embedding.push_dedup import PushId
from tfps.embedding.requested_rows import requested_rows
from tfps.embedding.window_rows import WindowRows
from tfps.training.batches import NextBatch, WorkerBatches, make_batch_reader, unify_shapes
from tfps.training.closure import Closure, Copies, Program
from tfps.training.exchange import Exchange
from tfps.training.geo.drift import DRIFT_LANES
from tfps.training.geo.overlapped import Overlapped
from tfps.training.geo.step_window import StepWindow
from tfps.training.geo.whole_window import WholeWindow, WindowMethods
from tfps.training.geo.window import Window, WindowSettings, train_one
from tfps.training.order import Order
from tfps.training.push_ids import PushLedgers
from tfps.training.step_lookups import DirectLookups
from tfps.types import Nest


class WindowClosure(Closure):
    """Trains the windows of a closure.

    Args:
        program: the steps that closures run.
        settings: what the windows of this model carry and push.
        methods: the methods of a model that trains a whole window at once; None for a model that trains step by step.
        ledgers: the ledgers that give each push its id.
        overlaps: whether a closure has several windows and exchanges one while it trains another.
    """

    measures = DRIFT_LANES

    def __init__(
        self,
        program: Program,
        settings: WindowSettings,
        methods: WindowMethods | None,
        ledgers: PushLedgers,
        overlaps: bool,
    ) -> None:
        super().__init__(program)
        self._settings, self._methods, self._ledgers, self._overlaps = settings, methods, ledgers, overlaps

    def over_iterator(self, source: WorkerBatches, order: Order) -> tf.Tensor:
        """Traces a window, or several that overlap, over the worker's iterator."""
        exchange, copies = self._pull(order, self._settings.scales, self._settings.capped)
        first = source.next()
        if self._overlaps:
            return self._train_overlapped(exchange, copies, source.next, first, order)
        window, _ = self._window(copies, first.element_spec, order)
        count = window.read(source.next, first, order.steps)
        return self._train_one(exchange, copies, window, count, order)

    def over_batches(self, batches: Sequence[Nest], order: Order) -> tf.Tensor:
        """Traces a window of fed batches, or several that overlap."""
        exchange, copies = self._pull(order, self._settings.scales, self._settings.capped)
        batches = unify_shapes(batches)
        # A single batch is one window, so there is nothing to overlap with.
        if self._overlaps and len(batches) > 1:
            # The loop over windows exists in one form only, which reads from an iterator.
            next_batch = make_batch_reader(batches)
            return self._train_overlapped(exchange, copies, next_batch, next_batch(), order)
        window, _ = self._window(copies, batches[0], order)
        return self._train_one(exchange, copies, window, window.take(batches), order)

    def _train_one(
        self, exchange: Exchange, copies: Copies, window: Window, count: tf.Tensor, order: Order
    ) -> tf.Tensor:
        # The ids count steps that ran, not those ordered: if the input ends early, a repeat ends at the same step.
        ids = self._ledgers.ids(order, count)
        logs, drift = train_one(window, count, ids.rows)
        logs = self._with_requested(logs, window.requested_rows)
        exchange.push(ids.dense)
        return self._result(copies, count, logs, drift)

    def _train_overlapped(
        self,
        exchange: Exchange,
        copies: Copies,
        next_batch: NextBatch,
        first: tf.experimental.Optional,
        order: Order,
    ) -> tf.Tensor:
        # The windows push beside each other, so the numbers of pushes of steps would not increase.
        window, logs = self._window(copies, first.element_spec, None)
        push_ids = functools.partial(self._ledgers.ids, order)
        windows = Overlapped(window, logs, exchange, push_ids, self._with_requested)
        return self._result(copies, *windows.train(next_batch, first, order))

    def _window(self, copies: Copies, spec: Nest, order: Order | None) -> tuple[Window, tf.Tensor]:
        """Creates a window without batches, and the logs of a window that runs no steps.

        Args:
            copies: the worker's copies.
            spec: the specs of a batch.
            order: the order of the closure; None if its steps cannot push.
        """
        if self._methods is None:
            run = functools.partial(self._run, copies)
            recording = self._record(run, spec)

            def push_id(done: tf.Tensor) -> PushId:
                # Above the number of the window before, and below the number of this one.
                assert order is not None
                return self._ledgers.ids(order, done).rows.nth(1)

            window = StepWindow(recording, spec, self._settings, run, push_id if order else None)
            return window, tf.zeros(recording.result.shape)
        # The number of logs is unknown until the window is traced.
        logs = tf.compat.v1.placeholder_with_default(tf.zeros([0]), [None])
        return self._whole_window(self._methods, copies, spec), logs

    def _whole_window(self, methods: WindowMethods, copies: Copies, spec: Nest) -> WholeWindow:
        """Creates a window that the model trains by its own methods, on the worker's copies of dense variables."""

        # Both methods are traced as a step, so dense variables stand for the worker's copies in them.
        def lookups(batches: Nest) -> Sequence[tuple[tf.Variable, tf.Tensor]]:
            with step.tracing(step.Step(DirectLookups(), copies)):
                return methods.lookups(batches)

        def train(batches: Nest, rows: WindowRows, steps: tf.Tensor) -> tuple[Sequence[tf.Tensor], tf.Tensor]:
            with step.tracing(step.Step(DirectLookups(), copies)):
                deltas, logs = methods.train(batches, rows, steps)
                # The logs of a window are those of each of its steps.
                logs_vector = self._logs_vector(logs) * tf.cast(steps, tf.float32)
                # The first group has the tables, and the others their slots.
                return deltas, self._with_counts(logs_vector, batches, (), requested_rows(rows.groups[:1]))

        return WholeWindow(lookups, train, spec, self._settings)
