"""What callbacks do between two batches: how far workers may run ahead of them, and whether they read logs.

Workers run closures of many steps, ahead of the loop that calls the callbacks. That does no harm to a callback that
only counts or reports. One that sets a learning rate, stops the training or saves the model expects that the steps so
far are done and the next one has not begun. `Lookahead` gives the training loop the number of steps that may begin.

Logs cost time, so they are computed a few times a second. While a callback may read them after a batch
(`TerminateOnNaN`), they are computed after each closure: the last batch of an epoch has the logs of the whole epoch.

Threading: the main thread.
"""

import contextlib
import itertools
import logging
import pathlib
import types
import weakref
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tfps.keras._compat import Variable, batches_until_save, keras
from tfps.runtime.steps_under_way import TEST, TRAIN

_LOG = logging.getLogger("tfps")

_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
_SAID: weakref.WeakSet[keras.Model] = weakref.WeakSet()
"""Models for which the log has said that callbacks hold the workers back."""
_MODEL = {"model", "_model"}
"""The attributes of a callback by which it gets to its model."""
_READ = "_tfps_logs_read"
"""The attribute of a model for the kinds of its steps whose logs a callback may read after each batch."""
_LOG_HOOKS = {TRAIN: ("on_train_batch_end", "on_batch_end"), TEST: ("on_test_batch_end",)}


class Lookahead:
    """The number of steps of an epoch that may begin before the callbacks have seen the steps before them.

    Args:
        callbacks: what the user gave to `fit`.
        model: the model that is trained.
    """

    def __init__(self, callbacks: object, model: keras.Model) -> None:
        # The model refers to this object while it is trained.
        self._model = weakref.ref(model)
        self._workers = model.distribute_strategy.num_workers
        listed = list(_flat(callbacks))
        self._acting = [one for one in listed if acts_on_batches(one)]
        self._saving = [one for one in listed if batches_until_save(one) is not None]

    def steps(self) -> int | None:
        """Returns the number of steps that may begin beyond those that the callbacks have seen; None for any number."""
        model = self._model()
        assert model is not None
        if self._acting and self._workers > 1 and model not in _SAID:
            _SAID.add(model)
            self._tell()
        most = [self._workers] * bool(self._acting)
        most += [batches for one in self._saving if (batches := batches_until_save(one)) is not None]
        if not most:
            return None
        # Keras calls the callbacks once for several steps, so the number is rounded up to whole calls.
        steps = int(model.steps_per_execution)
        return -(-min(most) // steps) * steps

    def _tell(self) -> None:
        """Logs that callbacks hold the workers back."""
        _LOG.warning(
            "%s may change or read the model after each batch, so each worker trains one batch at a time. Of %d "
            "workers the others have begun a batch by then: what it sets takes effect up to %d batches later.",
            " and ".join(sorted({type(one).__name__ for one in self._acting})),
            self._workers,
            self._workers - 1,
        )


@contextlib.contextmanager
def passing_logs(model: keras.Model, kind: str, callbacks: object) -> Iterator[None]:
    """Notes whether callbacks read logs while a loop over steps runs. A loop may be inside another, of another kind.

    Args:
        model: the model of the loop.
        kind: the kind of its steps, `TRAIN` or `TEST`.
        callbacks: the callbacks of the loop.
    """
    before: frozenset[str] = getattr(model, _READ, frozenset())
    read = any(_reads_logs(one, kind) for one in _flat(callbacks))
    # Keras tracks what is assigned to a model in the plain way.
    object.__setattr__(model, _READ, before | {kind} if read else before - {kind})
    try:
        yield
    finally:
        object.__setattr__(model, _READ, before)


def are_logs_read(model: keras.Model, kind: str) -> bool:
    """Returns whether a callback of the loop that runs may read the logs after each batch."""
    return kind in getattr(model, _READ, ())


def _reads_logs(callback: object, kind: str) -> bool:
    # The progress bar shows the final logs at the end of an epoch. Keras marks hooks that do nothing.
    if type(callback) is keras.callbacks.ProgbarLogger:
        return False
    hooks = [getattr(callback, name, None) for name in _LOG_HOOKS[kind]]
    return not all(hook is None or getattr(hook, "_is_default", False) for hook in hooks)


def acts_on_batches(callback: object) -> bool:
    """Returns whether a callback may change or read the model between two batches.

    Keras's own callbacks do not, or are known to `batches_until_save`. Others do if the code that runs between two
    batches mentions the model, or an optimizer or a variable that it holds.
    """
    hooks = [_plain(getattr(callback, name, None)) for name in _HOOKS]
    own = [hook for hook in hooks if hook is not None and not _is_of_keras(hook)]
    return any(_reaches_model(hook, callback, set()) for hook in own)


def _is_of_keras(hook: object) -> bool:
    """Whether a hook is part of Keras. Its file tells, as tests of Keras are modules of the same name."""
    code = getattr(hook, "__code__", None)
    return code is not None and pathlib.Path(code.co_filename).is_relative_to(pathlib.Path(keras.__file__).parent)


def _flat(callbacks: object) -> Iterator[object]:
    # Keras takes a callback, a list of them, which may be nested, or a `CallbackList`.
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    if isinstance(callbacks, list | tuple):
        for one in callbacks:
            yield from _flat(one)
    elif callbacks is not None:
        yield callbacks


def _reaches_model(function: object, callback: object, seen: set[object]) -> bool:
    """Returns whether the code of a function, or of a function that it calls, mentions the model of a callback."""
    # Nothing is known about other callables, such as a `functools.partial`.
    if not isinstance(function, types.FunctionType):
        return True
    code = function.__code__
    if code in seen:
        return False
    seen.add(code)
    names = set(_names(code))
    held = vars(callback) if hasattr(callback, "__dict__") else {}
    reached = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    reached += [function.__globals__[name] for name in names if name in function.__globals__]
    reached += [held[name] for name in names if name in held and name not in _MODEL]
    if names & _MODEL or any(map(_is_state, reached)):
        return True
    # Methods of the callback, also those that it inherits from Keras, and functions of the same module.
    methods = [_plain(getattr(type(callback), name, None)) for name in names]
    functions = [one for one in map(_plain, reached) if _module(one) == _module(function)]
    called = [one for one in (*methods, *functions) if isinstance(one, types.FunctionType)]
    return any(_reaches_model(one, callback, seen) for one in called)


def _plain(value: object) -> object:
    """Returns the function of a method or a property; any other value as it is."""
    return getattr(value, "fget" if isinstance(value, property) else "__func__", value)


def _module(value: object) -> str:
    return str(getattr(value, "__module__", ""))


def _names(code: types.CodeType) -> Iterator[str]:
    """Yields the names of globals and attributes in code, and in the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _is_state(value: object) -> bool:
    """Whether a value is part of a model, or a collection of such parts."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else [value]
    kinds = (keras.layers.Layer, keras.optimizers.Optimizer, keras.metrics.Metric, Variable, tf.Variable)
    # A look at the first few is enough: a collection may be long, and has parts of one kind.
    return any(isinstance(part, kinds) for part in itertools.islice(parts, 100))
