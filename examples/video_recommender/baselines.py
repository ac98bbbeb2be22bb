"""What the funnel has to beat: the most popular films, and matrix factorisation.

Each function returns scores of all films for all users, float32 [users, films].
"""

import numpy as np

from examples import movielens


def popularity(ratings: movielens.Ratings) -> np.ndarray:
    """Scores a film by how many users have rated it."""
    counts = np.bincount(ratings.films, minlength=ratings.num_films).astype(np.float32)
    return np.tile(counts, (ratings.num_users, 1))


def matrix_factorisation(
    ratings: movielens.Ratings, dim: int = 64, confidence: float = 8.0, l2: float = 60.0, rounds: int = 10
) -> np.ndarray:
    """Factorises the matrix of who has rated what, by alternating least squares.

    Args:
        ratings: what is known.
        dim: floats of a user and of a film.
        confidence: how much more a rating weighs than a film that was not rated.
        l2: the regularisation.
        rounds: how often users and films are solved.

    Source: Hu, Koren and Volinsky 2008, "Collaborative Filtering for Implicit Feedback Datasets".
    """
    seen = np.zeros((ratings.num_users, ratings.num_films), np.float32)
    seen[ratings.users, ratings.films] = 1
    films = np.random.default_rng(1).normal(0, 0.1, (ratings.num_films, dim)).astype(np.float32)
    for _ in range(rounds):
        users = _solve(seen, films, confidence, l2)
        films = _solve(seen.T, users, confidence, l2)
    return users @ films.T


def _solve(seen: np.ndarray, others: np.ndarray, confidence: float, l2: float) -> np.ndarray:
    """Returns the least-squares factors of each row of `seen`, given those of its columns."""
    common = others.T @ others + l2 * np.eye(others.shape[1], dtype=np.float32)
    factors = np.zeros((len(seen), others.shape[1]), np.float32)
    for row, chosen in enumerate(seen):
        rated = others[chosen > 0]
        if len(rated):
            factors[row] = np.linalg.solve(common + confidence * rated.T @ rated, (1 + confidence) * rated.sum(axis=0))
    return factors
