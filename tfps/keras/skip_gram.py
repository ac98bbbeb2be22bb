"""SkipGram: learns to tell pairs of ids that belong together from pairs drawn at random, as word2vec does."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfps.checks import check_array, check_integer, check_number
from tfps.embedding.window_rows import WindowRows
from tfps.errors import ConfigError, UnsupportedError
from tfps.keras import row_optimizers
from tfps.keras.multi_optimizer import is_multi
from tfps.ops.draw_targets import Negatives, alias_table, draw_targets
from tfps.ops.train_pairs import PAIR_RULES, train_pairs
from tfps.types import Nest


@keras.saving.register_keras_serializable("tfps")
class SkipGram(keras.Model):
    """Learns a vector for each id from pairs (center, context) of ids that were seen together.

    The inner product of a center's vector and a context's is the logit of their belonging together. Each pair comes
    with contexts of its own that are drawn at random and must score low (negative sampling). The loss of a pair is the
    sum of the logistic losses of its context and of its negatives. What is minimised is the *sum* over the pairs of a
    batch, as in word2vec, so that a learning rate means the same for any size of batch; what is reported is the mean.

    It is a plain `keras.Model`: compile it with an optimizer and no loss, and `fit` it on batches (centers, contexts).
    In the scope of a `tfps.ParameterServerStrategy` both tables live on the servers. There, with
    `tfps.optimizers.Geo(SGD or Adagrad)`, a window of batches is one C++ op that trains pair after pair as word2vec
    does; elsewhere a batch is a step of TensorFlow's operations, whose pairs all see the rows as they were before it.

    Args:
        vocabulary: ids there are, of centers and of contexts alike.
        dim: length of a vector.
        negatives: contexts drawn for each pair.
        counts: how often each id was seen as a context, [vocabulary]; None where all are as likely to be drawn.
        power: ids are drawn in proportion to counts ** power; 0.75 in word2vec.
        seed: of the draws; one is made up where it is None.
        **kwargs: of `keras.Model`.

    Call arguments:
        inputs: ids of centers, of any shape; the result has their vectors in the last dimension.

    Raises:
        ConfigError: an argument breaks its rule.

    Source:
        Mikolov et al. 2013, Distributed Representations of Words and Phrases and their Compositionality, section 2.2.

    Example:
        >>> model = SkipGram(vocabulary=1000, dim=8, negatives=5, counts=range(1000, 0, -1))
        >>> model.compile(keras.optimizers.SGD(0.025))
        >>> history = model.fit(np.arange(64), np.arange(64) + 1, batch_size=32, verbose=0)
        >>> model.predict(np.array([3, 7]), verbose=0).shape
        (2, 8)
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        negatives: int = 5,
        counts: Sequence[float] | None = None,
        power: float = 0.75,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        vocabulary, dim = check_integer("vocabulary", vocabulary, at_least=2), check_integer("dim", dim, at_least=1)
        negatives, power = check_integer("negatives", negatives, at_least=1), check_number("power", power)
        if seed is not None:
            seed = check_integer("seed", seed, valid="None for one that is made up")
        seen = None if counts is None else check_array("counts", counts, np.float64, "numbers")
        if seen is not None:
            _check_counts(seen, vocabulary)
        self._config = {"vocabulary": vocabulary, "dim": dim, "negatives": negatives, "power": power, "seed": seed}
        aliases = None if seen is None else alias_table(seen**power)
        # Past Keras, which would track them: settings, and no state.
        object.__setattr__(self, "_counts", seen)
        object.__setattr__(self, "_negatives", Negatives(vocabulary, negatives, aliases))
        small = keras.initializers.RandomUniform(-0.5 / dim, 0.5 / dim)
        self.centers = keras.layers.Embedding(vocabulary, dim, embeddings_initializer=small, name="centers")
        self.contexts = keras.layers.Embedding(vocabulary, dim, embeddings_initializer="zeros", name="contexts")
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.loss_tracker = keras.metrics.Mean("loss")
        # Both tables are made at once, whatever the first batch: their shapes follow from the arguments.
        self.build(None)

    def build(self, input_shape: Nest) -> None:
        """Makes both tables, whatever the shape."""
        for layer in (self.centers, self.contexts):
            if not layer.built:
                layer.build((None,))
        self.built = True

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The loss; metrics given to `compile` are not used."""
        return [self.loss_tracker]

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The vectors of centers."""
        return self.centers(inputs)

    def train_step(self, data: Nest) -> Mapping[str, tf.Tensor]:
        """One batch of pairs by TensorFlow's operations."""
        with tf.GradientTape() as tape:
            loss, pairs = self._loss_of(data)
        # The gradients of both tables are those of the rows that were looked up, not of whole tables.
        weights = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return self._report(loss, pairs)

    def test_step(self, data: Nest) -> Mapping[str, tf.Tensor]:
        """The loss of one batch."""
        return self._report(*self._loss_of(data))

    def window_lookups(self, batches: Nest) -> list[tuple[tf.Variable, tf.Tensor]]:
        """The rows that a window of batches needs; see `tfps/training/geo/whole_window.py`.

        Args:
            batches: (centers, contexts) of the whole window.
        """
        centers, contexts = _pairs_of(batches)
        return [(self.centers.embeddings, centers), (self.contexts.embeddings, self._targets(contexts))]

    def train_window(
        self, batches: Nest, rows: WindowRows, steps: tf.Tensor
    ) -> tuple[Sequence[tf.Tensor], Mapping[str, tf.Tensor]]:
        """Trains a window of batches in one op, pair after pair; see `tfps/training/geo/whole_window.py`.

        Args:
            batches: (centers, contexts) of the whole window.
            rows: the rows of `window_lookups`.
            steps: number of batches, int64 scalar.

        Raises:
            UnsupportedError: the op has no form of the optimizer.
        """
        optimizer = self.optimizer
        _check_optimizer(optimizer)
        # The rate is that of the window's first batch. A MultiOptimizer has none, and no rule for all rows.
        rate = None if is_multi(optimizer) else tf.cast(optimizer.learning_rate, tf.float32)
        found = None if rate is None else row_optimizers.rule_of(optimizer, rate)
        if found is None or found.rule.name not in PAIR_RULES:
            raise UnsupportedError(
                "`optimizer` must be SGD without momentum or Adagrad, where a SkipGram trains in windows. "
                f"Received: {type(optimizer).__name__}."
            )
        centers, targets = rows.positions
        deltas, loss = train_pairs(found.rule, rows.matrices, centers, targets, found.hyper(0.0))
        # As Keras counts: one for each batch, whatever the number of pairs.
        optimizer.iterations.assign_add(tf.cast(steps, optimizer.iterations.dtype))
        return deltas, self._report(tf.cast(loss, tf.float32), tf.size(centers))

    def get_config(self) -> dict[str, Any]:
        """The arguments that make the same model again, untrained."""
        counts = None if self._counts is None else self._counts.tolist()
        return {"name": self.name, **self._config, "counts": counts}

    def _targets(self, contexts: tf.Tensor) -> tf.Tensor:
        """Each context and the negatives drawn for it, [n, 1 + negatives]."""
        return draw_targets(contexts, self._negatives, tf.cast(self.seed_generator.next(), tf.int64))

    def _loss_of(self, data: Nest) -> tuple[tf.Tensor, tf.Tensor]:
        """The sum of the losses of the pairs of a batch, and the number of pairs."""
        centers, contexts = _pairs_of(data)
        scores = tf.einsum("nd,nkd->nk", self.centers(centers), self.contexts(self._targets(contexts)))
        # softplus(-s) is the logistic loss of a pair that belongs together, softplus(s) that of a negative.
        signs = tf.concat([-tf.ones_like(scores[:, :1]), tf.ones_like(scores[:, 1:])], 1)
        # In a sum the gradient of a pair does not depend on the size of the batch.
        return tf.reduce_sum(tf.math.softplus(signs * scores)), tf.size(centers)

    def _report(self, loss: tf.Tensor, pairs: tf.Tensor) -> Mapping[str, tf.Tensor]:
        """Adds the mean loss of some pairs to the metric; returns the logs."""
        pairs = tf.cast(pairs, tf.float32)
        self.loss_tracker.update_state(tf.math.divide_no_nan(loss, pairs), sample_weight=pairs)
        return self.get_metrics_result()


def _pairs_of(data: Nest) -> tuple[tf.Tensor, tf.Tensor]:
    """Centers and contexts, a vector each."""
    centers, contexts, weights = keras.utils.unpack_x_y_sample_weight(data)
    if contexts is None or weights is not None:
        raise UnsupportedError(
            "a batch of a SkipGram must be (centers, contexts), without sample weights. "
            f"Received: {'no contexts' if contexts is None else 'sample weights'}."
        )
    return tf.reshape(centers, [-1]), tf.reshape(contexts, [-1])


def _check_optimizer(optimizer: keras.Optimizer) -> None:
    for name in ("weight_decay", "clipnorm", "global_clipnorm", "clipvalue"):
        if getattr(optimizer, name, None):
            raise UnsupportedError(
                f"`{name}` works on the gradient of a batch, and there is none where a SkipGram trains in windows. "
                f"Received: {getattr(optimizer, name)!r}. Valid: None."
            )


def _check_counts(counts: np.ndarray[Any, Any], vocabulary: int) -> None:
    if counts.shape != (vocabulary,):
        raise ConfigError(f"`counts` must be one for each of {vocabulary} ids. Received: shape {counts.shape}.")
    if not np.isfinite(counts).all() or counts.min() < 0 or not counts.any():
        raise ConfigError(
            "`counts` must be finite, none below 0 and not all 0. "
            f"Received: from {counts.min()} to {counts.max()}, {np.count_nonzero(counts)} of them not 0."
        )
