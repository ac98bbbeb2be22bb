"""The film recommender: features without leaks, each stage's part, and the whole on a cluster, served to a browser."""

import dataclasses
import json
import pathlib
import re
import threading
import types
import urllib.error
import urllib.request

import numpy as np
import pytest

pytest.importorskip("faiss", reason="needs faiss-cpu")

from examples import movielens
from examples.video_recommender import baselines, data, fuse, impressions

CHROMIUM = pathlib.Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def ratings():
    return movielens.synthetic(users=60, films=400, per_user=40, genres=6)


@pytest.fixture(scope="module")
def folder(strategy, ratings, tmp_path_factory):
    """A funnel that a cluster trained."""
    from examples.video_recommender.train import Trainer

    known, _ = movielens.split_by_time(ratings, 10)
    path = tmp_path_factory.mktemp("funnel")
    Trainer(strategy, path, known).train()
    return path


@pytest.fixture(scope="module")
def funnel(folder):
    from examples.video_recommender.funnel import Funnel

    return Funnel(folder)


@pytest.fixture(scope="module")
def url(folder):
    from examples.video_recommender.serve import make_server

    server = make_server(folder, 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_each_command_has_its_options(monkeypatch):
    from examples.video_recommender.__main__ import parse_arguments

    for command in ("train", "evaluate", "serve"):
        monkeypatch.setattr("sys.argv", ["video_recommender", command, "--alone", "--seed", "7"])
        args = parse_arguments()
        assert (args.command, args.alone, args.seed, args.data) == (command, True, 7, None)


def test_what_is_known_of_a_film_is_of_before_the_moment(ratings):
    catalog = data.Catalog(ratings)
    film = np.bincount(ratings.films).argmax()
    own = np.flatnonzero(ratings.films == film)
    for moment in (0, ratings.times[own[0]], ratings.times[own[0]] + 1, 2_000_000_000):
        before = own[ratings.times[own] < moment]
        counts, stars = catalog.before(np.array([film]), np.array([moment]))
        assert counts[0] == len(before)
        assert stars[0] == pytest.approx(np.sum(ratings.stars[before] - 3.5) / (len(before) + data.PRIOR))


def test_features_do_not_change_when_later_ratings_do(ratings):
    row = 25
    later = ratings.times >= ratings.times[row]
    changed = dataclasses.replace(
        ratings,
        stars=np.where(later, 0.5, ratings.stars),
        films=np.where(later, 1 + ratings.films % 399, ratings.films),
    )
    films = np.arange(1, 9)[np.newaxis]
    found = [data.Catalog(one).features(data.requests_before(one).take([row]), films) for one in (ratings, changed)]
    for name, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][name], err_msg=name)
    assert len(found[0]["film"]) == 8 and found[0]["numbers"].shape == (8, data.NUMBERS)


def test_a_request_of_a_visitor_is_that_of_a_user_with_the_same_history(ratings):
    asked = data.requests_after(ratings)
    own = ratings.users == 3
    same = data.request(ratings.films[own], ratings.stars[own], ratings.times[own][-1] + 1)
    for name in ("history", "stars", "times"):
        np.testing.assert_array_equal(getattr(asked.take([3]), name), getattr(same, name))
    assert (data.request(np.zeros(0, int), np.zeros(0), 0).history == 0).all()


def test_impressions_are_watched_films_among_candidates_that_were_not(ratings):
    def recall(asked):
        return np.tile(np.arange(1, 301), (len(asked), 1))

    features, labels = impressions.make(ratings, data.Catalog(ratings), recall, 1)
    watched = labels["watch"][:, 0] == 1
    assert watched.mean() == pytest.approx(0.2) and (labels["liked"] <= labels["watch"]).all()
    assert 0.2 < labels["liked"].sum() / watched.sum() < 0.8
    seen = set(zip(ratings.users.tolist(), ratings.films.tolist(), strict=True))
    newest = features["history"][:, -1]
    # No film of the history is among what was not watched, and no watched film is in its own history.
    assert not (features["history"] == features["film"]).any()
    assert len(newest) == 5 * sum(min(len(one) - 1, impressions.PER_USER) for one in movielens.sequences(ratings))
    assert len(seen) == len(ratings)


def test_films_that_were_seen_are_no_negatives_though_the_recall_gives_few_others(ratings):
    popular = np.argsort(-np.bincount(ratings.films))[:5]

    def recall(asked):
        return np.tile(np.append(popular, 0), (len(asked), 1))

    features, labels = impressions.make(ratings, data.Catalog(ratings), recall, 1)
    seen = movielens.sequences(ratings)
    rows = [min(len(films) - 1, impressions.PER_USER) for films in seen]
    unseen = [len(set(popular) - set(films)) for films in seen]
    assert min(unseen) < impressions.NEGATIVES
    expected = sum(count * min(impressions.NEGATIVES, left) for count, left in zip(rows, unseen, strict=True))
    assert (labels["watch"] == 0).sum() == expected and labels["watch"].sum() == sum(rows)
    assert (features["film"] > 0).all() and len(features["film"]) == len(labels["liked"]) == expected + sum(rows)


def test_in_batch_loss_is_a_cross_entropy_that_forgives_equal_films():
    from examples.video_recommender import recall

    scores = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    films = np.array([[7], [8], [7], [9]])
    left_out = scores.astype(np.float64)
    left_out[0, 2] = left_out[2, 0] = -np.inf
    expected = np.log(np.exp(left_out).sum(axis=1)) - np.diag(scores)
    np.testing.assert_allclose(recall.in_batch_loss(films, scores), expected, rtol=1e-5)


def test_diversity_lowers_films_like_those_above_them():
    scores = np.array([3.0, 2.9, 2.8, 0.0])
    genres = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    assert fuse.diversify(scores, genres, 3, 0.0).tolist() == [0, 1, 2]
    assert fuse.diversify(scores, genres, 3, 0.5).tolist() == [0, 2, 1]
    assert fuse.diversify(scores, genres, 9, 0.5).tolist() == [0, 2, 1, 3]
    assert fuse.diversify(np.zeros(2), np.zeros((2, 2)), 2).tolist() == [0, 1]


def test_baselines_know_what_is_popular_and_what_goes_together():
    def of(users, films):
        made = movielens.synthetic(users=2, films=40)
        columns = {"stars": np.ones(len(films), np.float32), "times": np.arange(len(films))}
        return dataclasses.replace(made, users=np.array(users), films=np.array(films), **columns)

    # Users 0 to 3 rate films 1 to 3 and users 4 to 7 films 4 to 6, but for user 3, who has not rated film 3.
    pairs = [(u, f) for u in range(8) for f in ((1, 2, 3) if u < 4 else (4, 5, 6)) if (u, f) != (3, 3)]
    found = of(*zip(*pairs, strict=True))
    assert baselines.popularity(found)[0, :7].tolist() == [0, 4, 4, 3, 4, 4, 4]
    scores = baselines.matrix_factorisation(found, dim=2, l2=0.1)
    assert scores[3, 3] > 0.5 > 0.2 > np.abs(scores[3, 4:]).max()


def test_ratings_are_saved_for_the_program_that_serves(ratings, tmp_path):
    data.save(ratings, tmp_path / "ratings.npz")
    again = data.load(tmp_path / "ratings.npz")
    for name, values in vars(ratings).items():
        np.testing.assert_array_equal(getattr(again, name), values)


@pytest.mark.slow
def test_every_stage_is_evaluated(funnel, ratings):
    from examples.video_recommender import evaluate

    known, latest = movielens.split_by_time(ratings, 10)
    table = evaluate.evaluate(funnel, latest)
    assert len(funnel.ratings) == len(known)
    names = ["popularity", "matrix factorisation", "recall", "pre-rank", "rank", "fuse", "fuse, diverse"]
    assert list(table) == names and all(value > 0 for row in table.values() for value in row.values())
    # A stage cannot find what the one before it did not hand on.
    assert table["recall"]["recall@300"] >= table["pre-rank"]["recall@100"] >= table["rank"]["recall@10"]
    assert table["fuse, diverse"]["genres"] >= table["fuse"]["genres"]
    text = evaluate.text(table)
    assert f"{table['rank']['AUC']:.4f}" in text and len(text.splitlines()) == 8


@pytest.mark.slow
def test_a_recommendation_has_new_films_and_reasons(funnel):
    asked = data.requests_after(funnel.ratings).take([5])
    seen = funnel.ratings.films[funnel.ratings.users == 5]
    found = funnel.recommend(asked, seen)
    assert len(set(found.films.tolist())) == 10 and not np.isin(found.films, seen).any() and (found.films > 0).all()
    assert np.isin(found.because, asked.history).all() and (found.because > 0).all()
    assert list(found.handed_on.values()) == [300, 100, 40, 10]
    assert all(0 < values.min() <= values.max() < 1 for values in (found.watch, found.like))


def get(url):
    with urllib.request.urlopen(url, timeout=60) as response:
        return json.load(response)


@pytest.mark.slow
def test_lists_are_served_over_http(url, funnel):
    assert get(url + "/api/users") == {"users": 60}
    (film,) = get(url + "/api/films?search=film+17+(")
    assert film["title"] == funnel.ratings.titles[17] and film["genres"]
    known, visitor = get(url + "/api/recommend?user=5"), get(url + "/api/recommend?films=17,20")
    assert len(known["films"]) == len(visitor["films"]) == 10
    assert {one["because"] for one in visitor["films"]} <= {funnel.ratings.titles[17], funnel.ratings.titles[20]}
    assert [one["stage"] for one in known["stages"]] == ["recall", "pre-rank", "rank", "fuse"]
    assert known["total_ms"] >= sum(one["ms"] for one in known["stages"]) > 0
    assert [one["id"] for one in visitor["history"]] == [20, 17]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "status", "message"),
    [
        ("/api/recommend?user=60", 400, "user must be a number from 0 to 59. Received: 60"),
        ("/api/recommend?user=-1", 400, "user must be a number. Received: '-1'"),
        ("/api/recommend", 400, "films must be 1 to 50 numbers, separated by commas. Received: ''"),
        ("/api/recommend?films=1,x", 400, "films must be 1 to 50 numbers, separated by commas. Received: '1,x'"),
        ("/api/recommend?films=99999", 400, r"films must be the movieIds of known films. Received: \[99999\]"),
        ("/nowhere", 404, "there is no /nowhere"),
    ],
)
def test_what_cannot_be_answered_is_refused(url, target, status, message):
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(url + target)
    assert refused.value.code == status
    assert re.match(message, json.load(refused.value)["error"])


@pytest.mark.slow
def test_the_page_is_served(url):
    with urllib.request.urlopen(url, timeout=60) as response:
        assert response.headers["Content-Type"].startswith("text/html") and b"<title>" in response.read()


def test_figures_are_summed_up_over_seeds():
    from examples.video_recommender.compare import over_seeds

    mean, deviation = over_seeds([{"rank": {"AUC": 0.5}}, {"rank": {"AUC": 0.7}}])
    assert mean["rank"]["AUC"] == pytest.approx(0.6) and deviation["rank"]["AUC"] == pytest.approx(0.02**0.5)


def test_a_place_without_a_film_comes_last():
    from examples.video_recommender.funnel import best

    assert best(np.array([[0.9, 0.1, 0.5]]), np.array([[0, 7, 8]]), 3).tolist() == [[8, 7, 0]]


def test_ratings_that_were_not_trained_on_are_refused(ratings, monkeypatch):
    from examples.video_recommender import __main__ as commands
    from examples.video_recommender import funnel

    monkeypatch.setattr(funnel, "Funnel", lambda folder: types.SimpleNamespace(ratings=ratings))
    monkeypatch.setattr("sys.argv", ["video_recommender", "evaluate", "--out", "trained"])
    with pytest.raises(SystemExit, match="--data must be what trained was trained on. Received: no --data"):
        commands.evaluate(commands.parse_arguments())


def test_a_folder_without_a_funnel_is_refused(tmp_path):
    from examples.video_recommender.funnel import Funnel

    with pytest.raises(SystemExit, match="There is no trained funnel in .* Run the command `train`"):
        Funnel(tmp_path)


@pytest.mark.slow
def test_a_browser_shows_films_reasons_and_timings(url, funnel):
    if not CHROMIUM.exists():
        pytest.skip(f"needs a browser: {CHROMIUM}")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        errors = []
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(url)
        page.get_by_label("A known user").fill("5")
        page.get_by_role("button", name="Recommend").click()
        rows = page.locator("#films tbody tr")
        rows.first.wait_for()
        expected = get(url + "/api/recommend?user=5")["films"]
        shown = rows.all_inner_texts()
        assert len(shown) == 10
        assert all(
            one["title"] in text and "because of Film" in text for one, text in zip(expected, shown, strict=True)
        )
        stages = page.locator("#stages tbody tr").all_inner_texts()
        assert [text.split("\t")[0] for text in stages] == ["recall", "pre-rank", "rank", "fuse", "all, with features"]
        assert all(float(text.split()[-1]) > 0 for text in stages)
        # A visitor without a history looks for a film, and likes it.
        page.get_by_label("Or films that you like").fill("film 17 (")
        page.get_by_role("button", name="Search").click()
        page.locator("#found button").first.click()
        page.locator("#films tbody tr", has_text=f"because of {funnel.ratings.titles[17]}").first.wait_for()
        assert not errors
        browser.close()


@pytest.mark.slow
def test_the_commands_on_real_data_beat_the_baselines(run, data, tmp_path):
    arguments = ("--data", data / "ml-latest-small", "--out", tmp_path / "funnel")
    run("-m", "examples.video_recommender", "train", *arguments)
    lines = run("-m", "examples.video_recommender", "evaluate", *arguments).splitlines()
    print("\n".join(lines))
    columns = next(line for line in lines if "recall@300" in line).split()
    of = {name: next(line for line in lines if line.startswith(name)) for name in ("popularity", "matrix", "fuse")}
    ndcg = {name: float(line[22:][11 * columns.index("NDCG@10") :][:11]) for name, line in of.items()}
    assert ndcg["fuse"] > ndcg["matrix"] > ndcg["popularity"], lines
