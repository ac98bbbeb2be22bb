"""Models of servers as SavedModels: plain TensorFlow and Keras read them back, and they give the same numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfps.errors import UnsupportedError

ROWS = 60
IDS = np.random.default_rng(0).integers(0, ROWS, (32, 2))
LABELS = (IDS.sum(1, keepdims=True) % 3).astype("float32")
FEATURES = {name: tf.io.FixedLenFeature([], tf.int64) for name in "ab"}
SPEC = tf.TensorSpec([None, 2], tf.int64)


def example(row):
    values = {name: tf.train.Int64List(value=[int(id)]) for name, id in zip("ab", row, strict=True)}
    features = {name: tf.train.Feature(int64_list=value) for name, value in values.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


EXAMPLES = tf.constant([example(row) for row in IDS[:7]])


@pytest.fixture(scope="module")
def model(strategy):
    with strategy.scope():
        inputs = keras.Input((2,), dtype="int64")
        rows = keras.layers.Flatten()(keras.layers.Embedding(ROWS, 4)(inputs))
        hidden = keras.layers.BatchNormalization()(keras.layers.Dropout(0.5)(rows))
        model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
        model.compile("adam", "mse")
    model.fit(IDS, LABELS, batch_size=8, verbose=0)
    return model


def assert_like(model, outputs):
    np.testing.assert_allclose(outputs, model.predict(IDS[:7], verbose=0), rtol=1e-5, atol=1e-6)


def parse(serialized):
    parsed = tf.io.parse_example(serialized, FEATURES)
    return tf.stack([parsed["a"], parsed["b"]], 1)


@pytest.mark.parametrize("tracks", [True, False], ids=["tracked", "found in the endpoints"])
def test_an_archive_with_endpoints_of_its_own(model, tmp_path, tracks):
    archive = keras.export.ExportArchive()
    if tracks:
        archive.track(model)
    scores = lambda serialized: {"score": model(parse(serialized), training=False)}  # noqa: E731
    archive.add_endpoint("parse", scores, input_signature=[tf.TensorSpec([None], tf.string)])
    archive.add_endpoint("serve", model.call, input_signature=[SPEC])
    for number in range(2):
        archive.write_out(str(tmp_path / str(number)), verbose=False)
        loaded = tf.saved_model.load(str(tmp_path / str(number)))
        assert_like(model, loaded.parse(EXAMPLES)["score"])
        assert_like(model, loaded.serve(tf.constant(IDS[:7])))
        assert_like(model, loaded.signatures["parse"](EXAMPLES)["score"])
        assert_like(model, keras.layers.TFSMLayer(str(tmp_path / str(number)), "serve")(tf.constant(IDS[:7])))
        # The model goes on training on the servers, and the next export has what it learned.
        model.fit(IDS, LABELS, batch_size=8, verbose=0)


def test_an_endpoint_that_was_called_before(model, tmp_path):
    serve = tf.function(lambda ids: model(ids, training=False))
    before = serve(tf.constant(IDS[:7]))
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve)
    archive.write_out(str(tmp_path), verbose=False)
    loaded = tf.saved_model.load(str(tmp_path))
    assert_like(model, loaded.serve(tf.constant(IDS[:7])))
    np.testing.assert_allclose(serve(tf.constant(IDS[:7])), before, rtol=1e-6)


class Module(tf.Module):
    """A module with a model."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def serve(self, serialized):
        return {"score": self.model(parse(serialized), training=False)}

    @tf.function
    def direct(self, ids):
        return self.model(ids, training=False)


@pytest.mark.parametrize("called", [False, True], ids=["new", "called before"])
def test_a_module_that_holds_the_model(model, tmp_path, called):
    module = Module(model)
    if called:
        module.serve(EXAMPLES)
        module.direct(tf.constant(IDS[:7]))
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.serve})
    loaded = tf.saved_model.load(str(tmp_path))
    assert_like(model, loaded.signatures["serving_default"](EXAMPLES)["score"])
    assert_like(model, loaded.serve(EXAMPLES)["score"])
    if called:
        assert_like(model, loaded.direct(tf.constant(IDS[:7])))
    assert_like(model, module.serve(EXAMPLES)["score"])


@pytest.mark.parametrize("concrete", [False, True], ids=["function", "concrete function"])
def test_a_model_with_a_signature(model, tmp_path, concrete):
    serve = tf.function(lambda ids: {"score": model(ids, training=False)}, input_signature=[SPEC])
    tf.saved_model.save(model, str(tmp_path), signatures=serve.get_concrete_function() if concrete else serve)
    loaded = tf.saved_model.load(str(tmp_path))
    assert_like(model, loaded.signatures["serving_default"](tf.constant(IDS[:7]))["score"])


def test_export_is_read_back_in_a_scope(strategy, model, tmp_path):
    model.export(str(tmp_path), verbose=False)
    with strategy.scope():
        layer = keras.layers.TFSMLayer(str(tmp_path), call_endpoint="serve")
        again = keras.Sequential([keras.Input((2,), dtype="int64"), layer])
    assert_like(model, again(tf.constant(IDS[:7])))


class Noise(keras.layers.Layer):
    """Adds random numbers, from a generator of its own or from Keras's global one."""

    def __init__(self, own):
        super().__init__()
        self.generator = keras.random.SeedGenerator(1) if own else None

    def call(self, inputs):
        return inputs + keras.random.uniform(keras.ops.shape(inputs), 1.0, 2.0, seed=self.generator)


@pytest.mark.parametrize("own", [True, False], ids=["own", "global"])
def test_an_export_within_the_scope_draws_random_numbers(strategy, tmp_path, own):
    with strategy.scope():
        inputs = keras.Input((2,))
        model = keras.Model(inputs, keras.layers.Dropout(0.5)(Noise(own)(keras.layers.Dense(3)(inputs))))
        model.export(str(tmp_path / "whole"), verbose=False)
        archive = keras.export.ExportArchive()
        archive.track(model)
        spec = [tf.TensorSpec([None, 2])]
        archive.add_endpoint("train", lambda x: model(x, training=True), input_signature=spec)
        archive.write_out(str(tmp_path / "archive"), verbose=False)
    # Plain TensorFlow frees the variables of an object that is not kept.
    whole, archive = (tf.saved_model.load(str(tmp_path / name)) for name in ("whole", "archive"))
    x = tf.zeros((500, 2))
    assert np.abs(whole.serve(x) - whole.serve(x)).max() > 0.1 and 1.4 < np.mean(whole.serve(x)) < 1.6
    # Dropout scales what it keeps by 2.
    assert 0.4 < np.mean(archive.train(x) == 0) < 0.6 and np.abs(archive.train(x) - archive.train(x)).max() > 1


def test_a_variable_that_the_export_does_not_reach_is_named(model, tmp_path):
    hidden = {"model": model}
    archive = keras.export.ExportArchive()
    archive.add_endpoint("serve", lambda ids: hidden["model"](ids, training=False), input_signature=[SPEC])
    with pytest.raises(UnsupportedError, match="`track` the model"):
        archive.write_out(str(tmp_path), verbose=False)
