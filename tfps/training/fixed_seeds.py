"""Operations with random numbers whose sequence begins with a fixed seed, such as `tf.random.normal(..., seed=1)`."""

import tensorflow as tf

from tfps.runtime.remote_variables import operations_of


def has_fixed_seeds(graph: tf.Graph) -> bool:
    """Returns whether a graph, or a function that it calls, has such an operation."""
    return any(operation._is_stateful and _has_seed(operation) for operation in operations_of(graph))


def _has_seed(operation: tf.Operation) -> bool:
    # All operations with a sequence of random numbers have these two attributes, and no other has both.
    try:
        return any(operation.get_attr(name) for name in ("seed", "seed2"))
    except ValueError:
        return False
