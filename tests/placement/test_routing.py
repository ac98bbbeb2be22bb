"""Routing against slow obvious twins on seeded random input, and pinned so that saved tables stay readable."""

import random

import numpy as np
import pytest

from tfps.errors import IdRangeError, PlanError
from tfps.placement.routing import PRIME, Routing

KINDS = ("div", "mod", "hash")


def _random_routings(seed, count, max_rows=300):
    rng = random.Random(seed)
    for _ in range(count):
        rows = rng.randint(1, max_rows)
        yield Routing(rng.choice(KINDS), rows, rng.randint(1, min(rows, 20)))


def _slow_locate(routing, row):
    """The rule in Python integers, one row at a time, by its definition and not by its formula."""
    base, extra = divmod(routing.rows, routing.shards)
    if routing.kind == "div":
        first = 0
        for shard in range(routing.shards):
            size = base + 1 if shard < extra else base
            if row < first + size:
                return shard, row - first
            first += size
    block = row // routing.shards
    turn = 0
    if routing.kind == "hash" and block < base:
        turn = pow(block * routing.multiplier + routing.offset, 2, PRIME)
    return (row + turn) % routing.shards, block


@pytest.mark.parametrize("routing", _random_routings(seed=1, count=60), ids=str)
def test_locate_equals_its_slow_twin(routing):
    shard, local = routing.locate(np.arange(routing.rows))
    assert (shard.dtype, local.dtype) == (np.int32, np.int64)
    assert list(zip(shard.tolist(), local.tolist(), strict=True)) == [
        _slow_locate(routing, row) for row in range(routing.rows)
    ]


@pytest.mark.parametrize("routing", _random_routings(seed=2, count=60), ids=str)
def test_every_row_has_one_place_and_global_ids_invert_locate(routing):
    held = [routing.global_ids(shard) for shard in range(routing.shards)]
    assert [len(ids) for ids in held] == [routing.shard_rows(shard) for shard in range(routing.shards)]
    assert sorted(np.concatenate(held).tolist()) == list(range(routing.rows))
    for shard, ids in enumerate(held):
        found, local = routing.locate(ids)
        assert (found == shard).all()
        assert local.tolist() == list(range(len(ids)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [2**40, 2**40 + 12345, 2**62])
def test_large_tables_do_not_overflow(kind, rows):
    routing = Routing(kind, rows, 1000)
    rng = random.Random(3)
    ids = [0, rows - 1, rows - 1000, rows // 2] + [rng.randrange(rows) for _ in range(200)]
    shard, local = routing.locate(np.array(ids))
    assert list(zip(shard.tolist(), local.tolist(), strict=True)) == [_slow_locate(routing, row) for row in ids]
    back = [int(routing.global_of(s, np.array([r]))[0]) for s, r in zip(shard.tolist(), local, strict=True)]
    assert back == ids


def test_shards_hold_rows_evenly():
    for routing in _random_routings(seed=4, count=50):
        rows = [routing.shard_rows(shard) for shard in range(routing.shards)]
        assert max(rows) - min(rows) <= 1
        assert sum(rows) == routing.rows


def test_pinned_values():
    """A change here makes every saved table unreadable."""
    assert Routing("div", 10, 4).locate(np.arange(10))[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]
    assert Routing("mod", 10, 4).locate(np.arange(10))[0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    pinned = Routing("hash", 1_000_001, 8)
    assert (pinned.multiplier, pinned.offset) == (1_327_217_885, 1_000_001)
    assert pinned.locate(np.array([0, 1, 8, 16, 999_999, 1_000_000]))[0].tolist() == [2, 3, 6, 4, 6, 0]


@pytest.mark.parametrize("stride", [1, 2, 8, 64, 4096, 7896])
@pytest.mark.parametrize("servers", [2, 8, 10])
def test_hash_spreads_frequency_sorted_and_strided_ids(stride, servers):
    routing = Routing("hash", 10_000_000, servers)
    ids = np.unique(np.random.default_rng(5).zipf(1.2, 50_000) % (routing.rows // stride)) * stride
    share = np.bincount(routing.locate(ids)[0], minlength=servers) / ids.size * servers
    assert share.max() < 1.15, share


def test_div_and_mod_heat_a_shard_where_hash_does_not():
    strided = np.arange(1000) * 8
    assert np.bincount(Routing("mod", 8000, 8).locate(strided)[0], minlength=8).max() == 1000
    assert np.bincount(Routing("div", 8000, 8).locate(np.arange(1000))[0], minlength=8).max() == 1000
    assert np.bincount(Routing("hash", 8000, 8).locate(strided)[0], minlength=8).max() < 160


def test_shapes_are_kept():
    routing = Routing("hash", 100, 3)
    ids = np.arange(24).reshape(2, 3, 4)
    assert [part.shape for part in routing.locate(ids)] == [(2, 3, 4)] * 2
    assert [part.shape for part in routing.locate(np.zeros((0,), np.int64))] == [(0,)] * 2


@pytest.mark.parametrize("bad", [-1, 10, 2**40])
def test_ids_out_of_range_are_named(bad):
    with pytest.raises(IdRangeError, match=f"below 10. Received: {bad}"):
        Routing("hash", 10, 2).locate(np.array([3, bad, 4]))
    with pytest.raises(IdRangeError, match=f"below 5. Received: {bad}"):
        Routing("mod", 10, 2).global_of(1, np.array([bad]))


@pytest.mark.parametrize(
    ("args", "field"),
    [
        (("range", 10, 2), "kind"),
        (("mod", 0, 1), "rows"),
        (("mod", 2**62 + 1, 1), "rows"),
        (("mod", 10, 0), "shards"),
        (("mod", 10, 11), "shards"),
    ],
)
def test_wrong_settings_are_named(args, field):
    with pytest.raises(PlanError, match=f"`{field}` must .*Received"):
        Routing(*args)


def test_wrong_shard_is_named():
    with pytest.raises(PlanError, match="`shard` must be between 0 and 1. Received: 2"):
        Routing("mod", 10, 2).shard_rows(2)
