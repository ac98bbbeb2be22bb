"""A small model of clicks with a table, and its data, for tests of metrics."""

import keras
import numpy as np
import tensorflow as tf
from sklearn import metrics as sklearn

USERS, ITEMS, N, BATCH = 12, 50, 960, 32
SLICED_USERS = [10**15 + 2]


def clicks(seed=0):
    """Features, labels and weights; the scores of the untrained model tie often, because items repeat."""
    rng = np.random.default_rng(seed)
    features = {"user": rng.integers(0, USERS, (N, 1)) + 10**15, "item": rng.integers(0, ITEMS, (N, 1))}
    labels = (rng.random(N) < 0.2 + 0.5 * (features["item"][:, 0] % 2)).astype("float32")
    return features, labels, rng.integers(0, 4, N).astype("float32") / 2


@keras.saving.register_keras_serializable("tests")
def coarse(scores):
    """Rounds scores, whose last bit depends on the batch: so those of one item are equal. It has a gradient."""
    return tf.quantization.fake_quant_with_min_max_args(scores, 0.0, 1.0)


def make(given, optimizer="adagrad", drops=False, **compile_arguments):
    """A model whose user input has no other use than to group."""
    user, item = (keras.Input((1,), name=name, dtype="int64") for name in ("user", "item"))
    normal = keras.initializers.RandomNormal(stddev=1.0, seed=1)
    hidden = keras.layers.Flatten()(keras.layers.Embedding(ITEMS, 4, embeddings_initializer=normal)(item))
    if drops:
        hidden = keras.layers.Dropout(0.5, seed=3)(hidden)
    scores = keras.layers.Dense(1, "sigmoid", kernel_initializer=keras.initializers.GlorotUniform(seed=1))(hidden)
    if not drops:
        scores = keras.layers.Activation(coarse)(scores)
    model = keras.Model({"user": user, "item": item}, scores)
    model.compile(optimizer, "binary_crossentropy", weighted_metrics=given, **compile_arguments)
    return model


def dataset(arrays, batch=BATCH):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(batch)


def group_auc(labels, scores, weights, groups):
    """GAUC by scikit-learn."""
    top = bottom = 0.0
    for group in np.unique(groups):
        mine = (groups == group) & (weights > 0)
        if len({*labels[mine]}) == 2:
            top += weights[mine].sum() * sklearn.roc_auc_score(labels[mine], scores[mine], sample_weight=weights[mine])
            bottom += weights[mine].sum()
    return top / bottom


def expected(labels, scores, weights, users):
    """The results of the metrics of `all_metrics` by scikit-learn."""
    labels, scores, weights, users = (one.reshape(-1) for one in (labels, scores, weights, users))
    scores, weights = scores.astype("float64"), weights.astype("float64")
    others = ~np.isin(users, SLICED_USERS)
    auc = sklearn.roc_auc_score(labels, scores, sample_weight=weights)
    return {
        "auc": auc,
        "exact_auc": auc,
        "group_auc": group_auc(labels, scores, weights, users),
        "log_loss": sklearn.log_loss(labels, scores, sample_weight=weights),
        "calibration": np.sum(weights * scores) / np.sum(weights * labels),
        "sliced_others": sklearn.roc_auc_score(labels[others], scores[others], sample_weight=weights[others]),
    }


def few_metrics():
    """A metric over sums, one over examples, and one by a feature."""
    from tfps import metrics

    sliced = metrics.Sliced(metrics.ExactAUC(), by="user", values=SLICED_USERS, name="sliced")
    return [metrics.AUC(), metrics.GroupAUC(by="user"), sliced]


def all_metrics():
    """Metrics of every kind."""
    from tfps import metrics

    return [*few_metrics(), metrics.ExactAUC(), metrics.LogLoss(), metrics.Calibration()]
