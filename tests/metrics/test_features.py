"""Which input feature `by=` names, and metrics in plain Keras: `fit` and `evaluate` without a strategy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.metrics.models import all_metrics, clicks, dataset, expected, make
from tfps import metrics
from tfps.errors import ConfigError
from tfps.keras.features import Features, current

FEATURES, LABELS, WEIGHTS = clicks()


@pytest.mark.parametrize("jit", [False, True])
def test_plain_keras(jit):
    model = make(all_metrics(), keras.optimizers.SGD(0.0), jit_compile=jit)
    data = dataset((FEATURES, LABELS, WEIGHTS))
    history = model.fit(data, epochs=2, validation_data=data, verbose=0).history
    scores = model.predict(FEATURES, verbose=0)
    for name, value in expected(LABELS, scores, WEIGHTS, FEATURES["user"]).items():
        found = [*history[name], *history[f"val_{name}"]]
        assert found == pytest.approx([value] * 4, abs=1e-6), name


def test_eager_steps_and_saving(tmp_path):
    model = make(all_metrics(), keras.optimizers.SGD(0.0), run_eagerly=True)
    data = dataset((FEATURES, LABELS, WEIGHTS), batch=320)
    found = model.evaluate(data, verbose=0, return_dict=True)
    values = expected(LABELS, model.predict(FEATURES, verbose=0), WEIGHTS, FEATURES["user"])
    assert {name: found[name] for name in values} == pytest.approx(values, abs=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = loaded.evaluate(data, verbose=0, return_dict=True)
    assert again == pytest.approx(found, abs=1e-6)


USERS = tf.constant([[1], [2]])


def found_by(by, x, model=None):
    return Features(model, x, None).find(by, "by of metric 'mine'").numpy().reshape(-1).tolist()


def test_what_by_names():
    other = tf.constant([[3], [4]])
    assert found_by("user", {"item": other, "user": USERS}) == [1, 2]
    assert found_by(1, [other, USERS]) == found_by(1, (other, USERS)) == found_by(0, USERS) == [1, 2]
    assert found_by(1, tf.constant([[7, 8], [7, 9]])) == [8, 9]
    assert found_by("user", {"user": tf.constant(["a", "b"])}) == [b"a", b"b"]
    inputs = [keras.Input((1,), name=name, dtype="int64") for name in ("item", "user")]
    model = keras.Model(inputs, keras.layers.Concatenate()(inputs))
    assert found_by("user", [other, USERS], model) == found_by(1, [other, USERS], model) == [1, 2]


@pytest.mark.parametrize(
    ("by", "x", "rule"),
    [
        (
            "usr",
            {"user": USERS},
            r"the name or the index of an input feature. Received: 'usr'. Valid: one of \['user'\]",
        ),
        (2, [USERS, USERS], r"Received: 2. Valid: one of \[0, 1\]"),
        ("user", {"user": tf.cast(USERS, tf.float32)}, "integers or strings. Received: 'user', of float32"),
        ("user", {"user": tf.ones([2, 3], tf.int32)}, r"one value an example. Received: 'user', of shape \(2, 3\)"),
        ("user", {"user": tf.sparse.from_dense(USERS)}, "a dense feature. Received: 'user', a SparseTensor"),
    ],
)
def test_what_by_does_not_name(by, x, rule):
    with pytest.raises(ConfigError, match=rf"`by` of metric 'mine' must be .*{rule}"):
        found_by(by, x)


def test_a_model_without_the_feature_does_not_train():
    model = make([metrics.GroupAUC("usr")])
    before = model.get_weights()
    with pytest.raises(ConfigError, match=r"`by` of metric 'group_auc'.*'usr'.*'user', 'item'"):
        model.fit(dataset((FEATURES, LABELS)), verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert current() is None


def test_sliced():
    rng = np.random.default_rng(0)
    labels, scores, weights = rng.integers(0, 2, 60), rng.random(60), rng.random(60)
    country = rng.choice(["DE", "FR", "IT", "NL"], 60)
    plain = metrics.Sliced(keras.metrics.BinaryAccuracy(), by="country", values=["DE", "FR"])
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(plain))
    assert copy.get_config() == plain.get_config()
    for metric, given in (plain, None), (copy, weights):
        metric.update_state(labels[:, None], scores[:, None], given, groups=country)
        found = metric.result()
        for name, mine in {
            "DE": country == "DE",
            "FR": country == "FR",
            "others": np.isin(country, ["IT", "NL"]),
        }.items():
            right = np.average((scores > 0.5) == labels, weights=(np.ones(60) if given is None else given) * mine)
            assert float(found[f"binary_accuracy_country_{name}"]) == pytest.approx(right, abs=1e-6)
        assert len(found) == 3
    numbers = metrics.Sliced(metrics.LogLoss(), by=0, values=[3], others=False, name="mine")
    numbers.update_state([0, 1, 1], [0.5, 0.9, 0.9], groups=[3, 3, 4])
    assert list(numbers.result()) == ["mine_3"]
    assert float(numbers.result()["mine_3"]) == pytest.approx(-np.log(0.5 * 0.9) / 2)
    numbers.reset_state()
    assert np.isnan(float(numbers.result()["mine_3"]))


def test_refused_slices():
    def make_sliced(metric=None, by="country", values=("DE",), **more):
        return metrics.Sliced(metric or metrics.AUC(), by=by, values=values, **more)

    for values in ([], "DE", ["DE", "DE"], ["DE", 1], [1.5], None):
        with pytest.raises(ConfigError, match="`values` must be a list of different integers or of different strings"):
            make_sliced(values=values)
    with pytest.raises(ConfigError, match="`metric` must be a Keras metric"):
        make_sliced(metric="auc")
    with pytest.raises(ConfigError, match="`others`"):
        make_sliced(others="no")
    with pytest.raises(ConfigError, match="`by`"):
        make_sliced(by=None)
    with pytest.raises(
        ConfigError, match="`values` of metric 'auc_country' must have the type of feature 'country', int32"
    ):
        make_sliced().update_state([0, 1], [0.1, 0.2], groups=[1, 2])
