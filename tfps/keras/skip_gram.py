"""SkipGram: learns to tell real pairs of ids from random pairs, as word2vec does."""

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
from tfps.ops.train_groups import train_groups
from tfps.ops.train_pairs import PAIR_RULES, train_pairs
from tfps.types import Nest


@keras.saving.register_keras_serializable("tfps")
class SkipGram(keras.Model):
    """Learns a vector for each id from pairs (center, context) of ids that were seen together.

    The logit of a pair is the inner product of the center's vector and the context's vector. Each pair also gets
    random contexts, its negatives, which must score low (negative sampling). The loss of a pair is the sum of the
    logistic losses of its context and its negatives. Training minimises the *sum* over the pairs of a batch, as in
    word2vec, so that a learning rate means the same for every batch size. The logs report the mean over the pairs.

    It is a plain `keras.Model`: compile it with an optimizer and no loss, and `fit` it on batches (centers, contexts).
    The shape of the centers decides how a batch is trained:

    - *pairs*, both [n]: each pair has negatives of its own.
    - *groups*, centers [n, m] and contexts [n]: the centers of a row have one context, and share its negatives. They
      are m pairs; a center below 0 stands for none. `tfps.text.neighbour_groups` makes such batches of a text. A group
      draws as many negatives as a pair, so a pair costs a fraction of the draws and of the memory traffic.

    In the scope of a `tfps.ParameterServerStrategy` both tables live on the servers. With
    `tfps.optimizers.Geo(SGD or Adagrad)` one C++ op trains a whole window of batches: pair after pair, as word2vec
    does, or group after group, where the pairs of a group see the rows from before it and their gradients are summed.
    Otherwise a batch is one step of TensorFlow operations, and all its pairs see the rows from before the step.

    Args:
        vocabulary: the number of ids. Centers and contexts share them.
        dim: the length of a vector.
        negatives: the number of contexts drawn for each pair or group.
        counts: how often each id was seen as a context, [vocabulary]; None to draw all ids with equal probability.
        power: ids are drawn in proportion to counts ** power; 0.75 in word2vec.
        seed: the seed of the draws; None for a random one.
        **kwargs: further arguments of `keras.Model`.

    Call arguments:
        inputs: ids of centers, of any shape. The result has one more dimension, with their vectors.

    Raises:
        ConfigError: an argument breaks its rule.

    Source:
        Mikolov et al. 2013, Distributed Representations of Words and Phrases and their Compositionality, section 2.2.
        Groups: Ji, Satish, Li and Dubey 2016, Parallelizing Word2Vec in Shared and Distributed Memory, section 3.

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
        # None stays None: the SeedGenerator below then draws a seed.
        if seed is not None:
            seed = check_integer("seed", seed, valid="None for a random seed")
        seen = None if counts is None else check_array("counts", counts, np.float64, "numbers")
        if seen is not None:
            _check_counts(seen, vocabulary)
        self._config = {"vocabulary": vocabulary, "dim": dim, "negatives": negatives, "power": power, "seed": seed}
        aliases = None if seen is None else alias_table(seen**power)
        # Keras would track plain attributes. These are settings and not state, so they bypass its `__setattr__`.
        object.__setattr__(self, "_counts", seen)
        object.__setattr__(self, "_negatives", Negatives(vocabulary, negatives, aliases))
        small = keras.initializers.RandomUniform(-0.5 / dim, 0.5 / dim)
        self.centers = keras.layers.Embedding(vocabulary, dim, embeddings_initializer=small, name="centers")
        self.contexts = keras.layers.Embedding(vocabulary, dim, embeddings_initializer="zeros", name="contexts")
        # In GEO mode the model trains the rows of tables itself.
        self.centers.tfps_may_be_dense = self.contexts.tfps_may_be_dense = False
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.loss_tracker = keras.metrics.Mean("loss")
        # The shapes of both tables follow from the arguments, so they can be made before the first batch.
        self.build(None)

    def build(self, input_shape: Nest) -> None:
        """Makes both tables. Their shapes do not depend on `input_shape`."""
        for layer in (self.centers, self.contexts):
            if not layer.built:
                layer.build((None,))
        self.built = True

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The loss. Metrics that are given to `compile` are not used."""
        return [self.loss_tracker]

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the vectors of centers."""
        return self.centers(inputs)

    def train_step(self, data: Nest) -> Mapping[str, tf.Tensor]:
        """Trains one batch of pairs with TensorFlow operations."""
        with tf.GradientTape() as tape:
            loss, pairs = self._loss_of(data)
        # These gradients have only the rows that were looked up. No tensor is as large as a table.
        weights = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return self._report(loss, pairs)

    def test_step(self, data: Nest) -> Mapping[str, tf.Tensor]:
        """Computes the loss of one batch."""
        return self._report(*self._loss_of(data))

    def window_lookups(self, batches: Nest) -> list[tuple[tf.Variable, tf.Tensor]]:
        """Returns the tables and ids that a window of batches needs; see `tfps/training/geo/whole_window.py`.

        Args:
            batches: (centers, contexts) of the whole window.
        """
        centers, contexts = _pairs_of(batches)
        if _is_grouped(centers):
            centers = tf.boolean_mask(centers, centers >= 0)
        return [(self.centers.embeddings, centers), (self.contexts.embeddings, self._targets(contexts))]

    def train_window(
        self, batches: Nest, rows: WindowRows, steps: tf.Tensor
    ) -> tuple[Sequence[tf.Tensor], Mapping[str, tf.Tensor]]:
        """Trains a window of batches in one op; see `tfps/training/geo/whole_window.py`.

        Args:
            batches: (centers, contexts) of the whole window.
            rows: the rows of `window_lookups`.
            steps: the number of batches, an int64 scalar.

        Returns:
            The delta of each row matrix, and the logs.

        Raises:
            UnsupportedError: the op does not implement the optimizer.
        """
        optimizer = self.optimizer
        _check_optimizer(optimizer)
        # The whole window uses the learning rate of its first batch. A MultiOptimizer has no single rate or rule.
        rate = None if is_multi(optimizer) else tf.cast(optimizer.learning_rate, tf.float32)
        bound = None if rate is None else row_optimizers.rule_of(optimizer, rate)
        if bound is None or bound.rule.name not in PAIR_RULES:
            raise UnsupportedError(
                "`optimizer` must be SGD without momentum or Adagrad if a SkipGram trains in windows. "
                f"Received: {type(optimizer).__name__}."
            )
        centers, targets = rows.positions
        grouped, _ = _pairs_of(batches)
        if _is_grouped(grouped):
            sizes = tf.reduce_sum(tf.cast(grouped >= 0, tf.int32), axis=1)
            deltas, loss = train_groups(bound.rule, rows.matrices, centers, sizes, targets, bound.hyper(0.0))
        else:
            deltas, loss = train_pairs(bound.rule, rows.matrices, centers, targets, bound.hyper(0.0))
        # As in Keras, `iterations` counts batches and not pairs.
        optimizer.iterations.assign_add(tf.cast(steps, optimizer.iterations.dtype))
        return deltas, self._report(tf.cast(loss, tf.float32), tf.size(centers))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make the same untrained model again."""
        counts = None if self._counts is None else self._counts.tolist()
        return {"name": self.name, **self._config, "counts": counts}

    def _targets(self, contexts: tf.Tensor) -> tf.Tensor:
        """Draws the negatives of each pair or group; returns [n, 1 + negatives] ids, the context first."""
        # The seed generator is a variable, so its draws continue after saving and loading.
        return draw_targets(contexts, self._negatives, tf.cast(self.seed_generator.next(), tf.int64))

    def _loss_of(self, data: Nest) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the summed loss of the pairs in a batch, and their number."""
        centers, contexts = _pairs_of(data)
        grouped, targets = _is_grouped(centers), self._targets(contexts)
        if grouped:
            is_pair = centers >= 0
            # No row is looked up for what stands for none: Adam, for one, moves each row that is.
            vectors = self.centers(tf.boolean_mask(centers, is_pair))
            shape = tf.concat([tf.shape(centers), tf.shape(vectors)[-1:]], 0)
            padded = tf.scatter_nd(tf.where(is_pair), vectors, tf.cast(shape, tf.int64))
            scores = tf.einsum("nmd,nkd->nmk", padded, self.contexts(targets))
        else:
            scores = tf.einsum("nd,nkd->nk", self.centers(centers), self.contexts(targets))
        # The logistic loss is softplus(-s) for the context, which has to score high, and softplus(s) for a negative.
        # With 2 negatives a row of signs is [-1, 1, 1].
        signs = tf.concat([-tf.ones_like(scores[..., :1]), tf.ones_like(scores[..., 1:])], -1)
        losses = tf.math.softplus(signs * scores)
        # A sum and not a mean, so that the gradient of a pair does not depend on the batch size.
        if not grouped:
            return tf.reduce_sum(losses), tf.size(centers)
        return tf.reduce_sum(tf.boolean_mask(losses, is_pair)), tf.math.count_nonzero(is_pair, dtype=tf.int32)

    def _report(self, loss: tf.Tensor, pairs: tf.Tensor) -> Mapping[str, tf.Tensor]:
        """Adds the mean loss of some pairs to the metric; returns the logs."""
        # Weighted by pairs, because batches may differ in size. `divide_no_nan` gives 0 for an empty batch.
        pairs = tf.cast(pairs, tf.float32)
        self.loss_tracker.update_state(tf.math.divide_no_nan(loss, pairs), sample_weight=pairs)
        return self.get_metrics_result()


def _pairs_of(data: Nest) -> tuple[tf.Tensor, tf.Tensor]:
    """Unpacks a batch into centers, [n] or for groups [n, m], and contexts, [n]."""
    centers, contexts, weights = keras.utils.unpack_x_y_sample_weight(data)
    if contexts is None or weights is not None:
        raise UnsupportedError(
            "a batch of a SkipGram must be (centers, contexts), without sample weights. "
            f"Received: {'no contexts' if contexts is None else 'sample weights'}."
        )
    centers, contexts = tf.convert_to_tensor(centers), tf.convert_to_tensor(contexts)
    if not (centers.dtype.is_integer and contexts.dtype.is_integer):
        kinds = f"{centers.dtype.name} and {contexts.dtype.name}"
        raise UnsupportedError(f"the centers and contexts of a SkipGram must be integers. Received: {kinds}.")
    rank = contexts.shape.rank
    if rank is not None and centers.shape.rank == rank + 1:
        # Not -1 for the rows: their number does not follow from groups of no centers.
        return tf.reshape(centers, [tf.size(contexts), tf.shape(centers)[-1]]), tf.reshape(contexts, [-1])
    # Without the batch's size, which may differ from batch to batch.
    each = [tensor.shape[1:].num_elements() for tensor in (centers, contexts) if tensor.shape.rank]
    if None not in each and len(set(each)) > 1:
        raise UnsupportedError(
            "the centers of a SkipGram must have the shape of the contexts, for pairs, or one dimension more, for "
            f"groups. Received: shapes {centers.shape} and {contexts.shape}."
        )
    return tf.reshape(centers, [-1]), tf.reshape(contexts, [-1])


def _is_grouped(centers: tf.Tensor) -> bool:
    """Whether `_pairs_of` found groups."""
    return centers.shape.rank == 2


def _check_optimizer(optimizer: keras.Optimizer) -> None:
    """Refuses options that need the gradient of a batch: the op updates after every pair and never sums gradients."""
    for name in ("weight_decay", "clipnorm", "global_clipnorm", "clipvalue"):
        if getattr(optimizer, name, None):
            raise UnsupportedError(
                f"`{name}` needs the gradient of a batch, which does not exist if a SkipGram trains in windows. "
                f"Received: {getattr(optimizer, name)!r}. Valid: None."
            )


def _check_counts(counts: np.ndarray[Any, Any], vocabulary: int) -> None:
    if counts.shape != (vocabulary,):
        raise ConfigError(f"`counts` must have a number for each of {vocabulary} ids. Received: shape {counts.shape}.")
    if not np.isfinite(counts).all() or counts.min() < 0 or not counts.any():
        raise ConfigError(
            "`counts` must be finite, at least 0 and not all 0. "
            f"Received: from {counts.min()} to {counts.max()}, {np.count_nonzero(counts)} of them not 0."
        )
