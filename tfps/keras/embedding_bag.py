"""EmbeddingBag: rows of a table, looked up by the bag and pooled into one row each."""

import functools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfps.checks import check_bool, check_integer
from tfps.embedding.table import Table
from tfps.nn.bags import Bags, Ids, check_weights, make_bags, make_dense_bags, shape_like
from tfps.nn.combiners import combine
from tfps.nn.rows import pool_rows, resolve_params
from tfps.ops.combine_rows import check_combiner


@keras.saving.register_keras_serializable("tfps")
class EmbeddingBag(keras.layers.Embedding):
    """An `Embedding` whose rows are pooled over the last dimension of the ids.

    In the scope of a `tfps.ParameterServerStrategy` it is a table, as an `Embedding` is, and only the rows of the batch
    cross. Elsewhere it is an ordinary layer. What is saved in one place loads in the other.

    Args:
        input_dim: rows of the table; ids are at least 0 and below it.
        output_dim: width of a row.
        combiner: "sum"; "mean", over the sum of the weights; or "sqrtn", over the root of the sum of their squares.
        embeddings_initializer: of the table.
        embeddings_regularizer: of the table; on parameter servers it sees the rows of a batch, each once.
        embeddings_constraint: of the table; must be None on parameter servers.
        mask_zero: whether id 0 is padding, left out of its bag.
        **kwargs: of `keras.layers.Embedding`.

    Call arguments:
        inputs: integer ids, [..., ids of a bag]: dense, `tf.SparseTensor` or, of two dimensions, `tf.RaggedTensor`.
        weights: a float for each id, the same kind of tensor; all are 1 where None.

    Returns:
        [..., output_dim]; zeros for a bag without ids.

    Raises:
        ConfigError: an argument breaks its rule; a `ValueError`.

    Example:
        >>> layer = EmbeddingBag(3, 2, combiner="sum", embeddings_initializer="ones")
        >>> layer(tf.ragged.constant([[0, 2, 2], [], [1]])).numpy().tolist()
        [[3.0, 3.0], [0.0, 0.0], [1.0, 1.0]]
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        combiner: str = "mean",
        embeddings_initializer: str | keras.initializers.Initializer = "uniform",
        embeddings_regularizer: str | keras.regularizers.Regularizer | None = None,
        embeddings_constraint: str | keras.constraints.Constraint | None = None,
        mask_zero: bool = False,
        **kwargs: Any,
    ) -> None:
        check_combiner(combiner)
        super().__init__(
            check_integer("input_dim", input_dim, at_least=1),
            check_integer("output_dim", output_dim, at_least=1),
            embeddings_initializer,
            embeddings_regularizer,
            embeddings_constraint,
            check_bool("mask_zero", mask_zero),
            **kwargs,
        )
        self.combiner = combiner

    def call(self, inputs: Ids, weights: Ids | None = None) -> tf.Tensor:
        """Pools the rows of each bag; see the class for arguments and result."""
        ids = inputs if inputs.dtype in (tf.int32, tf.int64) else tf.cast(inputs, tf.int32)  # as Embedding does
        dense = not isinstance(ids, (tf.SparseTensor, tf.RaggedTensor))
        check_weights(ids, weights, "inputs")
        if dense and not isinstance(resolve_params(self.embeddings), Table):
            pooled = self._pool_dense(ids, weights)
        else:
            bags = make_dense_bags(ids, weights) if dense else make_bags(ids, weights, "inputs")
            pooled = shape_like(ids, self._pool(bags.select(bags.ids != 0) if self.mask_zero else bags))
        return tf.cast(pooled, self.compute_dtype)

    def _pool(self, bags: Bags) -> tf.Tensor:
        """Bags that are stored one id after the other: sparse, ragged, and dense ones of a table."""
        table = resolve_params(self.embeddings)
        if isinstance(table, Table):
            return pool_rows(table, bags, self.combiner)
        add_up = functools.partial(tf.math.segment_sum, segment_ids=bags.bag)
        # Without servers there is no unique set of rows to combine: TensorFlow's own ops copy a row for each id.
        pooled = combine(self._rows(bags.ids), bags.weights, self.combiner, add_up)
        # segment_sum ends with the last bag that has an id; empty ones after it are added here.
        return tf.pad(pooled, [[0, bags.count - tf.shape(pooled, tf.int64)[0]], [0, 0]])

    def _pool_dense(self, ids: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
        """Dense bags of a layer that holds no table: all have one size, so no index of bags is needed."""
        if self.mask_zero:
            # A weight of 0 leaves an id out of the sum and out of the divisor.
            seen = tf.cast(ids != 0, tf.float32)
            weights = seen if weights is None else seen * tf.cast(weights, tf.float32)
        return combine(self._rows(ids), weights, self.combiner, functools.partial(tf.reduce_sum, axis=-2))

    def _rows(self, ids: tf.Tensor) -> tf.Tensor:
        """Rows of a layer that holds no table."""
        # Not by `keras.ops.take`, which counts negative ids from the end and so accepts them.
        return tf.gather(self.embeddings, ids)

    def compute_output_shape(
        self, input_shape: Sequence[int | None], weights_shape: Sequence[int | None] | None = None
    ) -> tuple[int | None, ...]:
        """Shape of the pooled rows for ids of a shape."""
        if len(input_shape) < 2:
            raise ValueError(
                f"`inputs` must have a dimension to pool over beside the batch. Received: shape {tuple(input_shape)}."
            )
        return (*input_shape[:-1], self.output_dim)

    def compute_output_spec(
        self, inputs: keras.KerasTensor, weights: keras.KerasTensor | None = None
    ) -> keras.KerasTensor:
        """Shape and type of the result, which is dense whatever the ids are."""
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)

    def compute_mask(self, inputs: Ids, mask: tf.Tensor | None = None) -> None:
        """Nothing is left to mask: bags are pooled."""
        return None

    def get_config(self) -> dict[str, Any]:
        """The arguments that make the same layer again."""
        return {**super().get_config(), "combiner": self.combiner}

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Not implemented: Keras passes a layer over that says so."""
        raise NotImplementedError("EmbeddingBag has no quantized form.")
