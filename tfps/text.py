"""From text to what a `tfps.models.SkipGram` trains on: frequent words thinned out, words paired with neighbours."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfps.checks import check_array, check_integer, check_number
from tfps.errors import ConfigError

__all__ = ["keep_probabilities", "neighbour_pairs"]

_MOST = 2**31 - 1
"""Ids are int32 on their way to a model."""


def keep_probabilities(counts: Any, threshold: float = 1e-3) -> Any:
    """How likely word2vec keeps a place of a text, by the word there: frequent words say little about their neighbours.

    Args:
        counts: how often each word comes, [words].
        threshold: words are kept whole whose share f of the text is below about this; others with the probability
            sqrt(threshold / f) + threshold / f.

    Returns:
        float64, [words], at most 1.

    Raises:
        ConfigError: the threshold is not above 0, a count is below 0, or there are no words.

    Source:
        The code of word2vec.c (`sample`); the paper, Mikolov et al. 2013, section 2.3, has only the root.

    Example:
        >>> keep_probabilities([900_000, 99_000, 1_000]).round(3).tolist()
        [0.034, 0.111, 1.0]
    """
    counts = check_array("counts", counts, np.float64, "numbers")
    threshold = check_number("threshold", threshold, above=0)
    if not (np.isfinite(counts).all() and counts.min(initial=0.0) >= 0 and counts.sum() > 0):
        raise ConfigError(
            "`counts` must be finite, none below 0 and not all 0. "
            f"Received: from {counts.min(initial=0.0)} to {counts.max(initial=0.0)}, {counts.size} of them."
        )
    # A word that never comes has no place to lose.
    part = np.divide(threshold * counts.sum(), counts, out=np.ones_like(counts), where=counts > 0)
    return np.minimum(np.sqrt(part) + part, 1.0)


def neighbour_pairs(tokens: Any, window: int, batch: int, steps: int, seed: int = 0) -> Any:
    """Batches of pairs: places of a text drawn at random, and for each a neighbour, the nearer the likelier.

    It is made of TensorFlow operations alone, so workers run it; no two steps draw the same.

    Args:
        tokens: the text as ids, [places].
        window: how many words on each side are neighbours, at least 1. One at distance d is drawn in proportion to
            window + 1 - d, as word2vec does, which draws the width of each window.
        batch: pairs a step.
        steps: batches there are.
        seed: of the draws.

    Returns:
        A `tf.data.Dataset` of (centers, contexts), int32 [batch] each.

    Raises:
        ConfigError: an argument breaks its rule, or the text is shorter than a window and its center.
    """
    window, batch = check_integer("window", window, at_least=1), check_integer("batch", batch, at_least=1)
    steps, seed = check_integer("steps", steps, at_least=0), check_integer("seed", seed)
    tokens = check_array("tokens", tokens, None, "integers")
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer) or len(tokens) < 2 * window + 1:
        raise ConfigError(
            f"`tokens` must be a vector of integers, at least 2 * window + 1, {2 * window + 1}, of them. "
            f"Received: {tokens.dtype} of shape {tokens.shape}."
        )
    if tokens.min() < 0 or tokens.max() > _MOST:
        raise ConfigError(f"`tokens` must be from 0 to {_MOST}. Received: from {tokens.min()} to {tokens.max()}.")
    text = tf.constant(tokens, tf.int32)
    near = np.repeat(np.arange(1, window + 1), np.arange(window, 0, -1))
    offsets = tf.constant(np.concatenate([-near, near]), tf.int32)

    def draw(step: Any) -> Any:
        numbers = tf.random.stateless_uniform([2, batch], seed=[seed, step], dtype=tf.float64)
        place = window + tf.cast(numbers[0] * (len(tokens) - 2 * window), tf.int32)
        neighbour = place + tf.gather(offsets, tf.cast(numbers[1] * len(offsets), tf.int32))
        return tf.gather(text, place), tf.gather(text, neighbour)

    return tf.data.Dataset.range(steps).map(draw).prefetch(4)
