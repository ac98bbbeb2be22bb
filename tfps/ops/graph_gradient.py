"""Gives a tensor a custom gradient that is freed together with its graph.

In a graph, each call of a function made by `tf.custom_gradient` registers another gradient in a table of the process,
and nothing ever removes it. The gradient refers to the objects that it was defined with. For a lookup this includes the
table, so the servers would keep the rows of every model that was ever trained. This module registers one gradient once.
It finds the backward function of an operation by a number, which is an attribute of the operation. The graph owns the
function.

Threading: any thread.
"""

import dataclasses
import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import TypeAlias

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.python.eager import record  # no public function records an operation on the tapes

from tfps.errors import UnsupportedError

Backward: TypeAlias = Callable[[tf.Tensor], Sequence[tf.Tensor | None]]
"""Takes the gradient of a result and returns a gradient for each input: a tensor, IndexedSlices, or None."""

# The registered gradient, the attribute of an operation with its number, and the attribute of a graph with its
# functions.
_NAME = "TfpsWithGradient"
_NUMBER = "_tfps_backward"
_OWNED = "_tfps_backwards"
_numbers = itertools.count()


@dataclasses.dataclass(frozen=True, eq=False)
class _Holder:
    """Holds a backward function. Only the graph refers to the holder strongly, so both are freed together."""

    backward: Backward


# The holder of each number. Weak values, so that this table keeps no graph's functions alive.
_BACKWARDS: "weakref.WeakValueDictionary[int, _Holder]" = weakref.WeakValueDictionary()


@tf.autograph.experimental.do_not_convert
def with_gradient(result: tf.Tensor, inputs: Sequence[tf.Tensor], backward: Backward) -> tf.Tensor:
    """Gives a tensor a custom gradient, in eager code and in graphs.

    The operations that computed `result` are not differentiated.

    Args:
        result: a tensor that was computed from the inputs, and maybe from other tensors, which get no gradient.
        inputs: the tensors that get a gradient.
        backward: computes the gradients of the inputs. TensorFlow calls it once for each gradient that is taken. If
            `result` is in the body of a loop, it calls it in another graph than the one of `result`.

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
    sources = [result, *inputs]

    def gradients(upstream: tf.Tensor, *_: tf.Tensor) -> list[tf.Tensor | None]:
        # No gradient for `result`, so that none flows to the operations that computed it.
        return [None, *backward(upstream)]

    # Otherwise the tapes would also record the identity and use its gradient.
    with record.stop_recording():
        output = tf.identity(result) if tf.executing_eagerly() else _pass_through(sources, gradients)
    record.record_operation(_NAME, [output], sources, gradients)
    return output


def _pass_through(tensors: Sequence[tf.Tensor], gradients: Backward) -> tf.Tensor:
    """Passes tensors through an operation with these gradients; returns the first of them.

    Tapes of the same graph do not need the operation. Gradients of loops, of nested functions and of `tf.gradients` do:
    they look at operations, not at tapes.
    """
    graph, number, holder = tf.compat.v1.get_default_graph(), next(_numbers), _Holder(gradients)
    with (
        graph.gradient_override_map({"IdentityN": _NAME}),
        graph._attr_scope({_NUMBER: attr_value_pb2.AttrValue(i=number)}),
    ):
        output = tf.identity_n(tensors)[0]
    _BACKWARDS[number] = holder
    # The graph itself keeps the holders alive, as an attribute that TensorFlow does not know.
    if not hasattr(graph, _OWNED):
        setattr(graph, _OWNED, [])
    getattr(graph, _OWNED).append(holder)
    return output


@tf.RegisterGradient(_NAME)
def _gradient(operation: tf.Operation, *upstream: tf.Tensor) -> Sequence[tf.Tensor | None]:
    """Calls the backward function of an operation; this is the registered gradient.

    It finds the function by a number, because TensorFlow may rebuild a graph from its serialised form, as it does for
    branches in loops. Only the attribute survives that.
    """
    holder = _BACKWARDS.get(operation.get_attr(_NUMBER))
    if holder is None:
        raise UnsupportedError(
            "the gradient of a lookup must be taken while the function that it was traced in exists. "
            f"Received: operation {operation.name!r} of a function that was deleted."
        )
    return holder.backward(*upstream)
