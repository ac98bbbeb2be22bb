"""`FirstNaN`: saves the batch of the first step whose loss or gradients are NaN or infinite, with what it read."""

import json
import logging
import os
import uuid
from collections.abc import Mapping
from typing import Any

import keras

from tfps.debug.checked_steps import CheckedSteps
from tfps.debug.folder import open_folder
from tfps.debug.nan_file import FORMAT, HEADER
from tfps.debug.observation import observe, stop_observing
from tfps.debug.observed_fit import ObservedFit
from tfps.debug.on_workers import call_all
from tfps.errors import ConfigError
from tfps.keras.model_content import strategy_of
from tfps.version import __version__

_LOG = logging.getLogger("tfps")
_MODULE = "tfps.debug.nan_file"


class FirstNaN(keras.callbacks.Callback):
    """Saves what is needed to run the first bad step again: one whose loss or gradients are NaN or infinite.

    The worker that meets it saves its batch, the dense parameters and the rows that the step read, and its gradients,
    before the step is applied. The index says which worker, step, layer and row ids it was. `tfps-dump replay` runs the
    step again in one process. What happens to the step then is decided by `on_nan` of the strategy: with "stop", `fit`
    raises `NotFiniteError`, which names the folder. Each worker saves its first
    such step only.

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
        self._steps = CheckedSteps(self._key, self._folder.path, self._header())
        self._fit = ObservedFit(
            "FirstNaN", self._folder, self._begin_steps, lambda model: stop_observing(model, self._steps)
        )

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Begins to look. Keras calls this before it makes the function of a step, and when it has set the model."""
        super().set_params(params)
        self._fit.begin(self.model)

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Warns if there is no `fit`."""
        self._fit.refuse_untrained(self.model)

    def on_predict_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Warns if there is no `fit`."""
        self._fit.refuse_untrained(self.model)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Says what was saved, and takes the callback out of the model's steps."""
        self._fit.end(self.model)
        found = [one for saved in call_all(strategy_of(self.model), _MODULE, "saved", [self._key]) for one in saved]
        for worker, number, layer, saved in sorted(found, key=lambda one: one[1]):
            _LOG.warning(
                "FirstNaN: step %d of worker %d is not finite, first in layer %r; %s.", number, worker, layer, saved
            )

    def _begin_steps(self, model: keras.Model) -> None:
        if self._is_new:
            self._check_empty()
            self._folder.write(HEADER, self._header().encode())
            self._is_new = False
        observe(model, self._steps)

    def _header(self) -> str:
        return json.dumps({"format": FORMAT, "version": 1, "key": self._key, "tfps": __version__}) + "\n"

    def _check_empty(self) -> None:
        if any(name.startswith("worker-") for name in self._folder.names()):
            raise ConfigError(
                f"`url` must be a folder without steps of another training. Received: {self._folder.path!r}. "
                "Valid: another folder."
            )
