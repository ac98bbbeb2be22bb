"""A table: the rows of an embedding, split over the parameter servers; one Keras variable, many resources.

Rows are read and written where they are. The whole table is only ever put together on the chief, outside a step, for
saving and for `numpy()`. Threading: reads and writes may come from any thread; a row update is atomic on its server.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfps import step
from tfps.embedding.lookup import expand, look_up
from tfps.errors import UnsupportedError
from tfps.ops.routing_graph import global_of
from tfps.placement.model import Placement
from tfps.placement.routing import Routing

_KEYS = itertools.count()
_CHUNK_BYTES = 64 << 20


class Table:
    """Rows of shape [dim] by id, split over servers.

    Args:
        placement: which server holds which rows; its spec gives name, shape and dtype.
        shards: a 2-D `tf.Variable` [rows of the shard, dim] for each shard, on its server.
        trainable: whether tapes watch lookups.
    """

    def __init__(self, placement: Placement, shards: list[Any], trainable: bool = True) -> None:
        self.key = ("table", next(_KEYS))
        self.placement = placement
        self.shards = shards
        self.trainable = trainable
        self.name = placement.spec.name
        self.dtype = tf.as_dtype(placement.spec.dtype)
        self.shape = tf.TensorShape(placement.spec.shape)
        self._unique_id = f"tfps_table_{self.key[1]}"
        self._shared_name = self._unique_id

    @property
    def rows(self) -> int:
        """Number of rows of the whole table."""
        return int(self.placement.spec.shape[0])

    @property
    def dim(self) -> int:
        """Width of a row."""
        return int(self.placement.spec.shape[1])

    @property
    def routing(self) -> Routing:
        """The rule that gives the shard and local row of an id."""
        return self.placement.routing or Routing("div", self.rows, 1)

    @property
    def servers(self) -> tuple[int, ...]:
        """Parameter server of each shard."""
        return self.placement.servers

    @property
    def handle(self) -> Any:
        """What a gradient tape watches: the table's stand-in in the step under trace."""
        current = step.current()
        if current is None:
            raise UnsupportedError(
                f"gradients for table {self.name!r} can be taken only inside a step (`fit`, `train_on_batch`, or a "
                "function given to `strategy.run`); this code runs on the chief."
            )
        return current.gradient_source(self.key)

    def sparse_read(self, indices: Any, name: str | None = None) -> Any:
        """Rows for ids of any shape: what `tf.gather(table, ids)` and `keras.ops.take` ask for. The table stays.

        Args:
            indices: int32 or int64 ids, 0 <= id < rows, of any shape.
            name: of the operations.

        Returns:
            A tensor of shape `indices.shape + [dim]`.
        """
        with tf.name_scope(name or "table_lookup"):
            return expand(look_up(self, indices))

    def numpy(self) -> np.ndarray[Any, Any]:
        """The whole table on the chief, [rows, dim]; needs that much memory here."""
        whole = np.empty(self.placement.spec.shape, self.dtype.as_numpy_dtype)
        for index, shard in enumerate(self.shards):
            for start, end in self._chunks(shard):
                local = np.arange(start, end)
                rows = shard.sparse_read(local) if (start, end) != (0, shard.shape[0]) else shard.read_value()
                whole[self.routing.global_of(index, local)] = rows.numpy()
        return whole

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """Same as `numpy()`."""
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def assign(self, value: Any) -> "Table":
        """Overwrites every row.

        Args:
            value: array or tensor [rows, dim].
        """
        if not tf.executing_eagerly():
            return self._assign_in_graph(value)
        whole = np.asarray(value)
        if whole.shape != self.placement.spec.shape:
            raise ValueError(
                f"`value` must have the shape of table {self.name!r}. Received: {whole.shape}. Valid: {self.shape}."
            )
        for index, shard in enumerate(self.shards):
            for start, end in self._chunks(shard):
                local = np.arange(start, end)
                rows = whole[self.routing.global_of(index, local)].astype(self.dtype.as_numpy_dtype)
                with tf.device(shard.device):
                    shard.scatter_update(tf.IndexedSlices(rows, local))
        return self

    def _assign_in_graph(self, value: Any) -> "Table":
        """The same where TensorFlow restores a checkpoint inside a function."""
        value = tf.ensure_shape(value, self.shape)
        for index, shard in enumerate(self.shards):
            local = tf.range(int(shard.shape[0]), dtype=tf.int64)
            shard.assign(tf.cast(tf.gather(value, global_of(self.routing, index, local)), self.dtype))
        return self

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        """On the chief: the whole table. In a graph: a tensor that may be asked for its shape, but not evaluated."""
        if tf.executing_eagerly():
            return tf.convert_to_tensor(self.numpy(), dtype)
        message = (
            f"tfps: a step asked for the whole table {self.name} ({self.rows} x {self.dim}), which would cross to the "
            "worker. Ask for rows: keras.layers.Embedding, keras.ops.take, tf.gather or tfps.nn.embedding_lookup; of a "
            "small one for all of them, layer(keras.ops.arange(rows))."
        )
        never = tf.strings.to_number(message, out_type=tf.float32, name="whole_table_read")
        return tf.cast(tf.broadcast_to(never, self.shape), dtype or self.dtype)

    def _chunks(self, shard: Any) -> Iterator[tuple[int, int]]:
        rows = int(shard.shape[0])
        size = max(1, _CHUNK_BYTES // (self.dim * self.dtype.size))
        for start in range(0, rows, size):
            yield start, min(rows, start + size)

    def _serialize_to_tensors(self) -> dict[str, Any]:
        """For `tf.train.Checkpoint`: one tensor a table, whatever the number of shards."""
        return {"VARIABLE_VALUE": tf.convert_to_tensor(self.numpy())}

    def _restore_from_tensors(self, restored_tensors: dict[str, Any]) -> "Table":
        return self.assign(restored_tensors["VARIABLE_VALUE"])

    def _export_to_saved_model_graph(self, *args: Any, **kwargs: Any) -> Any:
        raise UnsupportedError(
            "`tf.saved_model.save` cannot write a table, whose rows are on several servers. "
            f"Received: table {self.name!r}. Valid: `model.export(path)`, which puts tables together."
        )

    def __repr__(self) -> str:
        """Name, shape and servers."""
        return f"<Table {self.name!r} shape={tuple(self.placement.spec.shape)} servers={self.servers}>"
