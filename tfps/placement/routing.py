"""The rule from a row to its (shard, local row). Lookup, checkpoint and reshard all use this one.

Here is the arithmetic in full, because a C++ op and a TensorFlow graph repeat it. With `base, extra = divmod(rows,
shards)`, every shard holds `base` rows and the first `extra` shards hold one more, for every kind. All values are
non-negative and below 2**63, so signed 64-bit integers never overflow, and floor and truncating division agree.

* div (ranges): `shard = max(id // (base + 1), (id - extra) // base)` (only the second quotient may be negative, where
  the first one wins under either rounding), `local = id - shard * base - min(shard, extra)`.
* mod and hash: `local, turn = divmod(id, shards)`; then the block of `shards` neighbours that share a local row is
  rotated: `x = (local % PRIME * multiplier + offset) % PRIME`, `y = x * x % PRIME`, and
  `shard = (turn + y) % shards` where `local < base`, else `shard = turn` (the last, partial block stays as it is).
  mod is the case `multiplier = offset = 0`.
* key: `local = id`, and `shard = (mix(id) >> 33) % shards`, where mix is the finalizer of SplitMix64 on unsigned 64-bit
  integers. Ids are any int64. This is the kind of tables that grow, whose `rows` is only how many are expected.

Example: rows = 10, shards = 4, so base = 2, extra = 2. div holds 0-2, 3-5, 6-7, 8-9; mod holds 0 4 8, 1 5 9, 2 6, 3 7.

Changing any of this makes saved tables unreadable: the tests pin values.
"""

import dataclasses
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from tfps.checks import check_choice, check_integer
from tfps.errors import IdRangeError, PlanError

RoutingKind: TypeAlias = Literal["div", "mod", "hash"]
"""How a table with numbered rows may be split."""
AnyRoutingKind: TypeAlias = Literal["div", "mod", "hash", "key"]

PRIME = 2**31 - 1
"""Modulus of the rotation: the largest prime p whose squares stay below 2**62."""
MULTIPLIER = 1_327_217_885
"""PRIME divided by the golden ratio, so that the blocks of neighbouring local rows rotate by very different amounts."""
MAX_ROWS = 2**62
"""More rows than fit any cluster. The limit keeps every intermediate value inside a signed 64-bit integer."""


@dataclasses.dataclass(frozen=True)
class Routing:
    """How the rows of one table are split over its shards.

    Choose `hash` unless there is a reason not to. Ids sorted by frequency put all the load of a `div` split on shard 0,
    and ids with a common stride put all the load of a `mod` split on one shard. `hash` spreads each run of `shards`
    neighbouring ids over all shards, in an order that differs from run to run. It is a bijection: rows never collide.
    `key` is for tables that grow: each id is on the shard that a hash of it gives.

    Args:
        kind: "div", "mod", "hash" or "key".
        rows: the number of rows of the whole table, at least 1; for "key" the expected number.
        shards: the number of shards, 1 to `rows`, so that no shard is empty.

    Raises:
        PlanError: an argument breaks its rule.
    """

    kind: AnyRoutingKind
    rows: int
    shards: int

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_choice("kind", self.kind, get_args(AnyRoutingKind), error=PlanError)
        for name in ("rows", "shards"):
            object.__setattr__(self, name, check_integer(name, getattr(self, name), error=PlanError))
        if not 1 <= self.rows <= MAX_ROWS:
            raise PlanError(f"`rows` must be between 1 and 2**62. Received: {self.rows}.")
        if not 1 <= self.shards <= self.rows:
            raise PlanError(f"`shards` must be between 1 and rows ({self.rows}). Received: {self.shards}.")

    @property
    def takes_any_id(self) -> bool:
        """Whether ids may be any int64, and not only row numbers."""
        return self.kind == "key"

    @property
    def multiplier(self) -> int:
        """Factor of the rotation; 0 unless the kind is hash."""
        return MULTIPLIER if self.kind == "hash" else 0

    @property
    def offset(self) -> int:
        """Addend of the rotation. It depends on `rows`, so that tables of different sizes rotate differently."""
        return self.rows % PRIME if self.kind == "hash" else 0

    @property
    def base(self) -> int:
        """The number of rows that every shard has at least."""
        return self.rows // self.shards

    @property
    def extra(self) -> int:
        """The number of shards, counted from the first, that have one row more than `base`."""
        return self.rows % self.shards

    def shard_rows(self, shard: int) -> int:
        """Returns the number of rows of one shard, 0 <= shard < shards."""
        self._check_shard(shard)
        # Example: 10 rows on 4 shards are 3, 3, 2, 2.
        return self.base + (shard < self.extra)

    def locate(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Finds the shard and the local row of ids.

        Args:
            ids: global rows, any shape, 0 <= id < rows.

        Returns:
            (shard, local row), int32 and int64, both of the shape of `ids`.

        Raises:
            IdRangeError: an id is negative or not below `rows`.
        """
        ids = np.asarray(ids, np.int64)
        self._check_ids(ids)
        if self.kind == "key":
            return ((_mix(ids) >> np.uint64(33)).astype(np.int64) % self.shards).astype(np.int32), ids
        if self.kind == "div":
            # The first quotient counts blocks of base + 1 rows, the second blocks of base rows after the larger ones.
            shard = np.maximum(ids // (self.base + 1), (ids - self.extra) // self.base)
            return shard.astype(np.int32), ids - self._first_row(shard)
        # `mod` and `hash` deal blocks of `shards` neighbouring ids; `hash` rotates each block by another amount.
        local, turn = np.divmod(ids, self.shards)
        return ((turn + self._rotation(local)) % self.shards).astype(np.int32), local

    def global_ids(self, shard: int) -> NDArray[np.int64]:
        """Returns the global row of each local row of a shard, [shard_rows]: the inverse of `locate`."""
        return self.global_of(shard, np.arange(self.shard_rows(shard), dtype=np.int64))

    def global_of(self, shard: int, local: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the global rows of some local rows of one shard, for code that reads a table in chunks.

        Args:
            shard: the shard, 0 <= shard < shards.
            local: local rows, any shape, 0 <= local < shard_rows(shard).

        Returns:
            Global rows, of the shape of `local`.

        Raises:
            IdRangeError: a local row is outside its shard.
        """
        local = np.asarray(local, np.int64)
        if self.kind == "key":
            return local
        _check_range(local, self.shard_rows(shard), "local row")
        if self.kind == "div":
            return local + self._first_row(np.asarray(shard, np.int64))
        # The rotation depends on the local row alone, so it can be undone.
        return local * self.shards + (shard - self._rotation(local)) % self.shards

    def _first_row(self, shard: NDArray[np.int64]) -> NDArray[np.int64]:
        return shard * self.base + np.minimum(shard, self.extra)

    def _rotation(self, local: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns by how much each block is rotated, 0 <= rotation < shards; 0 for the last, partial block."""
        # A rotated partial block could put a row on a shard that has no room for it.
        mixed = (local % PRIME * self.multiplier + self.offset) % PRIME
        return np.where(local < self.base, mixed * mixed % PRIME % self.shards, 0)

    def _check_ids(self, ids: NDArray[np.int64]) -> None:
        if not self.takes_any_id:
            _check_range(ids, self.rows, "id")

    def _check_shard(self, shard: int) -> None:
        if not 0 <= shard < self.shards:
            raise PlanError(f"`shard` must be between 0 and {self.shards - 1}. Received: {shard}.")


def _mix(ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Returns the finalizer of SplitMix64, a bijection of 64-bit integers.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014; constants of Stafford's
    variant 13.
    """
    x = ids.astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _check_range(values: NDArray[np.int64], end: int, noun: str) -> None:
    if values.size and (values.min() < 0 or values.max() >= end):
        bad = values[(values < 0) | (values >= end)].flat[0]
        raise IdRangeError(f"every {noun} must be at least 0 and below {end}. Received: {bad}.")
