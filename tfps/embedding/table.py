"""`Table`: an embedding as everything else sees it, whatever keeps its rows; one Keras variable, a store a shard.

The rest of tfps uses a table by this class alone: it routes ids (`route`), gathers and updates rows beside them (by
`stores`), scans rows with their slots, assigns them, and asks which rows were touched. A subclass says how the stores
are made, in `create`. `tfps.embedding.sharded_table.ShardedTable` is the one that layers use by default.

Threading: lookups and updates may come from any thread and any worker, and an update of a row is atomic on its server.
`scan`, `numpy`, `assign` and `assign_rows` are for the chief, outside a step, while no step is under way: they are not
atomic with respect to updates. Ownership: a table owns its stores, and the servers free the rows when the table is
collected. Cost: rows are read and written where they are; the whole table is put together on the chief only by `numpy`
and what builds on it (saving, exporting), chunk by chunk.
"""

import abc
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfps.embedding.initialization import InitialValue
from tfps.embedding.lookup import expand, look_up
from tfps.embedding.routed_rows import RoutedRows
from tfps.embedding.row_store import RowStore
from tfps.errors import UnsupportedError
from tfps.ops.routing_graph import global_of
from tfps.placement.model import Placement
from tfps.placement.routing import Routing

if TYPE_CHECKING:
    from typing_extensions import Self  # in `typing` from Python 3.11 on

_KEYS = itertools.count()
_CHUNK_BYTES = 64 << 20
"""Bytes of rows that cross at a time: enough that a message costs nothing, little beside the memory of the chief."""

TouchedCursor = tuple[int, ...]
"""A moment in the life of a table: the cursor of each of its stores."""


@dataclasses.dataclass(frozen=True, eq=False)
class RowChunk:
    """Some rows of a table.

    Args:
        ids: their ids, int64 [m].
        rows: [m, dim], on their server.
        slots: for each slot that was asked for its rows, [m, width of the slot].
    """

    ids: np.ndarray[Any, Any]
    rows: tf.Tensor
    slots: tuple[tf.Tensor, ...]


class Table(RoutedRows, abc.ABC):
    """Rows of shape [dim] by id, in a store a shard.

    Args:
        placement: which server holds which rows; its spec gives name, shape and dtype.
        stores: the rows of each shard, on its server.
        trainable: whether tapes watch lookups.
    """

    def __init__(self, placement: Placement, stores: Sequence[RowStore], trainable: bool = True) -> None:
        # A key of its own, and not the name, which a table of another model may have too.
        routing = routing_of(placement)
        super().__init__(("table", next(_KEYS)), placement.spec.name, routing, placement.servers, stores, trainable)
        self.placement = placement
        self.shape = tf.TensorShape(placement.spec.shape)

    @classmethod
    @abc.abstractmethod
    def create(cls, placement: Placement, initial: InitialValue, devices: Sequence[str], trainable: bool) -> "Self":
        """Makes a table and its first values, on the servers.

        Args:
            placement: which server holds which rows.
            initial: the first values.
            devices: of the server of each shard.
            trainable: whether tapes watch lookups.
        """

    def create_slot(self, placement: Placement, initial: InitialValue) -> "Self":
        """Makes a table of the same type for an optimizer slot, row for row beside this one.

        Args:
            placement: the servers and routing of this table; the width of the slot is its own.
            initial: the first values.
        """
        return self.create(placement, initial, [store.device for store in self.stores], trainable=False)

    def sparse_read(self, indices: tf.Tensor, name: str | None = None) -> tf.Tensor:
        """Rows for ids of any shape: what `tf.gather(table, ids)` and `keras.ops.take` ask for. The table stays.

        Args:
            indices: int32 or int64 ids, 0 <= id < rows, of any shape.
            name: of the operations.

        Returns:
            A tensor of shape `indices.shape + [dim]`.
        """
        with tf.name_scope(name or "table_lookup"):
            return expand(look_up(self, indices))

    def scan(self, slots: Sequence["Table"] = (), chunk_rows: int | None = None) -> Iterator[RowChunk]:
        """Every row of the table with its slots, chunk by chunk, in the order in which the servers hold them.

        The rows and slots of a chunk are of one moment where the stores promise it (`RowStore.scan`), so a row never
        comes with the slots of another step. Updates may come between two chunks.

        Args:
            slots: made by `create_slot`.
            chunk_rows: rows of a chunk at most; by default those of 64 MB.
        """
        chunk_rows = chunk_rows or self._chunk_rows
        for shard, store in enumerate(self.stores):
            # A slot has the routing of its table, so shard for shard and row for row they are beside each other.
            for local, (rows, *of_slots) in store.scan([slot.stores[shard] for slot in slots], chunk_rows):
                yield RowChunk(self.routing.global_of(shard, local), rows, tuple(of_slots))

    def assign_rows(self, ids: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> None:
        """Overwrites some rows.

        Args:
            ids: int64 [m], each once.
            rows: [m, dim].
        """
        shards, local = self.routing.locate(ids)
        for shard, store in enumerate(self.stores):
            # Example: ids [4, 7, 9] on shards [1, 0, 1] give shard 1 the positions [0, 2].
            chosen = np.flatnonzero(shards == shard)
            if chosen.size:
                store.assign(local[chosen], rows[chosen].astype(self.dtype.as_numpy_dtype, copy=False))

    def touched_since(self, cursor: TouchedCursor | None) -> tuple[np.ndarray[Any, Any], TouchedCursor]:
        """The ids of the rows that were updated since a cursor; rows of slots count for the slot's own table.

        A table that nobody watches pays nothing for this. The first call starts to watch it.

        Args:
            cursor: from an earlier call; None to start from now.

        Returns:
            Ids, int64 [m] ascending, and the cursor of now.

        Raises:
            UnsupportedError: the stores cannot watch their rows.
        """
        # Each store counts its own updates, so a moment of the table is a cursor of each.
        cursors = [None] * len(self.stores) if cursor is None else cursor
        found = [store.touched_since(one) for store, one in zip(self.stores, cursors, strict=True)]
        ids = [self.routing.global_of(shard, local) for shard, (local, _) in enumerate(found)]
        return np.sort(np.concatenate(ids)), tuple(now for _, now in found)

    def numpy(self) -> np.ndarray[Any, Any]:
        """The whole table on the chief, [rows, dim]; needs that much memory here."""
        # Zeros and not empty: a table that grows may lack rows. Pages that are never written take no memory.
        whole = np.zeros(self.placement.spec.shape, self.dtype.as_numpy_dtype)
        for chunk in self.scan():
            whole[chunk.ids] = chunk.rows.numpy()
        return whole

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """Same as `numpy()`."""
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def assign(self, value: Any) -> "Self":
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
        # By chunks, so that the copies that each shard is sent stay small.
        for start in range(0, self.rows, self._chunk_rows):
            end = min(self.rows, start + self._chunk_rows)
            self.assign_rows(np.arange(start, end), whole[start:end])
        return self

    def _assign_in_graph(self, value: tf.Tensor) -> "Self":
        """The same where TensorFlow restores a checkpoint inside a function."""
        value = tf.ensure_shape(value, self.shape)
        for shard, store in enumerate(self.stores):
            local = tf.range(self.routing.shard_rows(shard), dtype=tf.int64)
            store.assign(local, tf.cast(tf.gather(value, global_of(self.routing, shard, local)), self.dtype))
        return self

    @property
    def _chunk_rows(self) -> int:
        return max(1, _CHUNK_BYTES // (self.dim * self.dtype.size))

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        """On the chief: the whole table. In a graph: a tensor that may be asked for its shape, but not evaluated."""
        if tf.executing_eagerly():
            return tf.convert_to_tensor(self.numpy(), dtype)
        message = (
            f"tfps: a step asked for the whole table {self.name} ({self.rows} x {self.dim}), which would cross to the "
            "worker. Ask for rows: keras.layers.Embedding, keras.ops.take, tf.gather or tfps.nn.embedding_lookup; of a "
            "small one for all of them, layer(keras.ops.arange(rows))."
        )
        # Keras asks for the shape of a variable by converting it. The conversion of the message fails with the message
        # in the error, if the tensor is ever evaluated.
        never = tf.strings.to_number(message, out_type=tf.float32, name="whole_table_read")
        return tf.cast(tf.broadcast_to(never, self.shape), dtype or self.dtype)

    def _serialize_to_tensors(self) -> dict[str, tf.Tensor]:
        """For `tf.train.Checkpoint`: one tensor a table, whatever the number of shards."""
        return {"VARIABLE_VALUE": tf.convert_to_tensor(self.numpy())}

    def _restore_from_tensors(self, restored_tensors: dict[str, tf.Tensor]) -> "Self":
        return self.assign(restored_tensors["VARIABLE_VALUE"])

    def _export_to_saved_model_graph(self, *args: Any, **kwargs: Any) -> Any:
        raise UnsupportedError(
            "`tf.saved_model.save` cannot write a table, whose rows are on several servers. "
            f"Received: table {self.name!r}. Valid: `model.export(path)`, which puts tables together."
        )

    def __repr__(self) -> str:
        """Type, name, shape and servers."""
        return f"<{type(self).__name__} {self.name!r} shape={tuple(self.shape)} servers={self.servers}>"


def routing_of(placement: Placement) -> Routing:
    """The routing of a table; the plan of one that is not split may have none."""
    return placement.routing or Routing("div", placement.spec.rows, 1)
