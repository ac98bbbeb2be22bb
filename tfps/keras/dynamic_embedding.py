"""`DynamicEmbedding` and `DynamicEmbeddingBag`: embeddings whose ids are any int64, or strings, and whose rows grow."""

from typing import Any

import keras
import tensorflow as tf

from tfps.checks import check_bool, check_integer
from tfps.embedding.admission import Admission, Filter
from tfps.embedding.eviction import Eviction
from tfps.embedding.growth import Growth
from tfps.errors import UnsupportedError
from tfps.keras.embedding_bag import EmbeddingBag
from tfps.keras.growing_ids import NotEmpty, as_ids, check_dtype
from tfps.keras.growing_layer import GrowingLayer, check_unknown, has_no_value
from tfps.keras.rule_configs import rule_of
from tfps.nn.bags import Ids


@keras.saving.register_keras_serializable("tfps")
class DynamicEmbedding(GrowingLayer):
    """An `Embedding` without a fixed number of rows: the row of an id appears with the first step that trains it.

    It needs the scope of a `tfps.ParameterServerStrategy`. `evaluate` and `predict` make no rows.

    Args:
        output_dim: the width of a row.
        embeddings_initializer: how a row begins, from the seed and the id alone: RandomUniform, RandomNormal,
            TruncatedNormal, or a constant. With a seed, uniform and normal rows of ids from 0 on are those of a Keras
            `Embedding` with it.
        admission: a rule of `tfps.admission`; None for a row for each id.
        eviction: a rule of `tfps.eviction`; None to keep all rows.
        max_rows: the largest number of rows over all servers; None for no limit. Without an eviction rule, an id
            beyond it gets no row.
        max_bytes: the most bytes over all servers, slots and index included; None for no limit.
        expected_rows: the number of rows that plans and summaries assume; None for `max_rows`, or else 2**20.
        embeddings_dtype: the type in which servers keep the rows, "float32" or "bfloat16"; None for that of the
            strategy (`tfps.ParameterServerStrategy(embeddings_dtype=)`).
        embeddings_regularizer: the regularizer of the rows. It sees each row of a batch once.
        mask_zero: whether id 0, or the empty string, is padding.
        **kwargs: further arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: ids of any shape: integers, any int64; or strings, whose id is `tfps.layers.fingerprint`.

    Returns:
        The rows, `inputs.shape + [output_dim]`.

    Raises:
        ConfigError: an argument breaks its rule. It is also a `ValueError`.
    """

    def __init__(
        self,
        output_dim: int,
        embeddings_initializer: str | keras.initializers.Initializer = "uniform",
        admission: Admission | None = None,
        eviction: Eviction | None = None,
        max_rows: int | None = None,
        max_bytes: int | None = None,
        expected_rows: int | None = None,
        embeddings_regularizer: str | keras.regularizers.Regularizer | None = None,
        mask_zero: bool = False,
        embeddings_dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        # Before the base class, which wants a number of rows; `from_config` gives rules as dictionaries.
        check_unknown(kwargs)
        output_dim = check_integer("output_dim", output_dim, at_least=1)
        growth = Growth(rule_of(admission), rule_of(eviction), max_rows, max_bytes, expected_rows, embeddings_dtype)
        super().__init__(
            growth.planned_rows(output_dim),
            output_dim,
            embeddings_initializer,
            embeddings_regularizer,
            mask_zero=check_bool("mask_zero", mask_zero),
            **kwargs,
        )
        self._growth = growth

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Looks up rows; see the class for arguments and result."""
        if isinstance(inputs, tf.SparseTensor | tf.RaggedTensor):
            raise UnsupportedError(
                f"`inputs` of layer {self.name!r} must be a dense tensor. Received: {type(inputs).__name__}. "
                "Valid: DynamicEmbeddingBag, which pools bags of ids."
            )
        ids = as_ids(inputs)
        if has_no_value(self.embeddings):
            # A plan is being made: the layer has a shape, and no rows.
            return super().call(ids)
        if (frozen := self._frozen()) is not None:
            return tf.cast(frozen.look_up(ids), self.compute_dtype)
        admitted = self._admit(ids)
        if admitted is None:
            rows = self.table.sparse_read(ids)
        else:
            # Only admitted ids are sent; the others read the mean, and have no gradient.
            known = self.table.sparse_read(tf.boolean_mask(ids, admitted))
            whole = tf.broadcast_to(self._mean(), tf.concat([tf.shape(ids), [self.output_dim]], 0))
            rows = tf.tensor_scatter_nd_update(whole, tf.where(admitted), known)
            # A scatter into a tensor of dynamic shape loses the static one, which the next layer is built from.
            rows.set_shape([*ids.shape, self.output_dim])
        return tf.cast(rows, self.compute_dtype)

    def compute_mask(self, inputs: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor | None:
        """Returns which ids are no padding, if `mask_zero` is set."""
        if not self.mask_zero:
            return None
        is_text = keras.backend.standardize_dtype(getattr(inputs, "dtype", "int64")) == "string"
        # A model that is saved has the comparison in its graph, as one with an Embedding has.
        return NotEmpty()(inputs) if is_text else keras.ops.not_equal(inputs, 0)

    def compute_output_spec(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """Returns the shape and type of the rows."""
        check_dtype(inputs.dtype)
        return super().compute_output_spec(inputs)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make the same layer again."""
        return self._without_rows(super().get_config())


@keras.saving.register_keras_serializable("tfps")
class DynamicEmbeddingBag(EmbeddingBag, GrowingLayer):
    """An `EmbeddingBag` without a fixed number of rows: a `DynamicEmbedding` that pools the rows of each bag.

    Args:
        output_dim: the width of a row.
        combiner: "sum", "mean" or "sqrtn", as for `EmbeddingBag`.
        embeddings_initializer: as for `DynamicEmbedding`, and so are the arguments up to `embeddings_regularizer`.
        admission: a rule of `tfps.admission`; None for a row for each id.
        eviction: a rule of `tfps.eviction`; None to keep all rows.
        max_rows: the most rows over all servers; None for no limit.
        max_bytes: the most bytes over all servers; None for no limit.
        expected_rows: the number of rows that plans assume.
        embeddings_dtype: the type in which servers keep the rows; None for that of the strategy.
        embeddings_regularizer: the regularizer of the rows.
        mask_zero: whether id 0, or the empty string, is padding, which is left out of its bag.
        **kwargs: further arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: ids, [..., bag]: integers or strings, in a dense tensor, a `tf.SparseTensor` or a two-dimensional
            `tf.RaggedTensor`.
        weights: one float for each id, in the same kind of tensor; None for weights of 1.

    Returns:
        [..., output_dim]; zeros for a bag without ids.

    Raises:
        ConfigError: an argument breaks its rule. It is also a `ValueError`.
    """

    def __init__(
        self,
        output_dim: int,
        combiner: str = "mean",
        embeddings_initializer: str | keras.initializers.Initializer = "uniform",
        admission: Admission | None = None,
        eviction: Eviction | None = None,
        max_rows: int | None = None,
        max_bytes: int | None = None,
        expected_rows: int | None = None,
        embeddings_regularizer: str | keras.regularizers.Regularizer | None = None,
        mask_zero: bool = False,
        embeddings_dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_unknown(kwargs)
        output_dim = check_integer("output_dim", output_dim, at_least=1)
        growth = Growth(rule_of(admission), rule_of(eviction), max_rows, max_bytes, expected_rows, embeddings_dtype)
        if isinstance(growth.admission, Filter):
            raise UnsupportedError(
                "`admission` of a DynamicEmbeddingBag must be a rule of the servers. Received: a `Filter`. "
                "Valid: filter the ids of a bag before the layer."
            )
        super().__init__(
            growth.planned_rows(output_dim),
            output_dim,
            combiner,
            embeddings_initializer,
            embeddings_regularizer,
            mask_zero=mask_zero,
            **kwargs,
        )
        self._growth = growth

    def call(self, inputs: Ids, weights: Ids | None = None) -> tf.Tensor:
        """Pools the rows of each bag; see the class for arguments and result."""
        if not has_no_value(self.embeddings) and self._frozen() is None:
            # Refuses a layer without servers by name.
            _ = self.table
        return super().call(as_ids(inputs), weights)

    def compute_output_spec(
        self, inputs: keras.KerasTensor, weights: keras.KerasTensor | None = None
    ) -> keras.KerasTensor:
        """Returns the shape and type of the result, which is dense for every kind of ids."""
        check_dtype(inputs.dtype)
        return super().compute_output_spec(inputs, weights)

    def _rows(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns rows where there is no table: in an export."""
        frozen = self._frozen()
        return super()._rows(ids) if frozen is None else frozen.look_up(ids)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make the same layer again."""
        return self._without_rows(super().get_config())
