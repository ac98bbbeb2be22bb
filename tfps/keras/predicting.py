"""`predict`: batches go to whichever worker is free, their results come back in the order of the input.

A batch goes through: asked (its call runs, or waits behind others) -> early (done before one that comes before it) ->
given. A batch whose worker is lost is asked for again on another: a prediction changes nothing.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfps import step
from tfps.inputs.worker_input import as_tensor, of_this_context
from tfps.keras._compat import TFEpochIterator, tree
from tfps.keras.variables import stored_values
from tfps.runtime.losses import WorkerLostError
from tfps.runtime.pool import Calls
from tfps.strategy.variables import DenseVariable
from tfps.training.exchange import Exchange
from tfps.training.hoisting import DirectLookups, Recording
from tfps.types import Nest

_IN_FLIGHT = 4
"""Batches a worker has under way. More than closures of training have, as each is one step alone."""


def predict(
    stock: Callable[..., Nest],
    model: keras.Model,
    x: Nest,
    batch_size: int | None = None,
    verbose: str | int = "auto",
    steps: int | None = None,
    callbacks: Any = None,
) -> Nest:
    """Keras's `predict` over the workers.

    Args:
        stock: Keras's own, which is not used: it would run the model on the chief.
        model: a Keras model of our strategy.
        x: as of Keras, as all that follow.
        batch_size: see `x`.
        verbose: see `x`.
        steps: see `x`.
        callbacks: see `x`.
    """
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
    outputs: list[Nest] = []
    model.stop_predicting = False
    callbacks.on_predict_begin()
    batches = iter(of_this_context(epoch_iterator._distributed_dataset.dataset))
    for number, result in enumerate(_results(model, batches, steps)):
        callbacks.on_predict_batch_begin(number)
        outputs.append(result)
        callbacks.on_predict_batch_end(number, {"outputs": result})
        if model.stop_predicting:
            break
    callbacks.on_predict_end()
    return tree.map_structure(lambda *parts: np.concatenate(parts), *outputs)


def predict_on_batch(stock: Callable[..., Nest], model: keras.Model, x: Nest) -> Nest:
    """Keras's `predict_on_batch` on one worker."""
    return next(iter(_results(model, iter([(x,)]), None)))


def _results(model: keras.Model, batches: Iterable[Nest], steps: int | None) -> Iterator[Nest]:
    """The outputs of each batch, in order.

    Memory: at most `_IN_FLIGHT` batches a worker are read and not given.
    """
    strategy = model.distribute_strategy
    function = _predict_function(model)
    calls = Calls(strategy.pool, "predictions for a batch", strategy.closure_timeout_s)
    early: dict[int, Nest] = {}
    asked: dict[int, Callable[[], Nest]] = {}
    given = 0

    def ask(number: int) -> None:
        # Round robin; a worker that is lost is replaced by one that lives.
        calls.submit(strategy.host_of(number % strategy.num_workers), number, asked[number])

    try:
        for number, batch in enumerate(batches):
            if steps is not None and number >= steps:
                break
            asked[number] = functools.partial(function, tree.map_structure(as_tensor, batch))
            ask(number)
            # All workers have enough to do: waits for the oldest batch before the next is read.
            if number - given + 1 >= _IN_FLIGHT * strategy.num_workers:
                yield _wait_for(calls, early, given, ask)
                given += 1
                del asked[given - 1]  # it holds the batch
        while calls or early:
            yield _wait_for(calls, early, given, ask)
            given += 1
    finally:
        # Where a callback stopped the loop, or a call failed, what has not begun need not be.
        calls.abandon(0.0)


def _wait_for(calls: Calls, early: dict[int, Nest], number: int, ask: Callable[[int], None]) -> Nest:
    """Waits for the outputs of one batch; those of later ones that end before it go to `early`."""
    while number not in early:
        tag, outputs = calls.take()
        if isinstance(outputs, WorkerLostError):
            ask(tag)
        else:
            early[tag] = outputs
    return early.pop(number)


def _predict_function(model: keras.Model) -> Callable[[Nest], Nest]:
    """The traced `predict_step`; made once a model, and traced for each kind of batch."""
    if model.predict_function is None:

        def trace(batch: Nest) -> Nest:
            exchange = Exchange(stored_values(model.variables, DenseVariable))
            # Nothing is pushed: the copies are read and forgotten.
            exchange.pull()

            def run(lookups: DirectLookups, inputs: Nest) -> Nest:
                with step.tracing(step.Step(lookups, exchange.copies)), model.distribute_strategy.scope():
                    return model.predict_step(inputs)

            return run(Recording(run, batch).lookups(batch), batch)

        # Past Keras's own setter, which would track the function.
        object.__setattr__(model, "predict_function", tf.function(trace, autograph=False, reduce_retracing=True))
    return model.predict_function
