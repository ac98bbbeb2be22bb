"""Every Keras internal that tfps uses. No other file may import from `keras.src`.

`make test-versions` tests it with the Keras versions of all supported TensorFlow versions.
"""

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf
from keras.src import backend, tree
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import in_stateless_scope
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.backend.tensorflow import numpy as tensorflow_numpy
from keras.src.backend.tensorflow import trainer as tensorflow_trainer
from keras.src.backend.tensorflow.optimizer import TFOptimizer
from keras.src.backend.tensorflow.trainer import (
    TensorFlowTrainer,
    TFEpochIterator,
    convert_to_np_if_not_ragged,
    potentially_ragged_concat,
)
from keras.src.losses import loss as losses
from keras.src.models import cloning
from keras.src.models.functional import Functional
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.random import seed_generator
from keras.src.saving import saving_lib
from keras.src.trainers.data_adapters import array_slicing
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.data_adapters.data_adapter import DataAdapter
from keras.src.trainers.data_adapters.generator_data_adapter import GeneratorDataAdapter
from keras.src.trainers.trainer import Trainer
from keras.src.utils import python_utils

Variable = backend.Variable

EXPORT_ARCHIVE = type(keras.export.ExportArchive())
"""The class that implements `keras.export.ExportArchive`, which is a function of the format in newer versions."""

H5_ENTRY = getattr(saving_lib, "H5Entry", saving_lib.H5IOStore)
"""The class whose items are the variables of one layer in a weights file. Since Keras 3.11 it is that of the file."""

UNREFERENCED_SLOTS: tuple[type, ...] = ()
"""Optimizers that create slots without naming the variable each belongs to: some, in Keras before 3.10."""
# Keras 3.10 added `add_optimizer_variables`, and its optimizers name the variable of every slot.
if not hasattr(TFOptimizer, "add_optimizer_variables"):
    UNREFERENCED_SLOTS = (keras.optimizers.Adagrad, keras.optimizers.Ftrl)

__all__ = [
    "STEPS_OF_EPOCH",
    "ArrayDataAdapter",
    "BaseOptimizer",
    "DataAdapter",
    "EXPORT_ARCHIVE",
    "GeneratorDataAdapter",
    "H5_ENTRY",
    "TFEpochIterator",
    "TFOptimizer",
    "TensorFlowTrainer",
    "Trainer",
    "UNREFERENCED_SLOTS",
    "Variable",
    "WARNING_OF_END",
    "array_slicing",
    "batches_until_save",
    "cloning",
    "compute_output_spec",
    "convert_to_np_if_not_ragged",
    "creating_layer",
    "end_without_warning",
    "enumerate_steps",
    "final_logs",
    "forget_uninitialized",
    "functional_outputs",
    "global_attributes",
    "global_generator",
    "h5_dataset",
    "h5_group",
    "in_stateless_scope",
    "in_symbolic_scope",
    "initialize_copies",
    "keras",
    "losses",
    "metrics_of",
    "potentially_ragged_concat",
    "saving_lib",
    "seed_generator",
    "set_global_generator",
    "standardize_dtype",
    "tensorflow_numpy",
    "thread_state",
    "tree",
]


_SAVING = tuple(
    getattr(keras.callbacks, name)
    # Not every version of Keras has the last one.
    for name in ("BackupAndRestore", "ModelCheckpoint", "OrbaxCheckpoint")
    if hasattr(keras.callbacks, name)
)
"""The callbacks that may save the model every so many batches."""


def batches_until_save(callback: object) -> int | None:
    """Returns the number of batches until a callback saves the model within an epoch; None if it does not."""
    if not isinstance(callback, _SAVING):
        return None
    # `save_freq` is "epoch", False or a number of batches, which go on from one epoch to the next.
    frequency = callback.save_freq
    if not frequency or not isinstance(frequency, int):
        return None
    return max(1, frequency - int(callback._batches_seen_since_last_saving))


def metrics_of(model: keras.Model) -> list[keras.Metric]:
    """Returns all metrics of a model, also those that a property `metrics` of its own leaves out."""
    # What `Trainer.metrics` returns, whatever the class of the model has in its place.
    return [*model.metrics, *Trainer.metrics.fget(model)]


compute_output_spec: Callable[..., Any] = backend.compute_output_spec
"""Traces a function and returns the specs of what it returns, `KerasTensor`s."""


def functional_outputs(model: keras.Model) -> Any:
    """Returns the symbolic outputs of a model of Keras's own functional classes; None for models of other classes."""
    if type(model) is keras.Sequential:
        model = model._functional
    if type(model) is not Functional:
        return None
    outputs = model._outputs_struct
    # A call returns the only output of a list by itself.
    return outputs[0] if isinstance(outputs, list | tuple) and len(outputs) == 1 else outputs


def h5_group(entry: Any) -> Any:
    """Returns the `h5py.Group` in which the variables of one layer are written."""
    if hasattr(entry, "group"):
        return entry.group
    # Keras 3.11 and newer make the group when its first variable comes.
    if not entry._h5_entry_initialized:
        entry._create_h5_group(entry._h5_entry_path)
    return entry._h5_entry_group


def h5_dataset(entry: Any, key: str) -> Any:
    """Returns the `h5py.Dataset` of a variable in a file that is read; None if it has none."""
    group = entry.group if hasattr(entry, "group") else entry._h5_entry_group
    if key not in group:
        return None
    # Newer versions of Keras refuse links and other ways out of the file.
    find = getattr(saving_lib, "safe_get_h5_dataset", None)
    return group[key] if find is None else find(group, key)


def standardize_dtype(dtype: object) -> str:
    """Returns the name of a dtype of Keras, TensorFlow or numpy, such as "float32"."""
    return str(backend.standardize_dtype(dtype))


_DEFAULT_AGGREGATION = inspect.signature(Variable.__init__).parameters["aggregation"].default
"""The aggregation of a variable for which nobody has chosen one: "mean" in Keras 3.6, and "none" in newer versions."""


def initialize_copies(stock: Callable[..., None], variable: keras.Variable, value: object, is_metric: bool) -> None:
    """Makes the value of a Keras variable under a strategy with replicas.

    Args:
        stock: `Variable._initialize`.
        variable: the variable.
        value: the initial value, a function that returns it, or a `tf.Variable`.
        is_metric: whether the variable is the state of a metric, which each replica counts for itself.
    """
    if hasattr(Variable, "_map_synchronization") or isinstance(value, tf.Variable):
        stock(variable, value)
        return
    # Earlier versions do not tell TensorFlow that a metric is summed when it is read. Keras 3.6 tells it nothing.
    aggregation = "none" if variable.aggregation == _DEFAULT_AGGREGATION else variable.aggregation
    synchronization = tf.VariableSynchronization
    variable._value = tf.Variable(
        value,
        dtype=variable._dtype,
        trainable=variable.trainable,
        name=variable.name,
        aggregation=getattr(tf.VariableAggregation, aggregation.upper()),
        synchronization=synchronization.ON_READ if is_metric else synchronization.AUTO,
    )


def forget_uninitialized() -> None:
    """Clears the variables that Keras still plans to initialize, after building their model failed."""
    # Keras collects variables made in a stateless scope in this list and initializes all of them at the next chance.
    global_state.set_global_attribute("uninitialized_variables", [])


@contextlib.contextmanager
def thread_state(state: Mapping[str, Any]) -> Iterator[None]:
    """Gives this thread a state of Keras that `global_attributes` has read in another one."""
    attributes = global_state.GLOBAL_STATE_TRACKER.__dict__
    before = dict(attributes)
    attributes.update(state)
    try:
        yield
    finally:
        attributes.clear()
        attributes.update(before)


def global_attributes() -> dict[str, Any]:
    """Returns the state of Keras in this thread, such as its dtype policy; lists in it are copied."""
    attributes = global_state.GLOBAL_STATE_TRACKER.__dict__
    return {name: list(value) if isinstance(value, list) else value for name, value in attributes.items()}


def creating_layer() -> Any:
    """Returns the layer, metric or optimizer that is creating a variable on this thread right now, or None."""
    # Keras opens a name scope for each object that builds. The innermost scope with a caller is the creator.
    stack = global_state.get_global_attribute("name_scope_stack") or []
    return next((scope.caller for scope in reversed(stack) if getattr(scope, "caller", None) is not None), None)


def final_logs(model: keras.Model, logs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the logs of an epoch or of `evaluate` as the callers of `_get_metrics_result_or_logs` expect them."""
    # Newer versions of Keras convert them to Python's numbers in the callers of that method. Earlier ones do so in the
    # method, Keras 3.6 by a method of the model and Keras 3.9 by a function.
    if hasattr(tensorflow_trainer, "pythonify_logs"):
        return logs
    convert = getattr(model, "_pythonify_logs", None) or python_utils.pythonify_logs
    return convert(logs)


STEPS_OF_EPOCH = "_enumerate_iterator" if hasattr(TFEpochIterator, "_enumerate_iterator") else "enumerate_epoch"
"""The method of `TFEpochIterator` that yields the number of each step, and last what to read its batches from."""


def enumerate_steps(iterator: TFEpochIterator) -> Iterator[tuple[Any, ...]]:
    """Yields numbers of steps, and last what to read their batches from, for the steps of an epoch."""
    # Before Keras 3.9 an iterator over an epoch is not iterable.
    return iter(iterator) if hasattr(iterator, "__iter__") else iterator.enumerate_epoch()


_HAS_WARNING_OF_END = hasattr(TFEpochIterator, "_interrupted_warning")
# Before Keras 3.9, what catches the end of the input also warns of it.
WARNING_OF_END = "_interrupted_warning" if _HAS_WARNING_OF_END else "catch_stop_iteration"
"""The method of `TFEpochIterator` that warns that its input has no more."""


def end_without_warning(stock: Callable[..., Any], iterator: TFEpochIterator) -> Any:
    """Replaces `WARNING_OF_END` where the end of the input is the end of the epoch.

    Args:
        stock: the method of Keras.
        iterator: its object.
    """
    return None if _HAS_WARNING_OF_END else _catch_end(stock, iterator)


@contextlib.contextmanager
def _catch_end(stock: Callable[..., Any], iterator: TFEpochIterator) -> Iterator[None]:
    try:
        yield
        iterator.tf_sync()
    except (StopIteration, tf.errors.OutOfRangeError):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with stock(iterator):
                raise


_GLOBAL_SEED_GENERATOR = getattr(seed_generator, "GLOBAL_SEED_GENERATOR", "global_seed_generator")
"""The name of the global generator among the global attributes of Keras."""


def global_generator() -> Any:
    """Returns the global `SeedGenerator` of Keras in this thread, or None if there is none yet."""
    return global_state.get_global_attribute(_GLOBAL_SEED_GENERATOR)


def set_global_generator(generator: Any) -> None:
    """Makes `generator` the global `SeedGenerator` of Keras in this thread."""
    global_state.set_global_attribute(_GLOBAL_SEED_GENERATOR, generator)
