"""The functions a model's training loop calls: one step of training or evaluation, run by the workers."""

import contextlib
import functools
import itertools
import logging
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from tfps import step
from tfps.cluster import devices
from tfps.embedding.push_dedup import PushLedger
from tfps.embedding.table import Table
from tfps.errors import ConfigError, UnsupportedError
from tfps.inputs.worker_input import Epoch, as_tensor, worker_iterator
from tfps.keras import geo, moving_averages, sync
from tfps.keras._compat import tree
from tfps.keras.optimizers import of_model
from tfps.keras.variables import stored_values
from tfps.placement.advice import start_up
from tfps.placement.model import Plan
from tfps.runtime.losses import WorkerLostError
from tfps.runtime.pool import Calls
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.strategy.variables import DenseVariable, SumVariable
from tfps.training.asynchronous.spans import SPANS
from tfps.training.asynchronous.turns import MOST_STEPS, steps_of_turn
from tfps.training.batches import next_or_again
from tfps.training.closure import Closure, Program, Result
from tfps.training.first_steps import FirstSteps
from tfps.training.geo.drift import Drift, Runaway
from tfps.training.geo.overlapped import WINDOWS
from tfps.training.geo.pace import LONGEST, Length
from tfps.training.geo.whole_window import WindowMethods
from tfps.training.hoisting import Recording
from tfps.training.order import LENGTH, Order
from tfps.training.schedule import Runner, Schedule, closure_steps
from tfps.training.schedules import make_schedule
from tfps.training.synchronous.steps import SyncSteps

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
    """

    def __init__(self, model: Any, step: Any, updates: bool) -> None:
        self._model = weakref.proxy(model)
        self._step = step
        self._updates = updates
        self._strategy: ParameterServerStrategy = model.distribute_strategy
        self._first_steps = FirstSteps(self._strategy) if updates else None
        self._sync = self._sync_steps() if updates else None
        self._closure: Closure | None = None
        self._schedule: Schedule | None = None
        self._logs: dict[str, Any] = {}
        self._last_logs: dict[str, float] = {}
        self._logs_at = 0.0
        self._modes = self._modes_now()
        self._on_batches = tf.function(self._trace_batches, autograph=False, reduce_retracing=True)
        self._over_iterator: dict[str, Any] = {}
        self._kinds: dict[str, tuple[str, int]] = {}
        self._named = self._strategy.iterators.named_by(self)
        self._length = Length() if self._mode is not None and self._mode.push_every == "auto" else None
        self._drift, self._runaway = Drift(), Runaway()
        self._ordered = [0] * self._strategy.num_workers
        self._ledgers = self._new_ledgers() if updates and self._sync is None else None

    def __call__(self, iterator: Any) -> dict[str, Any]:
        """Hands out `steps_per_execution` steps that are done; returns logs, which may lag.

        Raises:
            StopIteration: the input has no more.
        """
        if not isinstance(iterator, Epoch):
            return self._single(iterator)
        if self._schedule is None or self._schedule.epoch is not iterator or self._schedule.spent:
            self.join()
            self._schedule = self._begin(iterator)
        taken = self._schedule.take(self._model.steps_per_execution)
        if not taken:
            raise StopIteration
        if time.monotonic() - self._logs_at > _LOGS_EVERY_S or not self._logs:
            self._logs = self._results()
        return self._logs

    @property
    def outdated(self) -> bool:
        """Whether the mode of the optimizer is another than the steps were made for."""
        return self._modes != self._modes_now()

    def join(self) -> None:
        """Ends the epoch where it is, and waits for the steps under way."""
        if self._schedule is not None:
            self._schedule.join()
            self._schedule = None  # not before: if it fails, what is under way has to be abandoned

    def settle(self) -> None:
        """Waits for the steps under way; the epoch goes on after it."""
        if self._schedule is not None:
            self._schedule.settle()

    def abandon(self, timeout_s: float) -> None:
        """Ends the epoch where it is, because it failed: what is under way has `timeout_s` to end."""
        under_way, self._schedule = self._schedule, None
        if under_way is not None:
            under_way.abandon(timeout_s)

    def finish(self) -> dict[str, Any]:
        """Ends an epoch: waits for all steps and returns the final logs."""
        if self._first_steps is not None:
            self._first_steps.ended()
        self.join()
        self._runaway.look(self._drift)
        return self._results()

    def _results(self) -> dict[str, Any]:
        self._logs_at = time.monotonic()
        results = self._model.get_metrics_result()
        if self._last_logs:
            # A user's own logs; those that name a metric show its result, not the last step's value.
            results = {name: results.get(name, value) for name, value in self._last_logs.items()}
        return {**results, **self._drift.logs()}

    def _single(self, batches: Any) -> dict[str, Any]:
        """`train_on_batch` and `test_on_batch`: the batch goes to a worker, its result is waited for."""
        self.join()
        runner = self._runner()
        for data in batches:
            batch = tree.map_structure(as_tensor, data)
            result = runner.read(self._on_one_worker(runner, runner.order(0, 1), batch))
            if self._sync is not None:
                self._sync.policy.update([0])
            runner.done(result)
        return self._results()

    def _on_one_worker(self, runner: Runner, order: Order, batch: Any) -> Any:
        """What a step on one batch of the chief returns."""
        calls = Calls(runner.pool, "a step on one batch", runner.timeout_s)
        while True:
            step_on = functools.partial(runner.over_batches, order, [batch])
            calls.submit(runner.host_of(order.shard), None, step_on)
            if not isinstance(vector := calls.take()[1], WorkerLostError):
                return vector

    def _new_ledgers(self) -> tuple[PushLedger, PushLedger]:
        """Of the pushes of rows and of dense variables."""
        name, workers = str(next(_NUMBERS)), self._strategy.num_workers
        ledgers = PushLedger(f"{name}_rows", workers), PushLedger(f"{name}_dense", workers)
        for server in range(self._strategy.num_servers):
            for ledger in ledgers:
                ledger.open(devices.server(server))
        return ledgers

    def _sync_steps(self) -> SyncSteps | None:
        """What synchronous steps need; None in every other mode."""
        mode, workers = sync.mode_of(self._model.optimizer), self._strategy.num_workers
        if mode is None:
            return None
        if mode.drop_slowest >= workers:
            raise ConfigError(
                f"`drop_slowest` of Sync must be below the number of workers, {workers}. Received: {mode.drop_slowest}."
            )
        return SyncSteps(self._strategy, str(next(_NUMBERS)), mode.drop_slowest, mode.max_staleness)

    def _runner(self, epoch: Epoch | None = None) -> Runner:
        names = {} if epoch is None else epoch.names
        return Runner(
            self._strategy.pool,
            self._strategy.host_of,
            lambda order: self._over_iterator[names[order.shard]](order.tensor()),
            lambda order, batches: self._on_batches(order.tensor(), batches),
            self._start,
            self._ordered,
            self._read,
            self._done,
            self._closure_steps,
            self._strategy.closure_timeout_s,
            windows=self._mode is not None,
            trained=0 if self._mode is None else int(self._model.optimizer.iterations),
            length=self._length,
            windows_each=self._parts,
            fed_steps=self._fed_steps,
        )

    def _modes_now(self) -> tuple[Any, Any]:
        optimizer = self._model.optimizer if self._updates else None
        return geo.mode_of(optimizer), sync.mode_of(optimizer)

    @property
    def _mode(self) -> geo.GeoMode | None:
        return geo.mode_of(self._model.optimizer) if self._updates else None

    @property
    def _overlaps(self) -> bool:
        if self._mode is not None:
            return bool(self._mode.overlap)
        return self._updates and self._sync is None and self._strategy.overlap_dense_exchange

    @property
    def _parts(self) -> int:
        """Windows or spans of a closure over an iterator."""
        if not self._overlaps:
            return 1
        return SPANS if self._mode is None else WINDOWS

    @property
    def _closure_steps(self) -> int:
        """Steps of a closure at most: a window's, else what the user compiled with, else the strategy's default."""
        if self._mode is not None:
            return LONGEST if self._mode.push_every == "auto" else int(self._mode.push_every)
        chosen = int(self._model.steps_per_execution)
        return chosen if chosen > 1 else self._strategy.dense_exchange_every

    def _begin(self, epoch: Epoch) -> Schedule:
        """Starts the workers' iterators and traces what is new, before any closure runs."""
        new = not self._over_iterator
        self._strategy.pool.settle(self._strategy.closure_timeout_s)
        self._strategy.iterators.destroy_abandoned()
        if not epoch.source.fed and not epoch.hosts:
            epoch.begin()
            for shard in range(self._strategy.num_workers):
                self._start(epoch, shard)
        self._drift, self._logs = Drift(), {}
        if new and self._updates:
            asked = self._closure.asked(epoch.source.examples) if self._closure is not None else {}
            _LOG.info("%s", start_up(self._plan(), asked, self._strategy.num_workers, self._closure_steps))
        if self._first_steps is not None:
            self._first_steps.began(epoch.source.fed)
        return make_schedule(self._runner(epoch), epoch, self._sync.policy if self._sync else None)

    def _plan(self) -> Plan:
        """Where the variables of this model are, and what its optimizers keep of them."""
        kept = [*self._model.variables, *(v for one in of_model(self._model) for v in one.variables)]
        return Plan(self._strategy.num_servers, tuple(v.placement for v in stored_values(kept, (Table, DenseVariable))))

    def _start(self, epoch: Epoch, shard: int) -> None:
        """Makes a worker's shard of an epoch begin, or go on, on that worker or on another if it is gone."""
        while True:
            host = self._strategy.host_of(shard)
            name = self._function_over(epoch.source, "" if host == shard else f"_{shard}")
            self._named[host, name] = epoch.source.element_spec
            try:
                self._strategy.pool.call(host, functools.partial(epoch.start, shard, host, name))
                return
            except WorkerLostError:
                continue

    def _function_over(self, source: Any, suffix: str) -> str:
        """The name of the iterators for batches of this kind, whose closures are traced.

        They are traced once more where an input is so much longer that its closures have longer turns.
        """
        element_spec, turn = source.element_spec, self._steps_of_turn(source.most_batches)
        kind, traced_for = self._kinds.get(repr(element_spec), ("", 0))
        if traced_for < turn:
            kind = f"tfps_input_{next(_NUMBERS)}"
            self._kinds[repr(element_spec)] = kind, turn
        name = kind + suffix
        if name not in self._over_iterator:

            def trace(tensor: Any) -> Any:
                order = Order.read(tensor)
                next_batch = worker_iterator(name, element_spec).get_next_as_optional
                if self._sync is not None and self._sync.policy.drop_slowest:
                    next_batch = functools.partial(next_or_again, name, element_spec, next_batch, order.again > 0)
                closure = self._make_closure(element_spec, turn)
                return self._traced(closure, closure.over_iterator(next_batch, order))

            traced = tf.function(trace, autograph=False).get_concrete_function(tf.TensorSpec([LENGTH], tf.int64))
            self._over_iterator[name] = traced
        return name

    def _trace_batches(self, order: Any, batches: list[Any]) -> Any:
        closure = self._make_closure(batches[0])
        return self._traced(closure, closure.over_batches(batches, Order.read(order)))

    def _traced(self, closure: Closure, graph: Any) -> Any:
        """Any closure that is traced reads the results of all; threads of workers trace while others read."""
        self._closure = closure
        return graph

    def _steps_of_turn(self, batches: int | None) -> int:
        """Steps of a turn at most, of an input of so many batches: more than a closure's are traced for nothing."""
        if self._mode is not None or self._sync is not None:
            return 1
        return min(MOST_STEPS, closure_steps(batches, self._strategy.num_workers, self._closure_steps))

    def _fed_steps(self) -> int:
        """Steps of a closure over batches of the chief: as many as a turn has, but one until a step is traced."""
        operations = self._closure.operations if self._closure is not None else 0
        return steps_of_turn(operations, MOST_STEPS) if operations else 1

    def _make_closure(self, spec: Any, turn: int = 1) -> Closure:
        """Traces closures over batches like `spec`, up to `turn` steps in a turn of their loop."""
        model, optimizers, workers = self._model, of_model(self._model), self._strategy.num_workers
        updated = self._updates and self._sync is None
        if updated and not all(optimizer.built for optimizer in optimizers):
            Recording(self._alone, spec)  # a step that builds those it applies, so that their slots are known
        kept = [*model.variables, *(v for one in optimizers if updated for v in one.variables)]
        if updated:
            moving_averages.note_averages(model)
        window = geo.window_mode(model, workers) if self._updates else None
        program = Program(
            self._traced_step,
            stored_values(kept, DenseVariable),
            stored_values(model.metrics_variables, SumVariable),
            geo.dense_scales(model, workers) if updated else {},
            updated,
            turn,
            prefetches=self._strategy.prefetch_lookups,
            window=window,
            overlaps=self._overlaps,
            window_methods=self._window_methods() if window and hasattr(model, "train_window") else None,
            ledgers=self._ledgers,
        )
        return self._sync.closure(program) if self._sync else Closure(program)

    def _traced_step(self, batch: Any) -> Mapping[str, Any]:
        with self._in_scope():
            return self._own_logs(self._step(_without_optionals(batch)))

    def _alone(self, lookups: Any, batch: Any) -> Any:
        """A step on what the servers hold."""
        with step.tracing(step.Step(lookups, {})):
            return self._traced_step(batch)

    def _window_methods(self) -> WindowMethods:
        if not callable(getattr(self._model, "window_lookups", None)):
            raise UnsupportedError(
                "a model that trains whole windows must have a method `window_lookups` beside `train_window`. "
                f"Received: {self._model.__class__.__name__}."
            )

        def lookups(batches: Any) -> Any:
            with self._in_scope():
                return self._model.window_lookups(_without_optionals(batches))

        def train(batches: Any, rows: Any, steps: Any) -> Any:
            with self._in_scope():
                deltas, logs = self._model.train_window(_without_optionals(batches), rows, steps)
                return deltas, self._own_logs(logs)

        return WindowMethods(lookups, train)

    @contextlib.contextmanager
    def _in_scope(self) -> Iterator[None]:
        """Where a model's methods are traced."""
        replica = tf.distribute.ReplicaContext(self._strategy, replica_id_in_sync_group=0)
        with self._strategy.scope(), replica:
            yield

    def _own_logs(self, logs: Any) -> Mapping[str, Any]:
        """The logs that metrics do not give."""
        known, logs = set(self._model.get_metrics_result()), _flat(logs)
        return {} if not isinstance(logs, Mapping) or set(logs) <= known else logs

    def _read(self, vector: Any) -> Result:
        assert self._closure is not None
        return self._closure.read(vector)

    def _done(self, result: Result) -> None:
        if result.drift is not None and result.steps:
            self._drift = self._drift.after(result.drift)
        for variable, added in zip(stored_values(self._model.metrics_variables, SumVariable), result.sums, strict=True):
            variable.assign_add(added)
        if result.steps:
            self._last_logs = result.logs
        if self._first_steps is not None and self._schedule is not None:  # while the stream is full, and not at its end
            self._first_steps.done(result.steps)


def _flat(logs: Any) -> Any:
    """Logs of one level: the result of all compiled metrics is a dictionary, which Keras flattens too."""
    if not isinstance(logs, Mapping):
        return logs
    levels = [_flat(value) if isinstance(value, Mapping) else {name: value} for name, value in logs.items()]
    return {name: value for level in levels for name, value in level.items()}


def _without_optionals(batch: Any) -> Any:
    """Keras passes a missing sample weight as an empty Optional."""
    return tree.map_structure(lambda x: None if isinstance(x, tf.experimental.Optional) else x, batch)
