"""Pre-ranking and ranking: how likely a user is to watch each candidate, first by a cheap model, then by a better one.

Both read a growing table of films (`tfps.layers.DynamicEmbedding`): a film needs no place in a matrix beforehand, its
row is made when it is first trained.

Sources: Wang et al. 2021, "DCN V2"; Zhou et al. 2018, "Deep Interest Network for Click-Through Rate Prediction".
"""

from collections.abc import Callable

import keras

from examples.video_recommender import data

DIM = 16  # floats of a film's row
CROSSES = 2

Table = Callable[[int, str], keras.layers.Layer]  # makes a layer of rows from their width and a name


def inputs(genres: int) -> dict[str, keras.KerasTensor]:
    """Returns the inputs of a model that ranks, as `data.Catalog.features` makes them."""
    return {
        "history": keras.Input((data.LENGTH,), dtype="int64", name="history"),
        "stars": keras.Input((data.LENGTH,), name="stars"),
        "film": keras.Input((1,), dtype="int64", name="film"),
        "genres": keras.Input((genres,), name="genres"),
        "numbers": keras.Input((data.NUMBERS,), name="numbers"),
    }


def pooled(asked: dict[str, keras.KerasTensor], table: keras.layers.Layer) -> list[keras.KerasTensor]:
    """Returns the film's row, the mean of the history's rows and their product, each [batch, width]."""
    ops = keras.ops
    known = ops.expand_dims(ops.cast(asked["history"] > 0, "float32"), -1)
    film = keras.layers.Flatten()(table(asked["film"]))
    mean = ops.sum(table(asked["history"]) * known, axis=1) / (ops.sum(known, axis=1) + 1.0)
    return [film, mean, film * mean]


def build_pre_rank_model(genres: int, table: Table) -> tuple[keras.Model, keras.Model]:
    """Builds the model that is asked about every candidate: two cross layers and a dense one (DCN v2).

    Returns:
        The model to train, and the model to serve: here the same.
    """
    asked = inputs(genres)
    rows = pooled(asked, table(DIM // 2, "pre_rank_films"))
    first = crossed = keras.layers.Concatenate()([*rows, asked["genres"], asked["numbers"]])
    for _ in range(CROSSES):
        crossed = first * keras.layers.Dense(first.shape[-1])(crossed) + crossed
    deep = keras.layers.Dense(32, activation="relu")(first)
    both = keras.layers.Concatenate()([crossed, deep])
    watch = keras.layers.Dense(1, activation="sigmoid", name="watch")(both)
    model = keras.Model(asked, {"watch": watch}, name="pre_rank")
    return model, model


def build_rank_model(genres: int, table: Table) -> tuple[keras.Model, keras.Model]:
    """Builds the model that is asked about the best candidates: it weighs the history by the candidate (DIN).

    The weights sum to 1, by a softmax, which DIN leaves out: histories here differ much in length.

    Returns:
        The model to train, and the model to serve, which also says how it weighs the history, [batch, LENGTH].
    """
    ops = keras.ops
    asked = inputs(genres)
    rows = table(DIM, "rank_films")
    film, mean, product = pooled(asked, rows)
    history, stars = rows(asked["history"]), ops.expand_dims(asked["stars"], -1)
    candidate = ops.expand_dims(film, 1)
    pairs = keras.layers.Concatenate()([history, history - candidate, history * candidate, stars])
    weights = ops.squeeze(keras.layers.Dense(1)(keras.layers.Dense(16, activation="relu")(pairs)), -1)
    known = asked["history"] > 0
    weights = ops.softmax(ops.where(known, weights, -1e9)) * ops.cast(known, "float32")
    interest = ops.sum(history * ops.expand_dims(weights, -1), axis=1)
    every = [film, mean, product, interest, interest * film, asked["genres"], asked["numbers"]]
    deep = keras.layers.Dense(64, activation="relu")(keras.layers.Concatenate()(every))
    deep = keras.layers.Dense(32, activation="relu")(deep)
    watch = keras.layers.Dense(1, activation="sigmoid", name="watch")(deep)
    model = keras.Model(asked, {"watch": watch}, name="rank")
    return model, keras.Model(asked, {"watch": watch, "weights": weights})
