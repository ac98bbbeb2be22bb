"""`Dump`: what the workers write is what the step computes, and a step without it has nothing of it."""

import collections
import json
import logging
import re
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tests.debug.models import BATCH, LATE_STEP, STEPS, build, inputs, trained
from tfps.callbacks import Dump, FirstNaN
from tfps.debug.diff import find_parting
from tfps.debug.reading import DumpReader
from tfps.errors import ConfigError, NotFiniteError, UnsupportedError

MODES = {
    "asynchronous": lambda: keras.optimizers.SGD(0.1),
    "geo": lambda: tfps.optimizers.Geo(keras.optimizers.SGD(0.1), push_every=3),
    "sync": lambda: tfps.optimizers.Sync(keras.optimizers.SGD(0.1)),
}


def dumped(path, strategy=None, optimizer="sgd", data=None, change=None, **options):
    trained(strategy, [Dump(path, **options)], optimizer, data, change)
    return DumpReader(path)


def values_of(dump, step, worker=0):
    return {(one.entry.layer, one.entry.kind, one.entry.name): one for one in dump.values(step, worker)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The dump of one process."""
    return dumped(tmp_path_factory.mktemp("dumps") / "alone", optimizer=MODES["asynchronous"]())


def test_it_has_what_a_step_computes_by_hand(tmp_path):
    seen = []

    class Weights(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append([variable.numpy() for variable in self.model.trainable_variables])

    trained(None, [Dump(tmp_path / "dump"), Weights()])
    dump = DumpReader(tmp_path / "dump")
    assert dump.steps == [(step, 0) for step in range(STEPS)]
    x, y = inputs()
    model = build()
    for step in (0, LATE_STEP):
        part = slice(step * BATCH, (step + 1) * BATCH)
        for variable, value in zip(model.trainable_variables, seen[step], strict=True):
            variable.assign(value)
        with tf.GradientTape() as tape:
            result = model({name: array[part] for name, array in x.items()})
            loss = tf.reduce_mean((result - y[part]) ** 2)
        gradients = tape.gradient(loss, [one._value for one in model.trainable_variables])
        found = values_of(dump, step)
        ids = np.unique(x["ids"][part])
        for variable, value, gradient in zip(model.trainable_variables, seen[step], gradients, strict=True):
            layer, _, name = variable.path.rpartition("/")
            layer = f"deep/{layer}" if layer in ("first", "second") and "deep" not in layer else layer
            if layer == "items":
                rows, of_rows = found[layer, "rows", name], found[layer, "row_gradient", name]
                assert rows.ids.tolist() == of_rows.ids.tolist() == ids.tolist()
                np.testing.assert_allclose(rows.values, value[ids], rtol=1e-6)
                np.testing.assert_allclose(of_rows.values, tf.convert_to_tensor(gradient).numpy()[ids], rtol=1e-4)
            else:
                np.testing.assert_allclose(found[layer, "parameter", name].values, value, rtol=1e-6)
                np.testing.assert_allclose(found[layer, "gradient", name].values, gradient, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(found["top", "activation", "output"].values, result, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["loss", "activation", "output"].values, loss, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_cluster_of_one_worker_dumps_what_one_process_does(one_worker, alone, tmp_path, mode):
    ours = dumped(tmp_path / "ours", one_worker, MODES[mode](), format="parquet" if mode == "sync" else "npz")
    found = find_parting(ours, alone)
    assert not found.differences and found.steps == STEPS and not found.only_parameters
    # The table, and four parameters and gradients; seven layers and the loss.
    assert found.values == STEPS * (2 + 2 * 6 + 7 + 1)
    assert ours.header["num_workers"] == 1 and ours.layers == alone.layers
    # The rows are those before the step.
    for step in range(STEPS - 1):
        now, then = (values_of(ours, number)["items", "rows", "embeddings"] for number in (step, step + 1))
        gradient = values_of(ours, step)["items", "row_gradient", "embeddings"]
        ids, at_now, at_then = np.intersect1d(now.ids, then.ids, return_indices=True)
        assert len(ids) > 3 and np.abs(gradient.values).max() > 0
        np.testing.assert_allclose(then.values[at_then], now.values[at_now] - 0.1 * gradient.values[at_now], atol=1e-6)


def test_steps_count_over_epochs_and_workers(strategy, no_young, tmp_path):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = build()
    x, y = inputs()
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
    model.fit(data, epochs=2, verbose=0, callbacks=[Dump(tmp_path / "all", what="rows")])
    dump = DumpReader(tmp_path / "all")
    assert [step for step, _ in dump.steps] == list(range(2 * STEPS)) and dump.workers == [0, 1]
    # Step n is the n-th batch, whichever worker has trained it.
    for step, worker in dump.steps:
        batch = slice(step % STEPS * BATCH, (step % STEPS + 1) * BATCH)
        ids = values_of(dump, step, worker)["items", "rows", "embeddings"].ids
        assert ids.tolist() == np.unique(x["ids"][batch]).tolist()
    model.fit(data, verbose=0, callbacks=[Dump(tmp_path / "later", steps=[17, 20], workers=[1], what="rows")])
    assert DumpReader(tmp_path / "later").steps == [(17, 1)]


def test_what_and_layers_choose(one_worker, tmp_path):
    chosen = dumped(tmp_path / "a", one_worker, layers=["deep"], steps=range(1, 8, 3), what=["values", "gradients"])
    assert [step for step, _ in chosen.steps] == [1, 4, 7]
    layers = {layer for layer, _, _ in values_of(chosen, 4)}
    assert layers == {"deep", "deep/first", "deep/second", "loss"}
    index = json.loads((tmp_path / "a" / "worker-00000" / "step-000000004.json").read_text())
    kinds = [entry["kind"] for entry in index["entries"]]
    assert kinds == ["parameter"] * 4 + ["activation"] * 4 + ["gradient"] * 4
    assert [entry["layer"] for entry in index["entries"]][-4:] == ["deep/second"] * 2 + ["deep/first"] * 2
    other = dumped(tmp_path / "b", one_worker, layers="top", what="gradients", format="parquet")
    assert set(values_of(other, 0)) == {("top", "gradient", "kernel"), ("top", "gradient", "bias")}


def ops_of(model):
    """How often each type of operation is in the closures of a model."""
    (closure,) = model.train_function.closures.by_iterator.values()
    graph = closure.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return collections.Counter(node.op for node in nodes)


def test_a_step_without_it_has_no_operation_more(one_worker, tmp_path):
    counts = []

    class Count(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            counts.append(ops_of(self.model))

    x, y = inputs()
    model = trained(one_worker, [])
    before = ops_of(model)
    assert not before["PyFunc"]
    model.fit(
        x, y, batch_size=BATCH, verbose=0, callbacks=[Dump(tmp_path / "dump"), FirstNaN(tmp_path / "nan"), Count()]
    )
    assert counts[0]["PyFunc"] and sum(counts[0].values()) > sum(before.values())
    model.fit(x, y, batch_size=BATCH, verbose=0)
    assert ops_of(model) == before
    replaced = {"train_step", "compute_loss", "make_train_function"}
    assert not replaced & set(vars(model)) and not any("call" in vars(layer) for layer in model._flatten_layers())
    assert "apply" not in vars(model.optimizer)


@pytest.mark.parametrize("on_cluster", [True, False])
def test_a_fit_that_fails_leaves_nothing(one_worker, caplog, tmp_path, on_cluster):
    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise NotFiniteError("on purpose")

    caplog.set_level(logging.INFO, "tfps")
    keras.utils.set_random_seed(1)
    if on_cluster:
        with one_worker.scope():
            model = build()
    else:
        model = build()
    x, y = inputs()
    with pytest.raises(NotFiniteError):
        model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[Dump(tmp_path / "dump"), Fail()])
    # Under our strategy the callback is told, and waits for the steps that are not written yet. Keras tells nobody.
    assert ("train_step" in vars(model)) != on_cluster
    told = re.findall(r"Dump: (\d+) steps, ", caplog.text)
    assert told == [str(len(DumpReader(tmp_path / "dump").steps))] * on_cluster and told != ["0"]
    model.fit(x, y, batch_size=BATCH, verbose=0)
    assert "train_step" not in vars(model) and "make_train_function" not in vars(model)
    assert len(DumpReader(tmp_path / "dump").steps) <= STEPS


def test_it_says_what_it_costs(one_worker, tmp_path, caplog):
    caplog.set_level(logging.INFO, "tfps")
    dumped(tmp_path / "dump", one_worker)
    before = re.search(r"Dump: 8 steps to \S+: at least (\S+) B a step", caplog.text)
    # The parameters of 30 + 21 + 16 floats, and their gradients.
    assert int(before[1]) == 2 * 4 * (30 + 21 + 16)
    after = re.search(
        r"Dump: 8 steps, (\S+) kB in 16 files of .* waited (\S+) s .*, (\S+) % of .* took (\S+) s", caplog.text
    )
    written = sum(file.stat().st_size for file in (tmp_path / "dump" / "worker-00000").iterdir())
    assert float(after[1]) == pytest.approx(written / 1000, abs=0.06)
    assert float(after[2]) >= 0 and float(after[4]) > 0 and float(after[3]) < 100


def test_the_limit_ends_the_dump_and_training_goes_on(one_worker, tmp_path, caplog):
    # The thread that writes meets the limit; the end of an epoch after that says so.
    wait = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: time.sleep(epoch))
    trained(one_worker, [Dump(tmp_path / "dump", limit_bytes=50_000), wait], epochs=2)
    steps = [step for step, _ in DumpReader(tmp_path / "dump").steps]
    assert 0 < len(steps) < STEPS and steps == list(range(len(steps)))
    written = sum(file.stat().st_size for file in (tmp_path / "dump").rglob("*") if file.is_file())
    assert 25_000 < written <= 50_000
    assert "Dump: `limit_bytes`, 50.0 kB, is reached: the dump has ended, and training goes on." in caplog.text
    left = 2 * STEPS - len(steps)
    assert re.search(rf"Dump: {left} steps were not dumped, because `limit_bytes` is 50.0 kB", caplog.text)


BAD = {
    "layers": (dict(layers=["deep", "nosuch"]), "`layers` must be names of layers.*'nosuch'.*Valid: items, flat"),
    "layer type": (dict(layers=[3]), r"`layers` must be names of layers, or None.*Received: \[3\]"),
    "no layers": (dict(layers=[]), r"`layers` must be names.*Received: \[\]"),
    "steps": (dict(steps="first"), "`steps` must be a.*'first'"),
    "negative step": (dict(steps=[-1]), r"`steps` must be a range.*\[-1\]"),
    "half step": (dict(steps=[0.5]), r"`steps` must be a range.*\[0.5\]"),
    "text of steps": (dict(steps="12"), r"`steps` must be a range.*Received: '12'.*Valid: range\(100\)"),
    "one step": (dict(steps=5), r"`steps` must be a range.*Received: 5.*Valid: range\(100\)"),
    "empty range": (dict(steps=range(0)), r"`steps` must be a range.*range\(0, 0\)"),
    "workers": (dict(workers=[0, 7]), r"`workers` must be numbers of workers. Received: \[0, 7\]. Valid: 0 to 0"),
    "what": (dict(what=["weights"]), r"`what` must be some of 'values', 'gradients', 'rows'.*weights"),
    "limit": (dict(limit_bytes=0), "`limit_bytes` must be an integer of at least 1.*Received: 0"),
    "format": (dict(format="csv"), "`format` must be one of 'npz', 'parquet'.*'csv'"),
    "url type": (dict(url=3), "`url` must be a path or a URL.*Received: 3"),
    "memory": (dict(url="memory://dump/a"), "`url` of `Dump` must be seen by all workers.*'memory://dump/a'.*Valid: a"),
    "no driver": (dict(url="nosuch://bucket/dump"), "`url` must be a URL that fsspec can open.*nosuch://bucket/dump"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named_before_training(one_worker, tmp_path, name):
    options, message = BAD[name]
    options = {"url": tmp_path / "dump"} | options
    with one_worker.scope():
        model = build()
    x, y = inputs()
    weights = model.get_weights()
    with pytest.raises(ConfigError, match=message):
        model.fit(x, y, verbose=0, callbacks=[Dump(**options)])
    assert all(map(np.array_equal, weights, model.get_weights()))
    assert not (tmp_path / "dump").exists() and "train_step" not in vars(model)


def test_a_folder_with_another_dump_is_refused(tmp_path):
    dumped(tmp_path / "dump", steps=[0])
    with pytest.raises(ConfigError, match="`url` must be a folder without a dump. Received: .*dump'. Valid: another"):
        Dump(tmp_path / "dump")


def test_it_is_of_one_model(tmp_path):
    for callback in (Dump(tmp_path / "dump", steps=[0, 8]), FirstNaN(tmp_path / "nan")):
        model = trained(None, [callback])
        x, y = inputs()
        # The same model may go on.
        model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[callback])
        with pytest.raises(ConfigError, match="must be of one model.*Received: a second model, 'ctr'. Valid: a new"):
            trained(None, [callback])
    assert DumpReader(tmp_path / "dump").steps == [(0, 0), (8, 0)]


def test_a_dump_after_a_fit_that_failed_with_another(tmp_path):
    def fail(batch, logs):
        raise RuntimeError("the user's")

    model, (x, y) = build(), inputs()
    failing = [Dump(tmp_path / "first"), keras.callbacks.LambdaCallback(on_train_batch_end=fail)]
    with pytest.raises(RuntimeError, match="the user's"):
        model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=failing)
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[Dump(tmp_path / "second"), FirstNaN(tmp_path / "nan")])
    assert len(DumpReader(tmp_path / "second").steps) == STEPS
    assert "train_step" not in vars(model) and "make_train_function" not in vars(model)


def test_a_dump_without_a_step_warns(tmp_path, caplog):
    model = trained(None, [Dump(tmp_path / "late", steps=range(100, 200))])
    assert (
        "Dump: no step was written. Chosen: steps range(100, 200), workers all. Trained: steps 0 to 7, of 1 workers."
        in caplog.text
    )
    caplog.clear()
    x, y = inputs()
    for name, callback in {"Dump": Dump(tmp_path / "none"), "FirstNaN": FirstNaN(tmp_path / "none")}.items():
        for call in (lambda one: model.evaluate(x, y, **one), lambda one: model.predict(x, **one)):
            call({"verbose": 0, "callbacks": [callback]})
            assert [one.getMessage() for one in caplog.records] == [
                f"{name}: only `fit` trains steps, so nothing is written."
            ]
            caplog.clear()
    # Nothing is left for the next `fit`, and the callback itself may still be used.
    model.fit(x, y, verbose=0)
    assert not (tmp_path / "none").exists() and not caplog.records
    model.fit(x, y, verbose=0, validation_data=(x, y), callbacks=[callback := Dump(tmp_path / "none", steps=[10])])
    assert len(DumpReader(tmp_path / "none").steps) == 1 and not caplog.records and callback.model is model


def test_a_dump_that_is_sure_to_be_too_large_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((1000,)), keras.layers.Dense(1000, name="dense")])
    model.compile("sgd", "mse")
    data = tf.data.Dataset.from_tensors((tf.zeros([2, 1000]), tf.zeros([2, 1000]))).repeat(200)
    with pytest.raises(
        ConfigError, match=r"`limit_bytes` must be given for a dump of more than 1.0 GB.*200 steps.*8.0 MB"
    ):
        model.fit(data, verbose=0, callbacks=[Dump(tmp_path / "dump")])
    model.fit(data, verbose=0, callbacks=[Dump(tmp_path / "dump", layers=["dense"], steps=[0], limit_bytes=10**12)])
    assert len(DumpReader(tmp_path / "dump").steps) == 1


def test_models_of_other_strategies_are_refused(tmp_path):
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = build()
    x, y = inputs()
    with pytest.raises(UnsupportedError, match="`Dump` needs a model of a ParameterServerStrategy.*MirroredStrategy"):
        model.fit(x, y, verbose=0, callbacks=[Dump(tmp_path / "dump")])


class Adversary(keras.Model):
    """Has a step of its own with two optimizers, which builds it, a layer that is called twice, and one in a loop."""

    def __init__(self, table):
        super().__init__(name="adversary")
        self.table, self.twice, self.last = (
            table,
            keras.layers.Dense(3, name="twice"),
            keras.layers.Dense(1, name="last"),
        )
        self.looped = keras.layers.Dense(3, name="looped")
        self.second = keras.optimizers.SGD(0.1)

    def call(self, x):
        first = self.twice(tf.reshape(self.table(x), [-1, 12]))
        other = self.twice(tf.ones([tf.shape(x)[0], 12]))
        looped = tf.while_loop(lambda i, _: i < 2, lambda i, x: (i + 1, self.looped(x)), (0, first))[1]
        return self.last(tf.concat([looped, other], 1))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape(persistent=True) as tape:
            loss = tf.reduce_mean((self(x) - y) ** 2)
        rest = [one for layer in (self.table, self.twice, self.looped) for one in layer.trainable_variables]
        for optimizer, variables in ((self.optimizer, self.last.trainable_variables), (self.second, rest)):
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}


def adversary(table, path):
    keras.utils.set_random_seed(1)
    model = Adversary(table())
    model.compile(keras.optimizers.SGD(0.1))
    x, y = inputs()
    data = tf.data.Dataset.from_tensor_slices((x["ids"] - 20, y)).batch(BATCH)
    return model, lambda **options: model.fit(data, verbose=0, callbacks=[Dump(path, **options)])


def test_a_step_of_its_own_with_a_table_that_grows(one_worker, tmp_path, caplog):
    with one_worker.scope():
        model, fit = adversary(lambda: tfps.layers.DynamicEmbedding(4, "ones", name="items"), tmp_path / "ours")
    fit()
    # A layer that a step builds is known by then.
    with pytest.raises(ConfigError, match="`layers` must be names.*'nosuch'. Valid: items, twice, last, looped"):
        adversary(lambda: keras.layers.Embedding(60, 4, name="items"), tmp_path / "other")[1](layers=["nosuch"])
    dump = DumpReader(tmp_path / "ours")
    found = values_of(dump, 0)
    assert {("twice", "activation", "output"), ("twice", "activation", "output@2")} <= set(found)
    assert {("twice", "gradient", "kernel"), ("last", "gradient", "kernel")} <= set(found)
    assert ("looped", "parameter", "kernel") in found and ("looped", "activation", "output") not in found
    assert "outputs in a branch or a loop of the step are not dumped, of the layers looped" in caplog.text
    rows, gradient = found["items", "rows", "embeddings"], found["items", "row_gradient", "embeddings"]
    assert rows.ids.tolist() == gradient.ids.tolist() == np.unique(inputs()[0]["ids"][:BATCH] - 20).tolist()
    assert rows.ids.min() < 0 and (rows.values == 1).all() and dump.layers == ["items", "twice", "last", "looped"]
    assert len(dump.steps) == STEPS
