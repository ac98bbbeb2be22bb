"""Reads ratings of films in the MovieLens format, or makes some. Needs numpy and no TensorFlow.

    import movielens

    ratings = movielens.load("ml-latest-small")  # or movielens.synthetic()
    earlier, latest = movielens.split_by_time(ratings, 10)  # the 10 latest ratings of each user are held out
    seen = movielens.histories(earlier, 50)  # what the user had rated before each rating

A folder has ratings.csv (userId,movieId,rating,timestamp) and movies.csv (movieId,title,genres), each with a header, as
https://grouplens.org/datasets/movielens/latest/ has them. Users are numbered from 0 and films from 1, because film 0 is
padding.
"""

import csv
import dataclasses
import itertools
import pathlib
import re

import numpy as np

LIKED = 4.0  # stars from which on a user liked a film


@dataclasses.dataclass(frozen=True)
class Ratings:
    """Ratings by user, and for each user in the order of time. Row 0 of what is said of films is padding.

    Args:
        users: the user of each rating, from 0, int64 [ratings].
        films: the film of each rating, from 1, int64 [ratings].
        stars: 0.5 to 5, float32 [ratings].
        times: seconds since 1970, int64 [ratings].
        ids: the movieId of each film, int64 [1 + films].
        titles: the title of each film, with its year, [1 + films].
        years: the year of each film, 0 where the title has none, int64 [1 + films].
        genres: 1 where a film is of a genre, float32 [1 + films, genres].
        genre_names: the name of each genre.
    """

    users: np.ndarray
    films: np.ndarray
    stars: np.ndarray
    times: np.ndarray
    ids: np.ndarray
    titles: list[str]
    years: np.ndarray
    genres: np.ndarray
    genre_names: list[str]

    def __len__(self) -> int:
        return len(self.users)

    @property
    def num_users(self) -> int:
        """Returns the number of users; in a part of the ratings some may have none."""
        return int(self.users.max()) + 1

    @property
    def num_films(self) -> int:
        """Returns the number of films including film 0, which is padding: the rows that a table of films needs."""
        return len(self.titles)

    @property
    def liked(self) -> np.ndarray:
        """Returns 1 for each rating of `LIKED` stars or more, float32 [ratings]."""
        return (self.stars >= LIKED).astype(np.float32)

    def take(self, chosen: np.ndarray) -> "Ratings":
        """Returns some of the ratings, and all films.

        Args:
            chosen: indices in ascending order, or a mask.
        """
        columns = ("users", "films", "stars", "times")
        return dataclasses.replace(self, **{name: getattr(self, name)[chosen] for name in columns})


def load(folder: str | pathlib.Path) -> Ratings:
    """Reads ratings.csv and movies.csv of a folder.

    Ratings of the same second have a random order, the same in every run: in the file they are ordered by film, which
    would give away what comes next.
    """
    folder = pathlib.Path(folder)
    for name in ("ratings.csv", "movies.csv"):
        if not (folder / name).is_file():
            raise SystemExit(f"--data must be a folder with ratings.csv and movies.csv. {folder / name} is missing.")
    # A film of ratings.csv that movies.csv does not name has no genre.
    with (folder / "movies.csv").open(encoding="utf-8", newline="") as file:
        movies = {int(row["movieId"]): (row["title"], row["genres"]) for row in csv.DictReader(file)}
    with (folder / "ratings.csv").open(encoding="utf-8") as file:
        if len(list(itertools.islice(file, 2))) < 2:
            raise SystemExit(f"--data must be a folder with ratings. {folder / 'ratings.csv'} has none.")
    users, rated, stars, times = np.loadtxt(
        folder / "ratings.csv", delimiter=",", skiprows=1, usecols=range(4), ndmin=2
    ).T
    ids = np.union1d(rated.astype(np.int64), np.array(list(movies), np.int64))
    titles, of_film = zip(*(movies.get(film, (f"film {film}", "")) for film in ids.tolist()), strict=True)
    named = [[] if "(no genres" in genres else list(filter(None, genres.split("|"))) for genres in of_film]
    names = sorted(set(sum(named, [])))
    genres = np.array([[name in one for name in names] for one in named], np.float32).reshape(len(ids), len(names))
    years = [int(found[1]) if (found := re.search(r"\((\d{4})\)\s*$", title)) else 0 for title in titles]
    return _in_order(
        Ratings(
            users=np.unique(users, return_inverse=True)[1].reshape(-1),
            films=np.searchsorted(ids, rated.astype(np.int64)) + 1,
            stars=stars.astype(np.float32),
            times=times.astype(np.int64),
            ids=np.append(0, ids),
            titles=["", *titles],
            years=np.append(0, years),
            genres=np.pad(genres, ((1, 0), (0, 0))),
            genre_names=names,
        )
    )


def synthetic(users: int = 600, films: int = 1500, per_user: int = 80, genres: int = 12, seed: int = 1) -> Ratings:
    """Makes ratings that can be learned: few films are popular, and each user likes some genres and directions more.

    Args:
        users: the number of users.
        films: the number of films.
        per_user: ratings of a user in the mean; each has at least 20.
        genres: the number of genres; a film has one or two.
        seed: what the ratings follow from.
    """
    draw = np.random.default_rng(seed)
    main, second = draw.integers(0, genres, (2, films))
    of_genre = np.zeros((films, genres), np.float32)
    of_genre[np.arange(films), main] = of_genre[np.arange(films), second] = 1
    # What genres do not say: three directions in which films differ and tastes do, too.
    traits, likes = draw.normal(size=(films, 3)), draw.normal(size=(users, 3))
    tastes = draw.normal(size=(users, genres)) @ of_genre.T / np.sqrt(of_genre.sum(axis=1)) + likes @ traits.T
    popularity, quality = draw.lognormal(0, 1.5, films), draw.normal(size=films)

    parts = []
    counts = np.clip(20 + draw.exponential(per_user - 20, users).astype(int), 20, films // 2)
    for user, count in enumerate(counts):
        # The largest sums of a logarithm and a Gumbel number are a draw without replacement.
        wanted = np.log(popularity) + tastes[user] + draw.gumbel(size=films)
        rated = np.argsort(-wanted)[:count]
        # A user watches in moods: films of a genre come together.
        order = np.argsort(draw.normal(size=genres)[main[rated]] + 0.1 * draw.normal(size=count))
        times = 1_500_000_000 + int(draw.integers(0, 10**8)) + 3600 * np.arange(count)
        parts.append((np.full(count, user), rated[order] + 1, times))
    rows, rated, times = map(np.concatenate, zip(*parts, strict=True))
    enjoyed = tastes[rows, rated - 1] + quality[rated - 1] + draw.normal(size=len(rows))
    years = draw.integers(1950, 2020, films)
    return Ratings(
        users=rows,
        films=rated,
        stars=np.clip(np.round(2 * (2.8 + 0.5 * enjoyed)) / 2, 0.5, 5).astype(np.float32),
        times=times,
        ids=np.arange(films + 1),
        titles=["", *(f"Film {number} ({year})" for number, year in enumerate(years, 1))],
        years=np.append(0, years),
        genres=np.pad(of_genre, ((1, 0), (0, 0))),
        genre_names=[f"Genre {number}" for number in range(1, genres + 1)],
    )


def split_by_time(ratings: Ratings, latest: int) -> tuple[Ratings, Ratings]:
    """Holds out what each user rated last.

    A user with `latest` ratings or fewer keeps them all in the first part, as there is nothing to foretell them from.

    Args:
        ratings: ratings in order.
        latest: how many ratings of each user are held out.

    Returns:
        The earlier ratings, and the latest ones.
    """
    counts = np.bincount(ratings.users)
    from_end = np.cumsum(counts)[ratings.users] - np.arange(len(ratings))  # 1 for the last rating of a user
    held_out = (from_end <= latest) & (counts[ratings.users] > latest)
    return ratings.take(~held_out), ratings.take(held_out)


def histories(ratings: Ratings, length: int, values: np.ndarray | None = None) -> np.ndarray:
    """Returns what the same user had rated before each rating, [ratings, length].

    The newest is last, and zeros fill up the front: the third rating of a user who rated the films 7, 3 and 9 has
    [..., 0, 7, 3].

    Args:
        ratings: ratings in order.
        length: how many of the newest are kept.
        values: what is returned of each earlier rating (default: its film), [ratings].
    """
    values = ratings.films if values is None else values
    starts = np.searchsorted(ratings.users, ratings.users)  # the first rating of each rating's user
    index = np.arange(len(ratings))[:, np.newaxis] + np.arange(-length, 0)
    return np.where(index >= starts[:, np.newaxis], values[np.maximum(index, 0)], 0).astype(values.dtype)


def sequences(ratings: Ratings, values: np.ndarray | None = None) -> list[np.ndarray]:
    """Returns the films of each user who has ratings, in the order of time; or other `values` [ratings] of them."""
    values = ratings.films if values is None else values
    return np.split(values, np.flatnonzero(np.diff(ratings.users)) + 1)


def _in_order(ratings: Ratings) -> Ratings:
    """Orders ratings by user and time."""
    ties = np.random.default_rng(1).permutation(len(ratings))
    return ratings.take(np.lexsort((ties, ratings.times, ratings.users)))
