"""Rows drawn at random beside each positive one: the negatives that a pair of word2vec must not score high."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from tfps.errors import ConfigError
from tfps.ops import library
from tfps.ops.draw_targets_graph import draw_targets_graph
from tfps.ops.id_range import raised_eagerly

_MOST_ROWS = 2**31


@dataclasses.dataclass(frozen=True, eq=False)
class Negatives:
    """What is drawn, and how many for each positive row.

    Args:
        rows: of the table, 2 to 2^31.
        count: negatives of a pair, at least 1.
        aliases: int64 [rows], from `alias_table`; None where each row is as likely as another.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    rows: int
    count: int
    aliases: Any = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        if not 2 <= self.rows <= _MOST_ROWS:
            raise ConfigError(f"`rows` must be 2 to {_MOST_ROWS}. Received: {self.rows}.")
        if self.count < 1:
            raise ConfigError(f"`count` must be at least 1. Received: {self.count}.")
        if self.aliases is not None and np.shape(self.aliases) != (self.rows,):
            raise ConfigError(f"`aliases` must have shape ({self.rows},). Received: {np.shape(self.aliases)}.")


def alias_table(weights: Any) -> Any:
    """The table from which a row is drawn in one look, whatever the weights (Walker 1977, built as by Vose 1991).

    Args:
        weights: [rows], at least 0 and not all 0.

    Returns:
        int64 [rows]: in the low 32 bits the row taken in place of the column, in the high 32 bits how often the column
        itself is taken, in shares of 2^32.

    Raises:
        ConfigError: the weights break their rule.

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


def draw_targets(positives: Any, negatives: Negatives, seed: Any) -> Any:
    """The positive row of each pair and others beside it, drawn at random; the same with the library and without.

    Args:
        positives: integers, [n], at least 0 and below the rows.
        negatives: what is drawn.
        seed: int64 [2], a key and a counter: what is drawn follows from them and the place.

    Returns:
        int64, [n, 1 + negatives.count]: the positive row first; none of the others is the positive one.

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
