"""The reader of MovieLens: order of time, histories, and a split without leaks."""

import movielens
import numpy as np
import pytest

MOVIES = """movieId,title,genres
5,"Odd, The (1990)",Drama|Comedy
2,No Year,(no genres listed)
9,Late (2001),Comedy
"""
RATINGS = "userId,movieId,rating,timestamp\n7,9,4.0,300\n7,2,0.5,100\n3,5,5.0,50\n7,5,3.5,200\n3,11,4.5,40\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "movies.csv").write_text(MOVIES)
    (tmp_path / "ratings.csv").write_text(RATINGS)
    return tmp_path


def test_ratings_are_by_user_and_time(folder):
    found = movielens.load(folder)
    assert found.ids.tolist() == [0, 2, 5, 9, 11]
    assert found.titles == ["", "No Year", "Odd, The (1990)", "Late (2001)", "film 11"]
    assert found.years.tolist() == [0, 0, 1990, 2001, 0] and found.genre_names == ["Comedy", "Drama"]
    assert found.genres.tolist() == [[0, 0], [0, 0], [1, 1], [1, 0], [0, 0]]
    assert found.users.tolist() == [0, 0, 1, 1, 1] and found.films.tolist() == [4, 2, 1, 2, 3]
    assert found.stars.tolist() == [4.5, 5, 0.5, 3.5, 4] and found.liked.tolist() == [1, 1, 0, 0, 1]
    assert [part.tolist() for part in movielens.sequences(found)] == [[4, 2], [1, 2, 3]]
    assert movielens.histories(found, 2).tolist() == [[0, 0], [0, 4], [0, 0], [0, 1], [1, 2]]
    assert movielens.histories(found, 1, found.stars)[:, 0].tolist() == [0, 4.5, 0, 0.5, 3.5]


def test_the_latest_ratings_of_each_user_are_held_out(folder):
    earlier, latest = movielens.split_by_time(movielens.load(folder), 2)
    # The first user has no more than two ratings.
    assert earlier.films.tolist() == [4, 2, 1] and latest.films.tolist() == [2, 3]
    ratings = movielens.synthetic(users=30, films=100, per_user=30)
    earlier, latest = movielens.split_by_time(ratings, 5)
    assert len(earlier) + len(latest) == len(ratings) and (np.bincount(latest.users) == 5).all()
    assert all(earlier.times[earlier.users == u].max() < latest.times[latest.users == u].min() for u in range(30))


def test_a_folder_without_the_files_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="must be a folder with ratings.csv and movies.csv.*ratings.csv is missing"):
        movielens.load(tmp_path)


def test_a_file_of_one_rating_or_none(folder):
    lines = RATINGS.splitlines(keepends=True)
    (folder / "ratings.csv").write_text("".join(lines[:2]))
    assert movielens.load(folder).stars.tolist() == [4]
    (folder / "ratings.csv").write_text(lines[0])
    with pytest.raises(SystemExit, match=r"must be a folder with ratings\. .*ratings.csv has none"):
        movielens.load(folder)


def test_made_ratings_follow_from_the_seed_and_from_tastes():
    ratings, again, other = (movielens.synthetic(users=200, seed=seed) for seed in (1, 1, 2))
    assert (ratings.films == again.films).all() and len(ratings) != len(other)
    assert all(len(set(films)) == len(films) >= 20 for films in movielens.sequences(ratings))
    # Neighbours in time are of one genre more often than films that are far apart.
    alike = [
        (ratings.genres[films[:-1]] * ratings.genres[films[1:]]).any(axis=1) for films in movielens.sequences(ratings)
    ]
    far = [
        (ratings.genres[films[:-10]] * ratings.genres[films[10:]]).any(axis=1) for films in movielens.sequences(ratings)
    ]
    assert np.concatenate(alike).mean() > np.concatenate(far).mean() + 0.15


def test_the_real_data_is_read_whole(data):
    ratings = movielens.load(data / "ml-latest-small")
    assert len(ratings) == 100_836 and ratings.num_users == 610 and ratings.num_films == 9_743
    assert ratings.titles[1] == "Toy Story (1995)" and len(ratings.genre_names) == 19
    assert abs(ratings.liked.mean() - 0.482) < 0.01
    assert (np.diff(ratings.times)[np.diff(ratings.users) == 0] >= 0).all()
