"""The functions a model's training loop calls: one step of training or evaluation, run by the workers."""

import functools
import itertools
import logging
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfps.keras import averages, geo
from tfps.keras._compat import tree
from tfps.keras.variables import held
from tfps.placement.report import summary
from tfps.strategy.inputs import Epoch, as_tensor, worker_iterator
from tfps.strategy.pool import Calls
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.strategy.variables import DenseVariable, SumVariable
from tfps.training.closure import Closure, Program, Result
from tfps.training.first_steps import FirstSteps
from tfps.training.stream import Runner, Stream, stream
from tfps.training.whole_window import WholeWindow

_LOG = logging.getLogger("tfps")
_NUMBERS = itertools.count()
_LOGS_EVERY_S = 0.25
"""Metric results are computed at most this often while an epoch runs; in between the last ones are shown."""


class StepFunction:
    """What stands for `model.train_function` or `model.test_function`.

    Args:
        model: a Keras model of our strategy.
        step: `model.train_step` or `model.test_step`.
        updates: whether the step changes variables.

    Attributes:
        called: grows with every call for an epoch's steps, over all functions; -1 before the first.
    """

    def __init__(self, model: Any, step: Any, updates: bool) -> None:
        self._model = weakref.proxy(model)
        self._step = step
        self._updates = updates
        self._strategy: ParameterServerStrategy = model.distribute_strategy
        self._first_steps = FirstSteps(self._strategy) if updates else None
        self._closure: Closure | None = None
        self._stream: Stream | None = None
        self._logs: dict[str, Any] = {}
        self._last_logs: dict[str, float] = {}
        self._logs_at = 0.0
        self.called = -1
        self._on_batches = tf.function(self._trace_batches, autograph=False, reduce_retracing=True)
        self._over_iterator: dict[str, tuple[str, Any]] = {}

    def __call__(self, iterator: Any) -> dict[str, Any]:
        """Hands out `steps_per_execution` steps that are done; returns logs, which may lag.

        Raises:
            StopIteration: the input has no more.
        """
        if not isinstance(iterator, Epoch):
            return self._single(iterator)
        self.called = next(_NUMBERS)
        if self._stream is None or self._stream.epoch is not iterator or self._stream.spent:
            self.join()
            self._stream = self._begin(iterator)
        taken = self._stream.take(self._model.steps_per_execution)
        if not taken:
            raise StopIteration
        if time.monotonic() - self._logs_at > _LOGS_EVERY_S or not self._logs:
            self._logs = self._results()
        return self._logs

    def join(self) -> None:
        """Waits for the steps under way."""
        under_way, self._stream = self._stream, None
        if under_way is not None:
            under_way.join()

    def abandon(self, timeout_s: float) -> None:
        """Ends the epoch where it is, because it failed: what is under way has `timeout_s` to end."""
        under_way, self._stream = self._stream, None
        if under_way is not None:
            under_way.abandon(timeout_s)

    def finish(self) -> dict[str, Any]:
        """Ends an epoch: waits for all steps and returns the final logs."""
        self.join()
        return self._results()

    def _results(self) -> dict[str, Any]:
        self._logs_at = time.monotonic()
        results = self._model.get_metrics_result()
        if not self._last_logs:
            return results
        # A user's own logs; those that name a metric show its result, not the last step's value.
        return {name: results.get(name, value) for name, value in self._last_logs.items()}

    def _single(self, batches: Any) -> dict[str, Any]:
        """`train_on_batch` and `test_on_batch`: the batch goes to a worker, its result is waited for."""
        self.join()
        runner = self._runner()
        for data in batches:
            batch = tree.map_structure(as_tensor, data)
            calls = Calls(runner.pool, "a step on one batch", runner.timeout_s)
            calls.submit(0, None, functools.partial(runner.over_batches, 0, [batch]))
            runner.done(calls.take()[1])
        return self._results()

    def _runner(self, over_iterator: Any = None) -> Runner:
        return Runner(
            self._strategy.pool,
            lambda worker, steps: over_iterator(tf.constant([steps, worker], tf.int64)),
            lambda worker, batches: self._on_batches(tf.constant(worker, tf.int64), batches),
            self._done,
            self._closure_steps,
            self._strategy.closure_timeout_s,
            windows=self._mode is not None,
        )

    @property
    def _mode(self) -> geo.GeoMode | None:
        return geo.mode_of(self._model.optimizer) if self._updates else None

    @property
    def _closure_steps(self) -> int:
        """Steps of a closure at most: a window's, else what the user compiled with, else the strategy's default."""
        if self._mode is not None:
            return self._mode.push_every
        chosen = int(self._model.steps_per_execution)
        return chosen if chosen > 1 else self._strategy.dense_exchange_every

    def _begin(self, epoch: Epoch) -> Stream:
        """Starts the workers' iterators and traces what is new, before any closure runs."""
        if not self._over_iterator:
            _LOG.info("%s", summary(self._strategy.plan))
        run_iterator: Any = None
        if not epoch.source.fed:
            name, run_iterator = self._function_over(epoch.source.element_spec)
            epoch.start_on_workers(name)
        if self._first_steps is not None:
            self._first_steps.began(epoch.source.fed)
        return stream(self._runner(run_iterator), epoch, epoch.source.steps_per_epoch)

    def _function_over(self, element_spec: Any) -> tuple[str, Any]:
        """The workers' iterator for batches of this kind, by name, and the closure over it."""
        key = repr(element_spec)
        if key not in self._over_iterator:
            name = f"tfps_input_{next(_NUMBERS)}"

            def trace(order: Any) -> Any:
                iterator = worker_iterator(name, element_spec)
                return self._make_closure().over_iterator(iterator.get_next_as_optional, order[0], order[1])

            self._over_iterator[key] = (
                name,
                tf.function(trace, autograph=False).get_concrete_function(tf.TensorSpec([2], tf.int64)),
            )
        return self._over_iterator[key]

    def _trace_batches(self, worker: Any, batches: list[Any]) -> Any:
        return self._make_closure().over_batches(batches, worker)

    def _make_closure(self) -> Closure:
        model = self._model
        kept = [*model.variables, *(model.optimizer.variables if self._updates and model.optimizer else [])]
        window = geo.window_mode(model, self._strategy.num_workers) if self._updates else None
        program = Program(
            self._traced_step,
            held(kept, DenseVariable),
            held(model.metrics_variables, SumVariable),
            self._scales(),
            self._updates,
            prefetches=self._strategy.prefetch_lookups,
            window=window,
            train_window=self._traced_window if window and hasattr(model, "train_window") else None,
        )
        self._closure = self._closure or Closure(program)
        return self._closure

    def _scales(self) -> dict[Any, float]:
        workers = self._strategy.num_workers
        return averages.push_scales(self._model, self._closure_steps, workers) | geo.dense_scales(self._model, workers)

    def _traced_step(self, batch: Any) -> Mapping[str, Any]:
        return self._traced(lambda: self._step(_without_optionals(batch)))

    def _traced_window(self, batches: Any, steps: Any, window: WholeWindow) -> Mapping[str, Any]:
        return self._traced(lambda: self._model.train_window(_without_optionals(batches), steps, window))

    def _traced(self, run: Callable[[], Any]) -> Mapping[str, Any]:
        """Runs a step where it is traced; returns the logs that metrics do not give."""
        replica = tf.distribute.ReplicaContext(self._strategy, replica_id_in_sync_group=0)
        with self._strategy.scope(), replica:
            logs = run()
            known = set(self._model.get_metrics_result())
        return {} if not isinstance(logs, Mapping) or set(logs) <= known else logs

    def _done(self, vector: Any) -> Result:
        assert self._closure is not None
        result = self._closure.read(vector)
        for variable, added in zip(held(self._model.metrics_variables, SumVariable), result.sums, strict=True):
            variable.assign_add(added)
        if result.steps:
            self._last_logs = result.logs
        if self._first_steps is not None and self._stream is not None:  # while the stream is full, and not at its end
            self._first_steps.done(result.steps)
        return result


def _without_optionals(batch: Any) -> Any:
    """Keras passes a missing sample weight as an empty Optional."""
    return tree.map_structure(lambda x: None if isinstance(x, tf.experimental.Optional) else x, batch)
