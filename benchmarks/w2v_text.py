"""A real text for the word2vec benchmark, and what its vectors are judged by: similarities of words, and analogies."""

import collections
import dataclasses
import pathlib

import numpy as np
from numpy.typing import NDArray

MIN_COUNT = 5
SAMPLE = 1e-3
WINDOW = 5
_QUESTIONS = 256
"""Questions that are answered at once, which bounds the memory."""


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """A text of sentences, a line each, without rare words.

    Args:
        words: the vocabulary, most frequent first.
        tokens: ids of words, -1 behind each sentence, int32 [positions].
        counts: how often each word occurs, [words].
    """

    words: list[str]
    tokens: NDArray[np.int32]
    counts: NDArray[np.int64]

    @classmethod
    def read(cls, path: str) -> "Corpus":
        """Reads a text; words that occur less than `MIN_COUNT` times are left out."""
        lines = [line.split() for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines()]
        seen = collections.Counter(word for line in lines for word in line)
        words = [word for word, count in seen.most_common() if count >= MIN_COUNT]
        if len(words) < 2:
            raise ValueError(
                f"`data` must have 2 words that occur {MIN_COUNT} times. Received: {len(words)} in {path}."
            )
        ids = {word: number for number, word in enumerate(words)}
        tokens = np.array([i for line in lines for i in (*(ids[word] for word in line if word in ids), -1)], np.int32)
        return cls(words, tokens, np.array([seen[word] for word in words]))

    @property
    def sentences(self) -> list[list[str]]:
        """The same as lists of words."""
        ends = np.flatnonzero(self.tokens < 0)
        return [[self.words[i] for i in ids if i >= 0] for ids in np.split(self.tokens, ends) if len(ids) > 1]


@dataclasses.dataclass(frozen=True)
class Judges:
    """What people say of words.

    Args:
        wordsim: a file with lines of word, word, score; None for none.
        analogies: a file in the form of questions-words.txt; None for none.
    """

    wordsim: str | None = None
    analogies: str | None = None

    def judge(self, words: list[str], vectors: NDArray[np.float32]) -> dict[str, float]:
        """Compares vectors, [words, dim], with them.

        Returns:
            "wordsim_spearman", the rank correlation of the cosine with the scores; "analogies_percent", the share of
            questions a : b = c : ? whose answer is the word nearest to b - a + c that is not in the question. Pairs and
            questions with unknown words are left out.
        """
        ids = {word: number for number, word in enumerate(words)}
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        found: dict[str, float] = {}
        if self.wordsim is not None:
            found["wordsim_spearman"] = round(_similarities(ids, unit, self.wordsim), 4)
        if self.analogies is not None:
            found["analogies_percent"] = round(_analogies(ids, unit, self.analogies), 2)
        return found


def _similarities(ids: dict[str, int], unit: NDArray[np.float32], path: str) -> float:
    lines = pathlib.Path(path).read_text(encoding="utf-8").lower().splitlines()
    judged = [line.split("\t") for line in lines if line and not line.startswith("#")]
    known = [(ids[a], ids[b], float(score)) for a, b, score in judged if a in ids and b in ids]
    left, right, scores = (np.array(column) for column in zip(*known, strict=True))
    return float(np.corrcoef(_ranks(scores), _ranks(np.sum(unit[left] * unit[right], axis=1)))[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks; equal values get their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _analogies(ids: dict[str, int], unit: NDArray[np.float32], path: str) -> float:
    lines = pathlib.Path(path).read_text(encoding="utf-8").lower().splitlines()
    asked = [line.split() for line in lines if not line.startswith(":")]
    known = np.array([[ids[word] for word in line] for line in asked if all(word in ids for word in line)])
    right = 0
    for a, b, c, answer in (part.T for part in np.array_split(known, len(known) // _QUESTIONS + 1)):
        scores = (unit[b] - unit[a] + unit[c]) @ unit.T  # [questions, words]
        for of_question in (a, b, c):
            scores[np.arange(len(answer)), of_question] = -np.inf
        right += int(np.sum(np.argmax(scores, axis=1) == answer))
    return 100 * right / len(known)
