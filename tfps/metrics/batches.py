"""`Batch`: the labels, scores and weights of a batch, as a metric of two classes counts them."""

import dataclasses

import tensorflow as tf

from tfps.errors import ConfigError
from tfps.keras import features
from tfps.keras.growing_ids import fingerprint
from tfps.ops.label_check import check_labels
from tfps.types import Nest


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """The predictions of a batch; n is the number of labels.

    Args:
        labels: 0 or 1, float64 [n].
        scores: the predictions, float64 [n].
        weights: the weight of each, float64 [n]; 0 for what does not count.
    """

    labels: tf.Tensor
    scores: tf.Tensor
    weights: tf.Tensor


def read_batch(metric: str, y_true: Nest, y_pred: Nest, sample_weight: Nest = None) -> Batch:
    """Reads what Keras hands to a metric.

    Args:
        metric: the name of the metric, for messages.
        y_true: labels of 0 or 1, of any shape.
        y_pred: predictions, as many as labels.
        sample_weight: weights of examples or of single labels; None for 1.

    Raises:
        LabelError: a label is neither 0 nor 1. In a graph the operation fails.
        ConfigError: there are not as many predictions as labels.
    """
    mask = getattr(y_pred, "_keras_mask", None)
    labels, scores = tf.convert_to_tensor(y_true), tf.convert_to_tensor(y_pred)
    _check_sizes(metric, labels, scores)
    labels, scores = (tf.reshape(tf.cast(one, tf.float64), [-1]) for one in (labels, scores))
    check_labels(metric, labels, (labels == 0) | (labels == 1), "0 or 1")
    weights = tf.ones_like(labels) if sample_weight is None else spread(tf.cast(sample_weight, tf.float64), y_pred)
    if mask is not None:
        weights *= spread(tf.cast(mask, tf.float64), y_pred)
    return Batch(labels, scores, weights)


def spread(values: tf.Tensor, labels: Nest) -> tf.Tensor:
    """Repeats a value of each example for all labels of the example.

    Args:
        values: [batch] or [batch, 1], or in the shape of the labels.
        labels: what has the shape of the labels, [batch, ...].

    Returns:
        [n], where n is the number of labels. The operation fails if the sizes do not fit.
    """
    labels = tf.convert_to_tensor(labels)
    if _inner_size(values) == _inner_size(labels) is not None:
        return tf.reshape(values, [-1])
    size = tf.size(labels)
    times = size // tf.maximum(tf.size(values), 1)
    return tf.reshape(tf.repeat(tf.reshape(values, [-1]), times), [size])


def _check_sizes(metric: str, labels: tf.Tensor, scores: tf.Tensor) -> None:
    counts = labels.shape.num_elements(), scores.shape.num_elements()
    # Example: labels [None] do not fit scores [None, 3], and fit scores [None, 1].
    inner = _inner_size(labels), _inner_size(scores)
    if None not in counts and counts[0] != counts[1] or (None not in inner and inner[0] != inner[1]):
        raise ConfigError(
            f"`y_pred` of metric {metric!r} must have one prediction for each label. Received: labels of shape "
            f"{labels.shape} and predictions of shape {scores.shape}. Valid: the same shape, or a last axis of size 1."
        )


def _inner_size(values: tf.Tensor) -> int | None:
    """Returns the number of elements of an example; None where it is not known."""
    return values.shape[1:].num_elements() if values.shape.rank else None


def group_ids(metric: str, by: str | int | None, groups: Nest, labels: Nest) -> tf.Tensor:
    """Returns the group of each label as an id, int64 [n].

    Args:
        metric: the name of the metric, for messages.
        by: the input feature that has the groups; None for a single group, unless `groups` are given.
        groups: the groups of the examples, integers or strings; None to read the feature.
        labels: what has the shape of the labels, [batch, ...].

    Raises:
        ConfigError: there is no such feature, or `update_state` was called without a model and without groups.
    """
    if groups is None and by is None:
        return tf.zeros([tf.size(labels)], tf.int64)
    return spread(_as_ids(metric, feature_of(metric, by, groups)), labels)


def feature_of(metric: str, by: str | int | None, groups: Nest) -> tf.Tensor:
    """Returns the feature by which a metric divides examples, as it is; see `group_ids`."""
    if groups is not None:
        return tf.convert_to_tensor(groups)
    found = features.current()
    if found is None or by is None:
        raise ConfigError(
            f"`groups` of metric {metric!r} must be given where the model does not update its metrics by "
            f"`compute_metrics`. Received: None, with by={by!r}. Valid: update_state(y_true, y_pred, groups=...), or "
            "the `train_step` of Keras."
        )
    return found.find(by, f"by of metric {metric!r}")


def _as_ids(metric: str, values: tf.Tensor) -> tf.Tensor:
    if values.dtype == tf.string:
        return fingerprint(values)
    if values.dtype.is_integer or values.dtype.is_bool:
        return tf.cast(values, tf.int64)
    raise ConfigError(
        f"`groups` of metric {metric!r} must be integers or strings. Received: {values.dtype.name}, which rounds large "
        "ids. Valid: for example int64."
    )
