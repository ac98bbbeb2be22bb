"""The exported funnel: all films -> recall -> pre-rank -> rank -> fuse -> a list, by TensorFlow without tfps.

Evaluation and serving run the same code on the same files.
"""

import dataclasses
import pathlib
import time

import faiss
import numpy as np
import tensorflow as tf

from examples.video_recommender import data, fuse, recall

PRE_RANKED, RANKED, SHOWN = 100, 40, 10  # films that each stage hands on
_ROWS = 16_384  # rows that a model scores at a time


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """A list for a user.

    Args:
        films: the best first, int64 [SHOWN].
        watch: how probably the user watches each, by the ranking model.
        like: how probably the user then likes it.
        because: the film of the history that the ranking model looked at most for each, 0 for none.
        handed_on: how many films left each stage.
        milliseconds: what each stage took.
    """

    films: np.ndarray
    watch: np.ndarray
    like: np.ndarray
    because: np.ndarray
    handed_on: dict[str, int]
    milliseconds: dict[str, float]


class Funnel:
    """The models of a folder that `train` wrote.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        if not (folder / "fuse").is_dir():
            raise SystemExit(f"There is no trained funnel in {folder}. Run the command `train` with this --out first.")
        self.ratings = data.load(folder / "ratings.npz")
        self.catalog = data.Catalog(self.ratings)
        self._index = faiss.read_index(str(folder / "films.index"))
        self._models = {name: tf.saved_model.load(str(folder / name)) for name in ("users", "pre_rank", "rank", "fuse")}

    def recall(self, asked: data.Requests, seen: list[np.ndarray]) -> np.ndarray:
        """Returns the films that are nearest to each user, [requests, CANDIDATES], 0 where there are no more.

        Args:
            asked: the requests.
            seen: films that each user has rated, and that are not shown again.
        """
        vectors = self._models["users"].serve([asked.history, asked.stars]).numpy()
        return recall.search(self._index, vectors, seen)

    def score(self, stage: str, asked: data.Requests, films: np.ndarray) -> dict[str, np.ndarray]:
        """Returns what the model of a stage says of films [requests, films].

        Returns:
            `watch`, and of the stage `fuse` also `like`: probabilities [requests, films]. Of the stage `rank` also
            `weights`: how it weighs the films of the history, [requests, films, LENGTH].
        """
        parts = []
        # Of a user who has rated everything no film is left.
        step = max(1, _ROWS // max(1, films.shape[1]))
        for first in range(0, len(asked), step):
            part = slice(first, first + step)
            outputs = self._models[stage].serve(self.catalog.features(asked.take(part), films[part]))
            parts.append({name: values.numpy() for name, values in outputs.items()})
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        widths = {name: values.shape[1:] if values.shape[1] > 1 else () for name, values in joined.items()}
        return {name: values.reshape(*films.shape, *widths[name]) for name, values in joined.items()}

    def pre_rank(self, asked: data.Requests, films: np.ndarray) -> np.ndarray:
        """Returns the best candidates by the cheap model, [requests, PRE_RANKED]."""
        return best(self.score("pre_rank", asked, films)["watch"], films, PRE_RANKED)

    def fused_scores(self, asked: data.Requests, films: np.ndarray) -> np.ndarray:
        """Returns the scores that make the final order, [requests, films]."""
        ranked, fused = self.score("rank", asked, films), self.score("fuse", asked, films)
        return fuse.fused_score(ranked["watch"], fused["watch"], fused["like"])

    def recommend(self, asked: data.Requests, seen: np.ndarray) -> Recommendation:
        """Answers one request.

        Args:
            asked: a request.
            seen: films that the user has rated, and that are not shown again.
        """
        clock = _Clock()
        films = self.recall(asked, [seen])
        films = films[films > 0][np.newaxis]
        clock.note("recall", films.shape[1])
        films = self.pre_rank(asked, films)
        clock.note("pre-rank", films.shape[1])
        ranked = self.score("rank", asked, films)
        kept = np.argsort(-ranked["watch"][0])[:RANKED]
        films, watch, weights = films[:, kept], ranked["watch"][0, kept], ranked["weights"][0, kept]
        clock.note("rank", films.shape[1])
        fused = self.score("fuse", asked, films)
        scores = fuse.fused_score(watch, fused["watch"][0], fused["like"][0])
        shown = fuse.diversify(scores, self.catalog.genres[films[0]], SHOWN)
        clock.note("fuse", len(shown))
        return Recommendation(
            films=films[0, shown],
            watch=watch[shown],
            like=fused["like"][0, shown],
            because=asked.history[0, np.argmax(weights[shown], axis=1)],
            handed_on=clock.handed_on,
            milliseconds=clock.milliseconds,
        )


class _Clock:
    """Notes what each stage took and how many films left it."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self.handed_on: dict[str, int] = {}
        self._began_s = time.perf_counter()

    def note(self, stage: str, films: int) -> None:
        """Notes the end of a stage."""
        now_s = time.perf_counter()
        self.milliseconds[stage], self.handed_on[stage] = 1000 * (now_s - self._began_s), films
        self._began_s = now_s


def best(scores: np.ndarray, films: np.ndarray, count: int) -> np.ndarray:
    """Returns the `count` films with the largest scores of each request, the best first.

    Film 0 stands for no film, where the recall has found too few, and comes last whatever its score.
    """
    scores = np.where(films > 0, scores, -np.inf)
    return np.take_along_axis(films, np.argsort(-scores, axis=1, kind="stable")[:, :count], axis=1)
