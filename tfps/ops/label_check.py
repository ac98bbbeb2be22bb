"""Refuses labels that a metric cannot count, in a step; parses the message on the chief.

Threading: any. Cost: one pass over the labels of a batch.
"""

import re

import tensorflow as tf

from tfps import step
from tfps.errors import LabelError

_MESSAGE = re.compile(
    r"a label is refused\] \[by metric (?P<metric>[^\]]*)\] \[valid: (?P<valid>[^\]]*)\] \[(?P<value>[^\]\s]*)"
)


def check_labels(metric: str, labels: tf.Tensor, are_valid: tf.Tensor, valid: str) -> None:
    """Fails unless all labels are valid. In a graph the operation fails, with a message that the chief translates.

    Args:
        metric: the name of the metric.
        labels: the labels, float64 of any shape.
        are_valid: whether each label is valid, bool of the same shape.
        valid: a description of valid labels.

    Raises:
        LabelError: a label is not valid, in eager mode.
    """
    if tf.executing_eagerly():
        wrong = labels.numpy()[~are_valid.numpy()]
        if len(wrong):
            raise _refused(metric, valid, str(wrong[0]))
        return
    # On a card an assertion does nothing.
    with step.on_host():
        # One wrong label, by few operations; NaN is never the greatest.
        wrong = tf.reduce_max(tf.where(are_valid, labels.dtype.min, labels))
        message = ["a label is refused", f"by metric {metric}", f"valid: {valid}", wrong]
        tf.debugging.Assert(tf.reduce_all(are_valid), message)


def find(text: str) -> LabelError | None:
    """Returns the error that a message of TensorFlow reports; None if the message is about something else."""
    found = _MESSAGE.search(text)
    if found is None:
        return None
    value = found["value"]
    # All wrong labels are NaN where the greatest is the least float.
    return _refused(found["metric"], found["valid"], "nan" if value.startswith("-1.79") else value)


def _refused(metric: str, valid: str, value: str) -> LabelError:
    return LabelError(f"`y_true` of metric {metric!r} must be {valid}. Received: {value}.")
