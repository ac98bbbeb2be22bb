"""Estimates how many rows one step looks up in each shard of a table.

Ids of recommendation and language data follow Zipf's law closely enough for planning: the id of rank r is drawn with
probability proportional to r**-exponent. The estimate uses the ids themselves as ranks, as if they were sorted by
frequency. That is common, and it is the case that loads servers unevenly. If ids are hashed, the estimate of a shard is
wrong only for its one or two most frequent rows.
"""

import functools
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tfps.placement.routing import Routing
from tfps.placement.spec import VariableSpec

_Floats: TypeAlias = NDArray[np.float64]

ZIPF_EXPONENT = 1.05
"""A value between 0.9, for click logs with many rare ids, and 1.2, for small vocabularies."""
FLAT, STEEP = 0.9, 1.2
"""The two ends of that range. The true exponent is unknown; servers that are even at both ends are even in between."""
DEFAULT_ROWS_PER_STEP = 512.0
"""Ids per step of tables without a number. Only proportions matter for a plan, and this makes such tables equal."""
_ALMOST_ALL = 0.99
"""Zipf's law reaches no number of draws at which each row is drawn for sure."""
_HEAD = 4096
"""The number of ranks that are counted one by one. Beyond them no single rank matters."""


class Traffic(NamedTuple):
    """The rows that one step looks up in each shard, [shards] each.

    Args:
        lookups: lookups with repeats.
        unique: rows after deduplication, which cross the network.
    """

    lookups: _Floats
    unique: _Floats


def table_traffic(spec: VariableSpec, routing: Routing, exponent: float = ZIPF_EXPONENT) -> Traffic:
    """Estimates the rows that one step looks up in each shard, for ids of Zipf's law with this exponent (not 1)."""
    draws = DEFAULT_ROWS_PER_STEP if spec.rows_per_step is None else spec.rows_per_step
    return _zipf_traffic(routing, float(draws), exponent)


def draws_for(spec: VariableSpec, unique: float) -> float:
    """Returns the lookups a step for which `table_traffic` estimates this many unique rows.

    Args:
        spec: the table.
        unique: unique rows that a step looks up; above almost all rows of the table, it counts as almost all.
    """
    whole = Routing("hash", spec.rows, 1)

    def estimate(draws: float) -> float:
        return float(_zipf_traffic.__wrapped__(whole, draws, ZIPF_EXPONENT).unique.sum())

    wanted = min(unique, _ALMOST_ALL * spec.rows)
    low = high = wanted
    while estimate(high) < wanted:
        low, high = high, 2 * high
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if estimate(middle) < wanted else (low, middle)
    return high


# Cached, because balancers and reports ask for the same tables again and again.
@functools.lru_cache(maxsize=4096)
def _zipf_traffic(routing: Routing, draws: float, exponent: float) -> Traffic:
    head = min(routing.rows, _HEAD)
    starts, ends = _tail_buckets(head, routing.rows)
    # One entry for each rank of the head, then one for each bucket of the tail.
    mass = np.concatenate([np.arange(1, head + 1) ** -exponent, _integral(starts, ends, exponent)])
    counts = np.concatenate([np.ones(head), ends - starts])
    expected = draws * mass / mass.sum()
    # A row that is drawn `n` times on average is in a step with probability 1 - exp(-n). `expm1` keeps the digits of
    # small n, where 1 - exp(-n) would cancel.
    unique = -counts * np.expm1(-expected / counts)
    # Buckets of the tail are spread over shards by the overlap of their ranges.
    parts = _tail_parts(routing, starts, ends)
    owner = routing.locate(np.arange(head))[0]
    return Traffic(*(_sum_by_shard(values, owner, parts) for values in (expected, unique)))


def _sum_by_shard(values: _Floats, owner: NDArray[np.int32], parts: _Floats) -> _Floats:
    """Sums the head by the shard of each rank, and the tail by the part of each bucket that a shard holds."""
    head = np.bincount(owner, weights=values[: owner.size], minlength=parts.shape[1])
    total: _Floats = head + values[owner.size :] @ parts
    return total


def _tail_buckets(head: int, rows: int) -> tuple[_Floats, _Floats]:
    """Cuts the ranks [head, rows) into buckets that grow by a quarter; returns (starts, ends)."""
    # Within a bucket the probability changes by about a quarter, and even 2**62 ranks need only about 160 buckets.
    edges = [float(head)]
    while edges[-1] < rows:
        edges.append(min(float(rows), np.ceil(edges[-1] * 1.25)))
    return np.array(edges[:-1]), np.array(edges[1:])


def _integral(starts: _Floats, ends: _Floats, exponent: float) -> _Floats:
    """Approximates the sum of r**-exponent over the ranks start < r <= end by the midpoint rule."""
    # The integral of r**-exponent from start + 0.5 to end + 0.5; its formula has no value for an exponent of 1.
    power = 1 - exponent
    result: _Floats = ((ends + 0.5) ** power - (starts + 0.5) ** power) / power
    return result


def _tail_parts(routing: Routing, starts: _Floats, ends: _Floats) -> _Floats:
    """Returns the part of each bucket that each shard holds, [buckets, shards].

    With `div` a shard is a range, which may overlap a bucket; with `mod` and `hash` all shards hold equal parts.
    """
    if routing.kind != "div":
        return np.full((starts.size, routing.shards), 1 / routing.shards)
    index = np.arange(routing.shards + 1)
    edges = index * routing.base + np.minimum(index, routing.extra)
    overlap = np.minimum(ends[:, None], edges[1:]) - np.maximum(starts[:, None], edges[:-1])
    parts: _Floats = np.maximum(overlap, 0) / (ends - starts)[:, None]
    return parts
