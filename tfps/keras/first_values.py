"""Keras initializers as `FirstValue`: how the row of any id of a table that grows begins."""

from typing import Any

import keras

from tfps.embedding.growth import FirstValue


def first_value(initializer: Any) -> FirstValue | None:
    """Returns how an initializer draws the row of an id; None if its rows depend on the shape of a whole matrix."""
    # The types are compared exactly, because a subclass may draw in a different way.
    kind = type(initializer)
    if kind is keras.initializers.RandomUniform:
        return FirstValue("uniform", initializer.minval, initializer.maxval, _seed_of(initializer))
    if kind is keras.initializers.RandomNormal:
        return FirstValue("normal", initializer.mean, initializer.stddev, _seed_of(initializer))
    if kind is keras.initializers.TruncatedNormal:
        return FirstValue("truncated_normal", initializer.mean, initializer.stddev, _seed_of(initializer))
    return None


def _seed_of(initializer: Any) -> int:
    # Keras draws a seed where the user gives none, so that an initializer draws the same numbers each time.
    seed = getattr(initializer, "seed", None)
    return seed if isinstance(seed, int) else keras.random.draw_seed(None)
