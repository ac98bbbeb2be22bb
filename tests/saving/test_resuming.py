"""`fit` that is started again goes on at the saved step and the saved place in the input."""

import contextlib
import random
import shutil
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tests.saving.models import X, Y, assert_same, build, values
from tfps.callbacks import Checkpoint
from tfps.errors import CheckpointError, ConfigError, UnsupportedError
from tfps.keras import checkpoints
from tfps.saving.manifest import parse

SIZE, BATCHES = 40, 30


class StopError(Exception):
    pass


class Ends(keras.callbacks.Callback):
    """Ends `fit` by an exception after some batches, as a killed program ends."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise StopError


def dataset():
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(500).batch(SIZE)


def generator():
    def batches():
        for start in range(0, len(X), SIZE):
            # From the generator of the process: what another program draws must be the same.
            noise = np.random.randint(0, 2)
            yield X[start : start + SIZE], Y[start : start + SIZE] * noise

    signature = (tf.TensorSpec([None, 3], tf.int64), tf.TensorSpec([None, 1]))
    return tf.data.Dataset.from_generator(batches, output_signature=signature)


INPUTS = {
    "arrays": lambda: {"x": X, "y": Y, "batch_size": SIZE, "epochs": 2},
    "dataset": lambda: {"x": dataset(), "epochs": 2},
    "endless": lambda: {"x": dataset().repeat(), "steps_per_epoch": 20, "epochs": 3},
    "fed": lambda: {"x": generator(), "epochs": 2},
}
OPTIMIZERS = {
    "asynchronous": lambda: "adam",
    "geo": lambda: tfps.optimizers.Geo("adam"),
    "sync": lambda: tfps.optimizers.Sync("adam"),
}


def fit(strategy, optimizer, arguments, *callbacks):
    """Trains a new model; returns it and the history."""
    with strategy.scope():
        model = build(optimizer())
    with contextlib.suppress(StopError):
        model.fit(**arguments(), verbose=0, callbacks=list(callbacks))
    return model


# Each input in one mode, and each mode with one input.
@pytest.mark.parametrize(
    "mode, name",
    [("asynchronous", "arrays"), ("asynchronous", "endless"), ("asynchronous", "fed"), ("geo", "dataset")]
    + [("sync", "endless"), ("sync", "fed")],
)
def test_one_worker_goes_on_bit_for_bit(one_worker, tmp_path, mode, name):
    optimizer, arguments = OPTIMIZERS[mode], INPUTS[name]
    # The callback bounds closures, so the training that never stops has it too.
    whole = fit(one_worker, optimizer, arguments, Checkpoint(tmp_path / "whole", every_steps=7))
    fit(one_worker, optimizer, arguments, Checkpoint(tmp_path / "run", every_steps=7), Ends(after=45))
    assert (tmp_path / "run" / "latest").read_text() == "ckpt-42\n"
    resumed = fit(one_worker, optimizer, arguments, Checkpoint(tmp_path / "run", every_steps=7))
    assert int(resumed.optimizer.iterations) == 60
    # A program does not know how long a closure over fed batches may be before it has traced one, and where it cuts the
    # steps changes the rounding of dense variables.
    assert_same(values(whole), values(resumed), tolerance=1e-6 if (mode, name) == ("asynchronous", "fed") else 0.0)
    # Metrics under way, too.
    last = whole.history.history["loss"][-1], whole.history.history["auc"][-1]
    assert (resumed.history.history["loss"][-1], resumed.history.history["auc"][-1]) == pytest.approx(last, rel=1e-6)


class Counts(keras.layers.Layer):
    """Looks up ids in a table whose gradient is -1 for each, so SGD at rate 1 counts how often each was trained."""

    def build(self, shape):
        self.table = keras.layers.Embedding(1200, 1, embeddings_initializer="zeros")
        self.table.build(shape)

    def call(self, ids):
        return self.table(ids)


@pytest.mark.parametrize("mode", ["asynchronous", "geo", "sync"])
@pytest.mark.parametrize("how", ["every_steps", "every_s"])
def test_two_workers_train_each_batch_once(strategy, no_young, tmp_path, mode, how):
    wrap = {"asynchronous": lambda one: one, "geo": lambda one: tfps.optimizers.Geo(one, push_every=2, merge="sum")}
    wrap["sync"] = tfps.optimizers.Sync
    ids = np.arange(1200)[:, np.newaxis]

    def train(*callbacks):
        # As in two programs that set no seed: each would shuffle in an order of its own.
        tf.random.set_seed(None)
        random.seed()
        data = tf.data.Dataset.from_tensor_slices((ids, np.zeros((1200, 1, 1), "float32"))).shuffle(999).batch(SIZE)
        with strategy.scope():
            model = keras.Sequential([keras.Input((1,), dtype="int64"), Counts()])
            model.compile(wrap[mode](keras.optimizers.SGD(1.0)), lambda y, rows: -keras.ops.sum(rows))
        every = {"every_steps": 7} if how == "every_steps" else {"every_s": 0.05}
        with contextlib.suppress(StopError):
            model.fit(data, epochs=2, verbose=0, callbacks=[Checkpoint(tmp_path, **every), *callbacks])
        return model

    train(Ends(after=44))
    moved = train().get_weights()[0][:, 0]
    # The mean over two workers in synchronous mode.
    np.testing.assert_array_equal(moved, np.full(1200, 1.0 if mode == "sync" else 2.0))


class Reordered(keras.utils.PyDataset):
    """Shuffles itself after each epoch, as many do."""

    def __init__(self):
        super().__init__()
        self.order, self.generator = np.arange(BATCHES), np.random.default_rng(4)

    def __len__(self):
        return BATCHES

    def __getitem__(self, index):
        start = int(self.order[index]) * SIZE
        return X[start : start + SIZE], Y[start : start + SIZE]

    def on_epoch_end(self):
        self.generator.shuffle(self.order)


def halved():
    return keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)


@pytest.mark.parametrize(
    "arguments, extra, tolerance",
    [
        (lambda: {"x": Reordered(), "epochs": 2, "shuffle": False}, lambda: [], 1e-6),
        (INPUTS["dataset"], lambda: [halved()], 0.0),
    ],
    ids=["a PyDataset that changes after an epoch", "a learning rate that is set before an epoch"],
)
def test_what_happens_between_epochs_happens_once(one_worker, tmp_path, arguments, extra, tolerance):
    """Stopped in the second epoch; Keras begins that epoch again."""
    adam = OPTIMIZERS["asynchronous"]
    whole = fit(one_worker, adam, arguments, *extra(), Checkpoint(tmp_path / "whole", every_steps=7))
    fit(one_worker, adam, arguments, *extra(), Checkpoint(tmp_path / "run", every_steps=7), Ends(after=45))
    resumed = fit(one_worker, adam, arguments, *extra(), Checkpoint(tmp_path / "run", every_steps=7))
    assert_same(values(whole), values(resumed), tolerance)


def test_another_batch_size_goes_on_after_the_same_examples(one_worker, tmp_path, caplog):
    adam = OPTIMIZERS["asynchronous"]
    fit(one_worker, adam, INPUTS["arrays"], Checkpoint(tmp_path, every_steps=10), Ends(after=12))
    larger = lambda: {"x": X, "y": Y, "batch_size": 80, "epochs": 1}  # noqa: E731
    resumed = fit(one_worker, adam, larger, Checkpoint(tmp_path, every_steps=10))
    # 400 examples by 10 batches of 40, and 800 by 10 of 80.
    assert int(resumed.optimizer.iterations) == 20
    assert "a batch had 40 examples and has 80 now: fit goes on after the first 400 examples" in caplog.text


def test_optimizers_that_only_a_step_builds_are_restored(one_worker, tmp_path):
    class Two(keras.Model):
        def __init__(self):
            super().__init__(name="two")
            self.rows, self.top = keras.layers.Embedding(3000, 4, name="rows"), keras.layers.Dense(1, name="top")
            self.first, self.second = keras.optimizers.Adam(0.01), keras.optimizers.RMSprop(0.01)

        def call(self, x):
            return self.top(keras.ops.reshape(self.rows(x), (-1, 12)))

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x) - y) ** 2)
            kinds = self.rows.trainable_variables, self.top.trainable_variables
            for optimizer, variables, gradients in zip(
                (self.first, self.second), kinds, tape.gradient(loss, kinds), strict=True
            ):
                optimizer.apply(gradients, variables)
            return {"loss": loss}

    def train(run, *callbacks):
        keras.utils.set_random_seed(3)
        with one_worker.scope():
            model = Two()
            model.build((None, 3))
            model.compile()
        with contextlib.suppress(StopError):
            callback = Checkpoint(tmp_path / run, every_steps=7)
            model.fit(X, Y, batch_size=SIZE, shuffle=False, verbose=0, callbacks=[callback, *callbacks])
        return [one.numpy() for one in [*model.variables, *model.first.variables, *model.second.variables]]

    whole = train("whole")
    train("run", Ends(after=15))
    assert_same(whole, train("run"))


def test_a_finished_fit_does_nothing_and_more_epochs_go_on(one_worker, tmp_path, caplog):
    arguments = INPUTS["dataset"]
    model = fit(one_worker, OPTIMIZERS["asynchronous"], arguments, Checkpoint(tmp_path))
    again = fit(one_worker, OPTIMIZERS["asynchronous"], arguments, Checkpoint(tmp_path))
    assert_same(values(model), values(again))
    assert not again.history.history
    assert "fit trains nothing, because the checkpoint" in caplog.text
    more = fit(one_worker, OPTIMIZERS["asynchronous"], lambda: arguments() | {"epochs": 3}, Checkpoint(tmp_path))
    assert int(more.optimizer.iterations) == 90


def test_a_broken_checkpoint_is_left_out_and_the_one_before_is_used(one_worker, tmp_path, caplog):
    run = tmp_path / "run"
    fit(one_worker, OPTIMIZERS["asynchronous"], INPUTS["arrays"], Checkpoint(run, every_steps=20), Ends(after=45))
    assert sorted(one.name for one in run.iterdir()) == ["ckpt-20", "ckpt-40", "latest", "writer.lock"]
    data = next((run / "ckpt-40").glob("rows-1-of-2/*.data*"))
    data.write_bytes(data.read_bytes()[:-8] + b"12345678")
    resumed = fit(one_worker, OPTIMIZERS["asynchronous"], INPUTS["arrays"], Checkpoint(run, every_steps=20))
    assert f"a checkpoint is left out: {data} is broken" in caplog.text
    assert int(resumed.optimizer.iterations) == 60
    # Training has come to that step again.
    again = build()
    tfps.checkpoint.restore(again, run / "ckpt-40")
    assert int(again.optimizer.iterations) == 40
    for manifest in run.glob("*/manifest.json"):
        manifest.write_text("{}")
    with pytest.raises(CheckpointError, match=r"none of the 3 checkpoints in .* can be used"):
        fit(one_worker, OPTIMIZERS["asynchronous"], INPUTS["arrays"], Checkpoint(run))


def test_old_checkpoints_are_removed(one_worker, tmp_path):
    fit(one_worker, OPTIMIZERS["asynchronous"], INPUTS["arrays"], Checkpoint(tmp_path, every_steps=10, keep=2))
    assert sorted(one.name for one in tmp_path.glob("ckpt-*")) == ["ckpt-50", "ckpt-60"]


def parts_of(run):
    """For each checkpoint of a run, the base and the number of rows that it has of each table."""
    found = {}
    for path in sorted(run.glob("ckpt-*/manifest.json"), key=lambda one: int(one.parent.name.partition("-")[2])):
        manifest = parse(path.read_bytes(), "")
        found[path.parent.name] = manifest.base, [sum(part.rows for part in one.parts) for one in manifest.tables]
    return found


def test_deltas_have_the_touched_rows_and_restore_the_same(one_worker, tmp_path):
    optimizer, arguments = OPTIMIZERS["asynchronous"], INPUTS["arrays"]
    whole = fit(one_worker, optimizer, arguments, Checkpoint(tmp_path / "whole", every_steps=7))
    deltas = {"every_steps": 7, "full_every": 4, "keep": None}
    fit(one_worker, optimizer, arguments, Checkpoint(tmp_path / "run", **deltas), Ends(after=45))
    found = parts_of(tmp_path / "run")
    assert [base for base, _ in found.values()] == [None, "ckpt-7", "ckpt-14", "ckpt-21", None, "ckpt-35"]
    # Seven batches of 40 examples touch at most 840 of the 3000 rows.
    assert all(rows == [3000, 3000] if base is None else max(rows) <= 840 for base, rows in found.values())
    # From a delta, in the cluster and in one process.
    resumed = fit(one_worker, optimizer, arguments, Checkpoint(tmp_path / "run", **deltas))
    assert_same(values(whole), values(resumed))
    plain = build()
    tfps.checkpoint.restore(plain, tmp_path / "run" / "ckpt-28")
    other = build()
    tfps.checkpoint.restore(other, tmp_path / "whole" / "ckpt-60")
    assert int(plain.optimizer.iterations) == 28
    assert_same(values(whole), values(other))


def test_a_delta_of_a_broken_or_another_base_is_named(one_worker, tmp_path):
    optimizer, arguments = OPTIMIZERS["asynchronous"], INPUTS["arrays"]
    for name in ("one", "two"):
        callback = Checkpoint(tmp_path / name, every_steps=7, full_every=3, keep=None)
        fit(one_worker, optimizer, arguments, callback, Ends(after=17))
    shutil.rmtree(tmp_path / "one" / "ckpt-7")
    shutil.copytree(tmp_path / "two" / "ckpt-7", tmp_path / "one" / "ckpt-7")
    with pytest.raises(CheckpointError, match=r"ckpt-14 is a delta of another checkpoint than \S+ckpt-7"):
        tfps.checkpoint.restore(build(), tmp_path / "one" / "ckpt-14")
    shutil.rmtree(tmp_path / "one" / "ckpt-7")
    with pytest.raises(CheckpointError, match=r"there is no checkpoint \S+ckpt-7"):
        tfps.checkpoint.restore(build(), tmp_path / "one")


def test_a_table_that_was_assigned_makes_the_next_one_complete(one_worker, tmp_path):
    class Assigns(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 16:
                self.model.get_layer("narrow").set_weights([np.full((3000, 1), 5.0)])

    callbacks = [Assigns(), Checkpoint(tmp_path, every_steps=7, full_every=9, keep=None)]
    fit(one_worker, OPTIMIZERS["asynchronous"], INPUTS["arrays"], *callbacks, Ends(after=29))
    found = parts_of(tmp_path)
    assert [base for base, _ in found.values()] == [None, "ckpt-7", None, "ckpt-21"]
    plain = build()
    tfps.checkpoint.restore(plain, tmp_path / "ckpt-28")
    assert (plain.get_layer("narrow").get_weights()[0] > 4).all()


def test_the_chain_of_a_delta_is_kept(one_worker, tmp_path):
    callback = Checkpoint(tmp_path, every_steps=7, full_every=4, keep=2)
    fit(one_worker, OPTIMIZERS["asynchronous"], INPUTS["arrays"], callback, Ends(after=50))
    assert list(parts_of(tmp_path)) == ["ckpt-35", "ckpt-42", "ckpt-49"]


def test_training_goes_on_while_a_checkpoint_is_written(one_worker, tmp_path, monkeypatch, caplog):
    """What is written is what was when it was due, although training has gone on."""
    whole = fit(one_worker, OPTIMIZERS["asynchronous"], INPUTS["arrays"], Checkpoint(tmp_path / "a", every_steps=20))
    gate, write = threading.Event(), checkpoints.write
    monkeypatch.setattr(checkpoints, "write", lambda *args: gate.wait(60) and write(*args))

    class Opens(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            # Batch 40 finds the checkpoint of batch 20 under way.
            if int(self.model.optimizer.iterations) == 45:
                gate.set()

    callbacks = [Checkpoint(tmp_path / "b", every_steps=20, background=True, keep=None), Opens()]
    model = fit(one_worker, OPTIMIZERS["asynchronous"], INPUTS["arrays"], *callbacks)
    assert "a checkpoint is left out" in caplog.text
    assert sorted(parts_of(tmp_path / "b")) == ["ckpt-20", "ckpt-60"]
    assert int(model.optimizer.iterations) == int(whole.optimizer.iterations) == 60
    resumed, reference = build(), build()
    tfps.checkpoint.restore(resumed, tmp_path / "b" / "ckpt-20")
    tfps.checkpoint.restore(reference, tmp_path / "a" / "ckpt-20")
    # A callback that reaches the model holds the worker to one batch, which changes the rounding of dense variables.
    assert_same(values(reference), values(resumed), tolerance=1e-6)


def test_an_error_in_the_background_is_raised(one_worker, tmp_path, monkeypatch):
    def fail(*args):
        raise CheckpointError("the disk is full")

    monkeypatch.setattr(checkpoints, "write", fail)
    with pytest.raises(CheckpointError, match="the disk is full"):
        fit(
            one_worker,
            OPTIMIZERS["asynchronous"],
            INPUTS["arrays"],
            Checkpoint(tmp_path, every_steps=7, background=True),
        )


def test_fit_goes_on_from_an_object_store(one_worker):
    pytest.importorskip("fsspec")
    url, optimizer = "memory://goes-on", OPTIMIZERS["asynchronous"]
    fit(one_worker, optimizer, INPUTS["arrays"], Checkpoint(url, every_steps=20, keep=1), Ends(after=45))
    resumed = fit(one_worker, optimizer, INPUTS["arrays"], Checkpoint(url, every_steps=20, keep=1))
    assert int(resumed.optimizer.iterations) == 60


def test_another_program_that_writes_meanwhile_is_named(one_worker, tmp_path):
    class Intrudes(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch:
                tfps.checkpoint.save(self.model, tmp_path / "ckpt-9000")
                (tmp_path / "latest").write_text("ckpt-9000\n")

    with pytest.raises(CheckpointError, match=r"another program has written ckpt-9000"):
        fit(one_worker, OPTIMIZERS["asynchronous"], INPUTS["arrays"], Checkpoint(tmp_path), Intrudes())


def test_plain_keras_goes_on_after_whole_epochs(tmp_path):
    def train(epochs):
        model = build()
        model.fit(X, Y, batch_size=SIZE, epochs=epochs, shuffle=False, verbose=0, callbacks=[Checkpoint(tmp_path)])
        return model

    train(1)
    assert_same(values(train(2)), values(train(2)))
    with pytest.raises(UnsupportedError, match=r"`every_steps` and `every_s` need a ParameterServerStrategy"):
        build().fit(X, Y, verbose=0, callbacks=[Checkpoint(tmp_path, every_steps=3)])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"every_steps": 0}, "`every_steps` must be an integer of at least 1"),
        ({"every_s": "x"}, "`every_s` must be a number above 0"),
        ({"keep": 0}, "`keep` must be an integer of at least 1"),
    ],
)
def test_bad_arguments_of_the_callback_are_named(tmp_path, arguments, message):
    with pytest.raises(ConfigError) as caught:
        Checkpoint(tmp_path, **arguments)
    assert message in str(caught.value)
