"""The policy "mixed_bfloat16": what stays float32, what a step computes, and what is saved and loaded under it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps

ROWS, DIM, UNITS, BATCH = 64, 4, 8, 512
IDS = np.random.default_rng(0).integers(0, ROWS, (8 * BATCH, 3))
LABELS = (IDS.sum(1, keepdims=True) % 2).astype("float32")
MODES = ["async", "geo", "sync"]


@pytest.fixture
def mixed():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


def in_mode(mode, optimizer):
    if mode == "geo":
        return tfps.optimizers.Geo(optimizer, push_every=4)
    return tfps.optimizers.Sync(optimizer) if mode == "sync" else optimizer


def build():
    ids = keras.Input((3,), dtype="int64")
    rows = keras.layers.Flatten()(keras.layers.Embedding(ROWS, DIM, name="rows")(ids))
    hidden = keras.layers.Dense(UNITS, "relu", name="hidden", bias_initializer="ones")(rows)
    return keras.Model(ids, keras.layers.Dense(1, "sigmoid", name="out")(hidden))


def compiled(strategy, optimizer):
    with strategy.scope():
        model = build()
        model.compile(optimizer, "binary_crossentropy", metrics=["auc"])
    return model


@pytest.mark.usefixtures("mixed")
@pytest.mark.parametrize("mode", MODES)
def test_all_variables_slots_and_results_stay_float32(strategy, mode):
    model = compiled(strategy, in_mode(mode, keras.optimizers.Adam(0.01)))
    history = model.fit(IDS, LABELS, batch_size=BATCH, verbose=0)
    inexact = [v for v in (*model.variables, *model.optimizer.variables) if "int" not in v.dtype]
    # Three layers with five variables, each with two slots, beside the learning rate.
    assert len(inexact) >= 5 + 10 + 1
    assert {variable.dtype for variable in inexact} == {"float32"}
    assert {variable.numpy().dtype for variable in inexact} == {np.dtype("float32")}
    assert model.get_layer("hidden").compute_dtype == "bfloat16"
    assert np.isfinite(history.history["loss"]).all() and int(model.optimizer.iterations) > 0
    # A loss that had been summed in bfloat16 would have at most 8 bits.
    loss = np.float32(history.history["loss"][0])
    assert loss != tf.cast(loss, tf.bfloat16).numpy()


def bias_after_one_step(model, value):
    """The bias of the hidden layer after a step of SGD with rate 1 on one batch, less the one before."""
    model.get_layer("hidden").kernel.assign(np.zeros((3 * DIM, UNITS)))
    model.get_layer("out").kernel.assign(np.full((UNITS, 1), value))
    before = model.get_layer("hidden").bias.numpy()
    model.fit(IDS[:BATCH], np.ones((BATCH, 1)), batch_size=BATCH, verbose=0)
    return model.get_layer("hidden").bias.numpy() - before


@pytest.mark.parametrize("mode", ["async", pytest.param("geo", marks=pytest.mark.slow), "sync"])
def test_the_gradient_of_a_bias_is_as_exact_as_bfloat16(strategy, mixed, mode):
    """With gradients of one size TensorFlow's own sum over the batch is several percent off."""
    steps = bias_after_one_step(compiled(strategy, in_mode(mode, keras.optimizers.SGD(1.0))), 0.1)
    keras.config.set_dtype_policy("float32")
    plain = build()
    plain.compile(keras.optimizers.SGD(1.0), "binary_crossentropy")
    np.testing.assert_allclose(steps, bias_after_one_step(plain, 0.1), rtol=0.015)


def test_it_learns_what_float32_learns(strategy):
    """Clicks that follow from a weight for each id; tests/examples/test_models.py has real ones."""
    rng = np.random.default_rng(5)
    weights, ids = rng.normal(size=ROWS), rng.integers(0, ROWS, (40 * 256, 3))
    clicks = (rng.random(len(ids)) < 1 / (1 + np.exp(-2 * weights[ids].sum(1)))).astype("float32")[:, np.newaxis]
    held_out = len(ids) // 5
    aucs = []
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        keras.utils.set_random_seed(1)
        try:
            model = compiled(strategy, keras.optimizers.Adagrad(0.2))
        finally:
            keras.config.set_dtype_policy("float32")
        model.fit(ids[held_out:], clicks[held_out:], batch_size=64, shuffle=False, epochs=2, verbose=0)
        aucs.append(
            model.evaluate(ids[:held_out], clicks[:held_out], batch_size=512, verbose=0, return_dict=True)["auc"]
        )
    assert min(aucs) > 0.8 and abs(aucs[0] - aucs[1]) < 0.005, aucs


@pytest.mark.parametrize(
    ("first", "second"),
    [("mixed_bfloat16", "float32"), pytest.param("float32", "mixed_bfloat16", marks=pytest.mark.slow)],
)
def test_what_one_policy_saved_the_other_loads(strategy, tmp_path, first, second):
    keras.config.set_dtype_policy(first)
    try:
        model = compiled(strategy, "adam")
        model.fit(IDS, LABELS, batch_size=BATCH, verbose=0)
        model.save_weights(tmp_path / "model.weights.h5")
        tfps.checkpoint.save(model, tmp_path / "checkpoint")
        saved, slots = model.get_weights(), [v.numpy() for v in model.optimizer.variables]
        keras.config.set_dtype_policy(second)
        for way in ("weights", "checkpoint"):
            other = compiled(strategy, "adam")
            if way == "weights":
                other.load_weights(tmp_path / "model.weights.h5")
            else:
                tfps.checkpoint.restore(other, tmp_path / "checkpoint")
                for variable, value in zip(other.optimizer.variables, slots, strict=True):
                    np.testing.assert_array_equal(variable.numpy(), value)
            for value, expected in zip(other.get_weights(), saved, strict=True):
                np.testing.assert_array_equal(value, expected)
            assert other.get_layer("hidden").compute_dtype == ("bfloat16" if "mixed" in second else "float32")
            other.fit(IDS[:BATCH], LABELS[:BATCH], batch_size=BATCH, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.usefixtures("mixed")
def test_a_saved_model_keeps_its_policy(strategy, tmp_path):
    model = compiled(strategy, "adam")
    model.fit(IDS, LABELS, batch_size=BATCH, verbose=0)
    model.save(tmp_path / "model.keras")
    keras.config.set_dtype_policy("float32")
    # Plain Keras, without a cluster.
    plain = keras.models.load_model(tmp_path / "model.keras")
    assert plain.get_layer("hidden").compute_dtype == "bfloat16"
    np.testing.assert_allclose(plain.predict(IDS[:64], verbose=0), model.predict(IDS[:64], verbose=0), atol=0.01)


@pytest.mark.usefixtures("mixed")
def test_float32_steps_have_the_operations_of_tensorflow(strategy):
    """Layers of another policy, and steps of float32, are as they were."""
    from tfps import step
    from tfps.keras.bfloat16_steps import has_own_bias_gradient

    seen = []

    class Watching(keras.layers.Layer):
        def call(self, x):
            seen.extend((str(one.dtype), has_own_bias_gradient(one, None)) for one in (x, tf.cast(x, tf.float32)))
            # A branch has a graph of its own, and what is channels first is no matrix of rows.
            assert not has_own_bias_gradient(x, None, "NCHW")
            tf.cond(tf.reduce_sum(x) > 0, lambda: seen.append(("branch", has_own_bias_gradient(x, None))), lambda: None)
            return x

    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), Watching(), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    seen.clear()
    model.fit(np.ones((8, 4)), np.ones((8, 1)), batch_size=4, verbose=0)
    assert step.current() is None and not has_own_bias_gradient(tf.ones([1, 1], tf.bfloat16), None)
    traced = set(seen)
    assert traced >= {("<dtype: 'bfloat16'>", True), ("<dtype: 'float32'>", False), ("branch", False)}
    assert not any(own for kind, own in traced if kind != "<dtype: 'bfloat16'>")
