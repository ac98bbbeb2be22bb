"""Functions of a step that TensorFlow would trace in a graph of their own.

A `tf.function` that a step calls is traced as a part of the step.
TensorFlow would trace it into a graph of its own and use that graph again in the next trace of the step. But that graph
has the worker's copies of dense variables and the rows of the first trace.

One that XLA compiles (`jit_compile=True`) is traced into a graph of its own, but a new one in each trace of the step.
Keras has such functions for operations that TensorFlow has on CPUs only with XLA, such as convolutions with groups.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx  # how a tf.function converts is not public
from tensorflow.python.eager.polymorphic_function import autograph_util

from tfps import step
from tfps.embedding.lookup_group import LookupResult
from tfps.embedding.table import Table
from tfps.embedding.whole import never
from tfps.training.step_lookups import DirectLookups
from tfps.types import Nest


def is_in_traced_step() -> bool:
    """Whether a step is under trace. An eager step calls TensorFlow's functions as they are."""
    current = step.current()
    return current is not None and not current.eager


def run_inline(stock: Callable[..., Nest], function: Any, *args: Any, **kwargs: Any) -> Nest:
    """Runs the Python function of a `tf.function` in the graph under trace, or compiled by XLA if it asks for that.

    Args:
        stock: the method of TensorFlow, which calls a function that XLA compiles.
        function: the `tf.function`.
        args: its arguments.
        kwargs: its keyword arguments.
    """
    python = function.python_function
    if function.input_signature is not None:
        args, kwargs = _as_declared(python, function.input_signature, args, kwargs), {}
    # As in a graph of its own, arrays are tensors; Python numbers stay what they are.
    elif any(isinstance(value, np.ndarray) for value in tf.nest.flatten((args, kwargs))):
        args, kwargs = tf.nest.map_structure(_to_tensor, (args, kwargs))
    if function._autograph:
        python = autograph_util.py_func_from_autograph(python, function._experimental_autograph_options)
    # The closures around the step switch AutoGraph off, and this function may have it on.
    status = ag_ctx.Status.ENABLED if function._autograph else ag_ctx.Status.DISABLED
    with ag_ctx.ControlStatusCtx(status):
        if function._jit_compile and _is_pure(python, args, kwargs):
            return stock(function._clone(None), *args, **kwargs)
        return tf.nest.map_structure(_to_result, python(*args, **kwargs))


def _is_pure(python: Callable[..., Nest], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a function computes its results from its arguments and the worker's copies, and does nothing else.

    XLA cannot compile lookups. What a step draws or assigns must be in the graph of the step, which shows how.
    """
    with _graph_to_throw_away() as (inner, lookups):
        python(*args, **kwargs)
        operations = tf.compat.v1.get_default_graph().get_operations()
    stateful = {operation.type for operation in operations if operation.op_def.is_stateful}
    return not lookups.count and not inner.uncopied and stateful <= {"ReadVariableOp"}


@contextlib.contextmanager
def _graph_to_throw_away() -> Iterator[tuple[step.Step, "_CountedLookups"]]:
    """Traces a function alone, because only a trace shows what it does. Yields what its trace fills in."""
    current = step.current()
    assert current is not None
    with tf.__internal__.FuncGraph("tfps_thrown_away").as_default():
        lookups = _CountedLookups()
        inner = step.Step(lookups, current.copies, exported=current.exported)
        with step.tracing(inner):
            yield inner, lookups


def map_with_lookups(
    stock: Callable[..., Nest], fn: Callable[[Nest], Nest], elems: Nest, *args: Any, **kwargs: Any
) -> Nest:
    """Replaces `tf.vectorized_map` in a step: a function that looks up rows of tables runs in a loop.

    TensorFlow vectorizes operation by operation, and has no rule for a lookup. The loop gives the same results.

    Args:
        stock: the function of TensorFlow, for functions without lookups.
        fn: see `tf.vectorized_map`.
        elems: see `tf.vectorized_map`.
        args: the other arguments of `tf.vectorized_map`.
        kwargs: the same.
    """
    elems = tf.nest.map_structure(tf.convert_to_tensor, elems, expand_composites=True)
    with _graph_to_throw_away() as (_, lookups):
        first = tf.nest.map_structure(lambda elem: _placeholder(elem.dtype, elem.shape[1:]), elems)
        results = fn(first)
    if not lookups.count:
        return stock(fn, elems, *args, **kwargs)
    signature = tf.nest.map_structure(lambda one: tf.TensorSpec(one.shape, one.dtype), results)
    # A first dimension of 1 stands for as many as the others have.
    size = functools.reduce(tf.maximum, [tf.shape(elem)[0] for elem in tf.nest.flatten(elems)])
    elems = tf.nest.map_structure(lambda elem: tf.repeat(elem, size, 0) if elem.shape[0] == 1 else elem, elems)
    return tf.map_fn(fn, elems, fn_output_signature=signature)


class _CountedLookups(DirectLookups):
    """Counts the lookups of a function."""

    count = 0

    def look_up(self, table: Table, ids: tf.Tensor) -> LookupResult:
        """Counts a lookup."""
        self.count += 1
        return super().look_up(table, ids)

    def read_whole(self, table: Table) -> tf.Tensor:
        """Returns no values. All rows are one tensor for all parts, which TensorFlow can vectorize."""
        return never(table)


def _placeholder(dtype: tf.DType, shape: tf.TensorShape) -> tf.Tensor:
    return tf.compat.v1.placeholder(dtype, shape)


def _to_tensor(value: object) -> object:
    return tf.convert_to_tensor(value) if isinstance(value, np.ndarray) else value


def _to_result(value: object) -> object:
    # A `tf.function` returns tensors.
    return tf.convert_to_tensor(value) if isinstance(value, bool | int | float | np.ndarray | np.generic) else value


def _as_declared(
    python: Callable[..., Nest], signature: tuple[Nest, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...]:
    """Returns all arguments by position, with tensors of the dtypes that `input_signature` declares."""
    bound = inspect.signature(python).bind(*args, **kwargs)
    bound.apply_defaults()

    def convert(spec: object, value: object) -> object:
        return tf.convert_to_tensor(value, spec.dtype) if isinstance(spec, tf.TensorSpec) else value

    return tuple(
        tf.nest.map_structure(convert, spec, value) for spec, value in zip(signature, bound.args, strict=False)
    )
