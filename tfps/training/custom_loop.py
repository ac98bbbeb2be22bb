"""Hand-written loops: what `strategy.run` does inside a function that a `ClusterCoordinator` schedules.

Each call of the function is a closure of one step, traced by the user's `tf.function`.
Cost: dense variables cross in every step, both ways.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfps import step
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.closure import Copies
from tfps.training.exchange import Exchange
from tfps.training.hoisting import DirectLookups, Recording
from tfps.types import Nest


def run_in_step(strategy: ParameterServerStrategy, function: Callable[..., Nest]) -> Callable[..., Nest]:
    """`function` as one step: dense variables are the worker's copies, exchanged before and after it.

    Metric state stays on the chief and is added to there; random generators draw the same numbers on all workers.
    """

    def run_function(*args: Any, **kwargs: Any) -> Nest:
        copies: Copies = {}

        def run(lookups: DirectLookups, given: tuple[tuple[Nest, ...], dict[str, Nest]]) -> Nest:
            # `copies` is filled between the recording and the real trace; both see the same dictionary. Empty, it makes
            # a recording read what the servers have, which nobody runs.
            with step.tracing(step.Step(lookups, copies, by_hand=True)):
                return function(*given[0], **given[1])

        given = args, kwargs
        # The recording comes first: an optimizer may build itself in it, and only then all variables are known.
        recording = _record(run, given)
        exchange = Exchange(strategy.dense_variables)
        exchange.pull()
        copies.update(exchange.copies)
        result = run(recording.lookups(given) if recording else DirectLookups(), given)
        exchange.push()
        return result

    return run_function


def _record(run: Callable[[DirectLookups, Nest], Nest], given: Nest) -> Recording | None:
    """A recording of a step that is given tensors and nothing else; None of any other step.

    With it the rows of all lookups can be asked for at once.
    """
    leaves = tf.nest.flatten(given, expand_composites=True)
    known = not tf.executing_eagerly() and all(isinstance(leaf, tf.Tensor) for leaf in leaves)
    return Recording(run, given) if known else None
