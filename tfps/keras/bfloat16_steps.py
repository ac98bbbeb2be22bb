"""Which operations of a step are replaced under the policy "mixed_bfloat16"."""

from typing import Any

import tensorflow as tf

from tfps import step
from tfps.ops import library

_CHANNELS_LAST = (None, "NHWC", "NWC", "NDHWC", "N...C")


def has_own_bias_gradient(value: Any, bias: Any, data_format: str | None = None, name: str | None = None) -> bool:
    """Whether a call of `tf.nn.bias_add` gets the gradient of `tfps.ops.bias_gradient`; its arguments are that call's.

    It does in bfloat16 alone, in the graph of a step that computes on the CPU of its worker. The op has no kernel for
    cards, and XLA does not know it: what XLA compiles, a branch and a loop have graphs of their own.
    """
    current = step.current()
    return (
        current is not None
        and not current.eager
        and not current.is_inside
        and not current.exported
        and current.host is None
        and tf.is_tensor(value)
        and value.dtype == tf.bfloat16
        and value.shape.rank is not None
        and data_format in _CHANNELS_LAST
        and library.available()
    )
