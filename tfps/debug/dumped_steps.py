"""`DumpedSteps`: adds to a step under trace what sends its values to the function that writes them.

Threading: the thread that traces a step, several at once.
"""

import logging
from collections.abc import Sequence

import tensorflow as tf

from tfps.cluster import worker_functions
from tfps.debug import step_values
from tfps.debug.model_layers import ModelLayers
from tfps.debug.observation import Capture
from tfps.debug.selection import GRADIENTS, ROWS, VALUES, Selection
from tfps.debug.step_number import is_one_of, number_and_worker
from tfps.debug.step_values import StepValue
from tfps.debug.worker import DumpSettings, encode_setup
from tfps.errors import ConfigError

_LOG = logging.getLogger("tfps")
_WORKER = "tfps.debug.worker"


class ChosenLayers:
    """The layers that a user has chosen.

    Args:
        selection: what the user has chosen.
    """

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._paths: set[str] = set()

    def choose(self, layers: ModelLayers, is_final: bool) -> None:
        """Finds the chosen layers.

        Args:
            layers: the layers of the model.
            is_final: whether the model has all its layers. Its first step may make more.

        Raises:
            ConfigError: a chosen layer is not there, and the model has all its layers.
        """
        try:
            self._paths = self._selection.choose_layers(layers.names)
        except ConfigError:
            if is_final:
                raise

    def has(self, path: str) -> bool:
        """Whether the layer at a path is chosen."""
        # What belongs to the model itself, and to none of its layers, comes with all layers.
        return path in self._paths or (not path and self._selection.layers is None)


class DumpedSteps:
    """Dumps steps; implements `Observer`.

    Args:
        selection: what is dumped.
        chosen: the layers of which it is dumped.
        settings: what the workers know of the dump.
    """

    def __init__(self, selection: Selection, chosen: ChosenLayers, settings: DumpSettings) -> None:
        self._selection, self._chosen, self._settings = selection, chosen, settings
        self._told: set[str] = set()

    def begin(self, capture: Capture) -> tuple[tf.Tensor, tf.Tensor, list[StepValue]]:
        """Returns the number of the step, its worker and the parameters before it."""
        self._chosen.choose(capture.layers, is_final=False)
        number, worker = number_and_worker(capture.optimizer)
        wanted = VALUES in self._selection.what
        return number, worker, step_values.parameters(capture.layers, self._chosen.has) if wanted else []

    def before_update(self, capture: Capture, begun: object) -> Sequence[tf.Tensor]:
        """Returns nothing: no update waits for a dump."""
        return ()

    def end(self, capture: Capture, begun: tuple[tf.Tensor, tf.Tensor, list[StepValue]]) -> None:
        """Sends the values of the step to the function that writes them, if the step is chosen."""
        number, worker, parameters = begun
        self._chosen.choose(capture.layers, is_final=True)
        self._tell(capture.unseen)

        def write() -> tf.Tensor:
            # Within the branch, so that other steps gather no rows for a dump.
            values = [*parameters, *self._values(capture)]
            setup = tf.constant(encode_setup(self._settings, [value.entry for value in values]))
            tensors = [tensor for value in values for tensor in value.tensors]
            (done,) = worker_functions.call(_WORKER, "write_step", [setup, number, worker, *tensors], [tf.int64])
            return tf.reshape(done, [])

        chosen = is_one_of(number, self._selection.steps) & is_one_of(worker, self._selection.workers)
        tf.cond(chosen, write, lambda: tf.zeros([], tf.int64))

    def _values(self, capture: Capture) -> list[StepValue]:
        """Returns the values of a step beside its parameters, in the order of the step."""
        what, has = self._selection.what, self._chosen.has
        return [
            *(step_values.rows(capture, has) if ROWS in what else ()),
            *(step_values.outputs(capture, has) if VALUES in what else ()),
            *(step_values.dense_gradients(capture, has) if GRADIENTS in what else ()),
            *(step_values.row_gradients(capture, has) if ROWS in what else ()),
        ]

    def _tell(self, unseen: set[str]) -> None:
        """Logs once which layers have no outputs in the dump."""
        if unseen - self._told:
            self._told |= unseen
            names = ", ".join(sorted(unseen))
            _LOG.warning("Dump: outputs in a branch or a loop of the step are not dumped, of the layers %s.", names)
