"""`predict`: batches go to all workers in turn, their results come back in the order of the input."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfps import step
from tfps.inputs.chief_dataset import as_tensor, move_to_this_context
from tfps.keras._compat import TFEpochIterator, tree
from tfps.keras.variables import stored_values
from tfps.runtime.ordered_results import run_in_order
from tfps.strategy.variables import DenseVariable
from tfps.training.exchange import Exchange
from tfps.training.hoisting import DirectLookups, Recording
from tfps.types import Nest


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
    # As Keras does; a list that is one already belongs to an outer loop.
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
    batches = iter(move_to_this_context(epoch_iterator._distributed_dataset.dataset))
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
    """The outputs of each batch, in order; batches are read as workers have room for them."""
    function = _predict_function(model)
    calls = (
        functools.partial(function, tree.map_structure(as_tensor, batch)) for batch in itertools.islice(batches, steps)
    )
    return run_in_order(model.distribute_strategy, "predictions for a batch", calls)


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
