"""`Batch`: the labels, scores and weights of a batch, as a metric of two classes counts them."""

import dataclasses

import tensorflow as tf

from tfps.errors import ConfigError
from tfps.keras import features
from tfps.keras.growing_ids import fingerprint
from tfps.ops.label_check import check_labels
from tfps.types import Nest

_ROUNDING = 1e-3
"""How far a probability may be beyond 0 or 1: sums of bfloat16 are that far off."""


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
    _check_types(metric, labels, scores)
    _check_sizes(metric, labels, scores)
    if sample_weight is not None:
        sample_weight = tf.convert_to_tensor(sample_weight)
        _check_spread(metric, "sample_weight", sample_weight, scores)
    labels, scores = (tf.reshape(tf.cast(one, tf.float64), [-1]) for one in (labels, scores))
    check_labels(metric, labels, (labels == 0) | (labels == 1), "0 or 1")
    weights = tf.ones_like(labels) if sample_weight is None else spread(tf.cast(sample_weight, tf.float64), y_pred)
    if mask is not None:
        weights *= spread(tf.cast(mask, tf.float64), y_pred)
    return Batch(labels, scores, weights)


def check_probabilities(metric: str, batch: Batch) -> Batch:
    """Refuses predictions that are no probabilities; returns the batch with predictions of 0 to 1.

    Predictions may be beyond by what rounding adds, and may be NaN: then a metric is NaN, as the loss is.

    Raises:
        LabelError: a prediction that counts is no probability. In a graph the operation fails.
    """
    are_valid = (tf.abs(batch.scores - 0.5) <= 0.5 + _ROUNDING) | tf.math.is_nan(batch.scores) | (batch.weights == 0)
    check_labels(metric, batch.scores, are_valid, "0 to 1, or logits with from_logits=True", "y_pred")
    # `clip_by_value` might not keep NaN.
    scores = tf.where(batch.scores < 0, tf.zeros_like(batch.scores), batch.scores)
    return dataclasses.replace(batch, scores=tf.where(scores > 1, tf.ones_like(scores), scores))


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


def _check_types(metric: str, labels: tf.Tensor, scores: tf.Tensor) -> None:
    for name, values in (("y_true", labels), ("y_pred", scores)):
        if not (values.dtype.is_floating or values.dtype.is_integer or values.dtype.is_bool):
            raise ConfigError(
                f"`{name}` of metric {metric!r} must be numbers. Received: {values.dtype.name}. Valid: for example "
                "labels of 0 or 1, and predictions in float32."
            )


def _check_spread(metric: str, name: str, values: tf.Tensor, labels: tf.Tensor) -> None:
    """Refuses what is given for examples if there is, as far as is known, not one for each example or label."""
    given, wanted = values.shape.num_elements(), labels.shape.num_elements()
    examples = labels.shape[0] if labels.shape.rank else 1
    if None not in (given, wanted, examples) and given not in (1, examples, wanted):
        raise ConfigError(
            f"`{name}` of metric {metric!r} must have one value for each example or for each label. Received: shape "
            f"{values.shape}, for labels of shape {labels.shape}."
        )


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
    labels, found = tf.convert_to_tensor(labels), _as_ids(metric, feature_of(metric, by, groups))
    _check_spread(metric, "groups", found, labels)
    return spread(found, labels)


def feature_of(metric: str, by: str | int | None, groups: Nest) -> tf.Tensor:
    """Returns the feature by which a metric divides examples, as it is; see `group_ids`."""
    if groups is not None:
        return tf.convert_to_tensor(groups)
    found = features.current()
    if found is None or by is None:
        raise ConfigError(
            f"`groups` of metric {metric!r} must be given where no step of a model runs that calls `compute_metrics`. "
            f"Received: None, with by={by!r}. Valid: update_state(y_true, y_pred, groups=...), or the `train_step` of "
            "Keras."
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
