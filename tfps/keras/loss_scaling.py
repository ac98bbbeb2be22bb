"""The update of a `LossScaleOptimizer` in a step, which Keras uses under the policy "mixed_float16".

Keras makes the gradient of a table dense to see whether it is finite, and applies the optimizer in a branch. Here the
rows of the batch are looked at, and in synchronous mode the servers decide, from the mean gradients.
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tfps import step
from tfps.embedding.merged import MergedGradient
from tfps.keras.multi_optimizer import unscaled
from tfps.keras.optimizers import Gradient
from tfps.keras.sync import SyncOptimizer, contribute


def apply(
    stock: Callable[..., None],
    optimizer: keras.optimizers.LossScaleOptimizer,
    gradients: Sequence[Gradient | None],
    trainable_variables: Sequence[keras.Variable] | None = None,
) -> None:
    """Applies gradients of a scaled loss, or hands them over to the servers; replaces `apply` of Keras.

    Args:
        stock: the method of Keras.
        optimizer: the optimizer.
        gradients: the gradient of each variable; None for a variable without one.
        trainable_variables: the variables; None for those that the optimizer was built with.
    """
    if not optimizer.built:
        optimizer.build(list(trainable_variables or []))
        optimizer.built = True
    current = step.current()
    if current is not None and current.gather is not None:
        update = lambda joined: apply(stock, optimizer, joined, trainable_variables)  # noqa: E731
        current.gather(gradients, update, is_weighted=id(optimizer) in current.scaled_by)
        return
    if current is not None and current.contributions is not None and isinstance(unscaled(optimizer), SyncOptimizer):
        # Scaled as they are: all workers of a global step read the same scale, and the update divides by it.
        contribute(
            current.contributions,
            optimizer,
            lambda *means: update_scaled(optimizer, *means),
            gradients,
            trainable_variables,
        )
    else:
        update_scaled(optimizer, gradients, trainable_variables)


def scale_loss(
    stock: Callable[..., tf.Tensor], optimizer: keras.optimizers.LossScaleOptimizer, loss: tf.Tensor
) -> tf.Tensor:
    """Scales the loss of a device that shares a batch; replaces `scale_loss` of Keras there.

    The loss is a mean over the examples of the device. Its fraction of the mean over the batch has gradients that
    overflow where those of the whole batch do.
    """
    current = step.current()
    assert current is not None and current.weight is not None
    current.scaled_by.add(id(optimizer))
    loss = stock(optimizer, loss)
    return loss * tf.cast(current.weight, loss.dtype)


def update_scaled(
    optimizer: keras.optimizers.LossScaleOptimizer,
    gradients: Sequence[Gradient | None],
    variables: Sequence[keras.Variable] | None,
) -> None:
    """Applies the optimizer and lets the scale grow; where a gradient is not finite, it only halves the scale."""
    scale = tf.convert_to_tensor(optimizer.dynamic_scale)
    finite = tf.reduce_all([_is_finite(gradient) for gradient in gradients if gradient is not None])

    def apply_it() -> None:
        factor = tf.math.reciprocal(scale)
        pairs = zip(gradients, variables or optimizer._trainable_variables, strict=True)
        unscaled_gradients = [one if _is_new_value(variable) else _times(one, factor) for one, variable in pairs]
        optimizer.inner_optimizer.apply(unscaled_gradients, variables)
        grows = tf.equal(tf.convert_to_tensor(optimizer.step_counter), optimizer.dynamic_growth_steps - 1)
        steps = tf.convert_to_tensor(optimizer.step_counter)
        optimizer.step_counter.assign(tf.where(grows, tf.zeros_like(steps), steps + 1))
        optimizer.dynamic_scale.assign(tf.where(grows, 2.0 * scale, scale))

    def skip() -> None:
        optimizer.step_counter.assign(0)
        optimizer.dynamic_scale.assign(0.5 * scale)

    tf.cond(finite, apply_it, skip)


def _is_new_value(variable: keras.Variable) -> bool:
    """Whether the gradient of a variable is its new value, as for the scales of float8 layers; none of it is scaled."""
    return bool(getattr(variable, "overwrite_with_gradient", False))


def _is_finite(gradient: Gradient) -> tf.Tensor:
    if isinstance(gradient, MergedGradient):
        return tf.math.is_finite(gradient.square_sum())
    values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
    return tf.reduce_all(tf.math.is_finite(values))


def _times(gradient: Gradient | None, factor: tf.Tensor) -> Gradient | None:
    if gradient is None:
        return None
    if isinstance(gradient, MergedGradient):
        return gradient.with_factor(factor)
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values * tf.cast(factor, gradient.dtype)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient * tf.cast(factor, gradient.dtype)
