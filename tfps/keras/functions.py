"""The functions that a Keras training loop calls for each step of training or evaluation. Workers run the steps."""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import keras

from tfps import jobs
from tfps.cluster import devices
from tfps.inputs.chief_dataset import as_tensor
from tfps.inputs.epoch import Epoch
from tfps.keras import seeds
from tfps.keras._compat import tree
from tfps.keras.batch_callbacks import LOOKAHEAD, TEST_LOOKAHEAD
from tfps.keras.epoch_logs import EpochLogs
from tfps.keras.model_steps import ModelSteps
from tfps.keras.modes import make_mode, settings_of
from tfps.keras.optimizers import leading_optimizer
from tfps.keras.rebalancing import HotServerWatch
from tfps.keras.summaries import summary_state
from tfps.monitoring.record import Kind
from tfps.placement.advice import format_start_up
from tfps.training.closure import Result
from tfps.training.evaluation import Evaluation
from tfps.training.first_steps import FirstSteps
from tfps.training.runner import Runner
from tfps.training.schedule import Schedule
from tfps.training.traced_closures import TracedClosures
from tfps.types import Nest

_LOG = logging.getLogger("tfps")


def forget_function(function: object, model: keras.Model, name: str, device: str) -> None:
    """Removes a function from its model, which then makes it anew, if a server was started again.

    Args:
        function: the function.
        model: the model that owns it.
        name: the attribute of the model that holds it.
        device: a device of the task that was started again.
    """
    # Graphs use no variable of a worker that they do not make themselves.
    if devices.is_of_job(device, jobs.PS):
        # The model may be a weak proxy of a model that was just dropped. By its dictionary, because Keras would track
        # what is assigned in the plain way.
        with contextlib.suppress(ReferenceError):
            if model.__dict__.get(name) is function:
                model.__dict__[name] = None


class StepFunction:
    """Replaces `model.train_function` or `model.test_function`.

    It connects the parts: the mode defines the steps, `TracedClosures` has their graphs, the `Runner` runs them, a
    `Schedule` hands out the steps of an epoch, and `EpochLogs` adds up their results.

    Args:
        model: a Keras model of our strategy.
        step: `model.train_step` or `model.test_step`.
        updates: whether the step changes variables.

    Attributes:
        mode: the mode that defines the steps.
        closures: the traced graphs of the steps.
        abandoned: the schedule of the epoch that failed last; None if none has.

    Threading: used from the thread of the training loop only.
    """

    def __init__(self, model: keras.Model, step: Callable[[Nest], Nest], updates: bool) -> None:
        self._steps = steps = ModelSteps(model, step)
        # Settings compare by value, so `is_outdated` sees when the optimizer was put into another mode since.
        self._settings = settings_of(leading_optimizer(model)) if updates else None
        self.mode = make_mode(steps) if updates else Evaluation(steps.strategy, steps.closure_steps)
        program = functools.partial(steps.program, self.mode.applies_updates)
        self.closures = TracedClosures(steps.strategy, self.mode, program, steps.trainable)
        self._runner = Runner(steps.strategy, self.closures, self._count)
        self._logs = EpochLogs(steps, self.mode)
        self._schedule: Schedule | None = None
        self.abandoned: Schedule | None = None
        self._first_steps = FirstSteps(steps.strategy, steps.is_float32) if updates else None
        self._hot_servers = HotServerWatch(steps.strategy) if updates else None
        self._name = "train_function" if updates else "test_function"
        self._kind: Kind = "train" if updates else "test"
        # Whether those who watch the job know the ids of a step; those of an evaluation do not matter to them.
        self._knows_ids = not updates
        steps.strategy.connection.add_holder(self)

    def forget(self, device: str) -> None:
        """Removes this function from its model if a server was started again: its graphs name lost variables."""
        forget_function(self, self._steps.model, self._name, device)

    def __call__(self, iterator: Epoch | Iterator[Nest]) -> dict[str, Any]:
        """Takes `steps_per_execution` finished steps from the schedule and returns logs, which may lag behind them.

        Raises:
            StopIteration: the input has no more.
        """
        if not isinstance(iterator, Epoch):
            return self._run_single(iterator)
        # A new iterator, or one whose schedule is used up, begins another epoch.
        if self._schedule is None or self._schedule.epoch is not iterator or self._schedule.spent:
            self.join()
            self._schedule = self._begin(iterator)
        if not self._schedule.take(self._steps.model.steps_per_execution):
            raise StopIteration
        if self._steps.strategy.stop_signals.asked:
            # Keras looks at the first in `fit` and at the second in `evaluate`, which may run within `fit`.
            self._steps.model.stop_training = self._steps.model.stop_evaluating = True
        else:
            self.closures.lengthen_turns(iterator)
        logs = self._logs.recent()
        if self._first_steps is not None:
            self._steps.strategy.record.set_logs(logs)
        return logs

    @property
    def schedule(self) -> Schedule | None:
        """The schedule of the epoch that runs; None between two epochs."""
        return self._schedule

    @property
    def is_outdated(self) -> bool:
        """Whether the mode of the optimizer has changed since the steps were made."""
        return self._first_steps is not None and self._settings != settings_of(leading_optimizer(self._steps.model))

    def join(self) -> None:
        """Ends the epoch at once, after waiting for the steps under way."""
        if self._schedule is not None:
            self._schedule.join()
            # Cleared only after a successful join: if it fails, `abandon` still has to find the schedule.
            self._schedule = None

    def settle(self) -> None:
        """Waits for the steps under way. The epoch continues after that."""
        if self._schedule is not None:
            self._schedule.settle()

    def abandon(self, timeout_s: float) -> None:
        """Ends a failed epoch and gives the steps under way `timeout_s` seconds to end."""
        # The schedule is cleared first, so that a failure in here cannot leave it behind for the next `fit`.
        under_way, self._schedule = self._schedule, None
        self.abandoned = under_way
        if under_way is not None:
            under_way.abandon(timeout_s)

    def finish(self) -> dict[str, Any]:
        """Ends the epoch: waits for all steps and returns the final logs."""
        if self._first_steps is not None:
            self._first_steps.end_epoch()
        self.join()
        self.closures.forget_whole_tables()
        if self._hot_servers is not None:
            self._hot_servers.end_epoch()
        logs = self._logs.current(ended=True)
        if self._first_steps is not None:
            self._steps.strategy.record.set_logs(logs)
        return logs

    def _run_single(self, batches: Iterator[Nest]) -> dict[str, Any]:
        """Runs `train_on_batch` and `test_on_batch`: sends each batch to a worker and waits for the result."""
        # The steps of a running epoch have to be in the metrics before this batch is.
        self.join()
        self.closures.forget_whole_tables()
        self._logs.begin()
        self._steps.summary_state = summary_state()
        for data in batches:
            # The tensors are made on the chief and travel to the worker as arguments of the call.
            batch = tree.map_structure(as_tensor, data)
            self._steps.begin_carrying()
            with seeds.twins_of(self._steps.strategy).loop():
                self._count(self.mode.run_batch(functools.partial(self._runner.run_batch, batch)))
        self.closures.forget_whole_tables()
        self._logs.publish()
        # Without the logs of the mode: `train_on_batch` returns what the step returned, in an order that users unpack.
        return self._logs.returned()

    def _begin(self, epoch: Epoch) -> Schedule:
        """Starts the iterators on the workers and traces new closures, before any closure runs."""
        self._steps.summary_state = summary_state()
        # Read before `start` fills it. The plan is logged the first time a model is trained, after tracing has found
        # the lookups.
        new = not self.closures.by_iterator
        # A call that failed may have left copies of tables.
        self.closures.forget_whole_tables()
        self.closures.start(epoch)
        # Before any closure runs, and after tracing has found what is carried.
        self._steps.begin_carrying()
        self._logs.begin()
        if self._first_steps is not None:
            if new:
                self._log_plan(epoch)
            self._first_steps.begin_epoch(epoch.source.is_fed)
        self._record_epoch(epoch)
        name = LOOKAHEAD if self._first_steps is not None else TEST_LOOKAHEAD
        lookahead = getattr(self._steps.model, name, None)
        self._logs.lag = lookahead is None or not lookahead.reads_logs
        # It costs a read from a server. Whether fed steps use numbers is only known once the first closure runs.
        numbered = self._steps.uses_numbers or epoch.source.is_fed
        if numbered and self._first_steps is not None and self._steps.model.optimizer is not None:
            self._runner.trained = self._steps.trained_steps()
        self._runner.lookahead = lookahead.steps if lookahead is not None else lambda workers: None
        return self.mode.schedule(self._runner, epoch)

    def _record(self, result: Result) -> None:
        """Counts a closure for those who watch the job."""
        record = self._steps.strategy.record
        counts = result.steps, result.examples, result.unique_rows, result.cached, result.shard_rows
        record.count_closure(self._kind, result.worker, *counts)
        if not self._knows_ids:
            # The shapes of a dataset seldom have the batch size, but the first closure has counted it.
            record.set_ids_per_step(self.closures.ids_per_step(result.examples // result.steps))
            self._knows_ids = True

    def _record_epoch(self, epoch: Epoch) -> None:
        """Tells those who watch the job what begins."""
        if self._first_steps is None:
            return
        record, model, self._knows_ids = self._steps.strategy.record, self._steps.model, False
        # Keras tells the number of an epoch to callbacks alone. Its own callback keeps those that have ended.
        history = getattr(model, "history", None)
        ended = history.epoch if history is not None else []
        record.begin_epoch(
            type(self.mode).__name__.lower(),
            # As Keras does, where a callback has resumed a `fit`.
            ended[-1] + 1 if ended else model._initial_epoch or record.initial_epoch,
            None if history is None else (history.params or {}).get("epochs"),
            epoch.source.steps_per_epoch or epoch.source.num_batches,
            epoch.source.is_fed,
            # A `fit` that was resumed within an epoch; the schedule will set this to 0.
            epoch.handed,
        )

    def _log_plan(self, epoch: Epoch) -> None:
        """Logs once where the variables of the model are and how many rows a step looks up."""
        ids = self.closures.ids_per_step(epoch.source.examples)
        workers = self._steps.strategy.num_workers
        small = self._steps.small_tables()
        plan, strategy = self._steps.plan(), self._steps.strategy
        has_tables = any(placement.spec.is_table for placement in plan.placements)
        repeated_ids = strategy.repeated_ids if has_tables else None
        line = format_start_up(plan, ids, workers, self.mode.closure_steps, small, repeated_ids)
        _LOG.info("%s", line)

    def _count(self, result: Result) -> None:
        self._logs.add(result)
        self.closures.trained += result.steps
        if result.steps:
            self._record(result)
        # Only epochs count: the time of a single batch says nothing about the speed of the cluster. Nor do the short
        # closures of a young model.
        if self._first_steps is not None and self._schedule is not None and self._schedule.is_whole:
            self._first_steps.count(result.steps)
