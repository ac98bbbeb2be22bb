"""Recall: a few hundred of all films, by two towers and a nearest-neighbour index.

One tower makes a vector of a user's history, the other one of a film; the user is near to the films that come next. In
training the other films of the batch are what the user did not choose. Popular films are in more batches, so each
score is lowered by the logarithm of how often its film occurs.

Source: Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations".
"""

import faiss
import keras
import numpy as np

from examples import movielens
from examples.video_recommender import data

DIM = 32  # floats of a film's row, and of a vector of either tower
TEMPERATURE = 0.2
PER_USER = 200  # the newest ratings of each user that are learned
CANDIDATES = 300  # films that are handed on


def build_model(films: int, genres: int) -> tuple[keras.Model, keras.Model, keras.Model]:
    """Builds plain Keras models: the one to train, the tower of users and the tower of films.

    Args:
        films: the rows of the table.
        genres: the number of genres.
    """
    ops = keras.ops
    table = keras.layers.Embedding(films, DIM, name="films")
    history = keras.Input((data.LENGTH,), dtype="int64", name="history")
    stars = keras.Input((data.LENGTH,), name="stars")
    known = ops.expand_dims(ops.cast(history > 0, "float32"), -1)
    rows = table(history) * known

    def mean(weights: keras.KerasTensor) -> keras.KerasTensor:
        """Returns the weighted mean of the rows of a history, [batch, DIM]."""
        return ops.sum(rows * weights, axis=1) / (ops.sum(ops.abs(weights), axis=1) + 1.0)

    newest = np.arange(data.LENGTH)[::-1, np.newaxis]
    means = [mean(known), mean(known * 0.7 ** newest.astype("float32")), mean(ops.expand_dims(stars, -1))]
    user = keras.layers.Concatenate()(means)
    user = keras.layers.Dense(2 * DIM, activation="relu")(user)
    user = keras.layers.UnitNormalization()(keras.layers.Dense(DIM)(user))

    film = keras.Input((1,), dtype="int64", name="film")
    of_film = keras.Input((genres,), name="genres")
    vector = ops.squeeze(table(film), 1) + keras.layers.Dense(DIM, use_bias=False)(of_film)
    vector = keras.layers.UnitNormalization()(vector)

    log_share = keras.Input((1,), name="log_share")
    scores = ops.matmul(user, ops.transpose(vector)) / TEMPERATURE - ops.transpose(log_share)
    users, items = keras.Model([history, stars], user), keras.Model([film, of_film], vector)
    return keras.Model([history, stars, film, of_film, log_share], scores), users, items


def in_batch_loss(films: keras.KerasTensor, scores: keras.KerasTensor) -> keras.KerasTensor:
    """Returns the cross entropy of each user's own film among the films of the batch.

    Args:
        films: the film of each user, [batch, 1].
        scores: of each user (row) for each film (column), [batch, batch].
    """
    ops = keras.ops
    same = ops.equal(films, ops.transpose(films))
    own = ops.eye(ops.shape(films)[0], dtype="bool")
    # Another user's film that is also one's own is no wrong answer.
    scores = ops.where(ops.logical_and(same, ops.logical_not(own)), -1e9, scores)
    return ops.logsumexp(scores, axis=1) - ops.sum(scores * ops.cast(own, scores.dtype), axis=1)


def rows(ratings: movielens.Ratings) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns what the towers learn from: each rating of the newest `PER_USER` of a user, with what came before it."""
    asked = data.requests_before(ratings)
    counts = np.bincount(ratings.users)
    from_end = np.cumsum(counts)[ratings.users] - np.arange(len(ratings))
    chosen = (from_end <= PER_USER) & (asked.history[:, -1] > 0)
    films = ratings.films[chosen, np.newaxis]
    shares = np.bincount(films[:, 0], minlength=ratings.num_films) / len(films)
    log_shares = np.log(shares[films]).astype(np.float32)
    return [asked.history[chosen], asked.stars[chosen], films, ratings.genres[films[:, 0]], log_shares], films


def make_index(vectors: np.ndarray) -> faiss.Index:
    """Makes an index of films by the vectors of their tower.

    It compares a user with each film, which takes a millisecond for 10,000 films. For millions `IndexHNSWFlat` has the
    same methods.
    """
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def search(index: faiss.Index, vectors: np.ndarray, seen: list[np.ndarray]) -> np.ndarray:
    """Returns the films that are nearest to each user, [users, CANDIDATES], 0 where there are no more.

    Args:
        index: the films.
        vectors: of the users, [users, DIM].
        seen: films that each user is not to get.
    """
    found = np.zeros((len(vectors), CANDIDATES), np.int64)
    for user, films in enumerate(seen):
        others = faiss.IDSelectorNot(faiss.IDSelectorBatch(np.append(films, 0)))
        parameters = faiss.SearchParameters(sel=others)
        found[user] = index.search(vectors[user : user + 1], CANDIDATES, params=parameters)[1]
    return np.maximum(found, 0)
