"""The work of the word2vec benchmark: sizes, and pairs of a made-up text whose words follow Zipf's law."""

import dataclasses
from typing import Any

import numpy as np

_TOKENS = 400_000
_SENTENCE = 1_000
_WINDOW = 5
_ENDLESS = 2**40
LEARNING_RATE = 0.025


@dataclasses.dataclass(frozen=True)
class W2vTask:
    """Skip-gram with negative sampling.

    Args:
        vocab: different words; the word of rank r is 1 / r as frequent as the first.
        dim: floats a vector.
        negatives: words drawn for each pair or group, by frequency ** 0.75.
        form: "groups", whose pairs share their negatives, or "pairs".
        batch: words of text a step; pairs a step where the form is "pairs".
        push_every: batches of a window, in GEO mode.
        merge: of windows, in GEO mode.
        overlap: whether they are exchanged while others are trained.
    """

    vocab: int = 100_000
    dim: int = 100
    negatives: int = 5
    form: str = "groups"
    batch: int = 1_000
    push_every: int = 300
    merge: str = "cap"
    overlap: bool = False

    def __post_init__(self) -> None:
        """Checks the sizes."""
        for name, least in (("vocab", 2), ("dim", 1), ("negatives", 1), ("batch", 1), ("push_every", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}. Received: {getattr(self, name)}.")

    @property
    def shares(self) -> np.ndarray:
        """How frequent each word is, [vocab]."""
        shares = 1 / np.arange(1, self.vocab + 1)
        return shares / shares.sum()


def text(task: W2vTask) -> np.ndarray:
    """The text as sentences of words, int32 [sentences, words of each]."""
    words = np.random.default_rng(0).choice(task.vocab, _TOKENS, p=task.shares)
    return words.astype(np.int32).reshape(-1, _SENTENCE)


def pairs(task: W2vTask) -> np.ndarray:
    """Each word with its neighbours, in the order of the text: whole batches of ids, int32 [2, batches, batch].

    As in word2vec a word's window is 1 to 5 words wide on each side, drawn anew for each.
    """
    sentences = text(task)
    widths = np.random.default_rng(1).integers(1, _WINDOW + 1, sentences.shape)
    position = np.arange(_SENTENCE)
    # [sentences, words, 2 * window]: the neighbour at each distance, and whether it is in the window and the sentence.
    offsets = np.concatenate([np.arange(-_WINDOW, 0), np.arange(1, _WINDOW + 1)])
    neighbours = np.take(sentences, np.clip(position[:, None] + offsets, 0, _SENTENCE - 1), axis=1)
    inside = (position[:, None] + offsets >= 0) & (position[:, None] + offsets < _SENTENCE)
    wanted = (np.abs(offsets) <= widths[:, :, None]) & inside
    both = np.stack([np.broadcast_to(sentences[:, :, None], neighbours.shape)[wanted], neighbours[wanted]])
    whole = both.shape[1] // task.batch
    if not whole:
        raise ValueError(f"`batch` must be at most {both.shape[1]}, the pairs there are. Received: {task.batch}.")
    return both[:, : whole * task.batch].reshape(2, whole, task.batch)


def pairs_of_a_text(sentences: int) -> float:
    """How many pairs so many sentences come to, on average over the widths drawn."""
    position = np.arange(_SENTENCE)
    each = [np.minimum(position, w) + np.minimum(_SENTENCE - 1 - position, w) for w in range(1, _WINDOW + 1)]
    return float(sentences * np.sum(np.mean(each, axis=0)))


def groups(task: W2vTask) -> Any:
    """The text as an endless `tf.data.Dataset` of groups, which are drawn as it is read."""
    import tfps

    tokens = np.pad(text(task), [(0, 0), (0, 1)], constant_values=-1).reshape(-1)
    return tfps.text.neighbour_groups(tokens, _WINDOW, task.batch, _ENDLESS)


def pairs_a_step(task: W2vTask) -> float:
    """How many pairs a step of groups has, on average over a pass through the text."""
    steps = -(-(_TOKENS + _TOKENS // _SENTENCE) // task.batch)
    return sum(int((centers.numpy() >= 0).sum()) for centers, _ in groups(task).take(steps)) / steps


def dataset(task: W2vTask, with_negatives: bool = False) -> Any:
    """The batches as an endless `tf.data.Dataset` over arrays in memory, which costs a copy a batch.

    Args:
        task: the work.
        with_negatives: whether negatives come with each batch, drawn beforehand, [batch, negatives].
    """
    import tensorflow as tf

    centers, contexts = pairs(task)
    arrays = [centers, contexts]
    if with_negatives:
        weights = task.shares**0.75
        shape = (*centers.shape, task.negatives)
        arrays.append(np.random.default_rng(2).choice(task.vocab, shape, p=weights / weights.sum()).astype(np.int32))
    return tf.data.Dataset.from_tensor_slices(tuple(arrays)).repeat().prefetch(4)
