"""The recommenders of the examples on real data: a cluster learns what one process does, and more than baselines do."""

import pytest

# Most of the noise is the seed's: docs/examples.md has the deviations over three of them.
CLICKS = {"wide_deep": 0.908, "dlrm": 0.9, "xdeepfm": 0.905, "fibinet": 0.9}
NOISE = 0.006


def figures(data, name):
    """What the example reaches on a cluster, and in one process by plain Keras."""
    from benchmarks import examples

    return examples.run(name, data, 7, "--ps", "1"), examples.run(name, data, 7, "--alone")


@pytest.mark.slow
@pytest.mark.parametrize("name", CLICKS)
def test_click_models(data, name):
    found, alone = figures(data, name)
    assert found["AUC"] > CLICKS[name] and found["AUC"] == pytest.approx(alone["AUC"], abs=NOISE)
    assert found["accuracy"] > 0.84


@pytest.mark.slow
def test_two_tasks(data):
    found, alone = figures(data, "mmoe")
    assert found["AUC of income"] > 0.89 and found["AUC of never_married"] > 0.95
    assert found == pytest.approx(alone, abs=NOISE)


@pytest.fixture
def split(data):
    import movielens

    ratings = movielens.load(data / "ml-latest-small")
    return lambda latest: (ratings, *movielens.split_by_time(ratings, latest))


@pytest.mark.slow
def test_ratings_from_history(data):
    found, alone = figures(data, "din")
    assert found["GAUC"] > 0.64 and found["AUC"] > 0.72
    assert found == pytest.approx(alone, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "latest", "best"), [("sasrec", 1, 10), ("two_towers", 10, 50)])
def test_films_to_come(data, split, name, latest, best):
    import ranking

    from benchmarks import example_baselines

    _, earlier, held_out = split(latest)
    popular, _ = ranking.rank(example_baselines.popular(earlier), earlier, held_out, best)
    found, alone = figures(data, name)
    recall = f"{'HR' if latest == 1 else 'recall'}@{best}"
    assert found[recall] > 1.4 * popular
    assert found == pytest.approx(alone, abs=0.02)
