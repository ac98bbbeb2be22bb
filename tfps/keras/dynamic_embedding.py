"""`DynamicEmbedding` and `DynamicEmbeddingBag`: embeddings whose ids are any int64, or strings, and whose rows grow."""

import dataclasses
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import UninitializedVariable  # how a described model has variables

from tfps.checks import check_bool, check_integer
from tfps.embedding import admission as admissions
from tfps.embedding import eviction as evictions
from tfps.embedding.admission import Admission, Always, Filter
from tfps.embedding.dynamic_table import DynamicTable, DynamicTables
from tfps.embedding.eviction import Eviction
from tfps.embedding.growth import Growth
from tfps.errors import UnsupportedError
from tfps.keras import row_files
from tfps.keras.embedding_bag import EmbeddingBag
from tfps.keras.frozen_rows import FrozenRows
from tfps.nn.bags import Ids
from tfps.ops.growing_rows import GrowthCounts

if TYPE_CHECKING:
    import numpy.typing as npt

Rule: TypeAlias = Admission | Eviction


def fingerprint(strings: tf.Tensor) -> tf.Tensor:
    """Returns the id of each string, int64 of the same shape: FarmHash Fingerprint64 of its bytes.

    The same number comes from `FARM_FINGERPRINT` of BigQuery and from `farmhash.fingerprint64` of other languages.
    With n different strings, two share an id with a probability of about n**2 / 2**65: 3 in 100 for a billion.
    """
    # Eight bytes of uint8 for each string become one int64. `tf.fingerprint` takes vectors, hence the two reshapes.
    return tf.reshape(tf.bitcast(tf.fingerprint(tf.reshape(strings, [-1])), tf.int64), tf.shape(strings))


class _Growing(keras.layers.Embedding):
    """What both layers share: how the table grows, and the ids."""

    _growth: Growth
    frozen_rows: FrozenRows | None = None
    """The rows while the model is exported; None at other times."""
    frozen_index: Any = None

    @property
    def tfps_table_type(self) -> DynamicTables:
        """What makes the table of the layer."""
        return DynamicTables(self._growth)

    @property
    def table(self) -> DynamicTable:
        """The table.

        Raises:
            UnsupportedError: the layer was not built in the scope of a `ParameterServerStrategy`.
        """
        if not self.built:
            raise UnsupportedError(f"layer {self.name!r} has no table before it is built. Valid: after a first call.")
        # Outside the scope of the strategy Keras has made a plain variable of the expected rows, which does not grow.
        table = getattr(self.embeddings, "_value", None)
        if not isinstance(table, DynamicTable):
            raise UnsupportedError(
                f"layer {self.name!r} needs parameter servers, where its rows are kept. Received: a model made outside "
                "the scope of a tfps.ParameterServerStrategy. Valid: `with strategy.scope():` around the model."
            )
        return table

    def counts(self) -> GrowthCounts:
        """Returns how many rows and bytes there are, and what was admitted, refused and evicted so far."""
        return self.table.counts()

    def rows(self, chunk_rows: int | None = None) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """Yields all ids with their rows, in chunks and in no order.

        Args:
            chunk_rows: the most rows of a chunk; by default 64 MB of them.

        Yields:
            The ids, int64 [m], and the rows, float32 [m, output_dim].
        """
        for chunk in self.table.scan((), chunk_rows):
            yield chunk.ids, chunk.rows.numpy()

    def assign_rows(self, ids: "npt.ArrayLike", rows: "npt.ArrayLike") -> None:
        """Overwrites the rows of ids, and makes those that are not there, whatever the admission says.

        Args:
            ids: the ids, [n], each once.
            rows: their rows, [n, output_dim], all finite.
        """
        self.table.assign_rows(np.asarray(ids), np.asarray(rows))

    def write_parquet(self, path: str | os.PathLike[str]) -> int:
        """Writes all ids and rows into a new Parquet file, columns `id` and `embedding`; returns their number."""
        return row_files.write_parquet(self.table, path)

    def read_parquet(self, path: str | os.PathLike[str]) -> int:
        """Gives the ids of a Parquet file their rows, and returns their number. The file is checked first.

        Raises:
            ConfigError: a row has another width, is missing or is not finite; nothing has changed then.
            InputFileError: the file cannot be read.
        """
        return row_files.read_parquet(self.table, path)

    def copy_from(self, source: keras.layers.Embedding) -> int:
        """Gives the ids 0, 1, ... the rows of an `Embedding`, and returns their number."""
        return row_files.copy_to_growing(source, self.table)

    def copy_to(self, target: keras.layers.Embedding) -> int:
        """Overwrites the rows of an `Embedding` whose numbers are ids here, and returns how many.

        Raises:
            ConfigError: an id here is no row there; nothing has changed then.
        """
        return row_files.copy_from_growing(self.table, target)

    def erase(self, ids: "npt.ArrayLike") -> int:
        """Erases the rows of ids, [n], and returns how many there were."""
        return self.table.erase(ids)

    def pin(self, ids: "npt.ArrayLike", pinned: bool = True) -> None:
        """Pins ids, [n], so that their rows are never evicted; `pinned=False` unpins them."""
        self.table.pin(ids, pinned)

    def add_scores(self, ids: "npt.ArrayLike", amounts: "npt.ArrayLike") -> None:
        """Adds to the scores of rows: clicks, for `tfps.eviction.Score`. Ids without a row are skipped."""
        self.table.add_scores(ids, amounts)

    def evict(self) -> int:
        """Evicts all rows that the rule selects now, and returns their number. Training evicts by itself."""
        return self.table.evict()

    def _frozen(self) -> FrozenRows | None:
        """Returns the rows that an export has; None outside of exports."""
        # Layers that share a table share its variable, which belongs to the one that made it.
        maker = getattr(self.embeddings, "_tfps_layer", None)
        layer = None if maker is None else maker()
        return None if layer is None else layer.frozen_rows

    def _admit(self, ids: tf.Tensor) -> tf.Tensor | None:
        """Returns which ids a rule of the user admits, bool of the same shape; None if there is no such rule."""
        # Other rules are the servers': they count updates, which no worker sees alone.
        rule = self._growth.admission
        if not isinstance(rule, Filter):
            return None
        # Flat, as `Filter.admits` promises, so that a user's rule need not care for the shape of the batch.
        admitted = rule.admits(tf.reshape(ids, [-1]))
        return tf.reshape(tf.ensure_shape(tf.cast(admitted, tf.bool), [None]), tf.shape(ids))

    def _mean(self) -> tf.Tensor:
        """Returns the row of an id that a rule of the user does not admit, [output_dim]."""
        return tf.fill([self.output_dim], tf.constant(self.table.first.mean, tf.float32))

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Refuses an adapter, which needs a matrix."""
        raise UnsupportedError(f"layer {self.name!r} has no LoRA form, because its table grows.")

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refuses quantization."""
        # When Keras quantizes a model, it skips layers that raise this.
        raise NotImplementedError(f"{type(self).__name__} has no quantized form.")

    def _without_rows(self, config: dict[str, Any]) -> dict[str, Any]:
        """Returns the arguments of this layer, from those of an `Embedding`."""
        # Both are of a matrix, and no arguments of this layer.
        for name in ("input_dim", "embeddings_constraint"):
            config.pop(name, None)
        # Keras leaves out a seed that it has drawn. Here rows that are made later need it for their first values.
        drawn = config["embeddings_initializer"].get("config", {})
        if "seed" in drawn and isinstance(getattr(self.embeddings_initializer, "seed", None), int):
            drawn["seed"] = self.embeddings_initializer.seed
        growth = self._growth
        return {
            **config,
            "admission": _rule_config(None if isinstance(growth.admission, Always) else growth.admission),
            "eviction": _rule_config(growth.eviction),
            "max_rows": growth.max_rows,
            "max_bytes": growth.max_bytes,
            "expected_rows": growth.expected_rows,
        }


@keras.saving.register_keras_serializable("tfps")
class DynamicEmbedding(_Growing):
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
        **kwargs: Any,
    ) -> None:
        # Before the base class, which wants a number of rows; `from_config` gives rules as dictionaries.
        growth = Growth(_rule(admission), _rule(eviction), max_rows, max_bytes, expected_rows)
        super().__init__(
            growth.planned_rows,
            check_integer("output_dim", output_dim, at_least=1),
            embeddings_initializer,
            embeddings_regularizer,
            mask_zero=check_bool("mask_zero", mask_zero),
            **kwargs,
        )
        self._growth = growth

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Looks up rows; see the class for arguments and result."""
        ids = _as_ids(inputs)
        if _has_no_value(self.embeddings):
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
        return tf.not_equal(inputs, "" if inputs.dtype == "string" else 0)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make the same layer again."""
        return self._without_rows(super().get_config())


@keras.saving.register_keras_serializable("tfps")
class DynamicEmbeddingBag(EmbeddingBag, _Growing):
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
        **kwargs: Any,
    ) -> None:
        growth = Growth(_rule(admission), _rule(eviction), max_rows, max_bytes, expected_rows)
        if isinstance(growth.admission, Filter):
            raise UnsupportedError(
                "`admission` of a DynamicEmbeddingBag must be a rule of the servers. Received: a `Filter`. "
                "Valid: filter the ids of a bag before the layer."
            )
        super().__init__(
            growth.planned_rows,
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
        if not _has_no_value(self.embeddings) and self._frozen() is None:
            # Refuses a layer without servers by name.
            _ = self.table
        return super().call(_as_ids(inputs), weights)

    def _rows(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns rows where there is no table: in an export."""
        frozen = self._frozen()
        return super()._rows(ids) if frozen is None else frozen.look_up(ids)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make the same layer again."""
        return self._without_rows(super().get_config())


def _as_ids(inputs: Any) -> Any:
    """Returns ids as int64, in the kind of tensor that they came in."""
    if isinstance(inputs, tf.SparseTensor):
        return tf.SparseTensor(inputs.indices, _as_ids(inputs.values), inputs.dense_shape)
    if isinstance(inputs, tf.RaggedTensor):
        return inputs.with_flat_values(_as_ids(inputs.flat_values))
    if inputs.dtype == tf.string:
        return fingerprint(inputs)
    # A float id is found out by the lookup, which names the dtype that the input should have.
    return tf.cast(inputs, tf.int64)


def _has_no_value(variable: Any) -> bool:
    """Whether a variable has only a shape, because its model is being described or built symbolically."""
    return isinstance(getattr(variable, "_value", None), UninitializedVariable | None)


def _rule_config(rule: Rule | None) -> dict[str, Any] | None:
    """Returns a rule in the form that JSON has."""
    if rule is None:
        return None
    if type(rule).__module__ in (admissions.__name__, evictions.__name__):
        # By name, so that a saved model needs no registration of our own rules.
        return {"rule": type(rule).__name__, **dataclasses.asdict(rule)}  # type: ignore[call-overload]
    # A rule of the user, whose class Keras must know.
    return keras.saving.serialize_keras_object(rule)


def _rule(config: Any) -> Any:
    """Returns the rule that `_rule_config` has described; a rule as it is."""
    if not isinstance(config, dict):
        return config
    if "rule" not in config:
        return keras.saving.deserialize_keras_object(config)
    fields = {name: value for name, value in config.items() if name != "rule"}
    found = getattr(admissions, config["rule"], None) or getattr(evictions, config["rule"])
    return found(**fields)
