"""The logs of an epoch: metric results, logs of the model's own `train_step`, and logs of the training mode."""

import time
from collections.abc import Mapping
from typing import Any

import keras

from tfps.keras.variables import stored_values
from tfps.strategy.variables import SumVariable
from tfps.training.closure import Result
from tfps.training.mode import EpochTotals, Mode

_LOGS_EVERY_S = 0.25
"""Seconds between two computations of metric results while an epoch runs. In between, the last results are shown."""


class EpochLogs:
    """Adds up the results of closures and turns them into logs.

    Args:
        model: the model that has the metrics.
        mode: the training mode, which may add logs.
    """

    def __init__(self, model: keras.Model, mode: Mode) -> None:
        self._model, self._mode = model, mode
        self._totals = EpochTotals()
        self._own: Mapping[str, float] = {}
        self._shown: dict[str, Any] = {}
        self._shown_at = 0.0

    def begin(self) -> None:
        """Begins an epoch."""
        # `_own` keeps the last values, so that the logs have the same names until the first closure has finished.
        self._totals, self._shown = EpochTotals(), {}

    def add(self, result: Result) -> None:
        """Adds the result of a closure to the metrics."""
        self._totals.add(result)
        for variable, added in zip(stored_values(self._model.metrics_variables, SumVariable), result.sums, strict=True):
            variable.assign_add(added)
        # A closure that found no more input ran no step, so its logs have no meaning.
        if result.steps:
            self._own = result.logs

    def recent(self) -> dict[str, Any]:
        """Returns logs that may lag by `_LOGS_EVERY_S`."""
        # Keras asks for logs after every step, and computing all metrics that often would slow a fast step down.
        if time.monotonic() - self._shown_at > _LOGS_EVERY_S or not self._shown:
            self._shown = self.current()
        return self._shown

    def current(self, ended: bool = False) -> dict[str, Any]:
        """Returns the logs of all closures so far.

        Args:
            ended: whether the epoch has ended.
        """
        self._shown_at = time.monotonic()
        results = self._model.get_metrics_result()
        if self._own:
            # A name that is also a metric shows the result over all workers, not the value of the last step.
            results = {name: results.get(name, value) for name, value in self._own.items()}
        return {**results, **self._mode.epoch_logs(self._totals, ended)}
