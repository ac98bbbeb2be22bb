"""`predict`: sends batches to all workers and returns the results in the order of the input."""

import functools
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfps import step
from tfps.embedding.whole import WHOLE_SUFFIX, WholeCopies
from tfps.inputs.chief_dataset import as_tensor, move_to_this_context
from tfps.keras._compat import TFEpochIterator, tree
from tfps.keras.variables import stored_values
from tfps.runtime.ordered_results import run_in_order
from tfps.strategy.variables import DenseVariable
from tfps.training.exchange import Exchange
from tfps.training.hoisting import DirectLookups, Recording
from tfps.types import Nest

_NUMBERS = itertools.count()


def predict(
    stock: Callable[..., Nest],
    model: keras.Model,
    x: Nest,
    batch_size: int | None = None,
    verbose: str | int = "auto",
    steps: int | None = None,
    callbacks: keras.callbacks.CallbackList | Sequence[keras.callbacks.Callback] | None = None,
) -> Nest:
    """Replaces Keras's `predict` and runs it on the workers.

    Args:
        stock: the method of Keras. It is not used, because it would run the model on the chief.
        model: a Keras model of our strategy.
        x: see `keras.Model.predict`.
        batch_size: see `keras.Model.predict`.
        verbose: see `keras.Model.predict`.
        steps: see `keras.Model.predict`.
        callbacks: see `keras.Model.predict`.

    Returns:
        The outputs of all batches, concatenated.
    """
    epoch_iterator = TFEpochIterator(
        x=x,
        batch_size=batch_size,
        steps_per_epoch=steps,
        shuffle=False,
        distribute_strategy=model.distribute_strategy,
        steps_per_execution=model.steps_per_execution,
    )
    # As in Keras: a CallbackList belongs to an outer loop, which has already set it up.
    if isinstance(callbacks, keras.callbacks.CallbackList):
        hooks = callbacks
    else:
        hooks = keras.callbacks.CallbackList(
            callbacks,
            add_progbar=verbose != 0,
            verbose=verbose,
            epochs=1,
            steps=epoch_iterator.num_batches,
            model=model,
        )
    outputs: list[Nest] = []
    model.stop_predicting = False
    hooks.on_predict_begin()
    # The chief reads the input itself: results have to come back in its order, and each batch goes out with its call.
    batches = iter(move_to_this_context(epoch_iterator._distributed_dataset.dataset))
    for number, result in enumerate(_results(model, batches, steps)):
        hooks.on_predict_batch_begin(number)
        outputs.append(result)
        hooks.on_predict_batch_end(number, {"outputs": result})
        if model.stop_predicting:
            break
    hooks.on_predict_end()
    return tree.map_structure(lambda *parts: np.concatenate(parts), *outputs)


def predict_on_batch(stock: Callable[..., Nest], model: keras.Model, x: Nest) -> Nest:
    """Replaces Keras's `predict_on_batch` and runs it on one worker."""
    return next(iter(_results(model, iter([(x,)]), None)))


def _results(model: keras.Model, batches: Iterable[Nest], steps: int | None) -> Iterator[Nest]:
    """Yields the outputs of each batch, in order."""
    # A generator, so that a batch is read only when a worker has room for it.
    function = _predict_function(model)
    # The copies of an earlier call do not have the updates since.
    function.variables.destroy_ending_in(WHOLE_SUFFIX)
    calls = (
        functools.partial(function, tree.map_structure(as_tensor, batch)) for batch in itertools.islice(batches, steps)
    )
    try:
        yield from run_in_order(model.distribute_strategy, "predictions for a batch", calls)
    finally:
        function.variables.destroy_ending_in(WHOLE_SUFFIX)


class _PredictFunction:
    """The `tf.function` of a model's `predict_step`. It traces each new kind of batch.

    Args:
        model: a Keras model of our strategy. It owns this object, so the reference is weak.

    Attributes:
        variables: the variables that its graphs name on workers.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = weakref.proxy(model)
        self.variables = model.distribute_strategy.remote_variables.make_owned(self)
        self._copies = WholeCopies(f"prediction_{next(_NUMBERS)}", "predict")
        self._function = tf.function(self._trace, autograph=False, reduce_retracing=True)

    def __call__(self, batch: Nest) -> Nest:
        """Predicts one batch on the worker of the calling context."""
        return self._function(batch)

    def _trace(self, batch: Nest) -> Nest:
        model = self._model
        exchange = Exchange(stored_values(model.variables, DenseVariable))
        # Prediction only reads the copies, so nothing is pushed at the end.
        exchange.pull()

        def run(lookups: DirectLookups, inputs: Nest) -> Nest:
            with step.tracing(step.Step(lookups, exchange.copies)), model.distribute_strategy.scope():
                return model.predict_step(inputs)

        # The first pass records the lookups of the model. The second one answers all of them with one request.
        result = run(Recording(run, batch, self._copies.read).lookups(batch), batch)
        self.variables.add_graph(tf.compat.v1.get_default_graph())
        return result


def _predict_function(model: keras.Model) -> _PredictFunction:
    """Returns the function of the model's predictions, made once."""
    if model.predict_function is None:
        # Keras's `__setattr__` would track the function, so this bypasses it.
        object.__setattr__(model, "predict_function", _PredictFunction(model))
    return model.predict_function
