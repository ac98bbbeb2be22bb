"""Hand-written loops: what `strategy.run` does inside a function that a `ClusterCoordinator` schedules."""

from collections.abc import Callable
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
        exchange = Exchange(strategy.dense_variables)
        exchange.pull()

        def run(lookups: Any, given: Any) -> Any:
            with step.tracing(step.Step(lookups, exchange.copies)):
                return function(*given[0], **given[1])

        given = args, kwargs
        result = run(_lookups(run, given), given)
        exchange.push()
        return result

    return stepped


def _lookups(run: Callable[[Any, Any], Any], given: Any) -> DirectLookups:
    """Asks for the rows of all lookups at once, as far as their ids follow from tensors that the step is given."""
    leaves = tf.nest.flatten(given, expand_composites=True)
    if tf.executing_eagerly() or not all(isinstance(leaf, tf.Tensor) for leaf in leaves):
        return DirectLookups()
    return Recording(run, given).lookups(given)
