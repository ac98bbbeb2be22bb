"""Dense variables that cross while steps are made: nothing of one's own is missed, nothing is lost or counts twice."""

import keras
import numpy as np
import pytest

from tests.training.graphs import before
from tests.training.test_turns import weights
from tfps.training.asynchronous.spans import SPANS


@pytest.fixture
def overlap(strategy, monkeypatch):
    monkeypatch.setattr(strategy, "overlap_dense_exchange", True)


@pytest.mark.parametrize(("batches", "closure"), [(23, 3), (22, 6), (9, 1)])
def test_one_worker_misses_nothing_of_its_own(overlap, one_worker, batches, closure):
    """Spans of whole turns, of turns and a rest, of single steps; closures that end within a span."""
    for ours, theirs in zip(weights(one_worker, batches, closure), weights(None, batches, 1), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)


def counter(strategy, span):
    """A model whose every variable grows by one for each example, or each id, of it."""
    with strategy.scope():
        table = keras.layers.Embedding(50, 4, embeddings_initializer="zeros")
        bias = keras.layers.Dense(4, kernel_initializer="zeros")
        model = keras.Sequential([keras.Input((2,), dtype="int64"), table, bias])
        model.compile(keras.optimizers.SGD(1.0), lambda y, rows: -keras.ops.sum(rows), steps_per_execution=span)
    return model


@pytest.mark.parametrize("span", [1, 3])
def test_every_update_arrives_once(overlap, strategy, span):
    model = counter(strategy, span)
    examples = 8 * 97 - 3
    model.fit(
        np.ones((examples, 2), np.int64), np.zeros((examples, 2, 4), np.float32), batch_size=8, epochs=2, verbose=0
    )
    np.testing.assert_array_equal(model.get_weights()[2], 2 * 2 * examples)  # two ids of each example, two epochs
    assert int(model.optimizer.iterations) == 2 * 97


def test_closures_have_several_spans(overlap, strategy, no_young):
    model, results = counter(strategy, 3), []
    ids, zeros = np.ones((8 * 8 * 2 * 3 * SPANS, 2), np.int64), np.zeros((8 * 8 * 2 * 3 * SPANS, 2, 4), np.float32)
    model.fit(ids[:16], zeros[:16], batch_size=8, verbose=0)
    read = model.train_function.closures.read
    model.train_function.closures.read = lambda vector: results.append(read(vector)) or results[-1]
    model.fit(ids, zeros, batch_size=8, verbose=0)
    assert max(result.steps for result in results) == 3 * SPANS


def test_the_exchange_does_not_wait_for_the_steps_nor_they_for_it(overlap, strategy):
    model = counter(strategy, 8)
    model.fit(np.ones((640, 2), np.int64), np.zeros((640, 2, 4), np.float32), batch_size=8, verbose=0)
    (closure,) = model.train_function.closures.by_iterator.values()
    functions = {
        function.signature.name: function.node_def for function in closure.graph.as_graph_def().library.function
    }

    def loops(nodes):
        return [node for node in nodes if node.op in ("While", "StatelessWhile")]

    (span,) = [nodes for nodes in functions.values() if len(loops(nodes)) == 2]  # turns, and what is left
    steps = {node.name for node in loops(span)}
    pushes = {node.name for node in span if node.op in ("If", "StatelessIf") and "/job:ps/" in node.device}
    pulls = {node.name for node in span if node.op == "ReadVariableOp" and "/job:ps/" in node.device}
    assert pushes and pulls
    assert not any(steps & before(name, span) for name in pushes | pulls)
    assert not any((pushes | pulls) & before(name, span) for name in steps)
    # What is pulled has seen what was pushed.
    assert any(pushes & before(name, span) for name in pulls)
