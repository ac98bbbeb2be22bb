"""Draws negatives for pairs of word2vec: random rows beside each positive one, which the pair must score low."""

import dataclasses

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from tfps.errors import ConfigError
from tfps.ops import library
from tfps.ops.draw_targets_graph import draw_targets_graph
from tfps.ops.id_range import raised_eagerly

_MOST_ROWS = 2**31
"""An alias must fit 32 bits."""


@dataclasses.dataclass(frozen=True, eq=False)
class Negatives:
    """The distribution of the negatives, and how many a positive row gets.

    Args:
        rows: rows of the table, 2 to 2^31.
        count: negatives of a pair, at least 1.
        aliases: int64 [rows], from `alias_table`; None for a uniform draw.

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
    """Builds the table by which a row is drawn in constant time, whatever the weights.

    Args:
        weights: weight of each row, [rows], at least 0 and not all 0.

    Returns:
        int64 [rows]. A draw picks a column at random and keeps it with a probability, else it takes the alias of the
        column. The high 32 bits are that probability times 2^32, the low 32 bits the alias.

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
    # Columns are of height 1: those below it are filled up by an alias from those above it.
    shares = weights / weights.sum() * len(weights)
    aliases = np.arange(len(weights))
    poor, rich = list(np.flatnonzero(shares < 1)), list(np.flatnonzero(shares >= 1))
    left = shares.tolist()
    while poor and rich:
        taker, giver = poor.pop(), rich[-1]
        aliases[taker] = giver
        left[giver] -= 1 - left[taker]
        if left[giver] < 1:
            poor.append(rich.pop())
    kept = np.clip(np.asarray(left) * 2.0**32, 0, 2**32 - 1).astype(np.uint64)
    return (kept << np.uint64(32) | aliases.astype(np.uint64)).astype(np.int64)


def draw_targets(positives: tf.Tensor, negatives: Negatives, seed: tf.Tensor) -> tf.Tensor:
    """Draws the targets of each pair: its positive row and random others. The library and the graph draw the same.

    Args:
        positives: integers, [n], at least 0 and below the rows.
        negatives: the distribution and the number of negatives.
        seed: int64 [2], a key and a counter. A draw follows from them and from its position alone.

    Returns:
        int64, [n, 1 + negatives.count]: the positive row first. The others differ from it.

    Raises:
        IdRangeError: a positive is not in the table; as for `route_unique`.
    """
    positives, seed = tf.cast(positives, tf.int64), tf.cast(seed, tf.int64)
    aliases = tf.constant([] if negatives.aliases is None else negatives.aliases, tf.int64)
    ops = library.load()
    with raised_eagerly():
        if ops is None:
            return draw_targets_graph(positives, aliases, seed, negatives.rows, negatives.count)
        return ops.tfps_draw_targets(
            positives=positives, aliases=aliases, seed=seed, rows=negatives.rows, negatives=negatives.count
        )
