"""The operators of Python on whole tables, as a `tf.Variable` has them: `-table`, `table * 2`, `rows @ table`."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import tensorflow as tf

Kind = TypeVar("Kind", bound=type)
_OF_IDENTITY = {"__eq__", "__ne__", "__getitem__"}
"""Tables are compared by identity, as keys are, and have an index of their own."""


def with_operators(kind: Kind) -> Kind:
    """Gives a class the operators of `tf.Tensor`. Its objects become tensors first, by their method `value`."""
    for name in tf.Tensor.OVERLOADABLE_OPERATORS - _OF_IDENTITY:
        setattr(kind, name, _on_value(getattr(tf.Tensor, name)))
    # NumPy would turn a table into an array, element by element, in `array * table`. With this it asks the table.
    setattr(kind, "__array_priority__", 100)  # noqa: B010
    return kind


def _on_value(operator: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    @functools.wraps(operator)
    def run(table: Any, *args: object) -> tf.Tensor:
        return operator(table.value(), *args)

    return run
