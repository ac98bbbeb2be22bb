"""How many shards: our partitioners by tables of cases, TensorFlow's own against themselves."""

import random
import sys

import numpy as np
import pytest

from tfps.errors import PlanError
from tfps.placement.model import Plan
from tfps.placement.partitioners import Auto, FixedShards, FromTensorFlow, MaxBytes, MinBytes, as_partitioner
from tfps.placement.planner import plan
from tfps.placement.spec import VariableSpec


def table(rows, width=16, **kwargs):
    return VariableSpec("table", (rows, width), is_table=True, **kwargs)


@pytest.mark.parametrize(
    ("partitioner", "spec", "shards"),
    [
        (FixedShards(3), table(100), 3),
        (FixedShards(30), table(100), 30),
        (FixedShards(3), table(2), 2),
        (MinBytes(1024), table(1000), 8),
        (MinBytes(1024), table(40), 2),
        (MinBytes(1024), table(10), 1),
        (MinBytes(1024, max_shards=20), table(1000), 20),
        (MaxBytes(1024), table(1000), 63),
        (MaxBytes(1024, max_shards=5), table(1000), 5),
        (MaxBytes(10), table(7), 7),
        (Auto(), table(10_000_000), 8),
        (Auto(), table(256), 8),
        (Auto(), table(70), 2),
        (Auto(), table(63), 1),
        (Auto(), table(500, width=100_000), 8),
        (Auto(), table(3, width=10_000_000), 3),
    ],
    ids=str,
)
def test_shards_on_eight_servers(partitioner, spec, shards):
    assert partitioner(spec, 8) == shards


@pytest.mark.parametrize(
    "partitioner",
    [
        FixedShards(np.int64(3)),
        MinBytes(np.int32(64), np.int64(5)),
        MaxBytes(np.int64(64), np.uint8(5)),
        Auto(np.int64(2), np.int64(2)),
        lambda spec, num_servers: np.int64(3),
    ],
    ids=["fixed", "min", "max", "auto", "own"],
)
def test_numbers_of_numpy_are_saved_as_those_of_python(partitioner, tmp_path):
    made = plan([table(100, rows_per_step=np.int64(5), slots=np.int32(1))], np.int64(4), partitioner)
    made.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == made
    assert type(table(9, rows_per_step=np.float32(0.5)).rows_per_step) is float


@pytest.mark.parametrize(
    "partitioner", [FixedShards(8), MinBytes(1), MaxBytes(1), Auto(1, 1), FromTensorFlow(lambda shape, dtype: [8, 1])]
)
def test_dense_variables_stay_whole(partitioner):
    assert partitioner(VariableSpec("kernel", (100_000, 400)), 8) == 1
    assert partitioner(VariableSpec("step", ()), 8) == 1


@pytest.mark.parametrize("seed", range(20))
def test_limits_on_bytes_hold(seed):
    rng = random.Random(seed)
    spec = table(rng.randint(1, 10**6), rng.randint(1, 300), dtype=rng.choice(["float32", "float16"]))
    limit = rng.randint(1, 10**7)
    most = -(-spec.rows // MaxBytes(limit)(spec, 8)) * spec.row_bytes
    assert most <= max(limit, spec.row_bytes)
    shards = MinBytes(limit)(spec, 8)
    assert shards == 1 or spec.nbytes / shards >= limit


@pytest.mark.parametrize("make", [FixedShards, MinBytes, MaxBytes, Auto])
def test_limits_must_be_positive(make):
    with pytest.raises(PlanError, match="must be an integer of at least 1. Received: 0"):
        make(0)


def test_tensorflow_partitioners_are_taken_as_they_are():
    tf = pytest.importorskip("tensorflow")
    partitioners = tf.distribute.experimental.partitioners
    rng = random.Random(6)
    for _ in range(100):
        spec = table(rng.randint(1, 10**6), rng.randint(1, 300), dtype=rng.choice(["float32", "float16", "int64"]))
        limit, most = rng.randint(1, 10**7), rng.randint(1, 20)
        for theirs in (
            partitioners.MinSizePartitioner(limit, most),
            partitioners.MaxSizePartitioner(limit, most),
            partitioners.MaxSizePartitioner(limit),
            partitioners.FixedShardsPartitioner(most),
        ):
            expected = theirs(tf.TensorShape(spec.shape), tf.as_dtype(spec.dtype))[0]
            assert as_partitioner(theirs)(spec, 8) == expected


def test_partitioners_of_tensorflow_1_and_plain_functions_are_taken():
    tf = pytest.importorskip("tensorflow")
    for theirs in (
        tf.compat.v1.fixed_size_partitioner(4),
        tf.compat.v1.min_max_variable_partitioner(max_partitions=4, min_slice_size=64),
    ):
        assert as_partitioner(theirs)(table(1000), 8) == 4
    assert as_partitioner(lambda shape, dtype, axis=0: [2, 1])(table(1000), 8) == 2


def test_partitioners_of_tensorflow_need_it_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    with pytest.raises(PlanError, match="needs TensorFlow imported. Received: none, for 'table'"):
        as_partitioner(lambda shape, dtype: [2, 1])(table(1000), 8)


def test_own_functions_and_the_default():
    assert as_partitioner(None) == Auto()
    assert as_partitioner(lambda spec, num_servers: num_servers + 1)(table(10), 8) == 9
    with pytest.raises(PlanError, match="`partitioner` must be .*Received: 3"):
        as_partitioner(3)


@pytest.mark.parametrize("parts", [[2, 2], [0, 1], []])
def test_other_axes_are_not_split(parts):
    pytest.importorskip("tensorflow")
    with pytest.raises(PlanError, match="'table' along its first axis only. Received"):
        FromTensorFlow(lambda shape, dtype: parts)(table(10), 8)
