"""How well scores rank the films that users rated later. Needs numpy and no TensorFlow."""

import movielens
import numpy as np


def pad(films: np.ndarray, length: int) -> np.ndarray:
    """Returns the last `length` films of a sequence, with 0 in front if there are fewer."""
    films = films[-length:]
    return np.pad(films, (length - len(films), 0))


def rank(scores: np.ndarray, earlier: movielens.Ratings, latest: movielens.Ratings, best: int) -> tuple[float, float]:
    """Ranks all films that a user has not rated earlier by their scores.

    Args:
        scores: of each user for each film, [users, films]; those of film 0, which is padding, do not count.
        earlier: what the users rated before.
        latest: the films to find.
        best: how many films of the highest scores count.

    Returns:
        The recall, and the normalized discounted cumulative gain (NDCG). Both are means over users who have films to
        find, and 1 if a user's films to find come first, or fill all places.
    """
    scores = scores.astype(np.float64)
    scores[:, 0] = scores[earlier.users, earlier.films] = -np.inf
    wanted = np.zeros(scores.shape, bool)
    wanted[latest.users, latest.films] = True
    order = np.argsort(-scores, axis=1, kind="stable")[:, :best]
    hits = np.take_along_axis(wanted, order, axis=1)
    counts = np.minimum(wanted.sum(axis=1), best)
    gains = 1 / np.log2(np.arange(best) + 2)
    ideal = np.cumsum(gains)[counts - 1]
    users = counts > 0
    return float(np.mean((hits.sum(axis=1) / counts)[users])), float(np.mean((hits @ gains / ideal)[users]))
