"""Refuses labels and predictions that a metric cannot count, in a step; parses the message on the chief.

Threading: any. Cost: one pass over the values of a batch.
"""

import re
from typing import Literal

import tensorflow as tf

from tfps import step
from tfps.errors import LabelError

_MESSAGE = re.compile(
    r"a value is refused\] \[(?P<argument>\w+) of metric (?P<metric>[^\]]*)\] \[valid: (?P<valid>[^\]]*)\] "
    r"\[(?P<value>[^\]\s]*)"
)


def check_labels(
    metric: str, labels: tf.Tensor, are_valid: tf.Tensor, valid: str, argument: Literal["y_true", "y_pred"] = "y_true"
) -> None:
    """Fails unless all labels are valid. In a graph the operation fails, with a message that the chief translates.

    Args:
        metric: the name of the metric.
        labels: the labels, or the predictions, float64 of any shape.
        are_valid: whether each is valid, bool of the same shape.
        valid: a description of valid ones.
        argument: the argument of `update_state` that has them.

    Raises:
        LabelError: one is not valid, in eager mode.
    """
    if tf.executing_eagerly():
        wrong = labels.numpy()[~are_valid.numpy()]
        if len(wrong):
            raise _refused(argument, metric, valid, str(wrong[0]))
        return
    # On a card an assertion does nothing.
    with step.on_host():
        # One wrong label, by few operations; NaN is never the greatest.
        wrong = tf.reduce_max(tf.where(are_valid, labels.dtype.min, labels))
        message = ["a value is refused", f"{argument} of metric {metric}", f"valid: {valid}", wrong]
        tf.debugging.Assert(tf.reduce_all(are_valid), message)


def find(text: str) -> LabelError | None:
    """Returns the error that a message of TensorFlow reports; None if the message is about something else."""
    found = _MESSAGE.search(text)
    if found is None:
        return None
    value = found["value"]
    # All wrong labels are NaN where the greatest is the least float.
    return _refused(found["argument"], found["metric"], found["valid"], "nan" if value.startswith("-1.79") else value)


def _refused(argument: str, metric: str, valid: str, value: str) -> LabelError:
    return LabelError(f"`{argument}` of metric {metric!r} must be {valid}. Received: {value}.")
