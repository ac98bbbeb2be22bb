"""Hand-written loops: what `strategy.run` does inside a function that a `ClusterCoordinator` schedules."""

from collections.abc import Callable
from typing import Any

from tfps import step
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.exchange import Exchange
from tfps.training.hoisting import DirectLookups


def run_in_step(strategy: ParameterServerStrategy, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as one step: dense variables are the worker's copies, exchanged before and after it.

    Metric state stays on the chief and is added to there; random generators draw alike on all workers.
    """

    def stepped(*args: Any, **kwargs: Any) -> Any:
        exchange = Exchange(strategy.dense_variables)
        exchange.pull()
        with step.tracing(step.Step(DirectLookups(), exchange.copies)):
            result = function(*args, **kwargs)
        exchange.push()
        return result

    return stepped
