"""What a step does with gradients that are not finite: `on_nan` of the strategy."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tfps import step
from tfps.cluster.faults import raise_translated
from tfps.embedding.local_table import LocalTable, find_stand_in
from tfps.embedding.merged import MergedGradient
from tfps.embedding.table import Table
from tfps.keras.optimizers import Gradient, value_of
from tfps.ops import not_finite
from tfps.strategy.arguments import IGNORE, SKIP


def update_if_finite(
    optimizer: keras.Optimizer,
    gradients: Sequence[Gradient],
    variables: Sequence[keras.Variable],
    update: Callable[[], None],
) -> None:
    """Runs an update as `on_nan` says: always, only with finite gradients, or never again.

    Args:
        optimizer: an optimizer of our strategy.
        gradients: the gradient of each variable.
        variables: the variables.
        update: traces the update.
    """
    kind = optimizer._distribution_strategy.on_nan
    merged = any(isinstance(gradient, MergedGradient) for gradient in gradients)
    if kind == IGNORE or not gradients:
        update()
    elif kind == SKIP:
        finite = tf.stack([_is_finite(gradient) for gradient in gradients])

        def tell() -> None:
            # To the log of the worker, or of the server that makes a synchronous update.
            told = "" if merged else _message(optimizer, gradients, variables, finite)
            tf.print("tfps: an update is left out:", told, summarize=8)

        tf.cond(tf.reduce_all(finite), update, tell)
    elif merged:
        # The workers have looked at their own gradients, and know more about them.
        update()
    else:
        with tf.control_dependencies(check(optimizer, gradients, variables)):
            update()


def check(
    optimizer: keras.Optimizer, gradients: Sequence[Gradient | None], variables: Sequence[keras.Variable]
) -> list[tf.Operation]:
    """Makes the step fail if a gradient is not finite; returns what an update has to wait for.

    Raises:
        NotFiniteError: a gradient is not finite, and the step runs eagerly.
    """
    pairs = [(one, variable) for one, variable in zip(gradients, variables, strict=True) if one is not None]
    known, updated = [one for one, _ in pairs], [variable for _, variable in pairs]
    finite = tf.stack([_is_finite(gradient) for gradient in known])
    try:
        operation = not_finite.assert_finite(finite, _message(optimizer, known, updated, finite))
    except tf.errors.InvalidArgumentError as error:
        raise_translated(error, not_finite.find(str(error), None) or error)
    return [] if operation is None else [operation]


def _message(
    optimizer: keras.Optimizer, gradients: Sequence[Gradient], variables: Sequence[keras.Variable], finite: tf.Tensor
) -> list[str | tf.Tensor]:
    names = [str(getattr(variable, "path", variable.name)) for variable in variables]
    rows = {}
    for number, (gradient, variable) in enumerate(zip(gradients, variables, strict=True)):
        value = value_of(variable)
        if isinstance(value, Table) and isinstance(gradient, tf.IndexedSlices):
            rows[number] = _bad_rows(gradient, value)
    current = step.current()
    saved = None if current is None else current.saved
    return not_finite.describe(names, finite, rows, tf.convert_to_tensor(optimizer.iterations), saved)


def _bad_rows(gradient: tf.IndexedSlices, table: Table) -> tf.Tensor:
    """Returns the ids of the rows whose gradient is not finite, int64 [m]."""
    bad = tf.reduce_any(~tf.math.is_finite(gradient.values), axis=-1)
    ids = tf.cast(tf.boolean_mask(gradient.indices, bad), tf.int64)
    here = find_stand_in(table)
    # In a window, rows are numbered by their place in it.
    return tf.gather(here.ids, ids) if isinstance(here, LocalTable) and here.ids is not None else ids


def _is_finite(gradient: Gradient) -> tf.Tensor:
    if isinstance(gradient, MergedGradient):
        return tf.math.is_finite(gradient.square_sum())
    values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
    if not values.dtype.is_floating:
        return tf.constant(True)
    return tf.reduce_all(tf.math.is_finite(values))
