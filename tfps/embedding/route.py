"""The routing rule as a graph, for code that runs on the servers; `tfps.placement.routing` owns the arithmetic."""

from typing import Any

import tensorflow as tf

from tfps.placement.routing import PRIME, Routing


def global_of(routing: Routing, shard: int, local: Any) -> Any:
    """`Routing.global_of` as a graph: the ids that local rows of one shard hold, int64, of the shape of `local`."""
    if routing.kind == "div":
        return local + (shard * routing.base + min(shard, routing.extra))
    mixed = (local % PRIME * routing.multiplier + routing.offset) % PRIME
    rotation = tf.where(local < routing.base, mixed * mixed % PRIME % routing.shards, tf.zeros_like(mixed))
    return local * routing.shards + (shard - rotation) % routing.shards
