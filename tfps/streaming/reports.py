"""What the log says of each window: a line of results, and a warning when training falls behind."""

import logging
import time
from collections.abc import Mapping
from typing import Any

import keras

from tfps.streaming.windows import Window

_LOG = logging.getLogger("tfps")

Logs = dict[str, Any]


def examples_of(model: keras.Model) -> int | None:
    """Returns the number of examples of the last epoch of a model; None if the model does not count them."""
    loss = next((metric for metric in model.metrics if metric.name == "loss"), None)
    # Keras weights the loss of a batch by its examples, so their number is the weight of the mean.
    count = getattr(loss, "count", None)
    return None if count is None else round(float(count))


def report_window(window: Window, unit: str, logs: Mapping[str, Any], now_s: float | None = None) -> Logs:
    """Logs a window that is learned.

    Args:
        window: the window.
        unit: what its source counts.
        logs: its logs, with "seconds" and "examples".
        now_s: the time; None for now.

    Returns:
        The logs, with "lag_s" for a window of time.
    """
    logs, seconds = dict(logs), float(logs["seconds"])
    if window.end_s is not None:
        logs["lag_s"] = (time.time() if now_s is None else now_s) - window.end_s
    _LOG.info("%s", _describe(window, unit, logs))
    # The test counts: training falls behind if the next window is complete before this one is learned.
    if window.end_s is not None and window.start_s is not None and seconds > window.end_s - window.start_s:
        _LOG.warning(
            "%s took %.1f s and lasts %.0f s: training falls behind its stream, by %.0f s so far. Valid: more workers, "
            "larger batches, longer windows, or test=False.",
            window,
            seconds,
            window.end_s - window.start_s,
            logs["lag_s"],
        )
    return logs


def _describe(window: Window, unit: str, logs: Mapping[str, Any]) -> str:
    seconds, examples = float(logs["seconds"]), logs.get("examples")
    parts = [f"{window.count:,} {unit}"]
    if examples is not None:
        parts.append(f"{examples:,} examples")
    shown = ("examples", "seconds", "lag_s")
    parts += [f"{name} {value:.4g}" for name, value in sorted(logs.items()) if name not in shown and _is_number(value)]
    rate = f" ({examples / seconds:,.0f} examples/s)" if examples and seconds else ""
    parts.append(f"{seconds:.1f} s{rate}")
    if "lag_s" in logs:
        parts.append(f"{logs['lag_s']:.0f} s behind")
    return f"{window}: {', '.join(parts)}."


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
