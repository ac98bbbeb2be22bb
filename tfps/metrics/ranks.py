"""The ranks of the items of lists, where scores may be equal."""

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class RankedLists:
    """Lists of items with what decides their ranks.

    An item has one of the ranks better + 1 to better + tied.

    Args:
        relevance: the relevance of each item, float64 [batch, items]; 0 for padding.
        better: the number of items with a higher score, float64 [batch, items].
        tied: the number of items with the same score, float64 [batch, items]; it counts the item itself.
    """

    relevance: tf.Tensor
    better: tf.Tensor
    tied: tf.Tensor


def rank_lists(relevance: tf.Tensor, scores: tf.Tensor, is_item: tf.Tensor) -> RankedLists:
    """Ranks the items of each list; padding comes last. A score of NaN makes the relevances of its list NaN.

    Args:
        relevance: float64 [batch, items].
        scores: float64 [batch, items].
        is_item: whether it is an item and no padding, bool [batch, items].
    """
    # Searching needs an ascending order, so scores are negated: the lower, the better.
    costs = tf.where(is_item, -scores, tf.constant(float("inf"), tf.float64))
    ascending = tf.sort(costs)
    better = tf.cast(tf.searchsorted(ascending, costs, side="left"), tf.float64)
    up_to = tf.cast(tf.searchsorted(ascending, costs, side="right"), tf.float64)
    # An item whose score is -inf is before the padding, which has the same cost.
    items = tf.reduce_sum(tf.cast(is_item, tf.float64), 1, keepdims=True)
    up_to = tf.where(is_item, tf.minimum(up_to, items), up_to)
    has_nan = tf.reduce_any(tf.math.is_nan(costs), 1, keepdims=True)
    relevance = tf.where(has_nan, tf.constant(float("nan"), tf.float64), relevance)
    return RankedLists(relevance, better, up_to - better)


def discounts(items: tf.Tensor, most: tf.Tensor) -> tf.Tensor:
    """Returns the sum of the discounts 1 / log2(1 + rank) of the first n ranks, for n = 0 to `items`.

    Args:
        items: the number of items, an int32 scalar.
        most: the number of ranks that count, a float64 scalar.

    Returns:
        float64 [items + 1].
    """
    ranks = tf.cast(tf.range(1, items + 1), tf.float64)
    each = tf.where(ranks <= most, tf.math.log(tf.constant(2.0, tf.float64)) / tf.math.log1p(ranks), 0.0)
    return tf.concat([tf.zeros([1], tf.float64), tf.cumsum(each)], 0)
