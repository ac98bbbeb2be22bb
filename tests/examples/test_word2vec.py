"""word2vec: what is drawn, how agreement is measured, and training on real text."""

import re

import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture(scope="module")
def word2vec():
    from examples import word2vec

    return word2vec


def test_rare_words_go_and_frequent_ones_are_to_be_dropped(word2vec):
    text = word2vec.Text("the " * 9000 + "cat sat mat " * 300 + "once")
    assert "once" not in text.ids and text.words[0] == "the"
    assert np.mean(text.tokens == 0) > 0.9
    np.testing.assert_array_equal(text.keep < 0.2, [True, False, False, False])


def test_empty_text(word2vec):
    with pytest.raises(SystemExit, match="No word of the text occurs 5 times"):
        word2vec.Text("a few words")


def test_separate_pairs(word2vec):
    centers, contexts = word2vec.separate_pairs(tf.constant([[-1, 4], [7, 8], [-1, -1]]), tf.constant([1, 2, 3]))
    assert centers.numpy().tolist() == [4, 7, 8] and contexts.numpy().tolist() == [1, 2, 2]


@pytest.mark.parametrize(
    ("second", "expected"), [([1, 4, 9, 16], 1), ([4, 3, 2, 1], -1), ([1, 1, 2, 2], 0.894427), ([2, 1, 4, 3], 0.6)]
)
def test_spearman_by_hand(word2vec, second, expected):
    assert word2vec.spearman(np.array([1, 2, 3, 4]), np.array(second)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("epochs", "similarity"), [(5, 0.15), pytest.param(10, 0.35, marks=pytest.mark.slow)], ids=["short", "whole"]
)
def test_wikipedia_embedded(run, data, tmp_path, epochs, similarity):
    output = run(
        *("examples/word2vec.py", "--data", data / "wiki_w2v/wiki_text8like.txt"),
        *("--wordsim", data / "wiki_w2v/wordsim353.tsv", "--output", tmp_path / "vectors.txt"),
        *("--epochs", epochs, "--dim", 50),
    )
    assert float(re.search(r"similarity: (-?[\d.]+)", output)[1]) > similarity, output
    first, *rows = (tmp_path / "vectors.txt").read_text().splitlines()
    assert first == f"{len(rows)} 50" and len(rows[0].split()) == 51
    assert re.search(r"contexts/embeddings +\[8639, 50\]", output)
