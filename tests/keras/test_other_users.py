"""Programs that use models through other parts of Keras, and through libraries on top of it."""

import contextlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

ROWS = 60
IDS = np.random.default_rng(0).integers(0, ROWS, (96, 2))
LABELS = (IDS.sum(1, keepdims=True) % 3).astype("float32")
POINTS = np.random.default_rng(0).normal(size=(60, 3)).astype("float32")
SIGNS = (POINTS[:, 0] > 0).astype(int)


def here(strategy):
    """A scope, or none for one process."""
    return strategy.scope() if strategy else contextlib.nullcontext()


def functional(kind=keras.Model, **arguments):
    inputs = keras.Input((2,), dtype="int64")
    rows = keras.layers.Flatten()(keras.layers.Embedding(ROWS, 4)(inputs))
    model = kind(inputs, keras.layers.Dense(1, name="last")(rows))
    model.compile(keras.optimizers.SGD(0.1), "mse", **arguments)
    return model


def assert_alike(strategy, train):
    """What `train(scope)` returns, numbers by name, is alike in one process and with one worker."""
    found = []
    for scope in (strategy, None):
        keras.utils.set_random_seed(3)
        found.append(train(scope))
    assert set(found[0]) == set(found[1])
    for name in found[0]:
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=2e-4, atol=1e-5)


def fit(model, **arguments):
    return model.fit(IDS, LABELS, batch_size=32, shuffle=False, verbose=0, epochs=2, **arguments).history


def test_a_clone_trains_like_its_model(one_worker):
    def train(strategy):
        with here(strategy):
            model = functional()
            clone = keras.models.clone_model(model)
            clone.set_weights(model.get_weights())
            clone.compile(keras.optimizers.SGD(0.1), "mse")
        before = model.predict(IDS[:4], verbose=0)
        history = fit(clone)
        # The model stays as it was.
        np.testing.assert_array_equal(model.predict(IDS[:4], verbose=0), before)
        return {**history, "predicted": clone.predict(IDS[:4], verbose=0)}

    assert_alike(one_worker, train)


@pytest.mark.parametrize("sequential", [True, False])
def test_a_clone_made_outside_the_scope_has_the_strategy(strategy, sequential):
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        if not sequential:
            model = keras.Model(model.inputs, model.outputs)
    clone = keras.models.clone_model(model)
    assert clone._distribute_strategy is strategy
    clone.compile("sgd", "mse")
    clone.fit(POINTS, SIGNS, verbose=0)
    assert int(clone.optimizer.iterations) == 2


class Compiled(keras.Model):
    """A step as in Keras 2, with `compiled_loss` and `compiled_metrics`."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            found = self(x, training=True)
            loss = self.compiled_loss(y, found)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self.compiled_metrics.update_state(y, found)
        return {metric.name: metric.result() for metric in self.metrics if metric.name != "compile_metrics"}


class OwnLoss(keras.Model):
    """A loss and metrics of its own."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean((y - y_pred) ** 2) + 0.1 * keras.ops.mean(y_pred) ** 2

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        result = super().compute_metrics(x, y, y_pred, sample_weight)
        self.largest.update_state(keras.ops.max(y_pred))
        return {**result, "largest": self.largest.result()}

    @property
    def metrics(self):
        return [*(one for one in super().metrics if one is not self.largest), self.largest]

    largest = None


class Penalised(keras.Model):
    """A gradient in the loss."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
            loss += 0.1 * tf.reduce_sum(inner.gradient(loss, self.get_layer("last").kernel) ** 2)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"penalised": loss}


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("kind", [Compiled, OwnLoss, Penalised])
def test_models_with_steps_and_losses_of_their_own(one_worker, kind):
    def train(strategy):
        with here(strategy):
            if kind is OwnLoss:
                kind.largest = keras.metrics.Mean(name="largest")
            model = functional(kind)
        history = fit(model)
        history.pop("penalised", None)  # the last step's value, or a mean of steps
        return {**history, "predicted": model.predict(IDS[:4], verbose=0)}

    assert_alike(one_worker, train)


class Field(keras.Model):
    """A gradient in `call`, of rows and of a kernel."""

    def __init__(self):
        super().__init__()
        self.table, self.dense = keras.layers.Embedding(ROWS, 4), keras.layers.Dense(1)

    def call(self, ids):
        rows = self.table(ids)
        with tf.GradientTape() as tape:
            tape.watch(rows)
            energy = tf.reduce_sum(rows**3)
        force = tape.gradient(energy, rows)
        with tf.GradientTape() as tape:
            found = self.dense(tf.reshape(force, (-1, 8)))
        return found + 0.01 * tf.reduce_sum(tape.gradient(found, self.dense.kernel))


def test_gradients_in_call(one_worker):
    def train(strategy):
        with here(strategy):
            model = Field()
            model.compile(keras.optimizers.SGD(0.1), "mse")
        return {**fit(model), "predicted": model.predict(IDS[:4], verbose=0)}

    assert_alike(one_worker, train)


def test_scikit_learn(strategy):
    pytest.importorskip("sklearn")
    wrappers = pytest.importorskip("keras.wrappers", reason="Keras 3.7 has no wrappers of scikit-learn")
    from sklearn.model_selection import GridSearchCV, cross_val_score

    def build(X, y, units=4):  # noqa: N803
        with strategy.scope():
            hidden = keras.layers.Dense(units, activation="relu")
            last = keras.layers.Dense(y.shape[1], activation="softmax")
            model = keras.Sequential([keras.Input((X.shape[1],)), hidden, last])
            model.compile(keras.optimizers.Adam(0.1), "categorical_crossentropy")
        return model

    def classifier(**arguments):
        return wrappers.SKLearnClassifier(build, fit_kwargs=dict(epochs=8, verbose=0, batch_size=16), **arguments)

    fitted = classifier().fit(POINTS, SIGNS)
    assert type(fitted.model_._distribute_strategy) is type(strategy)
    assert fitted.score(POINTS, SIGNS) > 0.9
    assert len(cross_val_score(classifier(), POINTS, SIGNS, cv=2)) == 2
    grid = {"model_kwargs": [{"units": 2}, {"units": 8}]}
    search = GridSearchCV(classifier(model_kwargs={"units": 2}), grid, cv=2).fit(POINTS, SIGNS)
    assert search.best_params_ in ({"model_kwargs": {"units": 2}}, {"model_kwargs": {"units": 8}})


@pytest.mark.slow
def test_keras_tuner(strategy, tmp_path):
    tuners = pytest.importorskip("keras_tuner")

    def build(hyper):
        inputs = keras.Input((2,), dtype="int64")
        rows = keras.layers.Flatten()(keras.layers.Embedding(ROWS, hyper.Int("dim", 2, 4))(inputs))
        model = keras.Model(inputs, keras.layers.Dense(1)(rows))
        model.compile(keras.optimizers.SGD(hyper.Choice("rate", [0.01, 0.1])), "mse")
        return model

    tuner = tuners.RandomSearch(
        build, objective="val_loss", max_trials=2, directory=tmp_path, seed=1, distribution_strategy=strategy
    )
    tuner.search(IDS, LABELS, epochs=1, validation_data=(IDS, LABELS), verbose=0)
    best = tuner.get_best_models(1)[0]
    assert type(best._distribute_strategy) is type(strategy)
    score = tuner.oracle.get_best_trials(1)[0].score
    assert best.evaluate(IDS, LABELS, verbose=0) == pytest.approx(score, rel=1e-4)


PROGRAM = """
import sys
import numpy as np, keras, tensorflow as tf, tfps
# What is made before the strategy: a dataset can be read, and the rest is refused by name.
data = tf.data.Dataset.from_tensor_slices(np.arange(6, dtype="float32")[:, None]).batch(4)
early = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
words = keras.layers.StringLookup(vocabulary=["a"])
mapped = tf.data.Dataset.from_tensors(["a"]).map(words)
Strategy = tfps.ParameterServerStrategy
# Before there is a cluster, all is as without tfps, also in a graph.
assert len(tf.function(lambda: next(iter(data)))()) == 4
strategy = Strategy(tfps.LocalCluster(num_ps=1, num_workers=1))
with strategy.scope():
    model = keras.Sequential([keras.Input((2,), dtype="int64"), keras.layers.Embedding(60, 4), keras.layers.Flatten()])
    model.compile("adam", "mse")
model.fit(np.ones((8, 2), int), np.ones((8, 8)), verbose=0)
model.predict(np.ones((8, 2), int), verbose=0)
coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
assert [len(batch) for batch in data] == [4, 2]
norm = keras.layers.Normalization()
norm.adapt(data)
assert norm.mean.numpy() == 2.5
models = early, keras.Sequential([keras.Input((), dtype="string"), words])
for use in (*(lambda late=late: late.compile("sgd", "mse") for late in models), lambda: list(mapped)):
    try:
        with strategy.scope():
            use()
        raise AssertionError(use)
    except tfps.errors.UnsupportedError as error:
        assert "made before the strategy" in str(error)
# As in a notebook: TensorFlow's logger is at level INFO, and what it writes to is closed before the process ends.
tf.get_logger().setLevel("INFO")
tf.get_logger().handlers[0].stream = stream = open("/dev/null", "w")
stream.close()
print("the end", file=sys.stderr)
"""


def test_nothing_is_on_stderr_at_the_end():
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(filter(None, sys.path))}
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=True)
    said = found.stderr.split("the end\n")[1]
    if not tf.__version__.startswith("2.21."):
        # Earlier versions of TensorFlow log, at any level, that servers do not know what was made before the strategy.
        said = said.partition("E0000 ")[0]
    assert said == ""
