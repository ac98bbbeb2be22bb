"""Exports models for plain TensorFlow. During the export their variables are on the chief.

A SavedModel can refer neither to servers nor to lookups there. So three things happen around a save: the variables that
it reaches are replaced by copies on the chief; the `tf.function`s that it reaches are traced again, because earlier
traces refer to servers; and a trace that meets a variable of the servers all the same is refused.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any, NoReturn, TypeAlias

import tensorflow as tf

from tfps import step
from tfps.embedding.dynamic_table import DynamicTable
from tfps.embedding.table import Table
from tfps.errors import UnsupportedError
from tfps.keras._compat import Variable, keras
from tfps.keras.frozen_rows import FrozenRows
from tfps.strategy.variables import StepVariable
from tfps.types import VariableKey

Function: TypeAlias = Any
"""A `tf.function`."""

_FUNCTION: Any = tf.types.experimental.PolymorphicFunction
_CONCRETE: Any = tf.types.experimental.ConcreteFunction
_TRACKABLE: Any = tf.__internal__.tracking.Trackable

_TRACES = ("_variable_creation_config", "_no_variable_creation_config", "_concrete_variable_creation_fn")
"""The attributes of a `tf.function` that, beside its cache, refer to its traces; None before the first trace."""


def export(stock: Callable[..., None], model: keras.Model, *args: Any, **kwargs: Any) -> None:
    """Runs Keras's `export`. The chief needs memory for the whole model."""
    with on_chief(model.variables):
        stock(model, *args, **kwargs)


def write_out(stock: Callable[..., None], archive: Any, *args: Any, **kwargs: Any) -> None:
    """Runs `write_out` of a `keras.export.ExportArchive`, with the models that it tracks or its endpoints use."""
    endpoints = [getattr(archive._tf_trackable, name) for name in archive._endpoint_names]
    # An archive exports the variables of the models that it tracks, and not their optimizers.
    layers = (one for one in getattr(archive, "_tracked", []) if isinstance(one, keras.layers.Layer))
    variables = [variable for layer in layers for variable in layer.variables]
    with _ready_to_save([*endpoints, *variables, *archive.variables]):
        stock(archive, *args, **kwargs)


def save(
    stock: Callable[..., Any], obj: Any, export_dir: str, signatures: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """Runs `tf.saved_model.save` for an object that may hold models."""
    functions = tf.nest.flatten(signatures)
    with _ready_to_save([obj, *functions], whole=True) as retraced:
        # Only the structure of the signatures stays: their graphs must not refer to servers either.
        signatures = tf.nest.map_structure(lambda one: retraced.get(id(one), one), signatures)
        return stock(obj, export_dir, signatures, *args, **kwargs)


def record_source(
    stock: Callable[..., Any], function: Function, *args: Any, **kwargs: Any
) -> tf.types.experimental.ConcreteFunction:
    """Runs `get_concrete_function`, and keeps on the result how it was made, so that it can be made again."""
    concrete = stock(function, *args, **kwargs)
    # Not for the functions of tfps, which nobody exports: this reference would keep their owners.
    if not getattr(function.python_function, "__module__", "").startswith("tfps."):
        concrete._tfps_source = function, *tf.nest.map_structure(_spec_of, (args, kwargs))
    return concrete


def _spec_of(argument: Any) -> Any:
    """Returns the spec of a tensor, which would keep its memory, and anything else as it is."""
    return tf.type_spec_from_value(argument) if tf.is_tensor(argument) else argument


@contextlib.contextmanager
def on_chief(variables: Iterable[Any]) -> Iterator[None]:
    """Replaces the values of variables by copies on the chief in this scope. Changes to the copies are lost."""
    moved = [v for v in variables if isinstance(v, Variable) and isinstance(v._value, StepVariable | Table)]
    # The Keras variables stay the same objects and only their values change, so the layers need no change. Variables
    # that share a value, as in tied layers, share a copy.
    before = [variable._value for variable in moved]
    copies: dict[int, tf.Variable] = {}
    frozen: list[keras.layers.Layer] = []
    try:
        for variable, value in zip(moved, before, strict=True):
            if id(value) not in copies:
                copies[id(value)] = (
                    _freeze(variable, value, frozen) if isinstance(value, DynamicTable) else _copy(value)
                )
            variable._value = copies[id(value)]
        yield
    finally:
        for layer in frozen:
            layer.frozen_rows = layer.frozen_index = None
        # If a copy failed, the variables that were not replaced get the value that they still have.
        for variable, value in zip(moved, before, strict=True):
            variable._value = value


def _freeze(variable: Any, table: DynamicTable, frozen: list[keras.layers.Layer]) -> tf.Variable:
    """Gives the layer of a table that grows the stock form of it; returns the matrix, in place of the table."""
    if table.is_slot:
        # An exported model does not train, and the ids of the rows are with the table.
        with tf.device(None), tf.init_scope():
            return tf.Variable(tf.zeros([0, table.dim]), name=table.name.split(":")[0])
    layer = variable._tfps_layer()
    layer.frozen_rows = FrozenRows(table)
    # TensorFlow saves what an attribute of the layer refers to.
    layer.frozen_index = layer.frozen_rows.index
    frozen.append(layer)
    return layer.frozen_rows.matrix


def _copy(value: StepVariable | Table) -> tf.Variable:
    # The name of a TensorFlow variable ends in ":0", but the name for a new one must not contain a colon.
    with tf.device(None), tf.init_scope():
        return tf.Variable(value.numpy(), dtype=value.dtype, trainable=value.trainable, name=value.name.split(":")[0])


@contextlib.contextmanager
def _ready_to_save(roots: Iterable[Any], whole: bool = False) -> Iterator[Mapping[int, Any]]:
    """The scope in which a save of `roots` refers to the chief alone.

    Args:
        roots: layers, variables, modules and functions.
        whole: whether all that a layer tracks is saved, such as its optimizer.

    Yields:
        What to save in place of a concrete function, by the id of that function.
    """
    variables, functions, concrete = _reach(roots, whole)
    if not any(isinstance(variable._value, StepVariable | Table) for variable in variables):
        # Functions of other models, which stay as they are; the guard sees those that hide one of ours.
        functions, concrete = [], []
    lookups: Any = _NoLookups()
    guard = step.Step(lookups, _NoCopies(), exported=True)
    with on_chief(variables), _traced_again(functions), step.tracing(guard):
        yield {id(one): _trace_again(one) for one in concrete}


class _NoLookups:
    """Refuses the lookups of an export: they would run on servers."""

    def __getattr__(self, name: str) -> NoReturn:
        _refuse("a table")


class _NoCopies(dict[VariableKey, tf.Tensor]):
    """Refuses the variables of an export that are on servers."""

    def get(self, key: VariableKey, default: Any = None) -> NoReturn:
        _refuse("a variable")


def _refuse(what: str) -> NoReturn:
    raise UnsupportedError(
        "what is exported must not use variables that the export does not reach. Received: a function that uses "
        f"{what} on a server. Valid: `track` the model in the `ExportArchive`, or make it an attribute of the object."
    )


def _reach(roots: Iterable[Any], whole: bool) -> tuple[list[Any], list[Function], list[Any]]:
    """Finds the Keras variables, the `tf.function`s and the concrete functions that are reached from `roots`."""
    variables: list[Any] = []
    functions: list[Any] = []
    concrete: list[Any] = []
    # Everything that was seen is kept alive, so that its id stays its own.
    waiting, seen = list(roots), dict[int, Any]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        if isinstance(one, Variable):
            variables.append(one)
        elif isinstance(one, _CONCRETE):
            concrete.append(one)
            waiting += getattr(one, "_tfps_source", ())[:1]
        elif isinstance(one, _FUNCTION):
            functions.append(one)
            waiting.append(one.python_function)
        elif isinstance(one, functools.partial):
            waiting += [one.func, *one.args, *one.keywords.values()]
        elif isinstance(one, MethodType):
            waiting += [one.__self__, one.__func__]
        elif isinstance(one, FunctionType):
            waiting += _names_of(one)
        elif isinstance(one, keras.layers.Layer):
            waiting += one.variables
            waiting += [value for value in vars(one).values() if isinstance(value, _FUNCTION)]
            waiting += one._trackable_children().values() if whole else []
        elif isinstance(one, _TRACKABLE):
            waiting += one._trackable_children().values()
            waiting += _functions_of(one)
    return variables, functions, concrete


def _names_of(function: FunctionType) -> list[Any]:
    """Returns the layers, modules and functions that a Python function names: in its closure, and its module's."""
    if (function.__module__ or "").split(".")[0] in ("keras", "tensorflow", "tfps"):
        # What their functions name is their own, and large.
        return [cell.cell_contents for cell in function.__closure__ or () if _is_set(cell)]
    if not all(_is_set(cell) for cell in function.__closure__ or ()):
        return []
    named = inspect.getclosurevars(function)
    kinds = (_TRACKABLE, Variable, _FUNCTION, FunctionType, MethodType, functools.partial)
    return [value for value in (*named.nonlocals.values(), *named.globals.values()) if isinstance(value, kinds)]


def _is_set(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    # A name of an outer function that has no value yet, or no more.
    except ValueError:
        return False
    return True


def _functions_of(module: Any) -> list[Function]:
    """Returns the `tf.function`s among the attributes and methods of a module."""
    names = {*dir(type(module)), *getattr(module, "__dict__", {})}
    static = {name: inspect.getattr_static(module, name, None) for name in names}
    return [getattr(module, name) for name, value in static.items() if isinstance(value, _FUNCTION)]


@contextlib.contextmanager
def _traced_again(functions: Iterable[Function]) -> Iterator[None]:
    """Traces `tf.function`s again where they had traces; at the end they have their first traces again."""
    before = []
    for function in functions:
        kept = {name: getattr(function, name) for name in (*_TRACES, "_function_cache") if hasattr(function, name)}
        before.append((function, kept, [one.structured_input_signature for one in _traces(function)]))
    try:
        for function, kept, _ in before:
            for name in kept:
                setattr(function, name, type(kept[name])() if name == "_function_cache" else None)
        for function, _, signatures in before:
            for args, kwargs in signatures if function.input_signature is None else ():
                function.get_concrete_function(*args, **kwargs)
        yield
    finally:
        for function, kept, _ in before:
            for name, value in kept.items():
                setattr(function, name, value)


def _traces(function: Function) -> list[Any]:
    # Not by `_list_all_concrete_functions`, which traces a function that has no trace yet.
    return list(function._function_cache.values())


def _trace_again(concrete: Any) -> Any:
    """Returns a concrete function like `concrete`, traced now."""
    function, args, kwargs = getattr(concrete, "_tfps_source", (None, (), {}))
    return concrete if function is None else function.get_concrete_function(*args, **kwargs)
