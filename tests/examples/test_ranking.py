"""The measures of the film examples, and the baselines beside them, against brute force."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def split():
    import movielens

    ratings = movielens.synthetic(users=15, films=40, per_user=22)
    return ratings, *movielens.split_by_time(ratings, 3)


def test_recall_and_ndcg_by_hand(split):
    import ranking

    _, earlier, latest = split
    scores = np.random.default_rng(0).random((earlier.num_users, earlier.num_films))
    recalls, ndcgs = [], []
    for user in range(earlier.num_users):
        seen = set(earlier.films[earlier.users == user]) | {0}
        order = [film for film in np.argsort(-scores[user]) if film not in seen][:5]
        wanted = latest.films[latest.users == user]
        gains = [1 / np.log2(place + 2) for place, film in enumerate(order) if film in wanted]
        recalls.append(len(gains) / min(5, len(wanted)))
        ndcgs.append(sum(gains) / sum(1 / np.log2(place + 2) for place in range(min(5, len(wanted)))))
    found = ranking.rank(scores, earlier, latest, 5)
    np.testing.assert_allclose(found, [np.mean(recalls), np.mean(ndcgs)])


def test_a_perfect_order_and_the_worst(split):
    import ranking

    _, earlier, latest = split
    scores = np.zeros((earlier.num_users, earlier.num_films))
    scores[latest.users, latest.films] = 1
    assert ranking.rank(scores, earlier, latest, 5) == (1, 1)
    assert ranking.rank(-scores, earlier, latest, 5) == (0, 0)


def test_the_newest_films_are_kept():
    import ranking

    assert ranking.pad(np.array([4, 5, 6]), 2).tolist() == [5, 6]
    assert ranking.pad(np.array([4, 5, 6]), 5).tolist() == [0, 0, 4, 5, 6]


def test_ease_by_the_larger_inverse(split):
    from benchmarks import example_baselines

    _, earlier, _ = split
    rated = np.zeros((earlier.num_users, earlier.num_films))
    rated[earlier.users, earlier.films] = 1
    inverse = np.linalg.inv(rated.T @ rated + example_baselines.L2 * np.eye(rated.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    np.testing.assert_allclose(example_baselines.ease(earlier), rated @ weights, atol=1e-4)
    assert np.abs(rated @ weights).max() > 0.01


def test_sequences_are_cut_so_that_each_film_but_the_first_is_foretold_once():
    import sasrec

    films = np.arange(1, 2 * sasrec.LENGTH + 8)
    windows = sasrec.cut([films, np.array([3])])
    assert windows.shape == (3, sasrec.LENGTH + 1)
    following = windows[:, 1:][windows[:, :-1] > 0]
    assert sorted(following) == films[1:].tolist()
