"""Describes the variables of a Keras model to the planner without allocating them.

The user's own function builds the model, on a separate thread: Keras has name counters per thread, so the names of the
model that is built later do not change. Variables with an initializer get a handle and no value, so a table of any size
takes no memory.
"""

import contextlib
import dataclasses
import math
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import UninitializedVariable  # has no public name

from tfps.errors import PlanError
from tfps.keras.describing import describing
from tfps.keras.multi_optimizer import part_for
from tfps.keras.row_optimizers import KINDS
from tfps.keras.variables import looks_like_table
from tfps.placement.small_tables import SmallTables
from tfps.placement.spec import VariableSpec
from tfps.types import Nest

T = TypeVar("T")

DEFAULT_BATCH_SIZE = 512
"""Examples in a step if the user gives no number. For a plan the order of magnitude is enough."""

_VALID_INPUTS = "keras.Input, tf.TensorSpec or arrays, as the model is called on them, or a tf.data.Dataset"


def describe(
    model_fn: Callable[[], keras.Model],
    inputs: Nest = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    dense_tables_bytes: int = 0,
) -> list[VariableSpec]:
    """Describes the variables of a model without creating them.

    Args:
        model_fn: returns the model, compiled if slots should be counted.
        inputs: the inputs to call the model on, if it does not define them (a subclassed model, or a Sequential
            without an Input): a structure of `keras.Input`, `tf.TensorSpec` or arrays, batch first; a `tf.data.Dataset`
            of (inputs, ...); or a function that returns one of these, which is called after the model is built.
        batch_size: the number of examples in one step of one worker. It determines how many rows of each table a step
            looks up.
        dense_tables_bytes: the bytes of tables that may be dense variables, as in `ParameterServerStrategy`.

    Returns:
        One spec per variable, in the order of `model.variables`.

    Raises:
        PlanError: `model_fn` did not return a Keras model, or the model needs `inputs`.
    """
    return without_values(lambda: describe_model(model_fn(), inputs, batch_size, dense_tables_bytes)[1])


def without_values(work: Callable[[], T]) -> T:
    """Calls a function on a thread where new variables have no values, and returns its result.

    The names of Keras, its dtype policy and the states of the random generators are as if it had not been called.
    """
    # Keras has a dtype policy per thread, as it has names. The thread below starts with the default one.
    policy = keras.config.dtype_policy()
    results: list[T] = []

    def work_there() -> None:
        keras.config.set_dtype_policy(policy)
        with describing(), _keep_random_state(), tf.variable_creator_scope(_create_without_value):
            results.append(work())

    _run_on_thread(work_there)
    return results[0]


def describe_model(
    model: keras.Model, inputs: Nest, batch_size: int, dense_tables_bytes: int
) -> tuple[Nest, list[VariableSpec]]:
    """Returns the inputs that a model is called on, and a spec per variable. To be called inside `without_values`.

    The arguments and errors are those of `describe`. The inputs are None for a built model that defines none.
    """
    inputs = _resolve_inputs(_check_model(model), inputs)
    return inputs, list(_describe(model, inputs, batch_size, SmallTables(dense_tables_bytes)))


@contextlib.contextmanager
def _keep_random_state() -> Iterator[None]:
    """Restores the state of the random generators at the end, so that the model built later draws the same seeds."""
    # Keras draws the seeds of initializers from `random`, and users may draw from numpy.
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


def _run_on_thread(work: Callable[[], None]) -> None:
    """Runs `work` on a new thread, waits for it, and raises its exception in the caller."""
    failures: list[BaseException] = []

    def catch() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 carried over to the caller, below
            failures.append(error)

    thread = threading.Thread(target=catch, name="tfps-describe", daemon=True)
    thread.start()
    # There is no time limit: this runs the user's own function, and the main thread would not limit it either.
    thread.join()
    if failures:
        raise failures[0]


def _create_without_value(next_creator: Callable[..., tf.Variable], **kwargs: Any) -> tf.Variable:
    """Creates a variable that has a handle, a shape and a dtype but no value."""
    # A value that is not a function is in memory already, so this variable is created in the usual way.
    initial_value = kwargs.get("initial_value")
    if not callable(initial_value):
        return next_creator(**kwargs)
    # In a graph the function only yields the shape and the dtype, and computes nothing.
    with tf.Graph().as_default():
        value = tf.convert_to_tensor(initial_value(), dtype=kwargs.get("dtype"))
    names = ("trainable", "name", "constraint", "synchronization", "aggregation")
    options = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
    return UninitializedVariable(shape=value.shape, dtype=value.dtype, **options)


def _check_model(model: keras.Model) -> keras.Model:
    if not isinstance(model, keras.Model):
        raise PlanError(f"`model_fn` must return a keras.Model. Received: {model!r}.")
    return model


def _describe(model: keras.Model, inputs: Nest, batch_size: int, small: SmallTables) -> Iterator[VariableSpec]:
    ids_per_step = _ids_per_step(model, inputs, batch_size)
    count_slots = _slot_counter(model)
    # The variables of layers that need a table of any size.
    fixed = {
        id(variable)
        for layer in model._flatten_layers()
        if hasattr(layer, "tfps_table_type") or not getattr(layer, "tfps_may_be_dense", True)
        for variable in layer._trainable_variables + layer._non_trainable_variables
    }
    # Tables that grow, with the type of their rows if the layer names one.
    growing = {
        id(variable): layer.tfps_table_type.embeddings_dtype
        for layer in model._flatten_layers()
        if getattr(getattr(layer, "tfps_table_type", None), "grows", False)
        for variable in layer._trainable_variables + layer._non_trainable_variables
    }
    seen: dict[str, int] = {}
    for variable in model.variables:
        seen[variable.path] = seen.get(variable.path, -1) + 1
        slots, row_slots = count_slots(variable)
        spec = VariableSpec(
            # Paths may repeat. The second variable of a path gets the suffix ":1".
            name=variable.path + (f":{seen[variable.path]}" if seen[variable.path] else ""),
            shape=tuple(variable.shape),
            dtype=keras.backend.standardize_dtype(variable.dtype),
            slots=slots,
            row_slots=row_slots,
            rows_per_step=ids_per_step.get(id(variable)) or None,
            trainable=variable.trainable,
            is_table=id(variable) in ids_per_step,
            growing=id(variable) in growing and id(variable) in ids_per_step,
            stored_dtype=growing.get(id(variable)),
        )
        if spec.is_table and id(variable) not in fixed and small.take(spec):
            # The ids of a dense variable do not matter: it crosses whole.
            spec = dataclasses.replace(spec, is_table=False, rows_per_step=None)
        yield spec


def _resolve_inputs(model: keras.Model, inputs: Nest) -> Nest:
    """Returns the inputs to call the model on: `inputs`, or those the model defines; None for a built model without."""
    inputs = inputs() if callable(inputs) else inputs
    if isinstance(inputs, tf.data.Dataset):
        spec = inputs.element_spec
        inputs = spec[0] if isinstance(spec, tuple) else spec
    # A functional model has the structure of its inputs in `_inputs_struct`; a Sequential has only the list `inputs`.
    for own in ("_inputs_struct", "inputs"):
        inputs = getattr(model, own, None) if inputs is None else inputs
    if inputs is None and not model.built:
        raise PlanError(
            f"`inputs` must be given for model {model.name!r}, which has no variables before it is called. Received: "
            f"None. Valid: {_VALID_INPUTS}."
        )
    for value in tf.nest.flatten(inputs):
        if not (hasattr(value, "shape") and hasattr(value, "dtype")):
            raise PlanError(f"`inputs` must have a shape and a dtype. Received: {value!r}. Valid: {_VALID_INPUTS}.")
    return inputs


def _call_on_symbols(model: keras.Model, inputs: Nest, batch_size: int | None) -> None:
    """Calls the model on symbolic tensors with the shapes of its inputs and the given batch size."""

    def symbol(value: keras.KerasTensor | tf.TensorSpec | np.ndarray[Any, Any]) -> keras.KerasTensor:
        dtype = keras.backend.standardize_dtype(value.dtype)
        return keras.KerasTensor((batch_size, *tuple(value.shape)[1:]), dtype=dtype)

    model(tf.nest.map_structure(symbol, inputs))


def _ids_per_step(model: keras.Model, inputs: Nest, batch_size: int) -> dict[int, float]:
    """Returns the number of ids that one step looks up in each table, by `id` of its variable; 0 if unknown.

    Calls the model on symbolic tensors: first to build it if necessary, then to count the ids of each table.
    """
    if inputs is not None and not model.built:
        _call_on_symbols(model, inputs, None)
    tables = tables_of(model)
    counted: dict[keras.layers.Layer, float] = {}
    if inputs is not None:
        with contextlib.ExitStack() as stack:
            for layer in tables:
                # The inputs of the model itself may be much more than the ids of a table that it holds directly.
                if layer is not model:
                    stack.enter_context(_count_ids(layer, counted))
            _call_on_symbols(model, inputs, batch_size)
    return {id(variable): counted.get(layer, 0.0) for layer, own in tables.items() for variable in own}


def tables_of(model: keras.Model) -> dict[keras.layers.Layer, list[keras.Variable]]:
    """Returns the variables that a strategy would make tables, by the layer that holds them."""
    tables: dict[keras.layers.Layer, list[keras.Variable]] = {}
    for layer in model._flatten_layers():
        of_embedding = isinstance(layer, keras.layers.Embedding)
        for variable in layer._trainable_variables + layer._non_trainable_variables:
            if looks_like_table(tuple(variable.shape), variable.name, of_embedding):
                tables.setdefault(layer, []).append(variable)
    return tables


@contextlib.contextmanager
def _count_ids(layer: keras.layers.Layer, counted: dict[keras.layers.Layer, float]) -> Iterator[None]:
    """Counts the ids that each call of `layer` looks up in this scope, and adds them to `counted`.

    All integer inputs count as ids, and unknown dimensions count as 1. For symbolic tensors Keras asks a layer for
    `compute_output_spec`, which may call `call`. Inside a parent that is traced it calls `call` directly.
    """
    # An Embedding casts its input, so its ids may be floats.
    inside, any_type = False, isinstance(layer, keras.layers.Embedding)

    def may_be_ids(value: keras.KerasTensor) -> bool:
        return any_type or "int" in keras.backend.standardize_dtype(value.dtype)

    def counting(method: Callable[..., Nest]) -> Callable[..., Nest]:
        def count(ids: Nest, *args: Nest, **kwargs: Nest) -> Nest:
            nonlocal inside
            # If one of the two methods calls the other, only the outer call counts.
            if not inside:
                counted[layer] = counted.get(layer, 0.0) + sum(map(_size, filter(may_be_ids, tf.nest.flatten(ids))))
            outer, inside = inside, True
            try:
                return method(ids, *args, **kwargs)
            finally:
                inside = outer

        return count

    # Attributes of the layer hide the methods of its class. Plain assignment would make Keras track them.
    methods = ("call", "compute_output_spec")
    for name in methods:
        object.__setattr__(layer, name, counting(getattr(layer, name)))
    try:
        yield
    finally:
        for name in methods:
            object.__delattr__(layer, name)


def _size(tensor: keras.KerasTensor) -> int:
    """Returns the number of elements of a tensor. Unknown dimensions count as 1."""
    return math.prod(size or 1 for size in tensor.shape)


def _slot_counter(model: keras.Model) -> Callable[[keras.Variable], tuple[int, int]]:
    """Returns a function that counts the slots of a variable: full-size slots, and slots with one float per row."""
    optimizer = getattr(model, "optimizer", None)
    trained = {id(variable) for variable in model.trainable_variables}
    known: dict[tuple[object, ...], tuple[int, int]] = {}

    def count(variable: keras.Variable) -> tuple[int, int]:
        if optimizer is None or id(variable) not in trained:
            return 0, 0
        part = part_for(optimizer, variable)
        # An optimizer with a row-wise form has the same slots for all variables of a shape. Others may look at names.
        key = (id(part), tuple(variable.shape), None if type(part) in KINDS else variable.path)
        if key not in known:
            known[key] = count_alone(part, variable)
        return known[key]

    def count_alone(part: keras.Optimizer, variable: keras.Variable) -> tuple[int, int]:
        # A new copy of the optimizer is built for this variable alone, so all its slots belong to the variable.
        alone = type(part).from_config(part.get_config())
        before = len(alone.variables)
        alone.build([variable])
        shapes = [tuple(slot.shape) for slot in alone.variables[before:] if slot.shape or not variable.shape]
        # For a table [1000, 16] a slot of row-wise Adagrad is [1000, 1]. In a table of width 1 it is a full slot.
        column = (*variable.shape[:1], 1)
        narrow = 0 if column == tuple(variable.shape) else shapes.count(column)
        elements = sum(map(math.prod, shapes)) - narrow * math.prod(column)
        return math.ceil(elements / max(1, math.prod(variable.shape))), narrow

    return count
