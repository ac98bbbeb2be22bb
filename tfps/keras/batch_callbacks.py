"""How far workers may run ahead of the callbacks of `fit` and `evaluate` that act between two batches.

Workers run closures of many steps, ahead of the loop that calls the callbacks. That does no harm to a callback that
only counts or reports. One that sets a learning rate, stops the training or saves the model expects that the steps so
far are done and the next one has not begun. `Lookahead` gives the loop the number of steps that may begin. It also says
whether a callback gets the logs of each batch. Then they must not lag, because `TerminateOnNaN`, say, stops by them.

Threading: the main thread.
"""

import abc
import contextlib
import inspect
import itertools
import logging
import pathlib
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfps.keras._compat import Variable, batches_until_save, keras, tree

_LOG = logging.getLogger("tfps")

TRAIN_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
TEST_HOOKS = ("on_test_batch_begin", "on_test_batch_end")
LOOKAHEAD = "_tfps_lookahead"
"""The attribute of a model for the `Lookahead` of the `fit` that runs; None outside of `fit`."""
TEST_LOOKAHEAD = "_tfps_test_lookahead"
"""The same for `evaluate`, which may run within a `fit`."""
_SAID: weakref.WeakSet[keras.Model] = weakref.WeakSet()
"""Models for which the log has said that callbacks hold the workers back."""
_MODEL = {"model", "_model"}
"""The attributes of a callback by which it gets to its model."""
_END = {"stop_evaluating"}
"""The attribute of a model by which a callback ends an evaluation, which is all that it can do there."""


class SavingCallback(keras.callbacks.Callback, abc.ABC):
    """A callback of ours that saves between two batches, and says when. It waits for the steps under way by itself."""

    @abc.abstractmethod
    def batches_until_save(self) -> int | None:
        """Returns the number of batches after which it saves; None if a number of batches does not decide that."""


class Lookahead:
    """The number of steps of an epoch that may begin before the callbacks have seen the steps before them.

    Args:
        callbacks: what the user gave to `fit` or `evaluate`.
        model: the model that is trained or evaluated.
        hooks: the names of the methods that are called between two batches, `TRAIN_HOOKS` or `TEST_HOOKS`.

    Attributes:
        reads_logs: whether a callback gets the logs of each batch.
    """

    def __init__(self, callbacks: object, model: keras.Model, hooks: Sequence[str] = TRAIN_HOOKS) -> None:
        # The model refers to this object while it is trained.
        self._model = weakref.ref(model)
        self._trains = trains = hooks is TRAIN_HOOKS
        # A strategy without servers has none, and steps are as far apart there as in Keras.
        self._workers = getattr(model.distribute_strategy, "num_workers", None)
        listed = list(flat(callbacks))
        self._acting = [one for one in listed if acts_on_batches(one, hooks)]
        self._saving = [one for one in listed if trains and _until_save(one) is not None]
        self.reads_logs = any(_reads_logs(one, hooks) for one in listed)

    def steps(self, workers: int) -> int | None:
        """Returns the number of steps that may begin beyond those that the callbacks have seen; None for any number.

        Args:
            workers: the number of workers that train or evaluate now; one alone while a model is young.
        """
        model = self._model()
        assert model is not None
        if self._acting and model not in _SAID:
            self._tell(model)
        # An evaluation that a callback ends has as many batches as the callback has seen.
        most = [workers if self._trains else 1] * bool(self._acting)
        most += [batches for one in self._saving if (batches := _until_save(one)) is not None]
        if not most:
            return None
        # Keras calls the callbacks once for several steps, so the number is rounded up to whole calls.
        steps = int(model.steps_per_execution)
        return -(-min(most) // steps) * steps

    def _tell(self, model: keras.Model) -> None:
        """Logs that callbacks hold the workers back, once for a model."""
        if self._workers is None or (self._trains and self._workers == 1):
            return
        _SAID.add(model)
        names = " and ".join(sorted({type(one).__name__ for one in self._acting}))
        if not self._trains:
            _LOG.warning("%s may end the evaluation after each batch, so one batch is evaluated at a time.", names)
            return
        _LOG.warning(
            "%s may change or read the model after each batch, so each worker trains one batch at a time. Of %d "
            "workers the others have begun a batch by then: what it sets takes effect up to %d batches later.",
            names,
            self._workers,
            self._workers - 1,
        )


@contextlib.contextmanager
def looking_ahead(stock: Callable[..., Any], model: keras.Model, *args: object, **kwargs: object) -> Iterator[None]:
    """Lets the steps of a call of `fit` or `evaluate` run ahead of its callbacks only as far as these allow.

    Args:
        stock: the method of Keras.
        model: the model, whose attribute `LOOKAHEAD` or `TEST_LOOKAHEAD` has the `Lookahead` while this runs.
        args: the arguments of the call.
        kwargs: the arguments of the call that are given by name.
    """
    given = callbacks_of(stock, model, *args, **kwargs)
    name, hooks = (LOOKAHEAD, TRAIN_HOOKS) if stock.__name__ == "fit" else (TEST_LOOKAHEAD, TEST_HOOKS)
    around = getattr(model, name, None)
    # Keras tracks what is assigned to a model in the plain way.
    object.__setattr__(model, name, Lookahead(given, model, hooks))
    try:
        yield
    finally:
        object.__setattr__(model, name, around)


def callbacks_of(stock: Callable[..., Any], model: keras.Model, *args: object, **kwargs: object) -> object:
    """Returns the callbacks that a call of `fit` or `evaluate` gets."""
    return argument_of(stock, "callbacks", model, *args, **kwargs)


def argument_of(stock: Callable[..., Any], name: str, model: keras.Model, *args: object, **kwargs: object) -> Any:
    """Returns an argument of a call of `fit` or `evaluate`; None if it is not given."""
    # A call with wrong arguments fails in Keras, with its message.
    with contextlib.suppress(TypeError):
        return inspect.signature(stock).bind(model, *args, **kwargs).arguments.get(name)
    return None


def acts_on_batches(callback: object, hooks: Sequence[str] = TRAIN_HOOKS) -> bool:
    """Returns whether a callback may change or read the model between two batches, or end an evaluation.

    Keras's own callbacks do not, or are known to `batches_until_save`. Others do if the code that runs between two
    batches mentions the model, or an optimizer or a variable that it holds.
    """
    if isinstance(callback, SavingCallback):
        return False
    found = [_plain(getattr(callback, name, None)) for name in hooks]
    own = [hook for hook in found if hook is not None and not _is_of_keras(hook)]
    wanted = _MODEL if hooks is TRAIN_HOOKS else _END
    return any(_mentions(wanted, hook, callback, set()) for hook in own)


def _until_save(callback: object) -> int | None:
    """Returns the number of batches until a callback saves the model within an epoch; None if it does not."""
    return callback.batches_until_save() if isinstance(callback, SavingCallback) else batches_until_save(callback)


def _is_of_keras(hook: object) -> bool:
    """Whether a hook is part of Keras, by its file: a user's module may be called keras_callbacks, for example."""
    code = getattr(hook, "__code__", None)
    return code is not None and pathlib.Path(code.co_filename).is_relative_to(pathlib.Path(keras.__file__).parent)


def _reads_logs(callback: object, hooks: Sequence[str]) -> bool:
    """Returns whether a callback has a method of its own that is called between two batches, with their logs."""
    if isinstance(callback, SavingCallback):
        return False
    # The progress bar shows logs; they may lag. What a class derived from it does with them is not known.
    idle = [keras.callbacks.Callback] + [keras.callbacks.ProgbarLogger] * isinstance(
        callback, keras.callbacks.ProgbarLogger
    )
    stock = ((name, _plain(getattr(callback, name, None))) for name in hooks)
    own = [hook for name, hook in stock if hook not in (None, *(getattr(one, name, None) for one in idle))]
    # Those of Keras that save or write once an epoch are called after each batch, only to count it.
    frequency = getattr(callback, "save_freq", getattr(callback, "update_freq", None))
    return bool(own) and not (frequency in (False, "epoch") and all(map(_is_of_keras, own)))


def flat(callbacks: object) -> Iterator[object]:
    """Yields the callbacks in what a user gives to `fit` or `evaluate`."""
    # Keras takes a callback, any nest of them, such as a dictionary, or a `CallbackList`.
    for one in tree.flatten(callbacks):
        if isinstance(one, keras.callbacks.CallbackList):
            yield from flat(one.callbacks)
        elif one is not None:
            yield one


def _mentions(wanted: set[str], function: object, callback: object, seen: set[object]) -> bool:
    """Returns whether the code of a function, or of a function that it calls, mentions some attributes.

    Args:
        wanted: the names of the attributes. For those of the model, parts of a model that it refers to count as well.
        function: the function.
        callback: the callback whose hook calls it.
        seen: the code that was searched before.
    """
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
    if names & wanted or (wanted is _MODEL and any(map(_is_state, reached))):
        return True
    # Methods of the callback, also those that it inherits from Keras, and functions of the same module.
    methods = [_plain(getattr(type(callback), name, None)) for name in names]
    functions = [one for one in map(_plain, reached) if _module(one) == _module(function)]
    called = [one for one in (*methods, *functions) if isinstance(one, types.FunctionType)]
    return any(_mentions(wanted, one, callback, seen) for one in called)


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
