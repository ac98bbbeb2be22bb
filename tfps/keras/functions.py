"""The functions a model's training loop calls: one step of training or evaluation, run by the workers."""

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import keras

from tfps.inputs.chief_dataset import as_tensor
from tfps.inputs.epoch import Epoch
from tfps.keras._compat import tree
from tfps.keras.epoch_logs import EpochLogs
from tfps.keras.model_steps import ModelSteps
from tfps.keras.modes import make_mode, settings_of
from tfps.placement.advice import format_start_up
from tfps.training.closure import Result
from tfps.training.evaluation import Evaluation
from tfps.training.first_steps import FirstSteps
from tfps.training.runner import Runner
from tfps.training.schedule import Schedule
from tfps.training.traced_closures import TracedClosures
from tfps.types import Nest

_LOG = logging.getLogger("tfps")


class StepFunction:
    """What stands for `model.train_function` or `model.test_function`.

    It joins the parts: the mode says how steps are made, `TracedClosures` has their graphs, the `Runner` runs them, a
    `Schedule` hands out those of an epoch, and `EpochLogs` adds up what they return.

    Args:
        model: a Keras model of our strategy.
        step: `model.train_step` or `model.test_step`.
        updates: whether the step changes variables.

    Attributes:
        mode: how the steps are made.
        closures: their graphs.

    Threading: the training loop's thread.
    """

    def __init__(self, model: keras.Model, step: Callable[[Nest], Nest], updates: bool) -> None:
        self._steps = steps = ModelSteps(model, step)
        # The settings are values: those of an optimizer that was put into another mode differ from these.
        self._settings = settings_of(model.optimizer) if updates else None
        self.mode = make_mode(steps) if updates else Evaluation(steps.strategy, steps.closure_steps)
        program = functools.partial(steps.program, self.mode.applies_updates)
        self.closures = TracedClosures(steps.strategy, self.mode, program)
        self._runner = Runner(steps.strategy, self.closures, self._count)
        self._logs = EpochLogs(steps.model, self.mode)
        self._schedule: Schedule | None = None
        self._first_steps = FirstSteps(steps.strategy) if updates else None

    def __call__(self, iterator: Epoch | Iterator[Nest]) -> dict[str, Any]:
        """Hands out `steps_per_execution` steps that are done; returns logs, which may lag.

        Raises:
            StopIteration: the input has no more.
        """
        if not isinstance(iterator, Epoch):
            return self._run_single(iterator)
        # An input that was used up, or another one, begins another epoch.
        if self._schedule is None or self._schedule.epoch is not iterator or self._schedule.spent:
            self.join()
            self._schedule = self._begin(iterator)
        if not self._schedule.take(self._steps.model.steps_per_execution):
            raise StopIteration
        return self._logs.recent()

    @property
    def outdated(self) -> bool:
        """Whether the optimizer has another mode than the steps were made for."""
        return self._first_steps is not None and self._settings != settings_of(self._steps.model.optimizer)

    def join(self) -> None:
        """Ends the epoch where it is, and waits for the steps under way."""
        if self._schedule is not None:
            self._schedule.join()
            self._schedule = None  # not before: if it fails, what is under way has to be abandoned

    def settle(self) -> None:
        """Waits for the steps under way; the epoch continues after it."""
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
            self._first_steps.end_epoch()
        self.join()
        return self._logs.current(ended=True)

    def _run_single(self, batches: Iterator[Nest]) -> dict[str, Any]:
        """`train_on_batch` and `test_on_batch`: the batch goes to a worker, its result is waited for."""
        self.join()
        for data in batches:
            # On the chief; it crosses with the call.
            batch = tree.map_structure(as_tensor, data)
            self._count(self.mode.run_batch(functools.partial(self._runner.run_batch, batch)))
        return self._logs.current()

    def _begin(self, epoch: Epoch) -> Schedule:
        """Starts the workers' iterators and traces what is new, before any closure runs."""
        # Before they are started: the first time a model is trained it logs its plan, once the lookups are known.
        new = not self.closures.by_iterator
        self.closures.start(epoch)
        self._logs.begin()
        if self._first_steps is not None:
            if new:
                self._log_plan(epoch)
            self._first_steps.begin_epoch(epoch.source.fed)
        return self.mode.schedule(self._runner, epoch)

    def _log_plan(self, epoch: Epoch) -> None:
        """Says once where the model's variables are and what a step asks for."""
        ids = self.closures.ids_per_step(epoch.source.examples)
        workers = self._steps.strategy.num_workers
        _LOG.info("%s", format_start_up(self._steps.plan(), ids, workers, self.mode.closure_steps))

    def _count(self, result: Result) -> None:
        self._logs.add(result)
        if self._first_steps is not None and self._schedule is not None:
            # Of an epoch alone: a single batch says nothing about what the cluster can do.
            self._first_steps.count(result.steps)
