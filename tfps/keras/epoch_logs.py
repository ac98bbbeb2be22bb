"""The logs of an epoch: what the steps of the model returned, over all workers, and logs of the training mode."""

import time
from typing import Any

from tfps.keras.model_steps import ModelSteps
from tfps.training.closure import Floats, Result
from tfps.training.mode import EpochTotals, Mode

_LOGS_EVERY_S = 0.25
"""Seconds between two computations of logs while an epoch runs. In between, the last logs are shown."""


class EpochLogs:
    """Adds up the results of closures and turns them into logs.

    Args:
        steps: the steps of the model, which know how logs follow from results.
        mode: the training mode, which may add logs.

    Attributes:
        lag: whether `recent` may return logs that lack the last results.
    """

    def __init__(self, steps: ModelSteps, mode: Mode) -> None:
        self._steps, self._mode = steps, mode
        self._totals = EpochTotals()
        self._sums: dict[str, Floats | float] = {}
        self._shown: dict[str, Any] = {}
        self._shown_at = 0.0
        self._is_new, self.lag = False, True

    def begin(self) -> None:
        """Begins an epoch, or a single batch."""
        self._totals, self._sums, self._shown = EpochTotals(), {}, {}

    def add(self, result: Result) -> None:
        """Adds the result of a closure."""
        self._is_new = True
        self._totals.add(result)
        for variable, added in zip(self._steps.sums(), result.sums, strict=True):
            # Without the value that TensorFlow would read back: with many workers this runs often.
            variable.assign_add(added, read_value=False)
        for buffer, rows in zip(self._steps.buffers(), result.collected, strict=True):
            buffer.add(rows)
        # A closure that found no more input ran no step, and its sums are 0.
        for name, value in result.logs.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def recent(self) -> dict[str, Any]:
        """Returns logs that may lag by `_LOGS_EVERY_S` if `lag` is set."""
        # Keras asks for logs after every step, and computing all metrics that often would slow a fast step down.
        is_late = not self.lag or time.monotonic() - self._shown_at > _LOGS_EVERY_S
        if (is_late and self._is_new) or not self._shown:
            self._shown, self._is_new = self.current(), False
        # Callbacks may keep what they get.
        return dict(self._shown)

    def current(self, ended: bool = False) -> dict[str, Any]:
        """Returns the logs of all closures so far.

        Args:
            ended: whether the epoch has ended.
        """
        if ended:
            self.publish()
        return {**self.returned(), **self._mode.epoch_logs(self._totals, ended)}

    def publish(self) -> None:
        """Lets metrics that collect examples compute their results, which takes too long for every batch."""
        for buffer in self._steps.buffers():
            buffer.publish()

    def returned(self) -> dict[str, Any]:
        """Returns the logs of all closures so far without those of the mode; none before the first step."""
        self._shown_at = time.monotonic()
        returned, steps = self._steps.returned, self._totals.steps
        if returned is None or not steps:
            return {}
        means = {name: value / steps for name, value in self._sums.items()}
        return returned.compute(means, self._steps.model.get_metrics_result)
