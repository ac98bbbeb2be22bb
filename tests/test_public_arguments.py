"""Every argument of the public API with values of the wrong type or out of range: an error of ours names the argument.

And with numpy's integers, floats and bools where Python's are valid: they count as those.
"""

import keras
import numpy as np
import pytest

import tfps
from tfps import placement
from tfps.errors import TfpsError

NAN = float("nan")
NOT_COUNTS = [None, "x", NAN, 0, -1, 1.5, True, [1], {}]
NOT_COUNTS_OR_NONE = NOT_COUNTS[1:]
NOT_BOOLS = [None, "no", 0, 1, NAN, [True]]
NOT_CHOICES = [None, "x", 1, NAN, True, ["mod"]]
NOT_NUMBERS = [None, "x", NAN, float("inf"), True, [1.0]]
NOT_PLANS = ["x", NAN, 1, True, [1], {}]
NOT_STRINGS = [None, "", 1, NAN, True, ["x"]]
NOT_SIZES = [None, "x", 1, NAN, True, [-1], [1.5], ["x"], [None]]

SPEC = placement.VariableSpec("v", (10, 4), is_table=True)
PLAN = placement.plan([SPEC], 2)


def model():
    return keras.Sequential([keras.Input((2,), dtype="int64"), keras.layers.Embedding(10, 4)])


def compiled():
    made = model()
    made.compile("sgd", "mse")
    return made


def plan(**arguments):
    return tfps.plan(**{"model": model, "num_ps": 2, **arguments})


def place(**arguments):
    return placement.plan(**{"specs": [SPEC], "num_servers": 2, **arguments})


def spec(**arguments):
    return placement.VariableSpec(**{"name": "v", "shape": (10, 4), "is_table": True, **arguments})


def routing(**arguments):
    return placement.Routing(**{"kind": "hash", "rows": 10, "shards": 2, **arguments})


def shard(**arguments):
    return placement.Shard(**{"server": 0, "index": 0, "rows": 1, **arguments})


def placed(**arguments):
    return placement.Placement(**{"spec": SPEC, "shards": PLAN.find("v").shards, "routing": routing(), **arguments})


def placer(**arguments):
    return placement.IncrementalPlacer(**{"num_servers": 2, **arguments})


def geo(**arguments):
    return tfps.optimizers.Geo(**{"optimizer": "sgd", **arguments})


def sync(**arguments):
    return tfps.optimizers.Sync(**{"optimizer": "sgd", **arguments})


def bag(**arguments):
    return tfps.layers.EmbeddingBag(**{"input_dim": 10, "output_dim": 4, **arguments})


def skip_gram(**arguments):
    return tfps.models.SkipGram(**{"vocabulary": 10, "dim": 4, **arguments})


def pairs(**arguments):
    return tfps.text.neighbour_pairs(**{"tokens": np.arange(20), "window": 2, "batch": 4, "steps": 1, **arguments})


def groups(**arguments):
    return tfps.text.neighbour_groups(**{"tokens": np.arange(20), "window": 2, "batch": 4, "steps": 1, **arguments})


def keep(**arguments):
    return tfps.text.keep_probabilities(**{"counts": [1, 2], **arguments})


def pooled(**arguments):
    ids = keras.ops.zeros((2, 2), "int64")
    return tfps.layers.EmbeddingBag(10, 4)(ids, **arguments)


def explain(**arguments):
    return tfps.explain_strategy(**{"build_model": compiled, "batch_size": 8, **arguments})


def choose(**arguments):
    return tfps.choose_strategy(**{"build_model": compiled, "batch_size": 8, **arguments})


def whole_plan(**arguments):
    return placement.Plan(**{"num_servers": 2, **arguments})


def advise(**arguments):
    return placement.advise(**{"plan": PLAN, **arguments})


def follower(**arguments):
    return tfps.serving.Follower(**{"url": "export", **arguments})


def export(**arguments):
    return tfps.callbacks.Export(**{"url": "export", **arguments})


def dump(**arguments):
    return tfps.callbacks.Dump(**{"url": "dump", **arguments})


def first_nan(**arguments):
    return tfps.callbacks.FirstNaN(**{"url": "nan", **arguments})


def growing(**arguments):
    return tfps.layers.DynamicEmbedding(**{"output_dim": 4, **arguments})


def growing_bag(**arguments):
    return tfps.layers.DynamicEmbeddingBag(**{"output_dim": 4, **arguments})


def score(**arguments):
    return tfps.eviction.Score(**{"threshold": 1.0, "every_steps": 10, **arguments})


def count(**arguments):
    return tfps.admission.Count(**{"n": 2, **arguments})


def group_auc(**arguments):
    return tfps.metrics.GroupAUC(**{"by": "user", **arguments})


def recall(**arguments):
    return tfps.metrics.RecallAtK(**{"k": 3, **arguments})


def sliced(**arguments):
    return tfps.metrics.Sliced(**{"metric": tfps.metrics.LogLoss(), "by": "user", "values": [1, 2], **arguments})


def progressive(**arguments):
    return tfps.metrics.Progressive(**{"metric": tfps.metrics.LogLoss(), **arguments})


def profile(**arguments):
    return tfps.callbacks.Profile(**{"url": "profile", **arguments})


def board(**arguments):
    return tfps.callbacks.TensorBoard(**{"log_dir": "board", **arguments})


NOT_POSITIVE = [*NOT_NUMBERS, 0, -1]
NOT_FEATURES = [None, "", NAN, -1, 1.5, True, ["user"]]
NOT_METRICS = [None, "auc", 1, [1]]
OF_PROBABILITIES = (tfps.metrics.LogLoss, tfps.metrics.NormalizedEntropy, tfps.metrics.Calibration)


def hash_column(**settings):
    return tfps.data.Hash(**{"buckets": 5} | settings)


def rebalanced(**settings):
    return tfps.checkpoint.rebalanced_plan("nothing here", **settings)


WRONG = [
    (hash_column, "buckets", [*NOT_COUNTS, 2**63]),
    (hash_column, "prefix", [1, None, b"city"]),
    (hash_column, "empty", [1, None, b""]),
    (rebalanced, "num_servers", NOT_COUNTS_OR_NONE),
    (tfps.metrics.AUC, "num_buckets", [*NOT_COUNTS, 1]),
    (tfps.metrics.AUC, "from_logits", NOT_BOOLS),
    (tfps.metrics.ExactAUC, "limit", NOT_COUNTS),
    (group_auc, "by", NOT_FEATURES),
    (group_auc, "weighting", NOT_CHOICES),
    (group_auc, "limit", NOT_COUNTS),
    (tfps.metrics.PositiveNegativeRatio, "by", NOT_FEATURES[1:]),
    (recall, "k", NOT_COUNTS),
    *((make, "k", NOT_COUNTS_OR_NONE) for make in (tfps.metrics.NDCG, tfps.metrics.MeanReciprocalRank)),
    (tfps.metrics.NDCG, "gain", NOT_CHOICES),
    *((make, "from_logits", NOT_BOOLS) for make in OF_PROBABILITIES),
    (sliced, "metric", NOT_METRICS),
    (sliced, "by", NOT_FEATURES),
    (sliced, "values", [None, "x", 1, [], [1.5], [1, "x"], [1, 1], [None]]),
    (sliced, "others", NOT_BOOLS),
    (progressive, "metric", NOT_METRICS),
    (profile, "url", [None, "", 1, NAN]),
    (profile, "steps", [None, "x", 5, [1], [3, 2], [-1, 4], [1, 2.5], [1, 2, 3]]),
    (profile, "workers", ["x", 1, [-1], [1.5], []]),
    (profile, "most_s", NOT_POSITIVE),
    (board, "log_dir", [None, "", 1, NAN]),
    (board, "every_s", [*NOT_NUMBERS, 0]),
    (board, "norms_every_s", NOT_POSITIVE[1:]),
    *((make, "output_dim", NOT_COUNTS) for make in (growing, growing_bag)),
    *(
        (make, name, NOT_COUNTS_OR_NONE)
        for make in (growing, growing_bag)
        for name in ("max_rows", "max_bytes", "expected_rows")
    ),
    *((growing, name, ["x", 1, NAN, True, [1], {}, tfps.admission.Count]) for name in ("admission", "eviction")),
    (growing, "mask_zero", NOT_BOOLS),
    (growing_bag, "combiner", NOT_CHOICES),
    (count, "n", NOT_COUNTS),
    (count, "filter_ids", NOT_COUNTS_OR_NONE),
    (count, "reads", NOT_CHOICES),
    (tfps.admission.Probability, "p", [*NOT_POSITIVE, 1.1]),
    (tfps.eviction.Unseen, "steps", NOT_COUNTS),
    (tfps.eviction.SmallNorm, "l2", NOT_POSITIVE),
    (score, "threshold", NOT_POSITIVE),
    (score, "every_steps", NOT_COUNTS),
    (score, "decay", [*NOT_POSITIVE, 1.5]),
    (score, "show", [*NOT_NUMBERS, -1]),
    *((make, "url", NOT_STRINGS) for make in (follower, export, dump, first_nan)),
    *((dump, name, ["", 5, -1, [-1], [1.5], [], {}, [True]]) for name in ("steps", "workers")),
    *((dump, name, ["", 5, [3], [""], [], {}]) for name in ("layers", "what")),
    (dump, "limit_bytes", NOT_COUNTS_OR_NONE),
    (dump, "format", NOT_CHOICES),
    (follower, "poll_s", [*NOT_NUMBERS, 0, -1]),
    (follower, "on_gap", NOT_CHOICES),
    (export, "every_s", [*NOT_NUMBERS, 0, -1]),
    (export, "full_every", NOT_COUNTS),
    (export, "keep", NOT_COUNTS),
    *((make, "build_model", [None, "x", 1, NAN, True, [1], int]) for make in (explain, choose)),
    *((make, "batch_size", NOT_COUNTS) for make in (explain, choose)),
    *((make, "hardware", ["x", 1, NAN, True, [1], {"cards": 1}]) for make in (explain, choose)),
    (explain, "inputs", ["x", 1, NAN]),
    *((tfps.Hardware, field, NOT_COUNTS_OR_NONE) for field in ("hosts", "cores")),
    (tfps.Hardware, "cards", ["x", NAN, -1, 1.5, True, [1]]),
    *((tfps.Hardware, field, ["x", NAN, 0, -1, True, [1]]) for field in ("card_bytes", "host_bytes", "bandwidth")),
    (plan, "model", [None, "x", 1, NAN, True, [1], {1: 2}]),
    (plan, "num_ps", NOT_COUNTS),
    (plan, "variable_partitioner", NOT_PLANS),
    (plan, "batch_size", NOT_COUNTS),
    (plan, "balancer", NOT_PLANS),
    (plan, "routing", NOT_CHOICES),
    (place, "specs", [None, "x", 1, NAN, [1], SPEC]),
    (place, "num_servers", NOT_COUNTS),
    (place, "partitioner", NOT_PLANS),
    (place, "balancer", NOT_PLANS),
    (place, "routing", NOT_CHOICES),
    (placer, "num_servers", NOT_COUNTS),
    (placer, "partitioner", NOT_PLANS),
    (placer, "balancer", NOT_PLANS),
    (placer, "plan", NOT_PLANS),
    (placer, "routing", NOT_CHOICES),
    (advise, "plan", [None, *NOT_PLANS]),
    (advise, "num_workers", NOT_COUNTS_OR_NONE),
    (advise, "dense_exchange_every", NOT_COUNTS_OR_NONE),
    (placement.FixedShards, "shards", NOT_COUNTS),
    (placement.MinBytes, "min_shard_bytes", NOT_COUNTS),
    (placement.MinBytes, "max_shards", NOT_COUNTS_OR_NONE),
    (placement.MaxBytes, "max_shard_bytes", NOT_COUNTS),
    (placement.Auto, "min_shard_rows", NOT_COUNTS),
    (placement.Auto, "min_shard_bytes", NOT_COUNTS),
    (spec, "name", NOT_STRINGS),
    (spec, "shape", NOT_SIZES),
    (spec, "dtype", [None, "x", 1, NAN, True, ["float32"]]),
    (spec, "slots", [None, "x", NAN, -1, 1.5, True, [1]]),
    (spec, "row_slots", [None, "x", NAN, -1, 1.5, True, [1]]),
    (spec, "rows_per_step", ["x", NAN, -1, float("inf"), True, [1]]),
    (spec, "trainable", NOT_BOOLS),
    (spec, "is_table", NOT_BOOLS),
    (routing, "kind", NOT_CHOICES),
    (routing, "rows", NOT_COUNTS),
    (routing, "shards", NOT_COUNTS),
    (shard, "server", [None, "x", NAN, -1, 1.5, True, [1]]),
    (shard, "rows", [None, "x", NAN, -1, 1.5, True, [1]]),
    (placed, "spec", [None, *NOT_PLANS]),
    (placed, "shards", [None, *NOT_PLANS]),
    (placed, "routing", NOT_PLANS),
    (whole_plan, "num_servers", NOT_COUNTS),
    (whole_plan, "placements", [None, "x", 1, NAN, [1]]),
    (geo, "optimizer", [None, 1, NAN, True, [1]]),
    (geo, "push_every", NOT_COUNTS),
    (geo, "merge", NOT_CHOICES),
    (geo, "overlap", NOT_BOOLS),
    (sync, "optimizer", [None, 1, NAN, True, [1]]),
    (sync, "drop_slowest", [None, "x", NAN, -1, 1.5, True, [1]]),
    (sync, "max_staleness", [None, "x", NAN, -1, 1.5, True, [1]]),
    (bag, "input_dim", NOT_COUNTS),
    (bag, "output_dim", NOT_COUNTS),
    (bag, "combiner", NOT_CHOICES),
    (bag, "mask_zero", NOT_BOOLS),
    (skip_gram, "vocabulary", NOT_COUNTS),
    (skip_gram, "dim", NOT_COUNTS),
    (skip_gram, "negatives", NOT_COUNTS),
    (skip_gram, "counts", ["x", 1, NAN, [1], ["x"] * 10, [NAN] * 10]),
    (skip_gram, "power", NOT_NUMBERS),
    (skip_gram, "seed", ["x", NAN, 1.5, True, [1]]),
    (pairs, "tokens", [None, "x", 1, NAN, [1.5] * 20, ["x"] * 20, [-1] * 20]),
    (pairs, "window", NOT_COUNTS),
    (pairs, "batch", NOT_COUNTS),
    (pairs, "steps", [None, "x", NAN, -1, 1.5, True, [1]]),
    (pairs, "seed", [None, "x", NAN, 1.5, True, [1]]),
    (groups, "tokens", [None, "x", 1, NAN, [], [1.5] * 20, ["x"] * 20, [-2] * 20]),
    (groups, "window", NOT_COUNTS),
    (groups, "batch", NOT_COUNTS),
    (groups, "steps", [None, "x", NAN, -1, 1.5, True, [1]]),
    (groups, "seed", [None, "x", NAN, 1.5, True, [1]]),
    (groups, "keep", ["x", 1, NAN, [], [1.0] * 19, [2.0] * 20, ["x"] * 20]),
    (keep, "counts", [None, "x", NAN, [], [-1], ["x"], [NAN]]),
    (keep, "threshold", [*NOT_NUMBERS, 0, -1]),
]
RIGHT = [
    (explain, "batch_size", np.int64(8)),
    (tfps.Hardware, "hosts", np.int64(2)),
    (tfps.Hardware, "bandwidth", np.float32(1e9)),
    (plan, "num_ps", np.int64(2)),
    (plan, "batch_size", np.int32(8)),
    (placer, "num_servers", np.int16(2)),
    (advise, "num_workers", np.uint8(2)),
    (placement.FixedShards, "shards", np.int64(2)),
    (placement.MinBytes, "max_shards", None),
    (spec, "slots", np.int64(1)),
    (spec, "rows_per_step", np.float32(1.5)),
    (spec, "trainable", np.bool_(True)),
    (spec, "shape", np.array([10, 4])),
    (routing, "shards", np.int64(2)),
    (geo, "push_every", np.int64(2)),
    (geo, "push_every", "auto"),
    (geo, "overlap", np.bool_(True)),
    (sync, "max_staleness", np.int64(1)),
    (bag, "input_dim", np.int64(10)),
    (bag, "mask_zero", np.bool_(True)),
    (skip_gram, "vocabulary", np.int64(10)),
    (skip_gram, "power", np.float32(0.5)),
    (skip_gram, "seed", np.int64(3)),
    (pairs, "window", np.int64(2)),
    (groups, "window", np.int64(2)),
    (keep, "threshold", np.float64(0.1)),
    (follower, "poll_s", np.float32(0.5)),
    (export, "every_s", np.int64(60)),
    (export, "full_every", np.int64(3)),
]


@pytest.mark.parametrize(
    ("make", "argument", "value"),
    [(make, argument, value) for make, argument, values in WRONG for value in values],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)
def test_a_wrong_value_is_refused_with_its_argument_named(make, argument, value):
    with pytest.raises(TfpsError) as caught:
        make(**{argument: value})
    assert f"`{argument}" in str(caught.value) and "Received" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "argument", "value"), RIGHT, ids=lambda value: getattr(value, "__name__", repr(value))
)
def test_values_of_numpy_count_as_those_of_python(make, argument, value):
    make(**{argument: value})


def test_every_public_function_and_class_that_takes_settings_is_in_the_list():
    from tests.test_public_api import NAMES

    # tests/cluster, tests/strategy, tests/replicas: they start processes or keep TensorFlow's devices.
    elsewhere = {"LocalCluster", "ParameterServerStrategy"}
    elsewhere |= {"Checkpoint", "restore", "save"}  # tests/saving
    elsewhere |= {"OneDeviceStrategy", "MirroredStrategy", "MultiWorkerMirroredStrategy"}
    elsewhere |= {"Files", "Kafka", "WindowCheckpoint", "fit"}  # tests/streaming
    elsewhere |= {"files"}  # tests/data
    of_keras = {"RowwiseAdagrad"}  # Keras checks the arguments of its optimizers
    no_settings = {"GreedyBytes", "GreedyBytesAndTraffic", "RoundRobin", "Always", "LeastRecent", "LeastFrequent"}
    no_settings |= {"Admission", "Eviction", "Filter"}  # to be derived from
    no_settings |= {"fingerprint"}  # a function of a tensor
    results = {"ServerLoad", "Candidate", "Explanation", "Footprint", "StepCounts"}
    results |= {"CountWindows", "Planned", "Source", "TimeWindows", "Waiting", "Window"}
    tested = {
        "plan", "IncrementalPlacer", "advise", "FixedShards", "MinBytes", "MaxBytes", "Auto", "VariableSpec", "Routing",
        "Shard", "Placement", "Plan", "Geo", "Sync", "EmbeddingBag", "SkipGram",
        "Hash", "rebalanced_plan",
        "neighbour_groups", "neighbour_pairs", "keep_probabilities", "choose_strategy", "explain_strategy", "Hardware",
        "Export", "Follower", "DynamicEmbedding", "DynamicEmbeddingBag", "Count", "Probability", "Unseen", "SmallNorm",
        "Score", "Dump", "FirstNaN", "Profile", "TensorBoard",
        "AUC", "ExactAUC", "GroupAUC", "PositiveNegativeRatio", "LogLoss", "NormalizedEntropy", "Calibration",
        "RecallAtK", "NDCG", "MeanReciprocalRank", "Sliced", "Progressive",
    }  # fmt: skip
    lookups = {name for module, name in NAMES if module == "tfps.nn"}  # tests/nn
    errors = {name for module, name in NAMES if module == "tfps.errors"}
    assert {name for _, name in NAMES} == tested | of_keras | elsewhere | no_settings | results | lookups | errors
