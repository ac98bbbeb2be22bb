"""word2vec: what is drawn, how agreement is measured, and training on real text."""

import re

import numpy as np
import pytest


@pytest.fixture(scope="module")
def word2vec():
    from examples import word2vec

    return word2vec


def test_draws_neighbours_and_frequent_words(word2vec):
    text = word2vec.Text(" ".join(["a b c d e f g h i j k l m n"] * 50), min_count=5, keep_above=1.0)
    for (centers, contexts, drawn), labels in word2vec.batches(text, steps=3, batch=500):
        gap = (contexts.numpy() - centers.numpy()) % 14
        assert set(gap) == {1, 2, 3, 4, 5, 9, 10, 11, 12, 13}, "a neighbour is 1 to 5 words away"
        assert np.mean((gap == 1) | (gap == 13)) > 1.5 * np.mean((gap == 5) | (gap == 9))
        assert drawn.numpy().min() >= 0 and drawn.numpy().max() < 14 and labels.shape == (500, 1)


def test_steps_draw_differently_and_the_same_again(word2vec):
    text = word2vec.Text("a b c d e f g h " * 50, keep_above=1.0)
    first, second = ([centers.numpy() for (centers, *_), _ in word2vec.batches(text, 2, 100)] for _ in range(2))
    assert not np.array_equal(*first)
    np.testing.assert_array_equal(first, second)


def test_rare_words_go_and_frequent_ones_are_thinned(word2vec):
    text = word2vec.Text("the " * 9000 + "cat sat mat " * 300 + "once")
    assert "once" not in text.ids and text.words[0] == "the"
    assert np.mean(text.tokens == 0) < 0.6


def test_empty_text(word2vec):
    with pytest.raises(SystemExit, match="no word 5 times"):
        word2vec.Text("a few words")


@pytest.mark.parametrize(
    ("second", "expected"), [([1, 4, 9, 16], 1), ([4, 3, 2, 1], -1), ([1, 1, 2, 2], 0.894427), ([2, 1, 4, 3], 0.6)]
)
def test_spearman_by_hand(word2vec, second, expected):
    assert word2vec.spearman(np.array([1, 2, 3, 4]), np.array(second)) == pytest.approx(expected)


def test_wikipedia_embedded(run, data, tmp_path):
    output = run(
        *("examples/word2vec.py", "--data", data / "wiki_w2v/wiki_text8like.txt"),
        *("--wordsim", data / "wiki_w2v/wordsim353.tsv", "--output", tmp_path / "vectors.txt"),
        *("--epochs", 2, "--dim", 50),
    )
    assert float(re.search(r"similarity: (-?[\d.]+)", output)[1]) > 0.2, output
    first, *rows = (tmp_path / "vectors.txt").read_text().splitlines()
    assert first == f"{len(rows)} 50" and len(rows[0].split()) == 51
    assert re.search(r"contexts/embeddings +\[8639, 50\]", output)
