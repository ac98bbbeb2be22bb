"""The table never travels: where the ops of a step are, how many bytes cross, what the chief holds."""

import contextlib
import pathlib
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.graphs import before

BATCH = 256


def model_of(strategy, rows, dims=(16,), optimizer=None):
    with strategy.scope():
        ids = keras.Input((4,), dtype="int64")
        rows_of = [keras.layers.Flatten()(keras.layers.Embedding(rows, dim)(ids)) for dim in dims]
        joined = keras.layers.Concatenate()(rows_of) if len(dims) > 1 else rows_of[0]
        model = keras.Model(ids, keras.layers.Dense(1)(joined))
        model.compile(optimizer=optimizer or keras.optimizers.Adagrad(0.1), loss="mse")
    return model


def batches():
    ids = np.random.default_rng(0).integers(0, 10_000, (64, BATCH, 4))
    return tf.data.Dataset.from_tensor_slices((ids, np.zeros((64, BATCH, 1), "float32"))).repeat()


def loopback_bytes():
    line = next(
        line for line in pathlib.Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:")
    )
    return int(line.split(":")[1].split()[0])


def others_use_loopback():
    """Whether what crosses there says nothing about us."""
    before = loopback_bytes()
    time.sleep(1.0)
    return loopback_bytes() - before > 20_000


@pytest.fixture
def quiet():
    if others_use_loopback():
        pytest.skip("other programs use the loopback, so its bytes cannot be counted")


def bytes_a_step(model, steps=64):
    data = batches()
    model.fit(data, steps_per_epoch=16, verbose=0)
    counts = []
    for _ in range(3):  # the least of three: other programs may use the loopback as well
        before = loopback_bytes()
        model.fit(data, steps_per_epoch=steps, verbose=0)
        counts.append((loopback_bytes() - before) / steps)
    return min(counts)


@pytest.mark.alone
def test_bytes_depend_on_the_batch_and_not_on_the_table(strategy, quiet):
    small, large = (bytes_a_step(model_of(strategy, rows)) for rows in (10_001, 1_000_001))
    assert large == pytest.approx(small, rel=0.15)
    unique = BATCH * 4
    assert large < 6 * unique * (16 * 4 + 8)  # rows there, gradients back, ids twice, and room for the rest


def graphs(model):
    """The nodes of the closure and of each function it calls, among them the bodies of the loops over steps."""
    concrete, *_ = model.train_function.closures.by_iterator.values()
    graph = concrete.graph.as_graph_def()
    return [list(graph.node), *(list(function.node_def) for function in graph.library.function)]


READS, WRITES = ("TfpsGatherRows", "ResourceGather"), ("TfpsApplyRows", "ResourceScatterNdAdd")
DIMS = [(16,), (16,) * 5, (16, 1, 16, 8)]
STEPS = (1, 4)
"""Of the two loops: four steps a turn, and what is left."""


@pytest.mark.parametrize("dims", DIMS)
def test_rows_are_read_and_updated_beside_them_once_a_step_and_server(strategy, dims):
    model = model_of(strategy, 20_000, dims)
    model.fit(batches(), steps_per_epoch=2, verbose=0)
    for kind in (READS, WRITES):
        of_graphs = [[node.device for node in nodes if node.op in kind] for nodes in graphs(model)]
        found = sorted((places for places in of_graphs if places), key=len)
        assert found and all("/job:ps/" in place for places in found for place in places)
        if not any(node.op == kind[0] for nodes in graphs(model) for node in nodes):
            continue
        if kind is READS:  # both servers' in the loop
            assert [len(places) for places in found] == [2 * len(set(dims)) * steps for steps in STEPS]
            assert all(len(set(places)) == 2 for places in found)
        else:  # each server's in the branch for a push that it has not seen
            assert len(found) == 2 * sum(STEPS)
            assert all(len(places) == len(set(dims)) and len(set(places)) == 1 for places in found)


def crossings(nodes):
    """Tensors that go from the worker to a server or back, from the devices of a graph's nodes; no handles."""
    values = [node for node in nodes if node.attr["dtype"].type != tf.resource.as_datatype_enum]
    where = {node.name: node.device if "/job:ps/" in node.device else "worker" for node in values}
    found = set()
    for node in nodes:
        for source in node.input:
            name, *output = source.removeprefix("^").split(":")
            if {name, node.name} <= where.keys() and where[name] != where[node.name] and not source.startswith("^"):
                found.add((name, output[-1] if output else "0", where[node.name]))
    return found


@pytest.mark.parametrize(("dims", "prefetch"), [*((dims, False) for dims in DIMS), (DIMS[-1], True)])
def test_a_step_sends_one_request_and_one_push_and_gets_one_answer_a_server(strategy, monkeypatch, dims, prefetch):
    monkeypatch.setattr(strategy, "prefetch_lookups", prefetch)
    model = model_of(strategy, 20_000, dims)
    model.fit(batches(), steps_per_epoch=2, verbose=0)
    closure, *functions = graphs(model)
    if not any(node.op == "TfpsApplyRows" for nodes in functions for node in nodes):
        pytest.skip("the ops are not built: TensorFlow's own send more")
    loops = sorted((nodes for nodes in functions if any(node.op in READS for node in nodes)), key=len)
    assert [len(crossings(nodes)) for nodes in loops] == [3 * 2 * steps for steps in STEPS]
    # Dense variables of one server or both there and back, and the rows of the first batch where they come ahead.
    assert len(crossings(closure)) - 2 * 2 * prefetch in (2, 4)


@pytest.mark.parametrize("prefetch", [False, True])
def test_within_a_turn_servers_wait_for_pushes_and_workers_do_not(strategy, monkeypatch, prefetch):
    monkeypatch.setattr(strategy, "prefetch_lookups", prefetch)
    model = model_of(strategy, 20_000)
    model.fit(batches(), steps_per_epoch=2, verbose=0)
    turn = max(graphs(model), key=lambda nodes: sum(node.op in READS for node in nodes))
    for server in ("/job:ps/replica:0/task:0", "/job:ps/replica:0/task:1"):
        here = [node for node in turn if server in node.device]
        reads = [node.name for node in here if node.op in READS]
        pushes = {node.name for node in here if node.op in ("If", "StatelessIf")}
        assert len(reads) == len(pushes) == 4
        # Rows of a step have seen all pushes of the steps before it, or all but the last where they come ahead.
        assert sorted(len(pushes & before(read, turn)) for read in reads) == [0, 1, 2, 3]
    # What a worker sends waits for rows, and for nothing else of a server: for no push.
    nodes = {node.name: node for node in turn if "/job:ps/" not in node.device}
    waiting, met = [name for name, _, to in crossings(turn) if to != "worker"], set()
    while waiting:
        name = waiting.pop()
        if name not in met:
            met.add(name)
            waiting += [one.lstrip("^").split(":")[0] for one in nodes[name].input] if name in nodes else []
    of_servers = [node.op for node in turn if node.name in met - nodes.keys()]
    assert of_servers and set(of_servers) <= {"TfpsGatherRows", "ResourceGather"}, of_servers


def peak_bytes():
    """The most memory this process held since `forget_peak`."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) << 10


def forget_peak():
    with contextlib.suppress(OSError):  # where the kernel cannot, the peak is that since the process began
        pathlib.Path("/proc/self/clear_refs").write_text("5")


@pytest.mark.alone
def test_a_table_is_made_and_trained_without_passing_through_the_chief(strategy):
    rows = 10_000_000  # 640 MB; SGD keeps no slots beside them
    model_of(strategy, 1000).fit(batches().map(lambda ids, y: (ids % 1000, y)), steps_per_epoch=4, verbose=0)
    noisy = others_use_loopback()
    forget_peak()
    before, crossed = peak_bytes(), loopback_bytes()
    model = model_of(strategy, rows, optimizer=keras.optimizers.SGD(0.1))
    assert sum(store.rows for store in model.layers[1].embeddings._value.stores) == rows
    model.fit(batches().map(lambda ids, y: (ids * 997, y)), steps_per_epoch=4, verbose=0)
    assert int(model.optimizer.iterations) == 4
    assert peak_bytes() - before < 100e6
    if noisy:
        pytest.skip("the memory is as it must be; other programs use the loopback, so its bytes cannot be counted")
    assert loopback_bytes() - crossed < 50e6
