"""Hand-written loops: `strategy.run` inside a function that a `ClusterCoordinator` schedules.

Each call of the function is a closure of one step, traced by the user's `tf.function`.
Cost: dense variables cross in both directions in every step.
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
    """Wraps `function` as one step on the worker's copies of dense variables, which it pulls before and pushes after.

    Metric state stays on the chief and is updated there. Random generators draw the same numbers on all workers.
    """

    def run_function(*args: Any, **kwargs: Any) -> Nest:
        if tf.executing_eagerly():
            return run_eagerly(function, *args, **kwargs)
        copies: Copies = {}
        # None for the recording. There is one step, so what it assigns is known when its deltas are pushed.
        exchange: Exchange | None = None

        def run(lookups: DirectLookups, batch: Nest) -> Nest:
            args_now, kwargs_now = batch or (args, kwargs)
            # The recording and the real trace share this dictionary, and it is filled in between. It is empty for the
            # recording, which then reads the variables of the servers in a graph that never runs.
            assignments = None if exchange is None else exchange.assignments
            with step.tracing(step.Step(lookups, copies, by_hand=True, assignments=assignments)):
                return function(*args_now, **kwargs_now)

        # Arguments that are no tensors are part of the function.
        batch: Nest = (args, kwargs)
        if not all(isinstance(leaf, tf.Tensor) for leaf in tf.nest.flatten(batch, expand_composites=True)):
            batch = ()
        # The recording comes first: the optimizer may create its variables in it, and the exchange needs all of them.
        recording = Recording(run, batch)
        exchange = Exchange(strategy.dense_variables, workers=strategy.num_workers)
        exchange.pull()
        copies.update(exchange.copies)
        result = run(recording.lookups(batch), batch)
        exchange.push()
        return result

    return run_function


def run_eagerly(function: Callable[..., Nest], *args: Any, **kwargs: Any) -> Nest:
    """Runs a function as an eager step: at once, on the variables and rows of the servers."""
    with step.tracing(step.Step(DirectLookups(), {}, by_hand=True, eager=True)):
        return function(*args, **kwargs)
