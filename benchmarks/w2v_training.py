"""Whole trainings of word vectors on a real text, by tfps and by gensim: how fast, and how good the vectors are.

Both read the same sentences and drop the same share of frequent words, with the same vocabulary, widths of windows,
negatives, learning rates and epochs.
"""

import dataclasses
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.ctr_contenders import Contender
from benchmarks.meter import Meter, Reading
from benchmarks.w2v_task import LEARNING_RATE, W2vTask
from benchmarks.w2v_text import MIN_COUNT, SAMPLE, WINDOW, Corpus, Judges

_LAST_RATE = 0.0001
"""The learning rate falls to it in a straight line; the default of gensim."""


@dataclasses.dataclass(frozen=True)
class TextTask:
    """What is trained.

    Args:
        corpus: the text.
        judges: what the vectors are judged by.
        epochs: passes through the text.
        sizes: the vector's length, the negatives and the batch.
    """

    corpus: Corpus
    judges: Judges
    epochs: int
    sizes: W2vTask

    @property
    def parts(self) -> int:
        """The steps of a pass."""
        return -(-len(self.corpus.tokens) // self.sizes.batch)

    def groups(self) -> Any:
        """The passes as a dataset of groups."""
        import tfps

        keep = tfps.text.keep_probabilities(self.corpus.counts, SAMPLE)
        return tfps.text.neighbour_groups(
            self.corpus.tokens, WINDOW, self.sizes.batch, self.parts * self.epochs, keep=keep
        )

    def pairs(self) -> int:
        """How many pairs the passes have. gensim draws other widths and words, but as many on average."""
        return sum(int((centers.numpy() >= 0).sum()) for centers, _ in self.groups())


class GeoTraining(Contender):
    """`tfps.models.SkipGram` in GEO mode; a part of the text a step. Each `train` starts from new vectors."""

    def __init__(self, task: TextTask, num_ps: int, num_workers: int) -> None:
        super().__init__(task, num_ps, num_workers)
        import keras

        import tfps

        sizes, total = task.sizes, task.parts * task.epochs
        with tfps.ParameterServerStrategy(self.cluster).scope():
            self._model = tfps.models.SkipGram(
                len(task.corpus.words), sizes.dim, sizes.negatives, counts=task.corpus.counts
            )
            rate = keras.optimizers.schedules.PolynomialDecay(LEARNING_RATE, total, _LAST_RATE)
            geo = tfps.optimizers.Geo(
                keras.optimizers.SGD(rate), push_every=sizes.push_every, merge=sizes.merge, overlap=sizes.overlap
            )
            self._model.compile(geo)
        self._start = self._model.get_weights()
        self._keras = keras

    def train(self, steps: int, meter: Meter) -> NDArray[np.float32]:
        self._model.set_weights(self._start)
        self._model.optimizer.iterations.assign(0)
        timer = self._keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: meter.start(), on_train_end=lambda logs: meter.stop()
        )
        data = self.task.groups()
        if self.task.sizes.form == "pairs":
            data = data.map(_pairs_of_groups)
        self._model.fit(
            data, steps_per_epoch=self.task.parts, epochs=steps // self.task.parts, verbose=0, callbacks=[timer]
        )
        vectors: NDArray[np.float32] = self._model.centers.get_weights()[0]
        return vectors


class GensimTraining(Contender):
    """gensim's Word2Vec, with as many threads as there are workers. Each `train` starts from new vectors."""

    def __init__(self, task: TextTask, num_ps: int, num_workers: int) -> None:
        super().__init__(task, num_ps, num_workers)
        self._threads = num_workers

    def train(self, steps: int, meter: Meter) -> NDArray[np.float32]:
        from gensim.models import Word2Vec

        sizes, corpus = self.task.sizes, self.task.corpus
        numbers = {"vector_size": sizes.dim, "window": WINDOW, "negative": sizes.negatives, "sample": SAMPLE}
        model = Word2Vec(**numbers, sg=1, min_count=MIN_COUNT, alpha=LEARNING_RATE, workers=self._threads)
        model.build_vocab(sentences := corpus.sentences)
        meter.start()
        model.train(sentences, total_examples=len(sentences), epochs=steps // self.task.parts, end_alpha=_LAST_RATE)
        meter.stop()
        return np.stack([model.wv[word] for word in corpus.words])

    def processes(self) -> dict[str, list[int]]:
        return {"process": [os.getpid()]}

    def _start(self, num_ps: int, num_workers: int) -> Any:
        return None


TRAININGS: dict[str, type[Contender]] = {"geo": GeoTraining, "gensim": GensimTraining}


class TextRun:
    """One trainer, measured as often as asked. What is traced and started is done before the first measurement."""

    def __init__(self, name: str, task: TextTask, cluster: tuple[int, int]) -> None:
        self._name, self._task = name, task
        self._training, self._pairs = TRAININGS[name](task, *cluster), task.pairs()
        self._train()

    def measure(self) -> dict[str, Any]:
        """Trains once and returns the figures."""
        vectors, reading = self._train()
        words = int(self._task.corpus.counts.sum()) * self._task.epochs
        return {
            "trainer": self._name,
            "pairs_per_s": round(self._pairs / reading.seconds),
            "text_words_per_s": round(words / reading.seconds),
            "seconds": round(reading.seconds, 2),
            "cpu_ms_per_1000_pairs": {role: round(1000 * ms / self._pairs, 3) for role, ms in reading.cpu_ms.items()},
            **self._task.judges.judge(self._task.corpus.words, vectors),
        }

    def _train(self) -> tuple[NDArray[np.float32], Reading]:
        meter = Meter(self._training.processes())
        vectors = self._training.train(self._task.parts * self._task.epochs, meter)
        assert meter.reading is not None
        return vectors, meter.reading


def _pairs_of_groups(centers: Any, contexts: Any) -> tuple[Any, Any]:
    import tensorflow as tf

    is_pair = centers >= 0
    return centers[is_pair], tf.broadcast_to(contexts[:, tf.newaxis], tf.shape(centers))[is_pair]
