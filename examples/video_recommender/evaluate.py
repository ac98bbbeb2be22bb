"""What each stage of the funnel is worth on each user's latest ratings, beside baselines.

Every user is asked about once, at the moment after the ratings that were trained on. The films that the user went on to
like are what a list should have. All scores leave out films that the user had rated before.
"""

import numpy as np

import tfps
from examples import movielens
from examples.video_recommender import baselines, data, fuse
from examples.video_recommender.funnel import PRE_RANKED, RANKED, SHOWN, Funnel, best

Table = dict[str, dict[str, float]]  # the figures of each row


def evaluate(funnel: Funnel, latest: movielens.Ratings) -> Table:
    """Returns the figures of all stages and baselines.

    Args:
        funnel: what was trained.
        latest: the ratings that were held out.
    """
    evaluation = Evaluation(funnel, latest)
    return evaluation.baselines() | evaluation.stages() | evaluation.lists(latest)


class Evaluation:
    """Asks the funnel about each user once.

    Args:
        funnel: what was trained.
        latest: the ratings that were held out.
    """

    def __init__(self, funnel: Funnel, latest: movielens.Ratings) -> None:
        self._funnel, known = funnel, funnel.ratings
        seen, watched, liked = np.zeros((3, known.num_users, known.num_films), bool)
        seen[known.users, known.films] = True
        watched[latest.users, latest.films] = True
        liked[latest.users[latest.liked > 0], latest.films[latest.liked > 0]] = True
        # Users who went on to like no film have nothing to be found.
        self._users = np.flatnonzero(liked.any(axis=1))
        self._seen, self._watched, self._liked = seen[self._users], watched[self._users], liked[self._users]
        self._asked = data.requests_after(known).take(self._users)
        self._candidates = funnel.recall(self._asked, [np.flatnonzero(one) for one in self._seen])

    def baselines(self) -> Table:
        """Returns the figures of lists of all films, and of the order in which a baseline puts the candidates."""
        known, table = self._funnel.ratings, {}
        made = {"popularity": baselines.popularity, "matrix factorisation": baselines.matrix_factorisation}
        for name, baseline in made.items():
            scores = baseline(known)[self._users]
            of_candidates = np.take_along_axis(scores, self._candidates, axis=1)
            scores = np.where(self._seen, -np.inf, scores)
            scores[:, 0] = -np.inf
            films = np.argsort(-scores, axis=1)[:, : self._candidates.shape[1]]
            table[name] = of_lists(films, self._liked) | self._of_candidates(of_candidates)
        return table

    def stages(self) -> Table:
        """Returns the figures of what each stage hands on, and of the order in which it puts all candidates."""
        table = {"recall": of_lists(self._candidates, self._liked)}
        films = self._candidates
        for stage, name, count in (("pre-rank", "pre_rank", PRE_RANKED), ("rank", "rank", RANKED)):
            scores = self._funnel.score(name, self._asked, self._candidates)["watch"]
            of_films = self._funnel.score(name, self._asked, films)["watch"]
            films = best(of_films, films, count)
            table[stage] = of_lists(films, self._liked) | self._of_candidates(scores)
        self._ranked = films
        return table

    def lists(self, latest: movielens.Ratings) -> Table:
        """Returns the figures of the lists that are shown, without and with diversity. `stages` comes before."""
        films, genres = self._ranked, self._funnel.catalog.genres
        scores = self._funnel.fused_scores(self._asked, films)
        diverse = [fuse.diversify(*one, SHOWN) for one in zip(scores, genres[films], strict=True)]
        lists = {"fuse": best(scores, films, SHOWN), "fuse, diverse": np.take_along_axis(films, np.array(diverse), 1)}
        table = {name: of_lists(shown, self._liked) for name, shown in lists.items()}
        for name, shown in lists.items():
            table[name]["genres"] = float(np.mean(genres[shown].any(axis=1).sum(axis=1)))
        candidates = self._funnel.score("fuse", self._asked, self._candidates)["watch"]
        table["fuse"] |= self._of_candidates(candidates) | of_ratings(self._funnel, latest)
        return table

    def _of_candidates(self, scores: np.ndarray) -> dict[str, float]:
        """Returns how well scores [users, candidates] find what each user went on to watch."""
        labels = np.take_along_axis(self._watched, self._candidates, axis=1).astype(np.float32)
        users = np.repeat(self._users, scores.shape[1])
        return areas(labels.ravel(), scores.ravel(), users, "")


def of_lists(films: np.ndarray, liked: np.ndarray) -> dict[str, float]:
    """Returns recall and NDCG of lists [users, films], for the films that each user liked, [users, all films]."""
    # A list has no scores any more: places stand for them. What it leaves out comes last.
    scores = np.zeros(liked.shape, np.float32)
    np.put_along_axis(scores, films, np.arange(films.shape[1], 0, -1, dtype=np.float32)[np.newaxis], axis=1)
    metrics = {f"recall@{k}": tfps.metrics.RecallAtK(k) for k in (300, 100, 10) if k <= films.shape[1]}
    metrics["NDCG@10"] = tfps.metrics.NDCG(10)
    for metric in metrics.values():
        metric.update_state(liked.astype(np.float32), scores)
    return {name: float(metric.result()) for name, metric in metrics.items()}


def of_ratings(funnel: Funnel, latest: movielens.Ratings) -> dict[str, float]:
    """Returns how well the fusing model foretells what users like of the films that they went on to rate."""
    asked = data.requests_after(funnel.ratings).take(latest.users)
    like = funnel.score("fuse", asked, latest.films[:, np.newaxis])["like"][:, 0]
    return areas(latest.liked, like, latest.users, "like ")


def areas(labels: np.ndarray, scores: np.ndarray, users: np.ndarray, prefix: str) -> dict[str, float]:
    """Returns the AUC of all examples, and the mean of each user's AUC."""
    auc, grouped = tfps.metrics.ExactAUC(), tfps.metrics.GroupAUC(by="user")
    auc.update_state(labels, scores)
    grouped.update_state(labels, scores, groups=users)
    return {f"{prefix}AUC": float(auc.result()), f"{prefix}GAUC": float(grouped.result())}


def text(table: Table) -> str:
    """Returns the table as text."""
    columns = list(dict.fromkeys(name for row in table.values() for name in row))
    lines = [f"{'':22}" + "".join(f"{name:>11}" for name in columns)]
    for name, row in table.items():
        cells = (f"{row[column]:11.4f}" if column in row else " " * 11 for column in columns)
        lines.append(f"{name:22}" + "".join(cells))
    return "\n".join(lines)
