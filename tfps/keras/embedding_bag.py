"""EmbeddingBag: looks up bags of ids and pools the rows of each bag into one."""

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
    """An `Embedding` that pools rows over the last dimension of the ids.

    In the scope of a `tfps.ParameterServerStrategy` its matrix is a table, and only the rows of a batch are
    transferred. Elsewhere it is an ordinary layer. A model saved in one place loads in the other.

    Args:
        input_dim: the number of rows; ids must be at least 0 and below it.
        output_dim: the width of a row.
        combiner: "sum", the weighted sum of the rows; "mean", the sum divided by the sum of the weights; or "sqrtn",
            the sum divided by the root of the sum of the squared weights.
        embeddings_initializer: the initializer of the table.
        embeddings_regularizer: the regularizer of the table. On parameter servers it sees each row of a batch once.
        embeddings_constraint: the constraint of the table; must be None on parameter servers.
        mask_zero: whether id 0 is padding, which is left out of its bag.
        **kwargs: further arguments of `keras.layers.Embedding`.

    Call arguments:
        inputs: integer ids, [..., bag]: a dense tensor, a `tf.SparseTensor` or a two-dimensional `tf.RaggedTensor`.
        weights: one float for each id, in the same kind of tensor; None for weights of 1.

    Returns:
        [..., output_dim]; zeros for a bag without ids.

    Raises:
        ConfigError: an argument breaks its rule. It is also a `ValueError`.

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
        # Embedding also casts other types to int32.
        ids = inputs if inputs.dtype in (tf.int32, tf.int64) else tf.cast(inputs, tf.int32)
        dense = not isinstance(ids, (tf.SparseTensor, tf.RaggedTensor))
        check_weights(ids, weights, "inputs")
        if dense and not isinstance(resolve_params(self.embeddings), Table):
            pooled = self._pool_dense(ids, weights)
        else:
            bags = make_dense_bags(ids, weights) if dense else make_bags(ids, weights, "inputs")
            pooled = shape_like(ids, self._pool(bags.select(bags.ids != 0) if self.mask_zero else bags))
        return tf.cast(pooled, self.compute_dtype)

    def _pool(self, bags: Bags) -> tf.Tensor:
        """Pools bags in flat form. Sparse and ragged ids have it, and so do dense ids of a table."""
        table = resolve_params(self.embeddings)
        if isinstance(table, Table):
            # Without a strategy, the layer looks up a row for each id.
            return pool_rows(table, bags, self.combiner, per_place=True)
        add_up = functools.partial(tf.math.segment_sum, segment_ids=bags.bag)
        # Without servers no request has reduced the ids to unique ones, so TensorFlow's own ops copy a row for each id.
        pooled = combine(self._rows(bags.ids), bags.weights, self.combiner, add_up)
        # The result of `segment_sum` ends at the last bag that has an id. Padding adds the empty bags after it.
        return tf.pad(pooled, [[0, bags.count - tf.shape(pooled, tf.int64)[0]], [0, 0]])

    def _pool_dense(self, ids: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
        """Pools dense bags of a layer without a table. All bags have one size, so they need no index."""
        if self.mask_zero:
            # A weight of 0 leaves an id out of the sum and out of the divisor.
            seen = tf.cast(ids != 0, tf.float32)
            weights = seen if weights is None else seen * tf.cast(weights, tf.float32)
        return combine(self._rows(ids), weights, self.combiner, functools.partial(tf.reduce_sum, axis=-2))

    def _rows(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the rows of a layer without a table."""
        # `keras.ops.take` would accept negative ids, by counting them from the end.
        return tf.gather(self.embeddings, ids)

    def compute_output_shape(
        self, input_shape: Sequence[int | None], weights_shape: Sequence[int | None] | None = None
    ) -> tuple[int | None, ...]:
        """Returns the shape of the pooled rows for the shape of the ids."""
        if len(input_shape) < 2:
            raise ValueError(
                "`inputs` must have a batch dimension and a dimension to pool over. "
                f"Received: shape {tuple(input_shape)}."
            )
        return (*input_shape[:-1], self.output_dim)

    def compute_output_spec(
        self, inputs: keras.KerasTensor, weights: keras.KerasTensor | None = None
    ) -> keras.KerasTensor:
        """Returns the shape and type of the result, which is dense for every kind of ids."""
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)

    def compute_mask(self, inputs: Ids, mask: tf.Tensor | None = None) -> None:
        """Returns no mask: pooling removes the dimension that a mask would cover."""
        # An Embedding with `mask_zero` would return one for [..., bag], which no longer fits the result.
        return None

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make the same layer again."""
        return {**super().get_config(), "combiner": self.combiner}

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refuses quantization."""
        # Quantizing a model, Keras skips layers that raise this.
        raise NotImplementedError("EmbeddingBag has no quantized form.")
