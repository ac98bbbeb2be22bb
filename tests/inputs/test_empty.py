"""An empty input says what plain Keras says: a warning, and no logs."""

import contextlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfps

X, Y = np.ones((8, 2), "float32"), np.zeros((8, 1), "float32")
PAIRS = tf.data.Dataset.from_tensor_slices((X, Y))


def nothing():
    return
    yield


SPEC = (tf.TensorSpec((None, 2)), tf.TensorSpec((None, 1)))
INPUTS = {
    "known": lambda: PAIRS.batch(4).take(0),
    "unknown": lambda: PAIRS.filter(lambda x, y: False).batch(4),
    "fed": lambda: tf.data.Dataset.from_generator(nothing, output_signature=SPEC),
    "generator": nothing,
    "arrays": lambda: (X[:0], Y[:0]),
}


def make(strategy, mode=lambda given: given):
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        optimizer = keras.optimizers.SGD(0.1)
        model.compile(mode(optimizer) if strategy else optimizer, "mse", metrics=["mae"])
    return model


def arguments(given):
    made = given()
    return made if isinstance(made, tuple) else (made,)


def said(call):
    """What a call returns or raises, and the beginnings of its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = call()
        except ValueError as error:
            result = str(error).splitlines()[0]
    return result, {str(w.message)[:30] for w in caught if "ran out of data" in str(w.message)}


@pytest.mark.parametrize("given", INPUTS.values(), ids=INPUTS)
def test_an_empty_input_says_what_keras_says(strategy, given):
    ours, theirs = make(strategy), make(None)
    for call in (
        lambda model: model.fit(*arguments(given), epochs=2, verbose=0).history,
        lambda model: model.evaluate(*arguments(given), verbose=0),
        lambda model: model.evaluate(*arguments(given), verbose=0, return_dict=True),
    ):
        try:
            expected = said(lambda call=call: call(theirs))
        except IndexError:
            pytest.skip("this Keras itself fails: it takes no empty generator")
        found = said(lambda call=call: call(ours))
        assert found == expected
        assert "ran out of data" in str(found[1]) or "at least one batch" in found[0]


@pytest.mark.parametrize("mode", [tfps.optimizers.Geo, tfps.optimizers.Sync], ids=["geo", "sync"])
def test_no_mode_invents_logs(strategy, mode):
    assert make(strategy, mode).fit(INPUTS["known"](), verbose=0).history == {}


def test_a_validation_without_batches_shows_no_values(strategy):
    assert set(make(strategy).fit(X, Y, verbose=0, validation_data=INPUTS["unknown"]()).history) == {"loss", "mae"}


def test_empty_shards_beside_a_full_one_count_nothing(strategy):
    data = PAIRS.batch(8)
    ours, theirs = make(strategy), make(None)
    theirs.set_weights(ours.get_weights())
    expected = theirs.evaluate(data, verbose=0)
    np.testing.assert_allclose(ours.evaluate(data, verbose=0), expected, rtol=1e-5)
    history = ours.fit(data, verbose=0).history
    np.testing.assert_allclose([history["loss"][0], history["mae"][0]], expected, rtol=1e-5)
