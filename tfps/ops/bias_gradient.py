"""Adds a bias in bfloat16, with sums of gradients in float32 and the backward pass of a ReLU in the same op.

TensorFlow adds up the gradient of a bias in bfloat16, which keeps 8 bits: the sum of 512 gradients of one size is off
by several percent. It also reads the gradients twice, once for the ReLU and once for the sum.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import record  # no public function records an operation on the tapes

from tfps.ops import library

_NAME = "TfpsBiasAdd"


@tf.autograph.experimental.do_not_convert
def bias_add(
    stock: Callable[..., tf.Tensor], value: tf.Tensor, bias: tf.Tensor, *args: Any, **kwargs: Any
) -> tf.Tensor:
    """Adds a bias by `tf.nn.bias_add`, with a backward pass that sums in float32.

    The graph has the same operation, so TensorFlow fuses it with a matrix product as before. Tapes of this graph use
    the backward pass. Gradients that look at operations and not at tapes, as those of loops, are TensorFlow's.

    Args:
        stock: TensorFlow's `tf.nn.bias_add`.
        value: bfloat16, [..., columns], in the graph under trace.
        bias: [columns], a tensor or variable that converts to bfloat16.
        args: other arguments of `stock`.
        kwargs: the same, by name.

    Returns:
        value + bias.
    """
    # Keras gives its variable, whose read and cast the tapes do record.
    bias = tf.convert_to_tensor(bias, value.dtype)
    # Otherwise the tapes would also record TensorFlow's operation and use its gradient.
    with record.stop_recording():
        result = stock(value, bias, *args, **kwargs)
    record.record_operation(_NAME, [result], [value, bias], bias_gradients)
    return result


def bias_gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the gradients of the value and of the bias.

    Args:
        upstream: the gradient of the sum, bfloat16 [..., columns].

    Returns:
        The gradient of the value, [..., columns], and that of the bias, [columns].
    """
    ops = library.load()
    if ops is not None and _is_of_relu(upstream):
        # TensorFlow's own op for the ReLU has no consumer then, and is pruned.
        gradient, bias_gradient = ops.tfps_relu_bias_grad(upstream=upstream.op.inputs[0], results=upstream.op.inputs[1])
        return gradient, bias_gradient
    # `reduce_sum` adds up bfloat16 in float32.
    return upstream, tf.reduce_sum(upstream, list(range(upstream.shape.rank - 1)))


def _is_of_relu(upstream: tf.Tensor) -> bool:
    """Whether a gradient is that of a ReLU, in the graph under trace."""
    return upstream.graph is tf.compat.v1.get_default_graph() and upstream.op.type == "ReluGrad"


@tf.RegisterGradient("TfpsReluBiasGrad")
def _second_gradients(operation: tf.Operation, of_gradient: tf.Tensor, of_bias: tf.Tensor) -> list[tf.Tensor | None]:
    """Returns the gradient of the gradient, for steps that differentiate twice: as that of a ReLU, 0 or 1 times."""
    return [tf.raw_ops.ReluGrad(gradients=of_gradient + of_bias, features=operation.inputs[1]), None]
