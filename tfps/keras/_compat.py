"""Every Keras internal that tfps touches, under one name each; the only file that may name `keras.src`.

Tested over the Keras versions of the supported TensorFlow versions (`make test-versions`).
"""

from typing import Any

import keras
from keras.src import backend, tree
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import in_stateless_scope
from keras.src.backend.tensorflow.optimizer import TFOptimizer
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer, TFEpochIterator
from keras.src.trainers.data_adapters import array_slicing
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.trainer import Trainer

Variable = backend.Variable

UNREFERENCED_SLOTS: tuple[type, ...] = ()
"""Optimizers that make slots without saying for which variable, one variable after the other: Keras before 3.10."""
if not hasattr(TFOptimizer, "add_optimizer_variables"):
    UNREFERENCED_SLOTS = (keras.optimizers.Adagrad, keras.optimizers.Ftrl)

__all__ = [
    "ArrayDataAdapter",
    "TFEpochIterator",
    "TFOptimizer",
    "TensorFlowTrainer",
    "Trainer",
    "UNREFERENCED_SLOTS",
    "Variable",
    "array_slicing",
    "creating_layer",
    "forget_uninitialized",
    "in_stateless_scope",
    "keras",
    "standardize_dtype",
    "tree",
]


def standardize_dtype(dtype: Any) -> str:
    """A dtype of Keras, TensorFlow or numpy by its name."""
    return str(backend.standardize_dtype(dtype))


def forget_uninitialized() -> None:
    """Drops what Keras would still give first values: variables of a model that could not be built."""
    global_state.set_global_attribute("uninitialized_variables", [])


def creating_layer() -> Any:
    """The layer, metric or optimizer that is making a variable right now, or None."""
    stack = global_state.get_global_attribute("name_scope_stack") or []
    return next((scope.caller for scope in reversed(stack) if getattr(scope, "caller", None) is not None), None)
