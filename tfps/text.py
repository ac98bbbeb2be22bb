"""Makes training pairs for `tfps.models.SkipGram` from a text: drops frequent words, pairs words with neighbours."""

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from tfps.checks import check_array, check_integer, check_number, check_seed
from tfps.errors import ConfigError

__all__ = ["keep_probabilities", "neighbour_groups", "neighbour_pairs"]

_MAX_ID = 2**31 - 1
"""The largest id, because ids are int32 in the dataset."""


def keep_probabilities(counts: ArrayLike, threshold: float = 1e-3) -> NDArray[np.float64]:
    """Computes the probability with which word2vec keeps each word. Frequent words say little about their neighbours.

    Args:
        counts: the number of occurrences of each word, [words].
        threshold: a word that makes up a fraction f of the text is kept with probability
            sqrt(threshold / f) + threshold / f, which is at least 1 for f up to about 2.6 * threshold.

    Returns:
        The probabilities, float64 [words], at most 1.

    Raises:
        ConfigError: the threshold is not above 0, a count is below 0, or there are no words.

    Source:
        The code of word2vec.c (`sample`). The paper, Mikolov et al. 2013, section 2.3, has only the square root.

    Example:
        >>> keep_probabilities([900_000, 99_000, 1_000]).round(3).tolist()
        [0.034, 0.111, 1.0]
    """
    counts = check_array("counts", counts, np.float64, "numbers")
    threshold = check_number("threshold", threshold, above=0)
    if not (np.isfinite(counts).all() and counts.min(initial=0.0) >= 0 and counts.sum() > 0):
        raise ConfigError(
            "`counts` must be finite, at least 0 and not all 0. "
            f"Received: from {counts.min(initial=0.0)} to {counts.max(initial=0.0)}, {counts.size} of them."
        )
    # The ratio is threshold / f. `out` sets it to 1 for words that do not occur, which would divide by 0.
    ratio = np.divide(threshold * counts.sum(), counts, out=np.ones_like(counts), where=counts > 0)
    return np.minimum(np.sqrt(ratio) + ratio, 1.0)


def neighbour_pairs(tokens: ArrayLike, window: int, batch: int, steps: int, seed: int = 0) -> tf.data.Dataset:
    """Makes batches of pairs: random words of a text, each with a random neighbour. Nearer neighbours are more likely.

    The dataset consists of TensorFlow operations only, so workers can run it. Each step draws different pairs.

    Args:
        tokens: the text as ids, [positions].
        window: the number of words on each side that count as neighbours, at least 1. A neighbour at distance d is
            drawn in proportion to window + 1 - d. word2vec has the same odds, because it draws the width of each
            window.
        batch: the number of pairs in a batch.
        steps: the number of batches.
        seed: the seed of the draws.

    Returns:
        A `tf.data.Dataset` of (centers, contexts), int32 [batch] each.

    Raises:
        ConfigError: an argument breaks its rule, or the text is shorter than a window and its center.
    """
    window, batch = check_integer("window", window, at_least=1), check_integer("batch", batch, at_least=1)
    steps, seed = check_integer("steps", steps, at_least=0), check_seed("seed", seed)
    tokens = check_array("tokens", tokens, None, "integers")
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer) or len(tokens) < 2 * window + 1:
        raise ConfigError(
            f"`tokens` must be a vector of at least 2 * window + 1 = {2 * window + 1} integers. "
            f"Received: {tokens.dtype} of shape {tokens.shape}."
        )
    if tokens.min() < 0 or tokens.max() > _MAX_ID:
        raise ConfigError(f"`tokens` must be from 0 to {_MAX_ID}. Received: from {tokens.min()} to {tokens.max()}.")
    text = tf.constant(tokens, tf.int32)
    # Each distance d is in the list window + 1 - d times, so a uniform draw has the right odds: with a window of 2 the
    # list is [1, 1, 2].
    near = np.repeat(np.arange(1, window + 1), np.arange(window, 0, -1))
    offsets = tf.constant(np.concatenate([-near, near]), tf.int32)

    def draw(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Stateless, so that a batch depends only on its number and not on the worker that makes it.
        numbers = tf.random.stateless_uniform([2, batch], seed=[seed, step], dtype=tf.float64)
        # Positions closer to an end than `window` are left out, so every offset stays inside the text.
        position = window + tf.cast(numbers[0] * (len(tokens) - 2 * window), tf.int32)
        neighbour = position + tf.gather(offsets, tf.cast(numbers[1] * len(offsets), tf.int32))
        return tf.gather(text, position), tf.gather(text, neighbour)

    return tf.data.Dataset.range(steps).map(draw).prefetch(4)


def neighbour_groups(
    tokens: ArrayLike, window: int, batch: int, steps: int, seed: int = 0, keep: ArrayLike | None = None
) -> tf.data.Dataset:
    """Makes batches of groups: each word of a part of the text, with the words around it.

    A group becomes as many pairs as the word has neighbours, which share their negatives; see `tfps.models.SkipGram`.
    As in word2vec, a word's window is 1 to `window` words wide on each side, drawn anew each time. The text is cut into
    parts of `batch` tokens, and each step has one. After ceil(tokens / batch) steps every word has been a context
    once; the parts then come again in another order. The dataset consists of TensorFlow operations only, so workers can
    run it.

    Args:
        tokens: the text as ids, [positions]; a token of -1 ends a sentence, and no window crosses it.
        window: the most words on each side that count as neighbours, at least 1.
        batch: the tokens of a part. A window does not go beyond its part, so parts should be much longer than windows.
        steps: the number of batches.
        seed: the seed of the widths, the dropped words and the order of parts.
        keep: the probability with which each word is kept, [words], as from `keep_probabilities`; words are dropped
            anew in each pass, before their neighbours are found. None to keep all.

    Returns:
        A `tf.data.Dataset` of (centers, contexts), int32 [n, 2 * window] and [n]: a row for each word that is kept. The
        centers are its neighbours, from left to right; -1 stands for none.

    Raises:
        ConfigError: an argument breaks its rule, or the text is empty.

    Example:
        >>> centers, contexts = next(iter(neighbour_groups([7, 8, 9, -1, 5], window=1, batch=5, steps=1)))
        >>> centers.numpy().tolist(), contexts.numpy().tolist()
        ([[-1, 8], [7, 9], [8, -1], [-1, -1]], [7, 8, 9, 5])
    """
    window, batch = check_integer("window", window, at_least=1), check_integer("batch", batch, at_least=1)
    steps, seed = check_integer("steps", steps, at_least=0), check_seed("seed", seed)
    tokens = check_array("tokens", tokens, None, "integers")
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer) or not len(tokens):
        raise ConfigError(
            f"`tokens` must be a vector of at least 1 integer. Received: {tokens.dtype} of shape {tokens.shape}."
        )
    if tokens.min() < -1 or tokens.max() > _MAX_ID:
        raise ConfigError(f"`tokens` must be from -1 to {_MAX_ID}. Received: from {tokens.min()} to {tokens.max()}.")
    text, parts = tf.constant(tokens, tf.int32), -(-len(tokens) // batch)
    probabilities = None if keep is None else _probability_by_token(keep, max(int(tokens.max()), 0))

    def draw(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Stateless, so that a batch depends only on its number and not on the worker that makes it.
        part = tf.random.experimental.index_shuffle(step % parts, [seed, step // parts], parts - 1)
        tokens = text[part * batch : (part + 1) * batch]
        numbers = tf.random.stateless_uniform([2, batch], seed=[seed, step])
        if probabilities is not None:
            tokens = tf.boolean_mask(tokens, numbers[0, : tf.size(tokens)] < tf.gather(probabilities, tokens + 1))
        words, sentences = tf.boolean_mask(tokens, tokens >= 0), tf.cumsum(tf.cast(tokens < 0, tf.int32))
        widths = 1 + tf.cast(numbers[1, : tf.size(words)] * window, tf.int32)
        return _neighbours(words, tf.boolean_mask(sentences, tokens >= 0), widths, window), words

    return tf.data.Dataset.range(steps).map(draw).prefetch(4)


def _neighbours(words: tf.Tensor, sentences: tf.Tensor, widths: tf.Tensor, window: int) -> tf.Tensor:
    """The words around each word, -1 for none, [n, 2 * window].

    Args:
        words: ids, [n].
        sentences: the number of the sentence of each, [n].
        widths: the width of the window of each, 1 to `window`, [n].
        window: the greatest width.
    """
    here = tf.range(tf.size(words))
    lengths = tf.math.bincount(sentences)
    begins = tf.cumsum(lengths, exclusive=True)
    # How far the window of each word reaches to both sides: not over the ends of its sentence.
    left = tf.minimum(here - tf.gather(begins, sentences), widths)
    right = tf.minimum(tf.gather(begins + lengths, sentences) - 1 - here, widths)
    # Few operations on matrices: they are most of what it costs to read a text.
    offsets = tf.constant([*range(-window, 0), *range(1, window + 1)], tf.int32)
    padded = tf.pad(words, [[window, window]], constant_values=-1)
    is_near = (offsets >= -left[:, tf.newaxis]) & (offsets <= right[:, tf.newaxis])
    return tf.where(is_near, tf.gather(padded, here[:, tf.newaxis] + (window + offsets)), -1)


def _probability_by_token(keep: ArrayLike, max_id: int) -> tf.Tensor:
    """The probability of each token to be kept, by its number plus 1: the ends of sentences, -1, stay."""
    probabilities = check_array("keep", keep, np.float64, "numbers")
    if probabilities.ndim != 1 or len(probabilities) <= max_id:
        raise ConfigError(
            f"`keep` must have a number for each id, {max_id + 1} or more. Received: shape {probabilities.shape}."
        )
    if not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise ConfigError(f"`keep` must be from 0 to 1. Received: from {probabilities.min()} to {probabilities.max()}.")
    return tf.constant(np.concatenate([[1.0], probabilities]), tf.float32)
