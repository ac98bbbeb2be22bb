"""Estimates how many rows one step looks up in each shard of a table.

Ids of recommendation and language data follow Zipf's law closely enough to plan by: the id of rank r is drawn with
probability proportional to r**-exponent. The estimate takes the ids themselves as ranks, as if they were sorted by
frequency: that is common, and it is the case that loads servers unevenly. Where ids are hashed, the estimate of a
shard is off by its one or two hottest rows.
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
"""The two ends of that range. The exponent is not known beforehand; servers that are even at both are even between."""
DEFAULT_ROWS_PER_STEP = 512.0
"""Ids a step for tables that give no number. A plan depends on proportions alone, and these make tables equal."""
_HEAD = 4096
"""Ranks that are counted one by one; no rank beyond them matters by itself."""


class Traffic(NamedTuple):
    """Rows that one step looks up in each shard, each [shards].

    Args:
        lookups: repeats counted.
        unique: each row once, as it crosses after deduplication.
    """

    lookups: _Floats
    unique: _Floats


def table_traffic(spec: VariableSpec, routing: Routing, exponent: float = ZIPF_EXPONENT) -> Traffic:
    """Estimates the rows that one step looks up in each shard, for ids of Zipf's law with this exponent (not 1)."""
    asked = DEFAULT_ROWS_PER_STEP if spec.rows_per_step is None else spec.rows_per_step
    return _zipf_traffic(routing, float(asked), exponent)


@functools.lru_cache(maxsize=4096)
def _zipf_traffic(routing: Routing, draws: float, exponent: float) -> Traffic:
    head = min(routing.rows, _HEAD)
    starts, ends = _tail_buckets(head, routing.rows)
    mass = np.concatenate([np.arange(1, head + 1) ** -exponent, _integral(starts, ends, exponent)])
    counts = np.concatenate([np.ones(head), ends - starts])
    expected = draws * mass / mass.sum()
    # A row that is drawn `n` times on average is in a step with probability 1 - exp(-n).
    seen = -counts * np.expm1(-expected / counts)
    # Buckets of the tail are spread over shards by the overlap of their ranges.
    share = _tail_share(routing, starts, ends)
    owner = routing.locate(np.arange(head))[0]
    return Traffic(*(_per_shard(values, owner, share) for values in (expected, seen)))


def _per_shard(values: _Floats, owner: NDArray[np.int32], share: _Floats) -> _Floats:
    """Sums the head by the shard of each rank, and the tail by the part of each range that a shard holds."""
    head = np.bincount(owner, weights=values[: owner.size], minlength=share.shape[1])
    total: _Floats = head + values[owner.size :] @ share
    return total


def _tail_buckets(head: int, rows: int) -> tuple[_Floats, _Floats]:
    """Cuts the ranks [head, rows) into ranges that grow by a quarter; returns (starts, ends)."""
    edges = [float(head)]
    while edges[-1] < rows:
        edges.append(min(float(rows), np.ceil(edges[-1] * 1.25)))
    return np.array(edges[:-1]), np.array(edges[1:])


def _integral(starts: _Floats, ends: _Floats, exponent: float) -> _Floats:
    """Approximates the sum of r**-exponent over the ranks start < r <= end by the midpoint rule."""
    power = 1 - exponent
    result: _Floats = ((ends + 0.5) ** power - (starts + 0.5) ** power) / power
    return result


def _tail_share(routing: Routing, starts: _Floats, ends: _Floats) -> _Floats:
    """Returns the part of each range that each shard holds, [ranges, shards].

    With `div` a shard is itself a range, and the two may overlap; with `mod` and `hash` all shards hold equal parts.
    """
    if routing.kind != "div":
        return np.full((starts.size, routing.shards), 1 / routing.shards)
    index = np.arange(routing.shards + 1)
    edges = index * routing.base + np.minimum(index, routing.extra)
    overlap = np.minimum(ends[:, None], edges[1:]) - np.maximum(starts[:, None], edges[:-1])
    share: _Floats = np.maximum(overlap, 0) / (ends - starts)[:, None]
    return share
