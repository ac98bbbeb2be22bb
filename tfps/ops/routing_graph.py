"""The routing rule as a TensorFlow graph, for workers without the C++ ops and for servers that initialize shards.

`Routing` in tfps/placement/routing.py owns the rule and explains why its intermediate values fit 64 bits. This package
must not import that one, so a test compares the two in both directions.
"""

import tensorflow as tf

from tfps.ops.routes import RoutingRule

PRIME = 2**31 - 1
"""Modulus of the hash rotation."""


def locate(rule: RoutingRule, ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the shard and the local row of ids.

    Args:
        rule: the routing rule of the table.
        ids: int64, any shape, 0 <= id < rule.rows; any int64 for "key".

    Returns:
        (shard, local row), both int64, of the shape of `ids`.
    """
    if rule.kind == "key":
        # Below 2**31, so the cast keeps it.
        return tf.cast(tf.bitwise.right_shift(_mix(ids), tf.constant(33, tf.uint64)), tf.int64) % rule.shards, ids
    if rule.kind == "div":
        base, extra = divmod(rule.rows, rule.shards)
        shard = tf.maximum(ids // (base + 1), (ids - extra) // base)
        return shard, ids - _first_row(rule, shard)
    # `mod` and `hash` deal blocks of `shards` neighbouring ids; `hash` rotates each block by another amount.
    local, turn = ids // rule.shards, ids % rule.shards
    return (turn + _rotation(rule, local)) % rule.shards, local


def global_of(rule: RoutingRule, shard: int, local: tf.Tensor) -> tf.Tensor:
    """Computes the ids of local rows of one shard: the inverse of `locate`.

    Args:
        rule: the routing rule of the table.
        shard: the shard, 0 <= shard < rule.shards.
        local: local rows, int64, any shape.

    Returns:
        The ids, int64, of the shape of `local`.
    """
    if rule.kind == "key":
        return local
    if rule.kind == "div":
        return local + _first_row(rule, tf.constant(shard, tf.int64))
    return local * rule.shards + (shard - _rotation(rule, local)) % rule.shards


def _mix(ids: tf.Tensor) -> tf.Tensor:
    """Computes the finalizer of SplitMix64, uint64."""
    x = tf.bitcast(ids, tf.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.uint64)))
        x *= tf.constant(factor, tf.uint64)
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(31, tf.uint64)))


def _first_row(rule: RoutingRule, shard: tf.Tensor) -> tf.Tensor:
    base, extra = divmod(rule.rows, rule.shards)
    return shard * base + tf.minimum(shard, tf.constant(extra, tf.int64))


def _rotation(rule: RoutingRule, local: tf.Tensor) -> tf.Tensor:
    """Computes the rotation of each block of ids; 0 for the last, partial block."""
    # All factors are below 2**31, so the products fit int64. For `mod`, multiplier and offset are 0.
    mixed = (local % PRIME * rule.multiplier + rule.offset) % PRIME
    return tf.where(local < rule.rows // rule.shards, mixed * mixed % PRIME % rule.shards, tf.zeros_like(mixed))
