"""What simple models reach on the data of the examples, to hold the examples' figures to.

    python -m benchmarks.example_baselines --data DATA

DATA is a folder with adult_census, criteo_1tb_day0_10k and ml-latest-small. Each model is trained and measured on the
very rows that the examples train on and hold out. Clicks: logistic regression over the ids, by scikit-learn.
Films: the most popular ones; the cosine of items; and EASE (Steck 2019, "Embarrassingly Shallow Autoencoders for Sparse
Data"). Ratings: the mean stars of a film. One JSON line for each task and model is printed.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

EXAMPLES = str(pathlib.Path(__file__).parents[1] / "examples")
if EXAMPLES not in sys.path:
    sys.path.append(EXAMPLES)  # programs there import each other, as scripts do

import movielens  # noqa: E402
import ranking  # noqa: E402

L2 = 300.0  # of EASE
DAMPING = 5.0  # a film begins with so many ratings of the mean
NEIGHBOURS = 100


def popular(earlier: movielens.Ratings) -> np.ndarray:
    """Returns scores [users, films]: how many users rated a film."""
    counts = np.bincount(earlier.films, minlength=earlier.num_films)
    return np.tile(counts.astype(np.float64), (earlier.num_users, 1))


def item_neighbours(earlier: movielens.Ratings) -> np.ndarray:
    """Returns scores [users, films]: the sum of the cosines between a film and those that the user rated.

    The cosine is that of the sets of users. Only the `NEIGHBOURS` nearest films of each film count.
    """
    rated = _matrix(earlier)
    norms = np.maximum(np.linalg.norm(rated, axis=0), 1)
    cosines = rated.T @ rated / norms / norms[:, np.newaxis]
    np.fill_diagonal(cosines, 0)
    least = np.partition(cosines, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS, np.newaxis]
    return rated @ np.where(cosines >= least, cosines, 0).T


def ease(earlier: movielens.Ratings) -> np.ndarray:
    """Returns scores [users, films]: X B, where B minimises |X - X B|^2 + L2 |B|^2 and its diagonal is 0.

    With P = (X'X + L2 I)^-1, B = I - P / diag(P). There are more films than users, so P comes from the smaller
    M = (X X' + L2 I)^-1: X P = M X, and diag(P) = (1 - diag(X' M X)) / L2.
    """
    rated = _matrix(earlier)
    product = np.linalg.inv(rated @ rated.T + L2 * np.eye(len(rated), dtype=rated.dtype)) @ rated
    return rated - product / ((1 - np.sum(rated * product, axis=0)) / L2)


RANKERS: dict[str, Callable[[movielens.Ratings], np.ndarray]] = {
    "popular": popular,
    "item neighbours": item_neighbours,
    "EASE": ease,
}


def mean_stars(ratings: movielens.Ratings, held_out: np.ndarray) -> np.ndarray:
    """Returns the mean stars of the film of each rating that is held out, from those that are not.

    Args:
        ratings: all ratings.
        held_out: which of them are held out, bool [ratings].
    """
    films, stars = ratings.films[~held_out], ratings.stars[~held_out]
    sums = np.bincount(films, stars, ratings.num_films) + DAMPING * stars.mean()
    return (sums / (np.bincount(films, minlength=ratings.num_films) + DAMPING))[ratings.films[held_out]]


def main() -> None:
    """Prints what each model reaches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, metavar="FOLDER")
    data = parser.parse_args().data
    _print_films(movielens.load(data / "ml-latest-small"))
    _print_clicks("adult", data / "adult_census/adult.data", rows=50_000)
    _print_clicks("criteo", data / "criteo_1tb_day0_10k/day_0_first10000.tsv", rows=1_000_000)


def _matrix(ratings: movielens.Ratings) -> np.ndarray:
    """Returns 1 where a user rated a film, [users, films]."""
    rated = np.zeros((ratings.num_users, ratings.num_films), np.float32)
    rated[ratings.users, ratings.films] = 1
    return rated


def _print(task: str, model: str, **figures: float) -> None:
    print(json.dumps({"task": task, "model": model} | {name: round(value, 4) for name, value in figures.items()}))


def _print_films(ratings: movielens.Ratings) -> None:
    for held_out, best in ((1, 10), (10, 50)):
        earlier, latest = movielens.split_by_time(ratings, held_out)
        for name, scores in RANKERS.items():
            recall, ndcg = ranking.rank(scores(earlier), earlier, latest, best)
            _print(f"the last {held_out} films", name, **{f"recall@{best}": recall, f"NDCG@{best}": ndcg})
    import din

    import tfps

    held_out = ratings.users % din.GROUPS == din.HELD_OUT
    metric = tfps.metrics.GroupAUC(by="user")
    metric.update_state(ratings.liked[held_out], mean_stars(ratings, held_out) / 5, groups=ratings.users[held_out])
    _print("liked", "mean stars", GAUC=float(metric.result()))


def _print_clicks(name: str, path: pathlib.Path, rows: int) -> None:
    import clicks
    import mmoe

    args = argparse.Namespace(data=str(path), format=name, batch=4096, rows=rows)
    training, held_out = clicks.datasets(args)
    _print_classifier(name, _read(training), _read(held_out))
    if name == "adult":
        parts = [part.map(mmoe.split_tasks(rows)) for part in (training, held_out)]
        for task in mmoe.TASKS:
            _print_classifier(f"adult without marital status, {task}", *(_read(part, task) for part in parts))


def _read(part: Any, task: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids and the labels of a dataset."""
    batches = [(ids, labels if task is None else labels[task]) for (ids, _), labels in part]
    ids, labels = (np.concatenate(column) for column in zip(*batches, strict=True))
    return ids, labels[:, 0]


def _print_classifier(task: str, training: tuple, held_out: tuple) -> None:
    from sklearn import linear_model, metrics, preprocessing

    encoder = preprocessing.OneHotEncoder(handle_unknown="ignore").fit(training[0])
    model = linear_model.LogisticRegression(max_iter=1000).fit(encoder.transform(training[0]), training[1])
    scores = model.predict_proba(encoder.transform(held_out[0]))[:, 1]
    accuracy = float(np.mean((scores > 0.5) == held_out[1]))
    _print(task, "logistic regression", AUC=metrics.roc_auc_score(held_out[1], scores), accuracy=accuracy)


if __name__ == "__main__":
    main()
