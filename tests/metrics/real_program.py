"""Trains on real data with 3 workers in every mode, and prints metrics of `evaluate` beside scikit-learn's, as JSON."""

import json
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import tfps
from tests.metrics.models import group_auc
from tfps import metrics

HASHES, BATCH = 20_000, 256
MODES = {"async": lambda one: one, "geo": tfps.optimizers.Geo, "sync": tfps.optimizers.Sync}


def hashed(rows, columns):
    """The hash of each value with its column, [rows, columns]."""
    text = np.array([[f"{column}={row[column]}" for column in columns] for row in rows])
    return tf.strings.to_hash_bucket_fast(text, HASHES).numpy()


def adult(folder):
    """Income over 50,000, by occupation; the country is sliced."""
    lines = (folder / "adult_census" / "adult.data").read_text().splitlines()
    rows = [line.split(", ") for line in lines if line]
    labels = np.array([row[14].startswith(">") for row in rows], "float32")
    return hashed(rows, range(14)), np.array([row[6] for row in rows]), np.array([row[13] for row in rows]), labels


def criteo(folder):
    """Clicks, by one of the categories; another is sliced."""
    lines = (folder / "criteo_1tb_day0_10k" / "day_0_first10000.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    labels = np.array([float(row[0]) for row in rows], "float32")
    return hashed(rows, range(1, 40)), np.array([row[22] for row in rows]), np.array([row[19] for row in rows]), labels


DATA = {"adult": adult, "criteo": criteo}


def make(columns, optimizer, value):
    inputs = {
        "ids": keras.Input((columns,), name="ids", dtype="int64"),
        "group": keras.Input((1,), name="group", dtype="string"),
        "slice": keras.Input((1,), name="slice", dtype="string"),
    }
    hidden = keras.layers.Flatten()(keras.layers.Embedding(HASHES, 4)(inputs["ids"]))
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(keras.layers.Dense(16, "relu")(hidden)))
    given = [
        metrics.AUC(),
        metrics.ExactAUC(),
        metrics.GroupAUC(by="group"),
        metrics.LogLoss(),
        metrics.NormalizedEntropy(),
        metrics.Calibration(),
        metrics.PositiveNegativeRatio(by="group"),
        metrics.Sliced(metrics.LogLoss(), by="slice", values=[str(value)], name="loss"),
    ]
    model.compile(optimizer, "binary_crossentropy", metrics=given)
    return model


def right(labels, scores, groups, mine):
    """The same metrics by scikit-learn and numpy."""
    from sklearn.metrics import log_loss, roc_auc_score

    scores, ones = scores.astype("float64"), np.ones(len(labels))
    loss, base = log_loss(labels, scores), labels.mean()
    top = bottom = 0.0
    for group in np.unique(groups):
        positives, negatives = (scores[(groups == group) & (labels == label)] for label in (1, 0))
        differences = positives[:, None] - negatives[None, :]
        top += (differences > 0).sum() + (differences == 0).sum() / 2
        bottom += (differences < 0).sum() + (differences == 0).sum() / 2
    auc = roc_auc_score(labels, scores)
    return {
        "auc": auc,
        "exact_auc": auc,
        "group_auc": group_auc(labels, scores, ones, groups),
        "log_loss": loss,
        "normalized_entropy": loss / -(base * np.log(base) + (1 - base) * np.log(1 - base)),
        "calibration": scores.sum() / labels.sum(),
        "positive_negative_ratio": top / bottom,
        "loss_others": log_loss(labels[~mine], scores[~mine], labels=[0, 1]),
    }


def run(strategy, folder, name, mode):
    """Trains one epoch and evaluates; returns (ours, scikit-learn's) for each metric."""
    ids, groups, slices, labels = DATA[name](folder)
    values, counts = np.unique(slices, return_counts=True)
    value = values[np.argmax(counts)]
    features = {"ids": ids, "group": groups[:, None], "slice": slices[:, None]}
    data = tf.data.Dataset.from_tensor_slices((features, labels)).batch(BATCH)
    with strategy.scope():
        model = make(ids.shape[1], MODES[mode](keras.optimizers.Adagrad(0.1)), value)
    logs = model.fit(data, verbose=0).history
    found = model.evaluate(data, verbose=0, return_dict=True)
    scores = model.predict(data.map(lambda x, y: x), verbose=0)[:, 0]
    expected = right(labels, scores, groups, slices == value)
    assert all(np.isfinite(logs[name][0]) for name in expected)
    return {name: (found[name], float(value)) for name, value in expected.items()}


if __name__ == "__main__":
    strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=1, num_workers=3))
    folder = pathlib.Path(sys.argv[1])
    print(json.dumps({f"{d} {m}": run(strategy, folder, d, m) for d in DATA for m in MODES}))
    strategy.close()
