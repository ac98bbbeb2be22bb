"""Logs are what a step returned: sums of metrics over all workers, means over the steps of everything else."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps
from tfps.errors import UnsupportedError

ROWS, BATCHES, BATCH = 40, 12, 8
IDS = np.random.default_rng(0).integers(0, ROWS, (BATCHES * BATCH, 2))
LABELS = np.random.default_rng(1).normal(0, 2, (BATCHES * BATCH, 1)).astype("float32")
MODES = {"async": lambda given: given, "geo": tfps.optimizers.Geo, "sync": tfps.optimizers.Sync}


def here(strategy):
    """A scope, or none for one process."""
    return strategy.scope() if strategy else contextlib.nullcontext()


class Base(keras.Model):
    """Its learning rate is 0, so that what a step returns depends on its batch alone, on any number of workers."""

    def __init__(self):
        super().__init__()
        self.table = keras.layers.Embedding(ROWS, 4)
        self.kernel = keras.layers.Dense(1)
        self.table.build((None, 2))
        self.kernel.build((None, 8))
        self.built = True
        self.loss_metric = keras.metrics.Mean(name="total_loss")
        self.count = keras.metrics.Sum(name="count")

    def call(self, ids):
        return self.kernel(keras.ops.reshape(self.table(ids), (-1, 8)))

    def train_step(self, data):
        x, y = data[:2]
        with tf.GradientTape() as tape:
            found = self(x, training=True)
            loss = keras.ops.mean(keras.ops.square(found - y))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return self.logs(y, found, loss)

    def test_step(self, data):
        x, y = data[:2]
        found = self(x, training=False)
        return self.logs(y, found, keras.ops.mean(keras.ops.square(found - y)))


class Values(Base):
    """Values whose names are those of metrics that no step updates, nested and of other shapes and types."""

    def logs(self, y, found, loss):
        return {
            "loss": loss,
            "other": {"most": keras.ops.max(y), "count": keras.ops.cast(keras.ops.sum(y > 0), "int32")},
            "both": keras.ops.stack([loss, keras.ops.min(y)]),
            "rate": 0.25,
        }


class OtherName(Base):
    """The idiom of keras.io's generative examples: a metric under another name, and a metrics property."""

    @property
    def metrics(self):
        return [self.loss_metric]

    def logs(self, y, found, loss):
        self.loss_metric.update_state(loss)
        self.count.update_state(y)
        return {"loss": self.loss_metric.result()}


class Arithmetic(Base):
    """What is computed from metrics follows from their sums over all workers."""

    def logs(self, y, found, loss):
        self.loss_metric.update_state(loss, sample_weight=keras.ops.exp(y[0, 0]))
        self.count.update_state(y * y)
        return {
            "perplexity": keras.ops.exp(self.loss_metric.result()),
            "ratio": self.loss_metric.result() / self.count.result(),
            "raw": self.count.total,
            # Constant over the steps beside a metric.
            "penalized": self.loss_metric.result() + keras.ops.sum(keras.ops.square(self.kernel.kernel)),
        }


class LeftOut(Base):
    def logs(self, y, found, loss):
        for metric in self.metrics:
            if metric.name in ("total_loss", "count"):
                metric.update_state(loss)
        return {"total_loss": self.loss_metric.result()}


class PerBatch(Base):
    """A metric that each step resets, or reads before it counts, tells about this step."""

    def logs(self, y, found, loss):
        self.loss_metric.reset_state()
        self.loss_metric.update_state(loss)
        before = self.count.result()
        self.count.update_state(loss)
        return {"of_batch": self.loss_metric.result(), "step": self.count.result() - before}


class Several(Base):
    """Results that are no scalars, or a dictionary."""

    def __init__(self):
        super().__init__()
        self.classes = keras.metrics.F1Score(average=None, name="classes")
        self.pair = Pair(name="pair")

    def logs(self, y, found, loss):
        self.classes.update_state(keras.ops.one_hot(keras.ops.cast(y[:, 0] > 0, "int32"), 2), soft(y))
        self.pair.update_state(y)
        return {"f1": self.classes.result(), "any": self.pair.result()}


class Hidden(Base):
    """A metric that is no attribute of the model."""

    def __init__(self):
        super().__init__()
        hidden = keras.metrics.Mean(name="hidden")
        self.hidden = lambda: hidden

    def logs(self, y, found, loss):
        self.hidden().update_state(loss, sample_weight=keras.ops.exp(y[0, 0]))
        return {"mean": self.hidden().result()}


def soft(y):
    return keras.ops.softmax(keras.ops.concatenate([y * y, 1 - y], 1))


class Pair(keras.metrics.Metric):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = self.add_variable((), "zeros", name="first")
        self.second = self.add_variable((2,), "zeros", name="second")

    def update_state(self, y, sample_weight=None):
        self.first.assign(self.first + keras.ops.sum(y))
        self.second.assign(keras.ops.where(keras.ops.sum(y) > 0, self.second + 1.0, self.second))

    def result(self):
        return {"first": self.first, "second": keras.ops.sum(self.second) / self.first}


def logs_of(kind, strategy, mode):
    """The logs of fit, evaluate, train_on_batch and test_on_batch, and those of each batch in one process."""
    keras.utils.set_random_seed(5)
    with here(strategy):
        model = kind()
        model.compile(MODES[mode](keras.optimizers.SGD(0.0)) if strategy else keras.optimizers.SGD(0.0), "mse")
    seen = {"train": [], "test": []}
    data = tf.data.Dataset.from_tensor_slices((IDS, LABELS)).batch(BATCH)
    watch = [Seen(seen)] if strategy is None else []
    fitted = model.fit(data, verbose=0, callbacks=watch).history
    fitted = {name: values[-1] for name, values in fitted.items() if "geo_" not in name}
    fitted = flat(fitted)
    found = [fitted]
    if mode == "async":  # the others evaluate alike
        found.append(model.evaluate(data, verbose=0, return_dict=True, callbacks=watch))
    if kind in (Values, Arithmetic):
        found.append(model.train_on_batch(IDS[:BATCH], LABELS[:BATCH], return_dict=True))
    if mode == "async" and kind is Arithmetic:
        found.append(model.test_on_batch(IDS[:BATCH], LABELS[:BATCH], return_dict=True))
    return found, seen


def flat(logs):
    """The logs as later versions of Keras show them: nested ones are flattened."""
    parts = [flat(value) if isinstance(value, dict) else {name: value} for name, value in logs.items()]
    return {name: value for part in parts for name, value in part.items()}


class Seen(keras.callbacks.Callback):
    """Keeps the logs of each batch; in one process they are those of its last step."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def on_train_batch_end(self, batch, logs=None):
        self.seen["train"].append(flat(logs))

    def on_test_batch_end(self, batch, logs=None):
        self.seen["test"].append(flat(logs))


MEANS = {Values: ["loss", "most", "count", "both", "rate"], PerBatch: ["of_batch", "step"]}
"""The logs of a model that are no metrics: the mean over the steps is shown, where Keras shows the last step."""


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *((kind, "async") for kind in (Values, OtherName, Arithmetic, LeftOut, PerBatch, Several, Hidden)),
        *((kind, mode) for mode in ("geo", "sync") for kind in (Values, Arithmetic)),
    ],
)
def test_logs_are_those_of_one_process(strategy, kind, mode):
    ours, _ = logs_of(kind, strategy, mode)
    theirs, seen = logs_of(kind, None, mode)
    if kind in MEANS:
        for logs, batches in zip(theirs, filter(None, seen.values()), strict=False):
            logs.update({name: np.mean([one[name] for one in batches], 0) for name in MEANS[kind]})
    for call, expected in zip(map(flat, ours), map(flat, theirs), strict=True):
        assert set(call) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(call[name], np.asarray(value, "float64"), rtol=2e-4, atol=1e-6, err_msg=name)


def test_early_stopping_sees_the_metric_and_not_its_name(strategy):
    class Worse(OtherName):
        def logs(self, y, found, loss):
            # The tracker of Keras, also called "loss", gets better.
            self.loss_metric.update_state(keras.ops.cast(self.optimizer.iterations, "float32"))
            self._loss_tracker.update_state(-keras.ops.cast(self.optimizer.iterations, "float32"))
            return {"loss": self.loss_metric.result()}

    with strategy.scope():
        model = Worse()
        model.compile(keras.optimizers.SGD(0.0), "mse")
    data = tf.data.Dataset.from_tensor_slices((IDS, LABELS)).batch(BATCH)
    history = model.fit(data, epochs=5, verbose=0, callbacks=[keras.callbacks.EarlyStopping("loss", patience=1)])
    assert len(history.history["loss"]) == 2


def test_what_compute_metrics_leaves_out_is_not_shown(strategy):
    class Less(keras.Model):
        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            results = super().compute_metrics(x, y, y_pred, sample_weight)
            return {"mae": results["mae"], "rate": self.optimizer.learning_rate}

    def train(strategy):
        keras.utils.set_random_seed(5)
        with here(strategy):
            inputs = keras.Input((2,), dtype="int64")
            rows = keras.layers.Flatten()(keras.layers.Embedding(ROWS, 4)(inputs))
            model = Less(inputs, keras.layers.Dense(1)(rows))
            model.compile(keras.optimizers.SGD(0.0), "mse", metrics=["mae", "mape"])
        return model.fit(IDS, LABELS, batch_size=BATCH, epochs=2, verbose=0).history

    ours, theirs = train(strategy), train(None)
    assert set(ours) == set(theirs) == {"mae", "rate"}
    np.testing.assert_allclose(ours["mae"], theirs["mae"], rtol=1e-4)


class Mean(keras.metrics.Metric):
    """An average that a step moves: counts of several workers cannot be added."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.mean = self.add_variable((), "zeros", name="mean")

    def update_state(self, y, sample_weight=None):
        self.mean.assign(0.9 * self.mean + 0.1 * keras.ops.mean(y))

    def result(self):
        return self.mean


class Moved(Base):
    def __init__(self):
        super().__init__()
        self.moved = Mean(name="moved")

    def logs(self, y, found, loss):
        self.moved.update_state(y)
        return {"moved": self.moved.result()}


class Returns(Base):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def logs(self, y, found, loss):
        return self.value(found)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Moved, "must grow by addition"),
        (lambda: Returns(lambda found: found), "must return a dictionary of logs"),
        (lambda: Returns(lambda found: {"found": found}), "log 'found' of a step must be a number"),
        (lambda: Returns(lambda found: {"text": tf.constant("a")}), "log 'text' of a step must be a number"),
        (lambda: Returns(lambda found: {"nothing": None}), "log 'nothing' of a step must be a number"),
    ],
    ids=["a moved average", "no dictionary", "a batch", "text", "nothing"],
)
def test_logs_that_cannot_be_shown_are_refused_by_name(strategy, make, message):
    with strategy.scope():
        model = make()
        model.compile(keras.optimizers.SGD(0.1), "mse")
    before = model.get_weights()
    with pytest.raises(UnsupportedError, match=message):
        model.fit(IDS, LABELS, batch_size=BATCH, verbose=0)
    assert int(model.optimizer.iterations) == 0
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


def test_a_step_may_return_nothing(strategy):
    for value in ({}, None):
        with strategy.scope():
            model = Returns(lambda found, value=value: value)
            model.compile(keras.optimizers.SGD(0.1), "mse")
        assert model.evaluate(IDS, LABELS, batch_size=BATCH, verbose=0) == []
        assert model.fit(IDS, LABELS, batch_size=BATCH, verbose=0).history == {}
