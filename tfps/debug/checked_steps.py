"""`CheckedSteps`: adds to a step under trace what saves it if its loss or a gradient is not finite.

Threading: the thread that traces a step, several at once.
"""

from collections.abc import Sequence

import tensorflow as tf

from tfps import step
from tfps.cluster import worker_functions
from tfps.debug import batch_nest, step_values
from tfps.debug.nan_file import NanSettings, encode_setup
from tfps.debug.observation import Capture
from tfps.debug.step_file import LOSS
from tfps.debug.step_number import number_and_worker
from tfps.debug.step_values import StepValue

_MODULE = "tfps.debug.nan_file"


class CheckedSteps:
    """Checks steps, and saves a bad one; implements `Observer`.

    Args:
        key: a key of the callback that no other one has.
        url: where steps are saved.
        header: the content of the file that says what the folder is.
    """

    def __init__(self, key: str, url: str, header: str) -> None:
        self._key, self._url, self._header = key, url, header

    def begin(self, capture: Capture) -> tuple[tf.Tensor, tf.Tensor, list[StepValue]]:
        """Returns the number of the step, its worker and the parameters before it."""
        number, worker = number_and_worker(capture.optimizer)
        return number, worker, step_values.all_parameters(capture.layers)

    def before_update(
        self, capture: Capture, begun: tuple[tf.Tensor, tf.Tensor, list[StepValue]]
    ) -> Sequence[tf.Tensor]:
        """The update waits until a bad step is saved."""
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
        """Does nothing: all is done before the update."""

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
        settings = NanSettings(self._key, self._url, self._header, layers, description, len(batch))
        setup = tf.constant(encode_setup(settings, [value.entry for value in values]))
        tensors = [*batch, *(tensor for value in values for tensor in value.tensors)]
        (saved,) = worker_functions.call(_MODULE, "save_step", [setup, number, worker, *tensors], [tf.string])
        return tf.reshape(saved, [])


def _all(path: str) -> bool:
    """Whether a layer is saved: each one is."""
    return True
