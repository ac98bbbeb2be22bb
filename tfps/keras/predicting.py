"""`predict`: batches go to whichever worker is free, their results come back in the order of the input."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfps import step
from tfps.inputs.worker_input import as_tensor, of_this_context
from tfps.keras._compat import TFEpochIterator, keras, tree
from tfps.keras.variables import stored_values
from tfps.runtime.losses import WorkerLostError
from tfps.runtime.pool import Calls
from tfps.strategy.variables import DenseVariable
from tfps.training.exchange import Exchange
from tfps.training.hoisting import Recording

_IN_FLIGHT = 4
"""Batches a worker has under way."""


def predict(
    stock: Any,
    model: Any,
    x: Any,
    batch_size: Any = None,
    verbose: Any = "auto",
    steps: Any = None,
    callbacks: Any = None,
) -> Any:
    """Keras's `predict` over the workers."""
    epoch_iterator = TFEpochIterator(
        x=x,
        batch_size=batch_size,
        steps_per_epoch=steps,
        shuffle=False,
        distribute_strategy=model.distribute_strategy,
        steps_per_execution=model.steps_per_execution,
    )
    if not isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = keras.callbacks.CallbackList(
            callbacks,
            add_progbar=verbose != 0,
            verbose=verbose,
            epochs=1,
            steps=epoch_iterator.num_batches,
            model=model,
        )
    outputs: list[Any] = []
    model.stop_predicting = False
    callbacks.on_predict_begin()
    for number, result in enumerate(
        _results(model, iter(of_this_context(epoch_iterator._distributed_dataset.dataset)), steps)
    ):
        callbacks.on_predict_batch_begin(number)
        outputs.append(result)
        callbacks.on_predict_batch_end(number, {"outputs": result})
        if model.stop_predicting:
            break
    callbacks.on_predict_end()
    return tree.map_structure(lambda *parts: np.concatenate(parts), *outputs)


def predict_on_batch(stock: Any, model: Any, x: Any) -> Any:
    """Keras's `predict_on_batch` on one worker."""
    return next(iter(_results(model, iter([(x,)]), None)))


def _results(model: Any, batches: Any, steps: int | None) -> Any:
    """The outputs of each batch, in order."""
    strategy = model.distribute_strategy
    function = _function_of(model)
    calls = Calls(strategy.pool, "predictions for a batch", strategy.closure_timeout_s)
    early: dict[int, Any] = {}
    asked: dict[int, Any] = {}
    given = 0

    def ask(number: int) -> None:
        calls.submit(strategy.host_of(number % strategy.num_workers), number, asked[number])

    try:
        for number, batch in enumerate(batches):
            if steps is not None and number >= steps:
                break
            asked[number] = functools.partial(function, tree.map_structure(as_tensor, batch))
            ask(number)
            if number - given + 1 >= _IN_FLIGHT * strategy.num_workers:
                yield _in_turn(calls, early, given, ask)
                given += 1
                del asked[given - 1]
        while calls or early:
            yield _in_turn(calls, early, given, ask)
            given += 1
    finally:
        calls.abandon(0.0)


def _in_turn(calls: Calls, early: dict[int, Any], number: int, ask: Callable[[int], None]) -> Any:
    """Waits for the outputs of one batch; those of later ones that end before it are kept in `early`."""
    while number not in early:
        tag, outputs = calls.take()
        if isinstance(outputs, WorkerLostError):
            ask(tag)
        else:
            early[tag] = outputs
    return early.pop(number)


def _predict_step(model: Any, current: step.Step, batch: Any) -> Any:
    with step.tracing(current), model.distribute_strategy.scope():
        return model.predict_step(batch)


def _function_of(model: Any) -> Any:
    """The traced `predict_step`; made once a model."""
    if model.predict_function is None:

        def trace(batch: Any) -> Any:
            exchange = Exchange(stored_values(model.variables, DenseVariable))
            exchange.pull()

            def run(lookups: Any, inputs: Any) -> Any:
                return _predict_step(model, step.Step(lookups, exchange.copies), inputs)

            return run(Recording(run, batch).lookups(batch), batch)

        object.__setattr__(model, "predict_function", tf.function(trace, autograph=False, reduce_retracing=True))
    return model.predict_function
