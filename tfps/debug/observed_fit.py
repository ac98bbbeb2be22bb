"""`ObservedFit`: observes the steps of a model for the duration of `fit`, also of one that fails.

Threading: the main thread.
"""

import logging
import weakref
from collections.abc import Callable
from typing import Any

import keras

from tfps.debug.folder import DumpFolder
from tfps.errors import ConfigError, UnsupportedError
from tfps.keras.modes import settings_of
from tfps.keras.optimizers import leading_optimizer
from tfps.strategy.strategy import ParameterServerStrategy

_LOG = logging.getLogger("tfps")


class ObservedFit:
    """Begins and ends to observe.

    Keras tells a callback when `fit` ends, but not when it fails. So the next `fit` or `train_on_batch` of the model,
    which asks for the function of a step, ends it too.

    Args:
        name: the name of the callback, for messages.
        folder: where workers write.
        begin: begins to observe a model.
        end: ends it.
    """

    def __init__(
        self,
        name: str,
        folder: DumpFolder,
        begin: Callable[[keras.Model], None],
        end: Callable[[keras.Model], None],
    ) -> None:
        self._name, self._folder, self._begin, self._end = name, folder, begin, end
        self._is_announced = False
        self._model: weakref.ref[keras.Model] | None = None

    def begin(self, model: keras.Model) -> None:
        """Prepares to observe a model whose `fit`, or `evaluate`, has just begun: Keras tells both in the same way.

        Raises:
            UnsupportedError: its steps cannot be observed.
            ConfigError: its workers cannot write to the folder, which may also be that of another model.
        """
        self._check(model)
        self.end(model)
        self._is_announced = True
        stock = model.make_train_function

        def make_train_function(force: bool = False) -> Any:
            # Keras calls it once in each `fit`, after it has told the callbacks of their model.
            if not self._is_announced:
                self.end(model)
                # Not `model.make_train_function`: another callback, whose `fit` begins, may have replaced it since.
                return stock(force)
            self._is_announced = False
            try:
                self._begin(model)
            except BaseException:
                self.end(model)
                raise
            self._model = weakref.ref(model)
            return stock(force)

        self._make = make_train_function
        object.__setattr__(model, "make_train_function", make_train_function)

    def refuse_untrained(self, model: keras.Model) -> None:
        """Ends, with a warning, if what has begun trains no step: called when `evaluate` or `predict` begins."""
        # `fit`, which evaluates too, has asked for the function of a step by then.
        if self._is_announced:
            self._is_announced = False
            self.end(model)
            _LOG.warning("%s: only `fit` trains steps, so nothing is written.", self._name)

    def end(self, model: keras.Model) -> None:
        """Ends to observe."""
        if vars(model).get("make_train_function") is getattr(self, "_make", model):
            object.__delattr__(model, "make_train_function")
        self._end(model)

    def _check(self, model: keras.Model) -> None:
        if self._model is not None and self._model() is not model:
            raise ConfigError(
                f"a `{self._name}` must be of one model, whose steps are in its folder. Received: a second model, "
                f"{model.name!r}. Valid: a new {self._name} with another `url`."
            )
        strategy = model._distribute_strategy
        if strategy is not None and not isinstance(strategy, ParameterServerStrategy):
            raise UnsupportedError(
                f"`{self._name}` needs a model of a ParameterServerStrategy, or of no strategy. Received: a model of "
                f"{type(strategy).__name__}."
            )
        if strategy is not None and len(strategy.step_devices) > 1:
            raise UnsupportedError(
                f"`{self._name}` needs steps that run on one device. Received: {len(strategy.step_devices)} devices a "
                "worker. Valid: devices_per_worker=1."
            )
        if strategy is not None and self._folder.is_of_process and not model.run_eagerly:
            raise ConfigError(
                f"`url` of `{self._name}` must be seen by all workers, which are other processes. Received: "
                f"{self._folder.path!r}, in the memory of this process. Valid: a folder, or a URL as of s3:// or hdfs://."
            )
        if hasattr(model, "train_window") and settings_of(leading_optimizer(model)) is not None:
            raise UnsupportedError(
                f"`{self._name}` needs a model that trains step by step. Received: {type(model).__name__}, which "
                "trains whole windows. Valid: an optimizer without `Geo`."
            )
