"""Draws negatives for pairs of word2vec: random rows beside each positive row, which the model must score low."""

import dataclasses

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from tfps import step
from tfps.errors import ConfigError
from tfps.ops import library
from tfps.ops.draw_targets_graph import draw_targets_graph
from tfps.ops.id_range import translate_eager_errors

_MOST_ROWS = 2**31
"""An alias must fit in 32 bits."""


@dataclasses.dataclass(frozen=True, eq=False)
class Negatives:
    """The distribution of the negatives and their number.

    Args:
        rows: the number of rows of the table, 2 to 2^31.
        count: the number of negatives of each pair, at least 1.
        aliases: the table of `alias_table`, int64 [rows]; None for a uniform draw.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    rows: int
    count: int
    aliases: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        if not 2 <= self.rows <= _MOST_ROWS:
            raise ConfigError(f"`rows` must be 2 to {_MOST_ROWS}. Received: {self.rows}.")
        if self.count < 1:
            raise ConfigError(f"`count` must be at least 1. Received: {self.count}.")
        if self.aliases is not None and np.shape(self.aliases) != (self.rows,):
            raise ConfigError(f"`aliases` must have shape ({self.rows},). Received: {np.shape(self.aliases)}.")


def alias_table(weights: ArrayLike) -> NDArray[np.int64]:
    """Builds the table for draws of rows in constant time, for any weights.

    Args:
        weights: the weight of each row, [rows], at least 0 and not all 0.

    Returns:
        int64 [rows]. A draw picks a random column and keeps it with the column's probability, or else takes the
        column's alias. The high 32 bits are the probability times 2^32, the low 32 bits are the alias.

    Raises:
        ConfigError: the weights break their rule.

    Source:
        Walker 1977, An Efficient Method for Generating Discrete Random Variables; built as in Vose 1991.

    Example:
        >>> [(int(x) >> 32 & 0xFFFFFFFF, int(x) & 0xFFFFFFFF) for x in alias_table([3.0, 1.0])]
        [(4294967295, 0), (2147483648, 0)]
    """
    weights = np.asarray(weights, np.float64)
    if (
        weights.ndim != 1
        or not weights.size
        or not np.isfinite(weights).all()
        or weights.min() < 0
        or not weights.any()
    ):
        raise ConfigError(
            "`weights` must be a vector of finite numbers, at least 0 and not all 0. "
            f"Received: shape {weights.shape}, from {weights.min(initial=0)} to {weights.max(initial=0)}."
        )
    # The mean height of a column is 1. A column below 1 is filled up to 1 by one above it, which becomes its alias.
    # Example: heights 1.5 and 0.5. Column 1 keeps 0.5, and its other half goes to row 0.
    heights = weights / weights.sum() * len(weights)
    aliases = np.arange(len(weights))
    low, high = list(np.flatnonzero(heights < 1)), list(np.flatnonzero(heights >= 1))
    own = heights.tolist()
    while low and high:
        taker, giver = low.pop(), high[-1]
        aliases[taker] = giver
        own[giver] -= 1 - own[taker]
        # A giver that fell below 1 must be filled up itself.
        if own[giver] < 1:
            low.append(high.pop())
    # 1.0 * 2**32 has 33 bits, hence the clip; rounding errors may leave a height a little outside 0 to 1.
    odds = np.clip(np.asarray(own) * 2.0**32, 0, 2**32 - 1).astype(np.uint64)
    return (odds << np.uint64(32) | aliases.astype(np.uint64)).astype(np.int64)


def draw_targets(positives: tf.Tensor, negatives: Negatives, seed: tf.Tensor) -> tf.Tensor:
    """Draws the targets of each pair: its positive row and random other rows.

    The library and the graph draw the same rows.

    Args:
        positives: the positive row of each pair, integers, [n], at least 0 and below the rows.
        negatives: the distribution and the number of negatives.
        seed: int64 [2], a key and a counter. A draw depends only on them and on its position.

    Returns:
        int64, [n, 1 + negatives.count]: the positive row, then rows that differ from it.

    Raises:
        IdRangeError: a positive row is not in the table; as for `route_unique`.
    """
    positives, seed = tf.cast(positives, tf.int64), tf.cast(seed, tf.int64)
    # An empty vector stands for a uniform draw, because an op has no optional tensor.
    aliases = tf.constant([] if negatives.aliases is None else negatives.aliases, tf.int64)
    ops = library.load()
    with translate_eager_errors(), step.on_host():
        if ops is None:
            return draw_targets_graph(positives, aliases, seed, negatives.rows, negatives.count)
        return ops.tfps_draw_targets(
            positives=positives, aliases=aliases, seed=seed, rows=negatives.rows, negatives=negatives.count
        )
