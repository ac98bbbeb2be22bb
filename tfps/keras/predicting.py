"""`predict`: batches go to whichever worker is free, their results come back in the order of the input."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfps import step
from tfps.inputs.chief_dataset import as_tensor, in_this_context
from tfps.keras._compat import TFEpochIterator, keras, tree
from tfps.keras.variables import stored_values
from tfps.runtime.ordered_results import results_in_order
from tfps.strategy.variables import DenseVariable
from tfps.training.exchange import Exchange
from tfps.training.hoisting import Recording
from tfps.types import Nest


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
        _results(model, iter(in_this_context(epoch_iterator._distributed_dataset.dataset)), steps)
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


def _results(model: keras.Model, batches: Iterator[Nest], steps: int | None) -> Iterator[Nest]:
    """The outputs of each batch, in order."""
    function = _function_of(model)
    calls = (
        functools.partial(function, tree.map_structure(as_tensor, batch)) for batch in itertools.islice(batches, steps)
    )
    return results_in_order(model.distribute_strategy, "predictions for a batch", calls)


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
