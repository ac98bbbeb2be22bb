"""The logs of an epoch: metric results, a model's own logs, and what the mode of training adds."""

import time
from collections.abc import Mapping
from typing import Any

import keras

from tfps.keras.variables import stored_values
from tfps.strategy.variables import SumVariable
from tfps.training.closure import Result
from tfps.training.mode import EpochTotals, Mode

_LOGS_EVERY_S = 0.25
"""Metric results are computed at most this often while an epoch runs; in between the last ones are shown."""


class EpochLogs:
    """Adds up the results of closures and turns them into logs.

    Args:
        model: has the metrics.
        mode: may add logs of its own.
    """

    def __init__(self, model: keras.Model, mode: Mode) -> None:
        self._model, self._mode = model, mode
        self._totals = EpochTotals()
        self._own: Mapping[str, float] = {}
        self._shown: dict[str, Any] = {}
        self._shown_at = 0.0

    def begin(self) -> None:
        """Begins an epoch."""
        # Own logs stay: until the first closure of an epoch is done they tell which names the logs have.
        self._totals, self._shown = EpochTotals(), {}

    def add(self, result: Result) -> None:
        """Adds a closure to the metrics."""
        self._totals.add(result)
        for variable, added in zip(stored_values(self._model.metrics_variables, SumVariable), result.sums, strict=True):
            variable.assign_add(added)
        # The logs of a closure that found its input used up are those of no step.
        if result.steps:
            self._own = result.logs

    def recent(self) -> dict[str, Any]:
        """Logs that may lag by `_LOGS_EVERY_S`."""
        if time.monotonic() - self._shown_at > _LOGS_EVERY_S or not self._shown:
            self._shown = self.current()
        return self._shown

    def current(self, ended: bool = False) -> dict[str, Any]:
        """Logs of all closures so far.

        Args:
            ended: whether the epoch has ended.
        """
        self._shown_at = time.monotonic()
        results = self._model.get_metrics_result()
        if self._own:
            # A user's own logs; those that name a metric show its result, not the last step's value.
            results = {name: results.get(name, value) for name, value in self._own.items()}
        return {**results, **self._mode.epoch_logs(self._totals, ended)}
