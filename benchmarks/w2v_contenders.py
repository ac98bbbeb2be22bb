"""The contenders that train word2vec: tfps in two modes, a loop on stock TensorFlow, gensim. All read the same text."""

import os
from typing import Any

from benchmarks.ctr_contenders import Contender, Fit, Loop, stock_strategy
from benchmarks.meter import Meter
from benchmarks.w2v_task import LEARNING_RATE, W2vTask, dataset, groups, pairs_a_step, pairs_of_a_text, text

_TRAINED_STEPS = 1_000_000


class Geo(Contender):
    """`tfps.models.SkipGram` in GEO mode."""

    def __init__(self, task: W2vTask, num_ps: int, num_workers: int) -> None:
        super().__init__(task, num_ps, num_workers)
        import keras

        import tfps

        with tfps.ParameterServerStrategy(self.cluster).scope():
            model = tfps.models.SkipGram(task.vocab, task.dim, task.negatives, counts=task.shares)
            optimizer = self._optimizer(tfps, keras.optimizers.SGD(LEARNING_RATE))
            model.compile(optimizer, steps_per_execution=task.push_every)  # callbacks are called once a window
        self._trained_long(model)
        in_groups = task.form == "groups"
        self._fit = Fit(model, keras, groups(task) if in_groups else dataset(task))
        self._pairs_a_step = pairs_a_step(task) if in_groups else task.batch

    def train(self, steps: int, meter: Meter) -> float:
        self._fit(steps, meter)
        return steps * self._pairs_a_step

    def _trained_long(self, model: Any) -> None:
        """Windows of a young model are short; what is measured is how it goes on after some millions of pairs."""
        model.optimizer.build(model.trainable_variables)
        model.optimizer.iterations.assign(_TRAINED_STEPS)

    def _optimizer(self, tfps: Any, inner: Any) -> Any:
        task = self.task
        return tfps.optimizers.Geo(inner, push_every=task.push_every, merge=task.merge, overlap=task.overlap)


class Async(Geo):
    """The same with a plain optimizer: rows cross in every step."""

    def _optimizer(self, tfps: Any, inner: Any) -> Any:
        return inner


class StockLoop(Contender):
    """A hand-written loop over TensorFlow's ClusterCoordinator; its negatives are drawn beforehand."""

    def __init__(self, task: W2vTask, num_ps: int, num_workers: int) -> None:
        super().__init__(task, num_ps, num_workers)
        import tensorflow as tf
        import tf_keras

        strategy = stock_strategy(self.cluster)
        small = tf.random_uniform_initializer(-0.5 / task.dim, 0.5 / task.dim)
        with strategy.scope():
            tables = [
                tf.Variable(lambda start=start: start([task.vocab, task.dim]), name=name)
                for name, start in (("centers", small), ("contexts", tf.zeros_initializer()))
            ]
            optimizer = tf_keras.optimizers.legacy.SGD(LEARNING_RATE)  # it touches only the batch's rows
        step = _stock_step(strategy, tables, optimizer)
        self._loop = Loop(strategy, step, lambda: dataset(task, with_negatives=True))

    def train(self, steps: int, meter: Meter) -> float:
        self._loop(steps, meter)
        return steps * self.task.batch


class Gensim(Contender):
    """gensim's Word2Vec: one process, as many threads as there are workers. It trains whole texts."""

    def __init__(self, task: W2vTask, num_ps: int, num_workers: int) -> None:
        super().__init__(task, num_ps, num_workers)
        from gensim.models import Word2Vec

        sizes = {"vector_size": task.dim, "window": 5, "negative": task.negatives, "workers": num_workers}
        self._model = Word2Vec(**sizes, sg=1, sample=0, min_count=0, alpha=LEARNING_RATE, min_alpha=LEARNING_RATE)
        rarest = task.shares[-1]
        self._model.build_vocab_from_freq({str(i): int(share / rarest) for i, share in enumerate(task.shares)})
        self._sentences = [list(map(str, sentence)) for sentence in text(task)]

    def train(self, steps: int, meter: Meter) -> float:
        sentences = max(1, round(steps * self.task.batch / pairs_of_a_text(1)))
        times, rest = divmod(sentences, len(self._sentences))
        work = self._sentences * times + self._sentences[:rest]
        meter.start()
        self._model.train(work, total_examples=len(work), epochs=1)
        meter.stop()
        return pairs_of_a_text(len(work))

    def processes(self) -> dict[str, list[int]]:
        return {"process": [os.getpid()]}

    def _start(self, num_ps: int, num_workers: int) -> Any:
        return None


CONTENDERS: dict[str, type[Contender]] = {"geo": Geo, "async": Async, "stock-loop": StockLoop, "gensim": Gensim}


def _stock_step(strategy: Any, tables: Any, optimizer: Any) -> Any:
    import tensorflow as tf

    def train(batch: Any) -> None:
        centers, contexts, negatives = batch
        with tf.GradientTape() as tape:
            targets = tf.concat([contexts[:, tf.newaxis], negatives], 1)
            rows = tf.nn.embedding_lookup(tables[0], centers), tf.nn.embedding_lookup(tables[1], targets)
            scores = tf.einsum("nd,nkd->nk", *rows)
            signs = tf.concat([-tf.ones_like(scores[:, :1]), tf.ones_like(scores[:, 1:])], 1)
            loss = tf.reduce_sum(tf.math.softplus(signs * scores))
        optimizer.apply_gradients(zip(tape.gradient(loss, tables), tables, strict=True))

    @tf.function
    def step(batches: Any) -> None:
        strategy.run(train, args=(next(batches),))

    return step
