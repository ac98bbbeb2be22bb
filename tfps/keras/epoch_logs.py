"""The logs of an epoch: what the steps of the model returned, over all workers, and logs of the training mode."""

import time
from typing import Any

from tfps.keras.model_steps import ModelSteps
from tfps.training.closure import Floats, Result
from tfps.training.mode import EpochTotals, Mode

_LOGS_EVERY_S = 0.25
"""Seconds between two computations of logs that no callback reads. In between, the last logs are shown."""


class EpochLogs:
    """Adds up the results of closures and turns them into logs.

    Args:
        steps: the steps of the model, which know how logs follow from results.
        mode: the training mode, which may add logs.
    """

    def __init__(self, steps: ModelSteps, mode: Mode) -> None:
        self._steps, self._mode = steps, mode
        self._totals = EpochTotals()
        self._sums: dict[str, Floats | float] = {}
        self._shown: dict[str, Any] = {}
        self._shown_at = 0.0
        self._read, self._changed = False, False

    def begin(self, read: bool = False) -> None:
        """Begins an epoch, or a single batch.

        Args:
            read: whether callbacks read the logs after each batch, so that none may lag.
        """
        self._totals, self._sums, self._shown = EpochTotals(), {}, {}
        self._read = read

    def add(self, result: Result) -> None:
        """Adds the result of a closure."""
        self._totals.add(result)
        self._changed = True
        for variable, added in zip(self._steps.sums(), result.sums, strict=True):
            variable.assign_add(added)
        # A closure that found no more input ran no step, and its sums are 0.
        for name, value in result.logs.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def recent(self) -> dict[str, Any]:
        """Returns logs that may lag by `_LOGS_EVERY_S`, unless callbacks read them."""
        # Keras asks for logs after every step, and computing all metrics that often would slow a fast step down.
        due = self._read or time.monotonic() - self._shown_at > _LOGS_EVERY_S
        if not self._shown or (due and self._changed):
            self._shown, self._changed = self.current(), False
        return self._shown

    def current(self, ended: bool = False) -> dict[str, Any]:
        """Returns the logs of all closures so far.

        Args:
            ended: whether the epoch has ended.
        """
        return {**self.returned(), **self._mode.epoch_logs(self._totals, ended)}

    def returned(self) -> dict[str, Any]:
        """Returns the logs of all closures so far without those of the mode; none before the first step."""
        self._shown_at = time.monotonic()
        returned, steps = self._steps.returned, self._totals.steps
        if returned is None or not steps:
            return {}
        means = {name: value / steps for name, value in self._sums.items()}
        return returned.compute(means, self._steps.model.get_metrics_result)
