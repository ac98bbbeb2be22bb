"""Eager steps, for debugging: `compile(run_eagerly=True)` and `tf.config.run_functions_eagerly(True)`.

The chief runs the model's `train_step`, `test_step` or `predict_step` as Python code, one batch after the other, as
Keras does in one process: `print`, `numpy()` and breakpoints work. Variables and rows stay on the servers. A step reads
a dense variable where it is used and looks up rows as the model asks for them, and its optimizer updates both in place.
No worker takes part, and the mode of the optimizer has no effect.

Threading: the main thread. Cost: a round trip for each operation on a variable, and for each lookup.
"""

import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfps import step
from tfps.cluster.faults import translate_errors
from tfps.inputs.epoch import Epoch
from tfps.keras.model_steps import without_optionals
from tfps.training.step_lookups import DirectLookups
from tfps.types import Nest

_LOG = logging.getLogger("tfps")
_TOLD: "weakref.WeakSet[keras.Model]" = weakref.WeakSet()
"""The models whose user was told that eager steps are slow."""


def runs_eagerly(model: keras.Model) -> bool:
    """Whether the steps of a model run eagerly."""
    return bool(model.run_eagerly) or tf.config.functions_run_eagerly()


def tell(model: keras.Model) -> None:
    """Logs, once for each model, that its steps are slow."""
    if model in _TOLD:
        return
    _TOLD.add(model)
    why = "run_eagerly=True" if model.run_eagerly else "tf.config.run_functions_eagerly(True)"
    _LOG.warning(
        "%s: the steps of model %r run on the chief, one at a time, and no worker trains. This is for debugging, and "
        "slow.",
        why,
        model.name,
    )


class EagerFunction:
    """Replaces `model.train_function` or `model.test_function` of a model whose steps run eagerly.

    Args:
        model: a Keras model of our strategy.
        run: `model.train_step` or `model.test_step`.
    """

    def __init__(self, model: keras.Model, run: Callable[[Nest], Nest]) -> None:
        # The model owns this object, so the reference is weak.
        self._model: keras.Model = weakref.proxy(model)
        self._step = run

    def __call__(self, batches: Iterator[Nest]) -> Nest:
        """Runs up to `steps_per_execution` steps and returns the logs of the last one.

        Raises:
            StopIteration: the input has no more.
        """
        logs = None
        for _, batch in zip(range(self._model.steps_per_execution), batches, strict=False):
            logs = self._run(without_optionals(batch))
            if isinstance(batches, Epoch):
                batches.taken[0] += 1
        if logs is None:
            raise StopIteration
        return logs

    def _run(self, batch: Nest) -> Nest:
        strategy = self._model.distribute_strategy
        eager = step.Step(DirectLookups(), {}, eager=True)
        with translate_errors(strategy.connection.cluster), step.tracing(eager):
            return strategy.run(self._step, args=(batch,))


def predict(stock: Callable[..., Nest], model: keras.Model, *args: Any, **kwargs: Any) -> Nest:
    """Runs Keras's own `predict` or `predict_on_batch`, on the chief."""
    tell(model)
    # The function for workers takes other arguments than Keras's, and serves again when the steps do not run eagerly.
    kept = model.predict_function
    object.__setattr__(model, "predict_function", None)
    try:
        with translate_errors(model.distribute_strategy.connection.cluster):
            return stock(model, *args, **kwargs)
    finally:
        object.__setattr__(model, "predict_function", kept)
