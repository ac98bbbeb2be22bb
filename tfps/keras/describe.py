"""The variables of a Keras model as the planner wants them, without the memory they would take.

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

DEFAULT_BATCH_SIZE = 512


def describe(
    model_fn: Callable[[], Any], inputs: Any = None, batch_size: int = DEFAULT_BATCH_SIZE
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
        with _nothing_drawn(), tf.variable_creator_scope(_create_without_value):
            result.extend(_describe(_checked(model_fn()), inputs, batch_size))

    _run_on_thread(work)
    return result


@contextlib.contextmanager
def _nothing_drawn() -> Iterator[None]:
    """Leaves the generators that Keras's seeds come from as they were, for the model that is built later."""
    drawn, drawn_by_numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(drawn)
        np.random.set_state(drawn_by_numpy)


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
    thread.join()  # no limit: it runs the user's own function, which would have had none here either
    if failures:
        raise failures[0]


def _create_without_value(next_creator: Callable[..., Any], **kwargs: Any) -> Any:
    """Makes a variable that has a handle, shape and type but no value; one given a value at once is made as it is."""
    initial_value = kwargs.get("initial_value")
    if not callable(initial_value):
        return next_creator(**kwargs)
    with tf.Graph().as_default():  # shape and type of the value, without computing it
        value = tf.convert_to_tensor(initial_value(), dtype=kwargs.get("dtype"))
    names = ("trainable", "name", "constraint", "synchronization", "aggregation")
    options = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
    return UninitializedVariable(shape=value.shape, dtype=value.dtype, **options)


def _checked(model: Any) -> Any:
    if not isinstance(model, keras.Model):
        raise PlanError(f"`model_fn` must return a keras.Model. Received: {model!r}.")
    return model


def _describe(model: Any, inputs: Any, batch_size: int) -> Iterator[VariableSpec]:
    asked = _ids_per_step(model, _own_or_given(model, inputs), batch_size)
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
            rows_per_step=asked.get(id(variable)) or None,
            trainable=variable.trainable,
            is_table=id(variable) in asked,
        )


def _own_or_given(model: Any, inputs: Any) -> Any:
    """What the model is called on: the given inputs, or its own; None for a built model that has none."""
    inputs = inputs() if callable(inputs) else inputs
    if isinstance(inputs, tf.data.Dataset):
        spec = inputs.element_spec
        inputs = spec[0] if isinstance(spec, tuple) else spec
    for own in ("_inputs_struct", "inputs"):
        inputs = getattr(model, own, None) if inputs is None else inputs
    if inputs is None and not model.built:
        raise PlanError(
            f"`inputs` must be given for model {model.name!r}, which has no variables before it is called. Received: "
            "None. Valid: keras.Input, tf.TensorSpec or arrays, as the model is called on them, or a tf.data.Dataset."
        )
    return inputs


def _call_on_symbols(model: Any, inputs: Any, batch_size: int | None) -> None:
    """Calls the model on symbols with the shapes of its inputs and all of a batch."""

    def symbol(value: Any) -> Any:
        dtype = keras.backend.standardize_dtype(value.dtype)
        return keras.KerasTensor((batch_size, *tuple(value.shape)[1:]), dtype=dtype)

    model(tf.nest.map_structure(symbol, inputs))


def _ids_per_step(model: Any, inputs: Any, batch_size: int) -> dict[int, float]:
    """For every table, by `id` of its variable, the ids one step looks up; 0 where that is not known.

    Calls the model on symbols: once to build it if need be, once while every layer is watched that holds a table.
    """
    if inputs is not None and not model.built:
        _call_on_symbols(model, inputs, None)
    tables = _tables(model)
    counted: dict[Any, float] = {}
    if inputs is not None:
        with contextlib.ExitStack() as stack:
            for layer in tables:
                if layer is not model:
                    stack.enter_context(_watched(layer, counted))
            _call_on_symbols(model, inputs, batch_size)
    return {id(variable): counted.get(layer, 0.0) for layer, own in tables.items() for variable in own}


def _tables(model: Any) -> dict[Any, list[Any]]:
    """The variables that a strategy takes for tables, by the layer that holds them."""
    found: dict[Any, list[Any]] = {}
    for layer in model._flatten_layers():
        of_embedding = isinstance(layer, keras.layers.Embedding)
        for variable in layer._trainable_variables + layer._non_trainable_variables:
            if looks_like_table(tuple(variable.shape), variable.name, of_embedding):
                found.setdefault(layer, []).append(variable)
    return found


@contextlib.contextmanager
def _watched(layer: Any, counted: dict[Any, float]) -> Iterator[None]:
    """Adds the ids that each call of `layer` looks up to `counted`: its integer inputs; unknown sizes count as 1.

    On symbols Keras asks a layer for its output spec, which may ask `call` in turn; under a traced parent it calls it.
    """
    inside, any_type = False, isinstance(layer, keras.layers.Embedding)  # which casts

    def may_be_ids(value: Any) -> bool:
        return any_type or "int" in keras.backend.standardize_dtype(value.dtype)

    def counting(method: Callable[..., Any]) -> Callable[..., Any]:
        def count(ids: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if not inside:
                counted[layer] = counted.get(layer, 0.0) + sum(map(_size, filter(may_be_ids, tf.nest.flatten(ids))))
            outer, inside = inside, True
            try:
                return method(ids, *args, **kwargs)
            finally:
                inside = outer

        return count

    methods = ("call", "compute_output_spec")
    for name in methods:
        object.__setattr__(layer, name, counting(getattr(layer, name)))
    try:
        yield
    finally:
        for name in methods:
            object.__delattr__(layer, name)


def _size(tensor: Any) -> int:
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
