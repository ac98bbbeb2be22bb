"""A tensor with a gradient of our own, which is freed together with the graph that it is part of.

In a graph, each call of a function made by `tf.custom_gradient` registers another gradient in a table of the process,
and nothing removes it. The gradient refers to whatever it was defined in. For a lookup that is the table: the servers
would keep the rows of every model that was ever trained. Here one gradient is registered, once. It finds the backward
function of an operation by a number, an attribute of the operation; the graph owns the function.

Threading: any thread.
"""

import dataclasses
import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import TypeAlias

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.python.eager import record  # how to put an operation on the tapes is not public

from tfps.errors import UnsupportedError

Backward: TypeAlias = Callable[[tf.Tensor], Sequence[tf.Tensor | None]]
"""Takes the gradient of a result and returns a gradient for each input: a tensor, IndexedSlices, or None."""

_NAME = "TfpsWithGradient"
_NUMBER = "_tfps_backward"
_OWNED = "_tfps_backwards"
_numbers = itertools.count()


@dataclasses.dataclass(frozen=True, eq=False)
class _Owned:
    """A backward function. A graph refers to it, the table of numbers does not: so it goes when the graph goes."""

    backward: Backward


_BACKWARDS: "weakref.WeakValueDictionary[int, _Owned]" = weakref.WeakValueDictionary()


@tf.autograph.experimental.do_not_convert
def with_gradient(result: tf.Tensor, inputs: Sequence[tf.Tensor], backward: Backward) -> tf.Tensor:
    """Gives a tensor a gradient, in eager code and in graphs. The operations that made it are not differentiated.

    Args:
        result: what was computed from the inputs, and maybe from other tensors, which get no gradient.
        inputs: the tensors that get a gradient.
        backward: computes their gradients. TensorFlow calls it where it takes the gradient: more than once, if more
            than one is taken, and in another graph than `result` is in, if that is the body of a loop.

    Returns:
        A tensor equal to `result`.

    Example:
        >>> x = tf.constant(3.4)
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(x)
        ...     y = with_gradient(tf.round(x), [x], lambda upstream: [upstream])
        >>> float(tape.gradient(y, x))
        1.0
    """
    taken_from = [result, *inputs]

    def gradients(upstream: tf.Tensor, *_: tf.Tensor) -> list[tf.Tensor | None]:
        return [None, *backward(upstream)]  # no gradient for `result`: nothing flows to what made it

    # Without this the tapes would record the identity too, and use its own gradient.
    with record.stop_recording():
        output = tf.identity(result) if tf.executing_eagerly() else _in_graph(taken_from, gradients)
    record.record_operation(_NAME, [output], taken_from, gradients)
    return output


def _in_graph(tensors: Sequence[tf.Tensor], gradients: Backward) -> tf.Tensor:
    """Passes tensors through an operation with these gradients; returns the first.

    Tapes of the same graph do not need it. Gradients of loops, of functions in functions and `tf.gradients` look at
    operations and not at tapes.
    """
    graph, number, owned = tf.compat.v1.get_default_graph(), next(_numbers), _Owned(gradients)
    with (
        graph.gradient_override_map({"IdentityN": _NAME}),
        graph._attr_scope({_NUMBER: attr_value_pb2.AttrValue(i=number)}),
    ):
        output = tf.identity_n(tensors)[0]
    _BACKWARDS[number] = owned
    if not hasattr(graph, _OWNED):
        setattr(graph, _OWNED, [])
    getattr(graph, _OWNED).append(owned)
    return output


@tf.RegisterGradient(_NAME)
def _gradient(operation: tf.Operation, *upstream: tf.Tensor) -> Sequence[tf.Tensor | None]:
    """The registered gradient: calls the backward function of one operation.

    It is looked up by number because TensorFlow may build a graph anew from its serialised form, as it does for
    branches in loops: such a graph has the attribute and nothing else of ours.
    """
    owned = _BACKWARDS.get(operation.get_attr(_NUMBER))
    if owned is None:
        raise UnsupportedError(
            "the gradient of a lookup must be taken while the function that it was traced in exists. "
            f"Received: operation {operation.name!r} of one that was deleted."
        )
    return owned.backward(*upstream)
