"""Losses of a replica, whose mean over the examples of all replicas is the loss of the joined batch.

A replica counts by its examples (`tfps.replicas.reduction`), which is right for a loss that is a mean over examples. A
masked loss is a mean over unmasked entries, and one with "mean_with_sample_weight" a mean by weight. Each replica has
other numbers of them, so their totals cross, as does the number of examples for a loss that is a sum.

Threading: the thread of a replica.
"""

from collections.abc import Callable

import tensorflow as tf

from tfps.errors import UnsupportedError
from tfps.keras._compat import keras, tree
from tfps.keras.variables import carries_state
from tfps.replicas import messages, step
from tfps.replicas.strategies import Replicated

_MEANS = ("sum_over_batch_size", "mean")


def is_shared(*args: object, **kwargs: object) -> bool:
    """Whether a step is traced that shares its batch with other replicas."""
    replica = tf.distribute.get_replica_context()
    return step.current() is not None and replica is not None and replica.num_replicas_in_sync > 1


def keep(stock: Callable[[tf.Tensor], tf.Tensor], value: tf.Tensor) -> tf.Tensor:
    """Replaces `scale_loss_for_distribution` and `unscale_loss_for_distribution`.

    Keras divides its own losses by the number of replicas, and no others. Here the gradients become a mean over the
    examples, of whatever loss.
    """
    return value


def reduce_weighted_values(
    stock: Callable[..., tf.Tensor],
    values: tf.Tensor,
    sample_weight: tf.Tensor | None = None,
    mask: tf.Tensor | None = None,
    reduction: str | None = "sum_over_batch_size",
    dtype: object = None,
) -> tf.Tensor:
    """Replaces `reduce_weighted_values`, by which a Keras loss becomes a number."""
    loss = stock(values, sample_weight, mask, reduction, dtype)
    current = step.current()
    assert current is not None
    examples = current.examples
    if reduction == "sum":
        (total,) = messages.all_sum([examples])
        factor = tf.math.divide_no_nan(total, examples)
    elif reduction in _MEANS and mask is not None:
        factor = _share_of_terms(stock(tf.ones_like(values), None, mask, "sum", dtype), examples)
    elif reduction == "mean_with_sample_weight" and (mask is not None or sample_weight is not None):
        factor = _share_of_terms(stock(tf.ones_like(values), sample_weight, mask, "sum", dtype), examples)
    else:
        return loss
    return loss * tf.cast(factor, loss.dtype)


def compute_average_loss(
    stock: Callable[..., tf.Tensor],
    per_example_loss: tf.Tensor,
    sample_weight: tf.Tensor | None = None,
    global_batch_size: tf.Tensor | int | None = None,
) -> tf.Tensor:
    """Replaces `tf.nn.compute_average_loss`, whose values add up over replicas. Those of a step are averaged."""
    loss = stock(per_example_loss, sample_weight, global_batch_size)
    if global_batch_size is None:
        return loss * _number_of_replicas(loss)
    current = step.current()
    assert current is not None
    (total,) = messages.all_sum([current.examples])
    return loss * tf.cast(tf.math.divide_no_nan(total, current.examples), loss.dtype)


def scale_regularization_loss(stock: Callable[[tf.Tensor], tf.Tensor], regularization_loss: tf.Tensor) -> tf.Tensor:
    """Replaces `tf.nn.scale_regularization_loss`, which divides by the number of replicas."""
    loss = stock(regularization_loss)
    return loss * _number_of_replicas(loss)


def _number_of_replicas(loss: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.distribute.get_replica_context().num_replicas_in_sync, loss.dtype)


def check_model(model: keras.Model) -> None:
    """Refuses what several replicas would compute otherwise than one.

    Raises:
        UnsupportedError: a layer carries a state for each row of the batch, or a loss is not reduced to a number.
    """
    strategy: Replicated = model._distribute_strategy
    if strategy.num_replicas_in_sync == 1:
        return
    for layer in model._flatten_layers():
        if carries_state(layer):
            raise UnsupportedError(
                f"layer {layer.name!r} must not be stateful under {type(strategy).__name__}, because it carries a "
                "state for each row of the whole batch. Received: stateful=True. Valid: tfps.OneDeviceStrategy."
            )
    for loss in tree.flatten(getattr(model, "loss", None)):
        if isinstance(loss, keras.losses.Loss) and loss.reduction in (None, "none"):
            raise UnsupportedError(
                f"`loss` must be one number for a batch under {type(strategy).__name__}. "
                f'Received: {type(loss).__name__} with reduction={loss.reduction!r}. Valid: "sum_over_batch_size".'
            )


def _share_of_terms(terms: tf.Tensor, examples: tf.Tensor) -> tf.Tensor:
    """Returns the fraction of all terms that this replica has, by the fraction of all examples that it has."""
    # The example of zeros of a replica without examples does not count.
    own = tf.stop_gradient(tf.cast(terms, tf.float32)) * tf.minimum(examples, 1.0)
    all_terms, all_examples = messages.all_sum([own, examples])
    return tf.math.divide_no_nan(own, all_terms) * tf.math.divide_no_nan(all_examples, examples)
