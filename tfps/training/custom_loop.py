"""Hand-written loops: what `strategy.run` does inside a function that a `ClusterCoordinator` schedules."""

from collections.abc import Callable, Hashable
from typing import Any

import tensorflow as tf

from tfps import step
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.exchange import Exchange
from tfps.training.hoisting import DirectLookups, Recording


def run_in_step(strategy: ParameterServerStrategy, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as one step: dense variables are the worker's copies, exchanged before and after it.

    Metric state stays on the chief and is added to there; random generators draw alike on all workers.
    """

    def stepped(*args: Any, **kwargs: Any) -> Any:
        copies: dict[Hashable, Any] = {}

        def run(lookups: Any, given: Any) -> Any:
            with step.tracing(step.Step(lookups, copies, by_hand=True)):
                return function(*given[0], **given[1])

        given = args, kwargs
        recording = _recording(run, given)  # in which an optimizer may build itself: only then all variables are known
        exchange = Exchange(strategy.dense_variables)
        exchange.pull()
        copies.update(exchange.copies)
        result = run(recording.lookups(given) if recording else DirectLookups(), given)
        exchange.push()
        return result

    return stepped


def _recording(run: Callable[[Any, Any], Any], given: Any) -> Recording | None:
    """Of a step that is given tensors and nothing else: the rows of all its lookups can be asked for at once."""
    leaves = tf.nest.flatten(given, expand_composites=True)
    known = not tf.executing_eagerly() and all(isinstance(leaf, tf.Tensor) for leaf in leaves)
    return Recording(run, given) if known else None
