"""What the convergence benchmark trains (a click model on adult or Criteo, word vectors), and how it judges them."""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfps

EXAMPLES = str(pathlib.Path(__file__).parents[1] / "examples")
if EXAMPLES not in sys.path:
    sys.path.append(EXAMPLES)  # programs there import each other, as scripts do


@dataclasses.dataclass(frozen=True)
class Task:
    """A model, its data and its judge.

    Args:
        name: of the task.
        metric: what `judge` calls the figure that should be high.
        batch: examples a step.
        epochs: passes over the examples.
        steps: batches of an epoch, before they are joined.
        build: makes the model; not compiled.
        loss: of the model; None where it has its own.
        optimizer: makes a new one, with so many times the learning rate.
        batches: (epoch, batch size) -> the batches of an epoch; no two epochs have the same order.
        judge: of a model that holds what was learned: figures on held-out data by name.
    """

    name: str
    metric: str
    batch: int
    epochs: int
    steps: int
    build: Callable[[], Any]
    loss: Any
    optimizer: Callable[[float], Any]
    batches: Callable[[int, int], Any]
    judge: Callable[[Any], dict[str, float]]


def adult(data: pathlib.Path) -> Task:
    """The task of most figures: every cell of a line hashed to one of 50,000 rows of 8 floats, 64 units."""
    return _clicks("adult", data / "adult_census/adult.data", rows=50_000, rate=0.2, held_out=10)


def criteo(data: pathlib.Path) -> Task:
    """The first 10,000 lines of a day. Only 265 are clicks, so every fourth line is held out, not every tenth."""
    return _clicks("criteo", data / "criteo_1tb_day0_10k/day_0_first10000.tsv", rows=200_000, rate=0.05, held_out=4)


def words(data: pathlib.Path) -> Task:
    """The model of examples/word2vec.py on a sample of Wikipedia, judged by WordSim-353."""
    import word2vec

    batch, epochs = 1024, 3
    text = word2vec.Text((data / "wiki_w2v/wiki_text8like.txt").read_text(encoding="utf-8"))
    # Dropped once for all, so that every epoch draws its pairs from the same words.
    tokens = text.tokens[np.random.default_rng(0).random(len(text.tokens)) < text.keep[text.tokens]]
    steps = len(tokens) * (word2vec.WINDOW + 1) // batch
    judged = word2vec.judged_pairs(str(data / "wiki_w2v/wordsim353.tsv"))
    known = [(text.ids[a], text.ids[b], score) for a, b, score in judged if a in text.ids and b in text.ids]
    left, right, scores = map(np.array, zip(*known, strict=True))

    def judge(model: Any) -> dict[str, float]:
        vectors = model.centers.get_weights()[0]
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return {"spearman": word2vec.spearman(scores, np.sum(unit[left] * unit[right], axis=1))}

    def build() -> Any:
        return tfps.models.SkipGram(len(text.words), 100, negatives=5, counts=text.counts)

    def optimizer(factor: float) -> Any:
        rate = 0.05 * factor  # of word2vec: 0.025, for ten epochs
        return keras.optimizers.SGD(keras.optimizers.schedules.PolynomialDecay(rate, epochs * steps, rate / 100))

    def batches(epoch: int, size: int) -> Any:
        return tfps.text.neighbour_pairs(tokens, word2vec.WINDOW, size, steps * batch // size, seed=epoch)

    return Task("words", "spearman", batch, epochs, steps, build, None, optimizer, batches, judge)


TASKS: dict[str, Callable[[pathlib.Path], Task]] = {"adult": adult, "criteo": criteo, "words": words}


def _clicks(name: str, path: pathlib.Path, rows: int, rate: float, held_out: int) -> Task:
    import clicks

    form = clicks.FORMATS[name]
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    (ids, _), labels = clicks.parse(tf.constant(lines), form, rows)
    ids, labels = ids.numpy(), labels.numpy()
    held = np.arange(len(ids)) % held_out == 0

    def build() -> Any:
        inputs = keras.Input((form.inputs,), dtype="int64")
        embedded = keras.layers.Flatten()(keras.layers.Embedding(rows, 8)(inputs))
        return keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dense(64, activation="relu")(embedded)))

    def batches(epoch: int, size: int) -> Any:
        training = tf.data.Dataset.from_tensor_slices((ids[~held], labels[~held]))
        return training.shuffle(len(ids), seed=epoch + 1).batch(size, drop_remainder=True)

    def judge(model: Any) -> dict[str, float]:
        scores = np.asarray(model(ids[held]))[:, 0].astype(np.float64)
        losses = np.logaddexp(0, scores) - scores * labels[held][:, 0]
        return {"auc": area_under_curve(labels[held][:, 0], scores), "loss": float(np.mean(losses))}

    return Task(
        name,
        "auc",
        256,
        4,
        int(np.sum(~held)) // 256,
        build,
        keras.losses.BinaryCrossentropy(from_logits=True),
        lambda factor: keras.optimizers.Adagrad(rate * factor),
        batches,
        judge,
    )


def area_under_curve(labels: np.ndarray, scores: np.ndarray) -> float:
    """The chance that a positive scores above a negative; equal scores count half. 0.5 if a score is not finite."""
    if not np.all(np.isfinite(scores)):
        return 0.5
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives = int(np.sum(labels > 0.5))
    negatives = len(labels) - positives
    if not positives or not negatives:
        return 0.5
    return float((np.sum(ranks[labels > 0.5]) - positives * (positives + 1) / 2) / (positives * negatives))


def task_named(args: argparse.Namespace) -> Task:
    """The task of a command line."""
    return TASKS[args.task](pathlib.Path(args.data))
