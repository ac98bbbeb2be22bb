"""The rows that the ranking models learn from: films that users watched, among candidates that they did not.

A log of a real service has what was shown and what was clicked. Ratings only say what was watched, so the rest is drawn
from what the recall gives for the same moment: the models learn to choose among candidates, which is their task.
"""

from collections.abc import Callable

import numpy as np

from examples import movielens
from examples.video_recommender import data

PER_USER = 60  # the newest ratings of each user; the others say less about the next one
NEGATIVES = 4  # films for each rating that the user did not watch


def make(
    ratings: movielens.Ratings, catalog: data.Catalog, recall: Callable[[data.Requests], np.ndarray], seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns features and labels in random order.

    Args:
        ratings: the ratings to train on.
        catalog: what is known of the films.
        recall: returns candidates [requests, films], 0 where there are no more.
        seed: what the choice of films follows from.

    Returns:
        The inputs of the models, and the labels `watch` and `liked` [rows, 1].
    """
    draw = np.random.default_rng(seed)
    asked = data.requests_before(ratings)
    counts = np.bincount(ratings.users)
    from_end = np.cumsum(counts)[ratings.users] - np.arange(len(ratings))
    rows = np.flatnonzero((from_end <= PER_USER) & (asked.history[:, -1] > 0))
    asked, films = asked.take(rows), ratings.films[rows, np.newaxis]
    candidates = recall(asked)
    # What the user has rated at any time of the training is no film that was not watched.
    seen = np.zeros((ratings.num_users, ratings.num_films), bool)
    seen[ratings.users, ratings.films] = seen[:, 0] = True
    unseen = np.where(seen[ratings.users[rows, np.newaxis], candidates], np.inf, draw.random(candidates.shape))
    places = np.argsort(unseen, axis=1)[:, :NEGATIVES]
    negatives = np.take_along_axis(candidates, places, axis=1)
    # Of few films the recall may not give `NEGATIVES` that the user has not seen: a row for one that was is left out.
    kept = np.pad(np.isfinite(np.take_along_axis(unseen, places, axis=1)), ((0, 0), (1, 0)), constant_values=True)
    features = catalog.features(asked, np.concatenate([films, negatives], axis=1))
    watch = np.zeros((len(rows), 1 + NEGATIVES), np.float32)
    watch[:, 0] = 1
    liked = watch * ratings.liked[rows, np.newaxis]
    order = draw.permutation(np.flatnonzero(kept))
    features = {name: values[order] for name, values in features.items()}
    return features, {"watch": watch.reshape(-1, 1)[order], "liked": liked.reshape(-1, 1)[order]}
