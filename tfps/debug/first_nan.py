"""`FirstNaN`: saves the batch of the first step whose loss or gradients are NaN or infinite, with what it read."""

import json
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfps import step
from tfps.cluster import worker_functions
from tfps.debug import batch_nest, step_values
from tfps.debug.folder import open_folder
from tfps.debug.nan_file import FORMAT, HEADER, NanSettings, encode_setup
from tfps.debug.observation import LOSS, Capture, observe, stop_observing
from tfps.debug.observed_fit import ObservedFit
from tfps.debug.on_workers import call_all
from tfps.debug.step_number import number_and_worker
from tfps.debug.step_values import StepValue
from tfps.errors import ConfigError
from tfps.keras.model_content import strategy_of
from tfps.keras.optimizers import leading_optimizer
from tfps.version import __version__

_LOG = logging.getLogger("tfps")
_MODULE = "tfps.debug.nan_file"


class FirstNaN(keras.callbacks.Callback):
    """Saves what is needed to run the first bad step again: one whose loss or gradients are NaN or infinite.

    The worker that meets it saves its batch, the dense parameters and the rows that the step read, and its gradients,
    before the step is applied. The index says which worker, step, layer and row ids it was. `tfps-dump replay` runs the
    step again in one process. What happens to the step then is decided by `on_nan` of the strategy: with "stop", `fit`
    raises `NotFiniteError`, which names the folder. Each worker saves one step.

    It costs a pass over the gradients in each step. The rows of a `DynamicEmbedding` are saved too.

    Args:
        url: the folder, a path or an fsspec URL. It is made if it is not there, and holds the steps of one training.
            Workers that do not share a disk with the program write to their own.

    Raises:
        ConfigError: `url` is no path or URL, or the folder has steps of another training.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        super().__init__()
        self._folder = open_folder(url)
        self._key, self._is_new = uuid.uuid4().hex, True
        self._check_empty()
        self._fit = ObservedFit("FirstNaN", self._begin_steps, lambda model: stop_observing(model, self))

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Begins to look. Keras calls this before it makes the function of a step, and when it has set the model."""
        super().set_params(params)
        self._fit.begin(self.model)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Says what was saved, and takes the callback out of the model's steps."""
        self._fit.end(self.model)
        found = [one for saved in call_all(strategy_of(self.model), _MODULE, "saved", [self._key]) for one in saved]
        for worker, number, layer, saved in sorted(found, key=lambda one: one[1]):
            _LOG.warning(
                "FirstNaN: step %d of worker %d is not finite, first in layer %r; %s.", number, worker, layer, saved
            )

    def begin(self, capture: Capture) -> tuple[tf.Tensor, tf.Tensor, list[StepValue]]:
        """See `Observer`: returns the number of the step, its worker and the parameters before it."""
        number, worker = number_and_worker(leading_optimizer(self.model))
        return number, worker, step_values.all_parameters(capture.layers)

    def before_update(
        self, capture: Capture, begun: tuple[tf.Tensor, tf.Tensor, list[StepValue]]
    ) -> Sequence[tf.Tensor]:
        """See `Observer`: the update waits until a bad step is saved."""
        checked = [tensor for path, _, tensors in capture.outputs if path == LOSS for tensor in tensors]
        # A scaled loss may overflow; the optimizer then leaves the update out.
        if not capture.is_scaled:
            checked += [one.values if isinstance(one, tf.IndexedSlices) else one for one, _ in capture.gradients]
        checked = [one for one in checked if one.dtype.is_floating]
        if not checked:
            return ()
        is_finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(one)) for one in checked])
        saved = tf.cond(is_finite, lambda: tf.constant(""), lambda: self._save(capture, *begun))
        current = step.current()
        if current is not None:
            current.saved = saved
        return [saved]

    def end(self, capture: Capture, begun: object) -> None:
        """See `Observer`."""

    def _save(
        self, capture: Capture, number: tf.Tensor, worker: tf.Tensor, parameters: Sequence[StepValue]
    ) -> tf.Tensor:
        values = [
            *parameters,
            *step_values.rows(capture, _all),
            *step_values.outputs(capture, _all),
            *step_values.dense_gradients(capture, _all),
            *step_values.row_gradients(capture, _all),
        ]
        description, batch = batch_nest.flatten(capture.batch)
        layers = list(capture.layers.names)
        settings = NanSettings(self._key, self._folder.path, self._header(), layers, description, len(batch))
        setup = tf.constant(encode_setup(settings, [value.entry for value in values]))
        tensors = [*batch, *(tensor for value in values for tensor in value.tensors)]
        (saved,) = worker_functions.call(_MODULE, "save_step", [setup, number, worker, *tensors], [tf.string])
        return tf.reshape(saved, [])

    def _begin_steps(self, model: keras.Model) -> None:
        if self._is_new:
            self._check_empty()
            self._folder.write(HEADER, self._header().encode())
            self._is_new = False
        observe(model, self)

    def _header(self) -> str:
        return json.dumps({"format": FORMAT, "version": 1, "key": self._key, "tfps": __version__}) + "\n"

    def _check_empty(self) -> None:
        if any(name.startswith("worker-") for name in self._folder.names()):
            raise ConfigError(
                f"`url` must be a folder without steps of another training. Received: {self._folder.path!r}. "
                "Valid: another folder."
            )


def _all(path: str) -> bool:
    """Whether a layer is saved: each one is."""
    return True
