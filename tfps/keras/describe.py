"""Describes the variables of a Keras model to the planner, without the memory that they would take.

The model is built for real, by the user's own function, on a thread of its own: Keras keeps its name counters per
thread, so the model built later gets the names it would have had. Variables that come from an initializer get a
handle and no value, so a table of any size costs nothing.
"""

import contextlib
import math
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import UninitializedVariable  # has no public name

from tfps.errors import PlanError
from tfps.keras.multi_optimizer import part_for
from tfps.keras.variables import looks_like_table
from tfps.placement.spec import VariableSpec
from tfps.types import Nest

DEFAULT_BATCH_SIZE = 512
"""Examples in a step where the user does not say: an order of magnitude is enough for a plan."""


def describe(
    model_fn: Callable[[], keras.Model], inputs: Nest = None, batch_size: int = DEFAULT_BATCH_SIZE
) -> list[VariableSpec]:
    """Describes the variables of a model without creating them.

    Args:
        model_fn: returns the model, compiled if slots shall count.
        inputs: what the model is called on, if it does not know it (subclassed, or Sequential without an Input): a
            structure of `keras.Input`, `tf.TensorSpec` or arrays, batch first, or a `tf.data.Dataset` of (inputs, ...);
            or a function that returns it, called once the model is there.
        batch_size: examples in one step of one worker, for the rows that a step asks of each table.

    Returns:
        One spec a variable, in the order of `model.variables`.

    Raises:
        PlanError: `model_fn` did not return a Keras model, or the model needs `inputs`.
    """
    policy = keras.config.dtype_policy()
    result: list[VariableSpec] = []

    def work() -> None:
        keras.config.set_dtype_policy(policy)  # kept per thread, like the names
        with _keep_random_state(), tf.variable_creator_scope(_create_without_value):
            result.extend(_describe(_check_model(model_fn()), inputs, batch_size))

    _run_on_thread(work)
    return result


@contextlib.contextmanager
def _keep_random_state() -> Iterator[None]:
    """Leaves the generators that Keras's seeds come from as they were, for the model that is built later."""
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


def _run_on_thread(work: Callable[[], None]) -> None:
    """Runs `work` on a fresh thread to its end, and raises here what it raised there."""
    failures: list[BaseException] = []

    def catch() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 carried over to the caller, below
            failures.append(error)

    thread = threading.Thread(target=catch, name="tfps-describe", daemon=True)
    thread.start()
    # No time limit: this runs the user's own function, which would have none on the main thread either.
    thread.join()
    if failures:
        raise failures[0]


def _create_without_value(next_creator: Callable[..., tf.Variable], **kwargs: Any) -> tf.Variable:
    """Makes a variable that has a handle, a shape and a type but no value.

    One that is given a value, and not a function that computes it, is made as it is: the value is in memory already.
    """
    initial_value = kwargs.get("initial_value")
    if not callable(initial_value):
        return next_creator(**kwargs)
    with tf.Graph().as_default():  # shape and type of the value, without computing it
        value = tf.convert_to_tensor(initial_value(), dtype=kwargs.get("dtype"))
    names = ("trainable", "name", "constraint", "synchronization", "aggregation")
    options = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
    return UninitializedVariable(shape=value.shape, dtype=value.dtype, **options)


def _check_model(model: keras.Model) -> keras.Model:
    if not isinstance(model, keras.Model):
        raise PlanError(f"`model_fn` must return a keras.Model. Received: {model!r}.")
    return model


def _describe(model: keras.Model, inputs: Nest, batch_size: int) -> Iterator[VariableSpec]:
    ids_per_step = _ids_per_step(model, _resolve_inputs(model, inputs), batch_size)
    count_slots = _slot_counter(model)
    seen: dict[str, int] = {}
    for variable in model.variables:
        seen[variable.path] = seen.get(variable.path, -1) + 1
        slots, row_slots = count_slots(variable)
        yield VariableSpec(
            name=variable.path + (f":{seen[variable.path]}" if seen[variable.path] else ""),  # paths may repeat
            shape=tuple(variable.shape),
            dtype=keras.backend.standardize_dtype(variable.dtype),
            slots=slots,
            row_slots=row_slots,
            rows_per_step=ids_per_step.get(id(variable)) or None,
            trainable=variable.trainable,
            is_table=id(variable) in ids_per_step,
        )


def _resolve_inputs(model: keras.Model, inputs: Nest) -> Nest:
    """The inputs that the model is called on: the given ones, or its own; None for a built model that has none."""
    inputs = inputs() if callable(inputs) else inputs
    if isinstance(inputs, tf.data.Dataset):
        spec = inputs.element_spec
        inputs = spec[0] if isinstance(spec, tuple) else spec
    # A functional model knows the structure of its inputs, a Sequential one a list.
    for own in ("_inputs_struct", "inputs"):
        inputs = getattr(model, own, None) if inputs is None else inputs
    if inputs is None and not model.built:
        raise PlanError(
            f"`inputs` must be given for model {model.name!r}, which has no variables before it is called. Received: "
            "None. Valid: keras.Input, tf.TensorSpec or arrays, as the model is called on them, or a tf.data.Dataset."
        )
    return inputs


def _call_on_symbols(model: keras.Model, inputs: Nest, batch_size: int | None) -> None:
    """Calls the model on symbols with the shapes of its inputs and all of a batch."""

    def symbol(value: keras.KerasTensor | tf.TensorSpec | np.ndarray[Any, Any]) -> keras.KerasTensor:
        dtype = keras.backend.standardize_dtype(value.dtype)
        return keras.KerasTensor((batch_size, *tuple(value.shape)[1:]), dtype=dtype)

    model(tf.nest.map_structure(symbol, inputs))


def _ids_per_step(model: keras.Model, inputs: Nest, batch_size: int) -> dict[int, float]:
    """For every table, by `id` of its variable, the ids one step looks up; 0 where that is not known.

    Calls the model on symbols: once to build it if need be, once while every layer is watched that holds a table.
    """
    if inputs is not None and not model.built:
        _call_on_symbols(model, inputs, None)
    tables = _tables(model)
    counted: dict[keras.layers.Layer, float] = {}
    if inputs is not None:
        with contextlib.ExitStack() as stack:
            for layer in tables:
                if layer is not model:
                    stack.enter_context(_count_ids(layer, counted))
            _call_on_symbols(model, inputs, batch_size)
    return {id(variable): counted.get(layer, 0.0) for layer, own in tables.items() for variable in own}


def _tables(model: keras.Model) -> dict[keras.layers.Layer, list[keras.Variable]]:
    """The variables that a strategy takes for tables, by the layer that holds them."""
    found: dict[keras.layers.Layer, list[keras.Variable]] = {}
    for layer in model._flatten_layers():
        of_embedding = isinstance(layer, keras.layers.Embedding)
        for variable in layer._trainable_variables + layer._non_trainable_variables:
            if looks_like_table(tuple(variable.shape), variable.name, of_embedding):
                found.setdefault(layer, []).append(variable)
    return found


@contextlib.contextmanager
def _count_ids(layer: keras.layers.Layer, counted: dict[keras.layers.Layer, float]) -> Iterator[None]:
    """Adds the ids that each call of `layer` looks up to `counted`: its integer inputs; unknown sizes count as 1.

    On symbols Keras asks a layer for its output spec, which may ask `call` in turn; under a traced parent it calls it.
    """
    # An Embedding casts its input, so ids may come to it as floats.
    inside, any_type = False, isinstance(layer, keras.layers.Embedding)

    def may_be_ids(value: keras.KerasTensor) -> bool:
        return any_type or "int" in keras.backend.standardize_dtype(value.dtype)

    def counting(method: Callable[..., Nest]) -> Callable[..., Nest]:
        def count(ids: Nest, *args: Nest, **kwargs: Nest) -> Nest:
            nonlocal inside
            # Of two methods of which one calls the other, only the outer one counts.
            if not inside:
                counted[layer] = counted.get(layer, 0.0) + sum(map(_size, filter(may_be_ids, tf.nest.flatten(ids))))
            outer, inside = inside, True
            try:
                return method(ids, *args, **kwargs)
            finally:
                inside = outer

        return count

    # As attributes of the layer they go before the methods of its class. Keras would track a plain assignment.
    methods = ("call", "compute_output_spec")
    for name in methods:
        object.__setattr__(layer, name, counting(getattr(layer, name)))
    try:
        yield
    finally:
        for name in methods:
            object.__delattr__(layer, name)


def _size(tensor: keras.KerasTensor) -> int:
    """Elements of a tensor; sizes that are not known count as 1."""
    return math.prod(size or 1 for size in tensor.shape)


def _slot_counter(model: keras.Model) -> Callable[[keras.Variable], tuple[int, int]]:
    """Variable -> how many variables the optimizer keeps beside it: of its size, and with one number a row."""
    optimizer = getattr(model, "optimizer", None)
    trained = {id(variable) for variable in model.trainable_variables}

    def count(variable: keras.Variable) -> tuple[int, int]:
        if optimizer is None or id(variable) not in trained:
            return 0, 0
        # A fresh copy of the optimizer is built for this variable alone, so that all it makes is for this variable.
        part = part_for(optimizer, variable)
        alone = type(part).from_config(part.get_config())
        before = len(alone.variables)
        alone.build([variable])
        shapes = [tuple(slot.shape) for slot in alone.variables[before:] if slot.shape or not variable.shape]
        a_number_a_row = (*variable.shape[:1], 1)
        narrow = 0 if a_number_a_row == tuple(variable.shape) else shapes.count(a_number_a_row)
        elements = sum(map(math.prod, shapes)) - narrow * math.prod(a_number_a_row)
        return math.ceil(elements / max(1, math.prod(variable.shape))), narrow

    return count
