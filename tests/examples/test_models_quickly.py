"""Each model of the examples in small: it builds, is served by rows, and one worker trains it as one process does."""

import contextlib
import dataclasses
import functools
import importlib

import keras
import numpy as np
import pytest

ROWS, BATCH, BATCHES = 300, 16, 4
CLICKS = ["wide_deep", "dlrm", "xdeepfm", "fibinet"]


SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def click_rows(form):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, ROWS, (BATCHES * BATCH, form.inputs))
    numbers = rng.random((len(ids), len(form.numbers))).astype("float32")
    return (ids, numbers), (ids.sum(1, keepdims=True) % 2).astype("float32")


def click_model(name):
    import clicks

    form = clicks.FORMATS["adult"]
    return importlib.import_module(name).build_model(form, ROWS, 4, [8]), "binary_crossentropy", click_rows(form)


def mmoe():
    import mmoe

    form = dataclasses.replace(mmoe.FORM, categories=mmoe.CATEGORIES)
    features, labels = click_rows(form)
    tasks = dict.fromkeys(mmoe.TASKS, "binary_crossentropy")
    return mmoe.build_model(form, ROWS, 4, [8]), tasks, (features, dict.fromkeys(mmoe.TASKS, labels))


def films():
    import movielens

    return movielens.synthetic(users=20, films=60, per_user=25)


def din():
    import din

    ratings = films()
    return din.build_model(ratings.num_films, ratings.genres.shape[1], 4), "binary_crossentropy", din.examples(ratings)


def sasrec():
    import movielens
    import sasrec

    ratings = films()
    batches = sasrec.batches(sasrec.cut(movielens.sequences(ratings)), ratings.num_films, BATCH)
    return sasrec.build_models(ratings.num_films, 8)[0], SPARSE, next(iter(batches))


def two_towers():
    import two_towers

    ratings = films()
    model, *_ = two_towers.build_models(ratings.num_users, ratings.num_films, ratings.genres.shape[1], 8)
    return model, SPARSE, next(iter(two_towers.batches(ratings, BATCH)))


MODELS = {name: functools.partial(click_model, name) for name in CLICKS}
MODELS |= {make.__name__: make for make in (mmoe, din, sasrec, two_towers)}


@pytest.mark.parametrize("name", MODELS)
def test_one_worker_trains_as_one_process(one_worker, name, monkeypatch):
    if name in ("din", "sasrec"):
        # What is dropped at random is not the same on a worker.
        monkeypatch.setattr(importlib.import_module(name), "DROPOUT", 0)
    found = []
    for scope in (one_worker.scope, contextlib.nullcontext):
        keras.utils.set_random_seed(11)
        with scope():
            model, loss, data = MODELS[name]()
            # The adaptive optimizers of Keras do not sum the gradients of an id that a batch has twice; tables do.
            model.compile(keras.optimizers.SGD(0.1), loss)
        rows = keras.tree.map_structure(lambda values: np.asarray(values)[: BATCHES * BATCH], data)
        inputs = dict(zip(("x", "y", "sample_weight"), rows, strict=False))
        history = model.fit(**inputs, batch_size=BATCH, shuffle=False, verbose=0).history
        found.append([*history.values(), *model.get_weights()])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
