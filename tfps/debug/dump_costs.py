"""What a dump costs: estimated before it begins, and told when it ends."""

import functools
import logging
import operator

import keras
import tensorflow as tf

from tfps.debug.on_workers import call_all
from tfps.debug.worker import Costs
from tfps.strategy.strategy import ParameterServerStrategy

_LOG = logging.getLogger("tfps")
DRAIN_S = 60.0
"""The most seconds that the end of `fit` waits for the disk of a worker: 256 MB take a second on most."""
FAILED_DRAIN_S = 10.0
"""The same where `fit` has failed, and the user waits for the error."""


def bytes_of(variable: keras.Variable) -> int:
    """Returns the bytes of the value of a variable."""
    return int(tf.TensorShape(variable.shape).num_elements()) * int(tf.as_dtype(variable.dtype).size)


def show(size: float) -> str:
    """Returns a number of bytes as text: "3.2 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def collect(dump: str, strategy: ParameterServerStrategy | None, timeout_s: float) -> Costs:
    """Waits until workers have written their steps; returns the costs of all of them.

    Args:
        dump: the key of the dump.
        strategy: the strategy whose workers write; None for this process.
        timeout_s: the most seconds to wait for the disk of a worker; 0 for the costs so far.
    """
    found = call_all(strategy, "tfps.debug.worker", "finish", [dump, timeout_s])
    return functools.reduce(operator.add, (Costs(**one) for one in found))


def tell(costs: Costs, path: str, step_s: float, limit_bytes: int) -> None:
    """Logs the costs of a dump.

    Args:
        costs: the costs of all workers.
        path: where the dump is.
        step_s: the seconds for which workers have trained, added up.
        limit_bytes: the limit of the dump.
    """
    _LOG.info(
        "Dump: %d steps, %s in %d files of %s. Steps waited %.2f s for it, %.1f %% of their time; writing took %.2f s "
        "beside them.",
        *(costs.steps, show(costs.bytes), 2 * costs.steps, path),
        *(costs.held_s, 100 * costs.held_s / max(step_s, 1e-9), costs.written_s),
    )
    if costs.over_limit:
        _LOG.warning(
            "Dump: %d steps were not dumped, because `limit_bytes` is %s.", costs.over_limit, show(limit_bytes)
        )
    if costs.left_out:
        why = costs.problem or "the disk was slower than training"
        _LOG.warning("Dump: %d steps were left out: %s.", costs.left_out, why)
