"""How many rows of a table, and of each of its shards, one step asks for.

Ids of recommendation and language data follow Zipf's law closely enough to plan by: the id of rank r is drawn with
probability proportional to r**-exponent. Ranks are taken to be the ids themselves (frequency-sorted), the common
case and the one that does harm; where ids are hashed the estimate of a shard is off by its one or two hottest rows.
"""

import functools
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tfps.placement.routing import Routing
from tfps.placement.spec import VariableSpec

_Floats: TypeAlias = NDArray[np.float64]

ZIPF_EXPONENT = 1.05
"""Between the 0.9 of click logs with many rare ids and the 1.2 of small vocabularies."""
FLAT, STEEP = 0.9, 1.2
"""Those two. Nobody knows the exponent beforehand; what is even at both is even in between."""
DEFAULT_ROWS_PER_STEP = 512.0
"""Ids a step where nobody said; only proportions between tables matter to a plan, and they are then equal."""
_HEAD = 4096
"""Ranks counted one by one; of the rest no single one weighs anything."""


class Traffic(NamedTuple):
    """Rows asked of each shard in one step, each [shards].

    lookups: repeats counted. unique: each row once, what crosses when ids are deduplicated.
    """

    lookups: _Floats
    unique: _Floats


def table_traffic(spec: VariableSpec, routing: Routing, exponent: float = ZIPF_EXPONENT) -> Traffic:
    """Rows that one step asks of each shard of a table, if its ids follow Zipf's law with this exponent, not 1."""
    asked = DEFAULT_ROWS_PER_STEP if spec.rows_per_step is None else spec.rows_per_step
    return _zipf_traffic(routing, float(asked), exponent)


@functools.lru_cache(maxsize=4096)
def _zipf_traffic(routing: Routing, draws: float, exponent: float) -> Traffic:
    head = min(routing.rows, _HEAD)
    starts, ends = _tail_buckets(head, routing.rows)
    mass = np.concatenate([np.arange(1, head + 1) ** -exponent, _integral(starts, ends, exponent)])
    counts = np.concatenate([np.ones(head), ends - starts])
    expected = draws * mass / mass.sum()
    seen = -counts * np.expm1(-expected / counts)
    share = _tail_share(routing, starts, ends)
    owner = routing.locate(np.arange(head))[0]
    return Traffic(*(_per_shard(values, owner, share) for values in (expected, seen)))


def _per_shard(values: _Floats, owner: NDArray[np.int32], share: _Floats) -> _Floats:
    """Sums head values by the shard that owns them, and tail values by the part of their range a shard holds."""
    head = np.bincount(owner, weights=values[: owner.size], minlength=share.shape[1])
    total: _Floats = head + values[owner.size :] @ share
    return total


def _tail_buckets(head: int, rows: int) -> tuple[_Floats, _Floats]:
    """Ranks [head, rows) cut into ranges that grow by a quarter: (starts, ends)."""
    edges = [float(head)]
    while edges[-1] < rows:
        edges.append(min(float(rows), np.ceil(edges[-1] * 1.25)))
    return np.array(edges[:-1]), np.array(edges[1:])


def _integral(starts: _Floats, ends: _Floats, exponent: float) -> _Floats:
    """Sum of r**-exponent over the ranks start < r <= end, by the midpoint rule."""
    power = 1 - exponent
    result: _Floats = ((ends + 0.5) ** power - (starts + 0.5) ** power) / power
    return result


def _tail_share(routing: Routing, starts: _Floats, ends: _Floats) -> _Floats:
    """Part of each range of ids that each shard holds, [ranges, shards]: ranges overlap for div, even otherwise."""
    if routing.kind != "div":
        return np.full((starts.size, routing.shards), 1 / routing.shards)
    index = np.arange(routing.shards + 1)
    edges = index * routing.base + np.minimum(index, routing.extra)
    overlap = np.minimum(ends[:, None], edges[1:]) - np.maximum(starts[:, None], edges[:-1])
    share: _Floats = np.maximum(overlap, 0) / (ends - starts)[:, None]
    return share
