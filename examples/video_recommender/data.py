"""What the models know of a request: who asks, what films could be shown, and nothing that came later.

A request is a user at a moment: the films that the user has rated so far, the newest last, with their stars. Training
and serving compute the features of its films by the same function, so they cannot differ.
"""

import dataclasses
import json
import pathlib

import numpy as np

from examples import movielens

LENGTH = 50  # films of a history; older ones are forgotten
RECENT = 10  # films that say what the user is in the mood for
MEAN_STARS = 3.5  # of all films; stars are seen as what they are above or below
PRIOR = 5  # ratings of `MEAN_STARS` that each film is given beforehand, so that one rating says little
NUMBERS = 8  # features that are numbers
_SECONDS = 1 << 33  # later than any time of a rating


@dataclasses.dataclass(frozen=True)
class Requests:
    """Users at moments.

    Args:
        history: the films that each had rated, the newest last, padded with 0 in front, int64 [requests, LENGTH].
        stars: the stars of these films less `MEAN_STARS`, and 0 for padding, float32 [requests, LENGTH].
        times: seconds since 1970, int64 [requests].
    """

    history: np.ndarray
    stars: np.ndarray
    times: np.ndarray

    def __len__(self) -> int:
        return len(self.times)

    def take(self, chosen: np.ndarray | slice) -> "Requests":
        """Returns some of the requests."""
        return Requests(self.history[chosen], self.stars[chosen], self.times[chosen])


def requests_before(ratings: movielens.Ratings) -> Requests:
    """Returns a request for the moment before each rating."""
    stars = movielens.histories(ratings, LENGTH, ratings.stars - np.float32(MEAN_STARS))
    return Requests(movielens.histories(ratings, LENGTH), stars, ratings.times)


def requests_after(ratings: movielens.Ratings) -> Requests:
    """Returns a request of each user for the moment after the last of the ratings."""
    films = movielens.sequences(ratings)
    stars = movielens.sequences(ratings, ratings.stars)
    times = np.array([times[-1] + 1 for times in movielens.sequences(ratings, ratings.times)])
    parts = [request(*one) for one in zip(films, stars, times, strict=True)]
    return Requests(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("history", "stars", "times"))
    )


def request(films: np.ndarray, stars: np.ndarray, time: int) -> Requests:
    """Makes one request from the films that a user has rated and their stars, the newest last."""
    kept = min(len(films), LENGTH)
    history, centred = np.zeros((1, LENGTH), np.int64), np.zeros((1, LENGTH), np.float32)
    if kept:
        history[0, -kept:], centred[0, -kept:] = films[-kept:], stars[-kept:] - MEAN_STARS
    return Requests(history, centred, np.array([time], np.int64))


class Catalog:
    """What is known of the films at any moment.

    Args:
        ratings: the ratings that may be known: those to train on.
    """

    def __init__(self, ratings: movielens.Ratings) -> None:
        self.genres = ratings.genres
        self.years = np.where(ratings.years > 0, ratings.years, 1990).astype(np.float32)
        # A film and a time as one number: the ratings of a film before a time are those between two places of `_keys`.
        keys = ratings.films * _SECONDS + ratings.times
        order = np.argsort(keys)
        self._keys = keys[order]
        self._starts = np.searchsorted(self._keys, np.arange(ratings.num_films) * _SECONDS)
        self._stars = np.append(0.0, np.cumsum(ratings.stars[order] - MEAN_STARS))

    def before(self, films: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns how many ratings films had before a moment, and the mean of their stars less `MEAN_STARS`."""
        starts, ends = self._starts[films], np.searchsorted(self._keys, films * _SECONDS + times)
        counts = ends - starts
        return counts, (self._stars[ends] - self._stars[starts]) / (counts + PRIOR)

    def features(self, asked: Requests, films: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the inputs of the ranking models for some films of each request.

        Args:
            asked: the requests.
            films: the films to be ranked, int64 [requests, films].

        Returns:
            Arrays of [requests * films, ...]: `history`, `stars`, `film`, `genres` and `numbers`.
        """
        recent, known = asked.history[:, -RECENT:], asked.history > 0
        filled = np.maximum(known.sum(axis=1), 1)[:, np.newaxis]
        filled_recent = np.maximum((recent > 0).sum(axis=1), 1)[:, np.newaxis]
        # How often each genre is among the recent films, and how the user's stars for it differ from the mean.
        mood = self.genres[recent].sum(axis=1) / filled_recent
        of_history = self.genres[asked.history]
        taste = np.einsum("rl,rlg->rg", asked.stars, of_history) / (of_history.sum(axis=1) + 2)
        year = (self.years[recent] * (recent > 0)).sum(axis=1, keepdims=True) / filled_recent

        genres, years = self.genres[films], self.years[films]
        named = np.maximum(genres.sum(axis=2), 1)
        counts, stars = self.before(films, asked.times[:, np.newaxis])
        numbers = (
            np.log1p(counts) / 3,
            stars,
            np.broadcast_to(asked.stars.sum(axis=1, keepdims=True) / filled, films.shape),
            np.broadcast_to(np.log1p(filled) / 4, films.shape),
            np.einsum("rg,rfg->rf", mood, genres) / named,
            np.einsum("rg,rfg->rf", taste, genres) / named,
            np.abs(years - year) / 20,
            (years - 1990) / 20,
        )
        rows = films.size
        return {
            "history": np.repeat(asked.history, films.shape[1], axis=0),
            "stars": np.repeat(asked.stars, films.shape[1], axis=0),
            "film": films.reshape(rows, 1),
            "genres": genres.reshape(rows, -1),
            "numbers": np.stack(numbers, axis=-1).reshape(rows, NUMBERS).astype(np.float32),
        }


def save(ratings: movielens.Ratings, path: pathlib.Path) -> None:
    """Writes ratings and films, for the program that serves."""
    arrays = dataclasses.asdict(ratings)
    texts = {name: arrays.pop(name) for name in ("titles", "genre_names")}
    np.savez_compressed(path, texts=json.dumps(texts), **arrays)


def load(path: pathlib.Path) -> movielens.Ratings:
    """Reads what `save` wrote."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    return movielens.Ratings(**json.loads(str(arrays.pop("texts"))), **arrays)
