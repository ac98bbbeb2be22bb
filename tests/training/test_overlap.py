"""GEO with overlap: windows are exchanged while others are trained, and still nothing is lost, twice, or missed."""

import numpy as np
import pytest
import tensorflow as tf

import tfps
from tests.training.graphs import before
from tests.training.test_geo import INNER, ROWS, counter, fit
from tfps.errors import ConfigError
from tfps.training.geo.drift import Drift
from tfps.training.geo.overlapped import WINDOWS
from tfps.training.mode import EpochTotals


@pytest.mark.parametrize(("name", "fed"), [("sgd", False), ("adagrad", True)], ids=["sgd-shipped", "adagrad-fed"])
def test_one_worker_misses_nothing_of_its_own(one_worker, name, fed):
    """20 batches in windows of 3: two closures, the last window short; each window has rows of the one before."""
    found = fit(one_worker, tfps.optimizers.Geo(INNER[name](), push_every=3, overlap=True), fed)
    for ours, theirs in zip(found, fit(None, INNER[name]()), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("fed", [False, True], ids=["shipped", "fed"])
@pytest.mark.parametrize("push_every", [1, 5, "auto"])
def test_every_delta_arrives_once(strategy, push_every, fed):
    ids = np.random.default_rng(0).integers(0, ROWS, (1003, 2))
    model = counter(strategy, push_every=push_every, merge="sum", overlap=True)
    model.optimizer.iterations.assign(1_000_000)  # an old model, which all workers train at once
    model.fit(data(ids, fed), epochs=2, verbose=0)
    seen = np.bincount(ids.reshape(-1), minlength=ROWS)
    np.testing.assert_array_equal(model.get_weights()[0], np.repeat(2.0 * seen[:, None], 4, 1))
    assert int(model.optimizer.iterations) == 1_000_000 + 2 * 126


def data(ids, fed):
    """Batches of 8 that the workers read, or of a generator, which the chief does."""
    pairs = tf.data.Dataset.from_tensor_slices((ids, np.zeros((*ids.shape, 4), np.float32))).batch(8)
    given = list(pairs)
    return tf.data.Dataset.from_generator(lambda: given, output_signature=pairs.element_spec) if fed else pairs


def test_own_windows_are_no_conflict(strategy):
    """A worker's own delta, pushed after its next window was pulled, is not what others did: nothing is held back."""
    model = counter(strategy, push_every=5, overlap=True)
    x, y = np.ones((40 * 8, 2), np.int64), np.zeros((40 * 8, 2, 4), np.float32)
    history = model.fit(x, y, batch_size=8, verbose=0).history  # a young model, which one worker trains
    assert history["geo_conflicts"] == [0.0]
    np.testing.assert_array_equal(model.get_weights()[0][1], 2 * 40 * 8)


def skip_gram(strategy):
    with strategy.scope():
        model = tfps.models.SkipGram(ROWS, 8)
        model.compile(tfps.optimizers.Geo("sgd", push_every=5, overlap=True))
    model.fit(np.ones(640, np.int64), np.ones(640, np.int64), batch_size=8, verbose=0)
    return model


def counted(strategy):
    model = counter(strategy, push_every=5, overlap=True)
    model.fit(np.ones((640, 2), np.int64), np.zeros((640, 2, 4), np.float32), batch_size=8, verbose=0)
    return model


@pytest.mark.parametrize(("trained", "step"), [(counted, "TfpsSegmentSumRows"), (skip_gram, "TfpsTrainPairs")])
def test_the_exchange_does_not_wait_for_the_steps_nor_they_for_it(strategy, trained, step):
    (closure,) = trained(strategy).train_function.closures.by_iterator.values()
    functions = {function.signature.name: function for function in closure.graph.as_graph_def().library.function}

    def has(node):
        """Whether a node makes steps, or is a loop that does."""
        body = functions[node.attr["body"].func.name].node_def if "body" in node.attr else []
        return node.op == step or any(map(has, body))

    (turn,) = [
        f.node_def
        for f in functions.values()
        if any(node.op == "TfpsGatherRows" and "/job:ps/" in node.device for node in f.node_def)
        and any(map(has, f.node_def))
    ]
    steps = next(iter([node for node in turn if has(node) and "body" in node.attr] or filter(has, turn)))
    gathers = [node for node in turn if node.op == "TfpsGatherRows" and "/job:ps/" in node.device]
    pushes = [node.name for node in turn if node.op in ("If", "StatelessIf") and "/job:ps/" in node.device]
    assert gathers and pushes
    for gather in gathers:
        assert steps.name not in before(gather.name, turn) and gather.name not in before(steps.name, turn)
    assert not set(pushes) & before(steps.name, turn)
    # What is pulled for the next window has seen what was pushed of the last.
    assert any(set(pushes) & before(gather.name, turn) for gather in gathers)


@pytest.mark.parametrize("fed", [False, True], ids=["shipped", "fed"])
def test_closures_have_several_windows(strategy, fed):
    results = []
    model = counter(strategy, push_every=5, merge="sum", overlap=True)
    model.optimizer.iterations.assign(1_000_000)
    model.fit(np.ones((16, 2), np.int64), np.zeros((16, 2, 4), np.float32), batch_size=8, verbose=0)
    read = model.train_function.closures.read
    model.train_function.closures.read = lambda vector: results.append(read(vector)) or results[-1]
    ids = np.ones((8 * 5 * WINDOWS * 4, 2), np.int64)
    model.fit(data(ids, fed), steps_per_epoch=len(ids) // 8, verbose=0)
    assert max(result.steps for result in results) == 5 * WINDOWS
    drifts = [Drift.from_totals(EpochTotals(result.steps, result.measured)) for result in results]
    assert sum(drift.windows for drift in drifts) == 4 * WINDOWS


def test_what_overlap_may_be():
    with pytest.raises(ConfigError, match="overlap.*True or False.*Received: 1"):
        tfps.optimizers.Geo("sgd", overlap=1)
