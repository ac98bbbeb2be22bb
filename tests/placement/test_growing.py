"""Plans of tables that grow: a shard on each server, by a hash of the id, and room for rows that are only expected."""

import dataclasses

import numpy as np
import pytest

from tfps.errors import PlanError
from tfps.placement.advice import advise
from tfps.placement.model import Plan
from tfps.placement.planner import plan
from tfps.placement.report import largest_to_mean
from tfps.placement.routing import Routing
from tfps.placement.spec import VariableSpec

SPEC = VariableSpec("items", (1_000_000, 16), slots=1, is_table=True, growing=True)


def test_each_server_has_a_shard():
    made = plan([SPEC, VariableSpec("other", (100, 4), is_table=True)], 3)
    placement = made.find("items")
    assert sorted(placement.servers) == [0, 1, 2] and placement.routing == Routing("key", 1_000_000, 3)
    assert Plan.from_json(made.to_json()) == made
    assert '"growing": true' in made.to_json() and made.to_json().count("growing") == 1
    assert "~[1000000, 16]" in made.table()


def test_a_plan_of_a_fixed_table_is_not_for_one_that_grows():
    with pytest.raises(PlanError, match="growing"):
        plan([SPEC], 2).check([dataclasses.replace(SPEC, growing=False)])


def test_bytes_have_the_index():
    # 16 floats and a slot of as many are 128 bytes, and 16 more beside them.
    assert SPEC.bytes_of_rows(10) == 10 * (128 + 16)


def test_advice_says_what_more_rows_take():
    (said,) = [one for one in advise(plan([SPEC], 2)) if "grows" in one]
    assert "1,000,000 rows are expected, which take 144.0 MB" in said and "72.0 MB on each of its 2 servers" in said


KEYS = {
    "sequential": np.arange(200_000),
    "strides": np.arange(200_000) * 2**20,
    "negative": -np.arange(200_000) * 7919,
    "timestamps": 1_700_000_000_000 + np.arange(200_000) * 1000,
}


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("shards", [2, 3, 8])
def test_hashed_ids_are_balanced(name, shards):
    shard, local = Routing("key", 1000, shards).locate(KEYS[name])
    counts = np.bincount(shard, minlength=shards)
    # Six standard deviations of a fair draw.
    assert largest_to_mean(counts) < 1 + 6 * (shards / len(KEYS[name])) ** 0.5
    np.testing.assert_array_equal(local, KEYS[name])


def test_the_hash_is_that_of_splitmix64():
    # First outputs of SplitMix64 from the states 0 and 1, whose increment the finalizer gets as its input.
    golden = np.array([0x9E3779B97F4A7C15, 0x3C6EF372FE94F82A], np.uint64).astype(np.int64)
    shard, _ = Routing("key", 2**31, 2**31 - 1).locate(golden)
    expected = [0xE220A8397B1DCDAF >> 33, 0x6E789E6AA1B965F4 >> 33]
    assert shard.tolist() == [value % (2**31 - 1) for value in expected]
