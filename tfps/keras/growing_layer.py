"""`GrowingLayer`: what `DynamicEmbedding` and `DynamicEmbeddingBag` share: the table, how it grows, and its rows."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import UninitializedVariable  # how a described model has variables

from tfps.checks import check_bool, check_integer
from tfps.embedding.admission import Always, Filter
from tfps.embedding.dynamic_table import DynamicTable, DynamicTables
from tfps.embedding.growth import Growth
from tfps.errors import ConfigError, UnsupportedError
from tfps.keras import row_files
from tfps.keras.describing import is_describing
from tfps.keras.frozen_rows import FrozenRows
from tfps.keras.rule_configs import rule_config
from tfps.keras.variables import current_strategy
from tfps.ops.growing_rows import GrowthCounts

if TYPE_CHECKING:
    import numpy.typing as npt


class GrowingLayer(keras.layers.Embedding):
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
            raise UnsupportedError(self._needs_servers())
        return table

    def build(self, input_shape: Any = None) -> None:
        """Makes the table.

        Raises:
            UnsupportedError: there are no parameter servers. A matrix of the expected rows would be made otherwise.
        """
        if current_strategy() is None and not is_describing():
            raise UnsupportedError(self._needs_servers())
        super().build(input_shape)

    def _needs_servers(self) -> str:
        return (
            f"layer {self.name!r} needs parameter servers, where its rows are kept. Received: a model made outside "
            "the scope of a tfps.ParameterServerStrategy. Valid: `with strategy.scope():` around the model."
        )

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
        if chunk_rows is not None:
            check_integer("chunk_rows", chunk_rows, at_least=1, valid="None for 64 MB of rows")
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
        self.table.pin(ids, check_bool("pinned", pinned))

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
            "admission": rule_config(None if isinstance(growth.admission, Always) else growth.admission),
            "eviction": rule_config(growth.eviction),
            "max_rows": growth.max_rows,
            "max_bytes": growth.max_bytes,
            "expected_rows": growth.expected_rows,
            # Left out where none is named, so that earlier versions read the file.
            **({} if growth.embeddings_dtype is None else {"embeddings_dtype": growth.embeddings_dtype}),
        }


def check_unknown(kwargs: dict[str, Any]) -> None:
    """Refuses arguments of an `Embedding` that a table that grows has no use for."""
    if kwargs.pop("embeddings_constraint", None) is not None:
        raise UnsupportedError(
            "`embeddings_constraint` must be None: a table that grows has none. Valid: a regularizer."
        )
    if "input_dim" in kwargs:
        raise ConfigError(
            "`input_dim` must be left out: rows appear as their ids do. Valid: `expected_rows`, for plans."
        )


def has_no_value(variable: Any) -> bool:
    """Whether a variable has only a shape, because its model is being described or built symbolically."""
    return isinstance(getattr(variable, "_value", None), UninitializedVariable | None)
