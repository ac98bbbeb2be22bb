"""`fit`: trains a model on a stream, window after window, and goes on where it was after any end of the program.

Each window is tested, learned and saved, in this order. The test shows what the model is worth on data that it has not
seen; nothing is held out for it.

Threading: the main thread of the chief.
"""

import collections
import dataclasses
import functools
import logging
import os
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfps.checks import check_bool, check_callable, check_choice, check_integer, check_list, check_number, check_type
from tfps.errors import ConfigError
from tfps.keras import building
from tfps.keras.model_content import strategy_of
from tfps.keras.server_recovery import RestoringCallback, fit_through_losses
from tfps.streaming.checkpoint import StreamState, WindowCheckpoint
from tfps.streaming.interface import Source
from tfps.streaming.loop_callbacks import LearningRate, Logs, WindowCallbacks, WindowEnd
from tfps.streaming.reports import examples_of, report_window
from tfps.streaming.waiting import next_window
from tfps.streaming.windows import Rule, Window, parse_window

_LOG = logging.getLogger("tfps")

_KEPT_LOGS = 1000
"""The number of windows whose logs `fit` returns: a training that never ends must not fill the memory with them."""


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What `fit` is called with; see there."""

    rule: Rule
    windows: int | None
    test: bool
    learning_rate: Callable[[Window], float] | None
    on_window_end: Callable[[Window, Logs], object] | None
    callbacks: Sequence[keras.callbacks.Callback]
    verbose: int | str


def fit(
    model: keras.Model,
    source: Source,
    *,
    window: Any,
    checkpoint: str | os.PathLike[str] | WindowCheckpoint,
    windows: int | None = None,
    test: bool = True,
    learning_rate: Callable[[Window], float] | None = None,
    on_window_end: Callable[[Window, Logs], object] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = 0,
) -> list[Logs]:
    """Trains a model on a stream: each window is tested, then learned, then saved.

    It never ends by itself. Started again after any end, it goes on from the last checkpoint, and each record counts
    once in the model.

    Args:
        model: a compiled model, of any strategy or none.
        source: where the records come from: `tfps.streaming.Files`, `tfps.streaming.Kafka`, or another `Source`.
        window: how the stream is divided: a length such as "1h", "15m" or "30s", a `datetime.timedelta`, or a number of
            files or messages.
        checkpoint: the folder of the checkpoints, a path or an fsspec URL; or a `WindowCheckpoint`.
        windows: the number of windows after which `fit` returns, those of earlier programs included; None for no end.
        test: whether each window is evaluated before it is learned, which reads it twice.
        learning_rate: a function of the `Window` that returns its learning rate.
        on_window_end: a function of the `Window` and its logs, called when the window is learned, before it is saved.
        callbacks: callbacks of Keras. Their training begins with the first window and ends with `fit`; a window is an
            epoch. A callback ends the training after a window by `model.stop_training = True`.
        verbose: as for `model.fit`. The log has a line for each window in any case.

    Returns:
        The logs of the last windows, 1,000 at most: the metrics of the test as "test_loss", ..., those of the training,
        "examples", "seconds", and for windows of time "lag_s", the seconds since their end.

    Raises:
        ConfigError: an argument breaks its rule, or the source is not there.
        SourceError: the source cannot be read, or has lost records.
        CheckpointError: a checkpoint cannot be written, or those of the folder cannot be used.
        ClusterError: the cluster failed.
    """
    check_type("model", model, keras.Model, "a Keras model")
    if not model.compiled:
        raise ConfigError(
            "`model` must be compiled. Received: a model without an optimizer. Valid: `model.compile(...)`."
        )
    check_type("source", source, Source, "a tfps.streaming.Files, a tfps.streaming.Kafka or another Source")
    settings = _Settings(
        parse_window(window),
        None if windows is None else check_integer("windows", windows, at_least=1, valid="None for no end"),
        check_bool("test", test),
        None if learning_rate is None else check_callable("learning_rate", learning_rate, "a function of a Window"),
        None if on_window_end is None else check_callable("on_window_end", on_window_end, "a function of a Window"),
        _check_callbacks(callbacks),
        check_choice("verbose", verbose, ("auto",)) if isinstance(verbose, str) else check_integer("verbose", verbose),
    )
    if not isinstance(checkpoint, WindowCheckpoint):
        check_type("checkpoint", checkpoint, (str, os.PathLike), "a path or a URL")
        checkpoint = WindowCheckpoint(checkpoint)
    source.check(settings.rule)
    return _Training(model, source, checkpoint, settings).run()


class _Training:
    """One call of `fit`.

    States: new -> restored (before the first window) -> ended.

    Args:
        model: the model.
        source: the source.
        checkpoint: where the training is saved.
        settings: the other arguments.
    """

    def __init__(self, model: keras.Model, source: Source, checkpoint: WindowCheckpoint, settings: _Settings) -> None:
        self._model, self._source, self._checkpoint, self._settings = model, source, checkpoint, settings
        self._logs: collections.deque[Logs] = collections.deque(maxlen=_KEPT_LOGS)
        self._is_restored = False
        self._has_begun = False
        self._committed: StreamState | None = None

    def run(self) -> list[Logs]:
        """Trains windows until the end; returns their logs."""
        # Without values: the model can be built only once the batches of the first window are known.
        state = self._checkpoint.look()
        last = self._settings.windows
        stopped = False
        while not stopped and (last is None or state.number < last):
            state, dataset = self._prepare(state)
            assert state.window is not None
            logs = self._run_window(state, dataset)
            if not self._checkpoint.is_whole:
                _LOG.warning("%s was broken off by a callback. It is not saved, and comes again.", state.window)
                break
            self._logs.append(logs)
            # After the checkpoint: offsets that were committed before it would claim records that a crash loses.
            self._commit()
            stopped, state = self._model.stop_training, state.next
        self._end()
        return list(self._logs)

    def _prepare(self, state: StreamState) -> tuple[StreamState, tf.data.Dataset]:
        """Waits for the window after a state, and restores the model before the first one.

        Returns:
            The state with the window, and the dataset of the window.
        """
        while True:
            begun = state if state.window else next_window(self._source, state, self._settings.rule, self._model)
            assert begun.window is not None
            dataset = self._source.dataset(begun.window.parts)
            if self._is_restored:
                return begun, dataset
            # Only now the form of the batches is known, from which Keras builds a model.
            building.build_ahead(self._model, dataset.element_spec)
            restored = self._checkpoint.restore(self._model)
            self._is_restored = True
            # As expected, the newest checkpoint was the one that was looked at.
            if restored is None or restored == state:
                return begun, dataset
            # The newest checkpoint was broken, so another window comes next.
            state = restored

    def _run_window(self, state: StreamState, dataset: tf.data.Dataset) -> Logs:
        """Tests and learns a window; the checkpoint callback saves it."""
        window, settings, began = state.window, self._settings, time.monotonic()
        assert window is not None
        own = self._own_callbacks(window)
        # A training that goes on within a window has trained on a part of it: a test now would see known records.
        if not state.tested and settings.test:
            results = self._evaluate(dataset)
            state = dataclasses.replace(state, tested={f"test_{name}": float(one) for name, one in results.items()})
        self._checkpoint.begin_window(state)
        callbacks = WindowCallbacks(
            settings.callbacks,
            own,
            begins=not self._has_begun,
            tested=state.tested,
            model=self._model,
            verbose=settings.verbose,
            epochs=window.number + 1,
        )
        self._has_begun = True
        history = _without_warning(self._model.fit)(
            dataset,
            shuffle=False,
            # The epoch of Keras is the number of the window, so callbacks and logs count windows over all programs.
            initial_epoch=window.number,
            epochs=window.number + 1,
            verbose=settings.verbose,
            callbacks=callbacks,
        )
        logs = {name: values[-1] for name, values in history.history.items() if values}
        logs = {**logs, **state.tested, "examples": examples_of(self._model), "seconds": time.monotonic() - began}
        return report_window(window, self._source.unit, logs)

    def _evaluate(self, dataset: tf.data.Dataset) -> dict[str, float]:
        """Tests the model; a server that dies meanwhile is replaced, as in `fit`."""
        evaluate = functools.partial(_without_warning(self._model.evaluate), dataset, verbose=0, return_dict=True)
        if strategy_of(self._model) is None:
            return evaluate()
        return fit_through_losses(evaluate, self._model, [self._checkpoint])

    def _own_callbacks(self, window: Window) -> list[keras.callbacks.Callback]:
        """Returns our callbacks for a window; that which saves comes last."""
        settings, own = self._settings, list[keras.callbacks.Callback]()
        if settings.learning_rate is not None:
            rate = check_number(f"learning_rate of {window}", settings.learning_rate(window), at_least=0)
            own.append(LearningRate(rate))
        if settings.on_window_end is not None:
            own.append(WindowEnd(window, settings.on_window_end, self._checkpoint))
        return [*own, self._checkpoint]

    def _commit(self) -> None:
        """Tells the source what is saved. It may fail: the checkpoint alone decides where a training goes on."""
        saved = self._checkpoint.saved
        # In the background the last checkpoint may be that of an earlier window.
        if saved is not None and saved != self._committed:
            self._source.commit(saved.position)
            self._committed = saved

    def _end(self) -> None:
        """Ends the training: it is saved, and the callbacks of the user hear of it."""
        if self._has_begun:
            self._checkpoint.finish()
            self._commit()
            for callback in self._settings.callbacks:
                callback.on_train_end(dict(self._logs[-1]) if self._logs else None)


def _without_warning(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a method of Keras that does not warn where a dataset of unknown length ends: every window has an end."""

    @functools.wraps(function)
    def quiet(*args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Your input ran out of data")
            return function(*args, **kwargs)

    return quiet


def _check_callbacks(callbacks: object) -> list[keras.callbacks.Callback]:
    """Checks an argument `callbacks`."""
    rule = "a list of Keras callbacks"
    found = check_list("callbacks", callbacks, rule)
    for one in found:
        check_type("callbacks", one, keras.callbacks.Callback, rule)
        if isinstance(one, (RestoringCallback, keras.callbacks.BackupAndRestore)):
            raise ConfigError(
                f"`callbacks` must not restore a model by themselves, because the position in the stream belongs to "
                f"its values. Received: {type(one).__name__}. Valid: `checkpoint=`."
            )
    return found
