"""`Table`: the interface of an embedding table: one Keras variable, with a store for each shard.

The rest of tfps uses tables only through this class. It routes ids (`route`), gathers and updates rows on their servers
(through `stores`), scans rows with their slots, assigns rows, and reports which rows were touched. A subclass
implements `create`, which makes the stores. Layers use `tfps.embedding.sharded_table.ShardedTable` by default.

Threading: lookups and updates may come from any thread and any worker, and an update of a row is atomic on its server.
`scan`, `numpy`, `assign` and `assign_rows` are not atomic with respect to updates: the chief calls them outside a step,
while no step is under way. Ownership: a table owns its stores, and the servers free the rows when the table is
collected. Cost: rows are read and written on their server. Only `numpy` and its callers (exporting) collect the
whole table on the chief, chunk by chunk; `blocks` has a few chunks there at a time.
"""

import abc
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import record  # no public function says whether a tape is active
from tensorflow.python.util import object_identity  # the class of what `tf.Variable.ref` returns is not public

from tfps import step
from tfps.embedding import row_version
from tfps.embedding.initialization import InitialValue
from tfps.embedding.lookup import expand, look_up
from tfps.embedding.operators import with_operators
from tfps.embedding.routed_rows import RoutedRows
from tfps.embedding.row_store import RowStore
from tfps.embedding.shard_scan import RowChunk, ShardScan
from tfps.embedding.whole import all_ids, read_in_graph
from tfps.errors import UnsupportedError
from tfps.ops.routing_graph import global_of
from tfps.placement.model import Placement

if TYPE_CHECKING:
    from typing import NoReturn

    import numpy.typing as npt
    from typing_extensions import Self  # in `typing` from Python 3.11 on

_KEYS = itertools.count()
_CHUNK_BYTES = 64 << 20
"""Bytes of the rows that cross at a time: enough to hide the cost of a message, and small beside the chief's memory."""

TouchedCursor = tuple[int, ...]
"""A moment in the history of a table: the cursor of each of its stores."""


@with_operators
class Table(RoutedRows, abc.ABC):
    """A table with rows of shape [dim] and a store for each shard.

    Args:
        placement: the server of each row; its spec gives the name, the shape and the dtype.
        stores: the store of each shard, on its server.
        trainable: whether gradient tapes watch lookups.

    Attributes:
        assignments: how often rows were assigned. `touched_since` does not tell which.
        grows: whether ids are any int64, and rows appear as they do.
    """

    grows: ClassVar[bool] = False

    def __init__(self, placement: Placement, stores: Sequence[RowStore], trainable: bool = True) -> None:
        # The key is a number and not the name, because a table of another model may have the same name.
        routing = placement.table_routing
        super().__init__(("table", next(_KEYS)), placement.spec.name, routing, placement.servers, stores, trainable)
        self.placement = placement
        # How often rows were assigned: `touched_since` does not know of that.
        self.assignments = 0
        self.shape = tf.TensorShape(placement.spec.shape)

    @classmethod
    @abc.abstractmethod
    def create(cls, placement: Placement, initial: InitialValue, devices: Sequence[str], trainable: bool) -> "Self":
        """Makes a table with its first values on the servers.

        An implementation makes one store for each shard and writes the first values. `placement.table_routing` says
        which rows a shard holds, and `tfps.embedding.initialization.fill` writes the values through `RowStore.assign`.

        Args:
            placement: the server of each row.
            initial: the first values.
            devices: the device of each shard.
            trainable: whether gradient tapes watch lookups.
        """

    def create_slot(self, placement: Placement, initial: InitialValue) -> "Self":
        """Makes the table of an optimizer slot. It has this table's type, and each row is on the same server.

        Args:
            placement: a placement with the servers and routing of this table; the width may differ.
            initial: the first values of the slot.
        """
        # Tapes must not watch slots: only the table itself has a gradient.
        return self.create(placement, initial, [store.device for store in self.stores], trainable=False)

    def sparse_read(self, indices: tf.Tensor, name: str | None = None) -> tf.Tensor:
        """Looks up rows; `tf.gather(table, ids)` and `keras.ops.take` call it. Only the rows cross.

        Args:
            indices: int32 or int64 ids of any shape; 0 <= id < rows.
            name: the name scope of the operations.

        Returns:
            A tensor of shape `indices.shape + [dim]`.
        """
        with tf.name_scope(name or "table_lookup"):
            return expand(look_up(self, indices))

    def scan(self, slots: Sequence["Table"] = (), chunk_rows: int | None = None) -> Iterator[RowChunk]:
        """Yields every row of the table with its slots, chunk by chunk, in the order of the shards.

        The rows and slots of a chunk are of one moment where the stores promise it (`RowStore.scan`), so a row never
        comes with the slots of another step. Updates may come between two chunks.

        Args:
            slots: slot tables that `create_slot` made.
            chunk_rows: the largest number of rows in a chunk; by default 64 MB of rows.
        """
        for shard in range(len(self.stores)):
            for local, (rows, *slot_rows) in self.scan_shard(shard, slots, chunk_rows or self._chunk_rows):
                yield RowChunk(self.routing.global_of(shard, local), rows, tuple(slot_rows))

    def scan_shard(
        self, shard: int, slots: Sequence["Table"], chunk_rows: int
    ) -> Iterator[tuple[np.ndarray[Any, Any], list[tf.Tensor]]]:
        """Yields every row of one shard with its slots, as `scan` does, for code that runs beside each server.

        Args:
            shard: the number of the shard.
            slots: slot tables that `create_slot` made.
            chunk_rows: the largest number of rows in a chunk.

        Yields:
            The local rows of a chunk, int64 [m], and a list of tensors: the rows, [m, dim], and the rows of each slot.
        """
        # A slot table has the routing of its table, so the same shard and local row hold the slot of a row.
        return self.stores[shard].scan([slot.stores[shard] for slot in slots], chunk_rows)

    def assign_rows(self, ids: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> None:
        """Overwrites some rows.

        Args:
            ids: the ids, int64 [m], each once.
            rows: their new rows, [m, dim].
        """
        shards, local = self.routing.locate(ids)
        self.count_assignment()
        for shard, store in enumerate(self.stores):
            # Example: the ids [4, 7, 9] are on the shards [1, 0, 1], so shard 1 gets the positions [0, 2].
            chosen = np.flatnonzero(shards == shard)
            if chosen.size:
                store.assign(local[chosen], rows[chosen].astype(self.dtype.as_numpy_dtype, copy=False))
        # A closure that began meanwhile may have kept rows of before.
        row_version.change()

    def count_assignment(self) -> None:
        """Notes that rows change in another way than by updates: no copy of them is used any more."""
        self.assignments += 1
        row_version.change()

    def blocks(self, block_rows: int) -> Iterator[np.ndarray[Any, Any]]:
        """Yields the rows in the order of their ids, in blocks, for files that are written from the first to the last.

        The chief needs memory for three blocks: one, and what has come from the servers for the next. Rows that a table
        that grows lacks are zeros.

        Args:
            block_rows: the rows of each block but the last, which may have fewer.
        """
        chunk = -(-block_rows // len(self.stores))
        scans = [ShardScan(self, shard, chunk) for shard in range(len(self.stores))]
        for start in range(0, self.rows, block_rows):
            end = min(self.rows, start + block_rows)
            block = np.zeros((end - start, self.dim), self.dtype.as_numpy_dtype)
            for scan in scans:
                for ids, rows in scan.take_until(end):
                    block[ids - start] = rows
            yield block

    def assign_blocks(self, read: Callable[[int, int], np.ndarray[Any, Any]]) -> None:
        """Overwrites every row with what a function returns for one block of rows after the other.

        Args:
            read: a function of the first id of a block and the id after its last; it returns their rows, [m, dim].
        """
        # The blocks keep the copies small that the chief makes of the rows of each shard.
        for start in range(0, self.rows, self._chunk_rows):
            end = min(self.rows, start + self._chunk_rows)
            self.assign_rows(np.arange(start, end), read(start, end))

    def touched_since(self, cursor: TouchedCursor | None) -> tuple[np.ndarray[Any, Any], TouchedCursor]:
        """Returns the ids of the rows that were updated after a cursor. Updates of a slot count for its slot table.

        The first call begins to record updates. A table without such a call records none, so it pays nothing.

        Args:
            cursor: the cursor that an earlier call returned; None to start now.

        Returns:
            The ids, int64 [m] ascending, and the cursor of this moment.

        Raises:
            UnsupportedError: the stores cannot record updates.
        """
        # Each store counts its own updates, so the cursor of a table has one number for each store.
        cursors = [None] * len(self.stores) if cursor is None else cursor
        found = [store.touched_since(one) for store, one in zip(self.stores, cursors, strict=True)]
        ids = [self.routing.global_of(shard, local) for shard, (local, _) in enumerate(found)]
        return np.sort(np.concatenate(ids)), tuple(now for _, now in found)

    def begin_restore(self, servers: Iterable[int] | None) -> None:
        """Prepares the table for the rows of a checkpoint, of some servers or of all.

        A table with fixed rows has nothing to prepare: all of them are overwritten.
        """

    @property
    def companions(self) -> Mapping[str, "Table"]:
        """What a checkpoint saves beside the rows and slots: tables with the routing of this one, by a short name."""
        return {}

    def evicted_since(self, cursor: TouchedCursor) -> tuple[np.ndarray[Any, Any], bool]:
        """Returns the ids of the rows that were evicted after a cursor and are not there now.

        Called after `touched_since` with the same cursor, so a row that goes between the two calls is in both answers:
        whoever applies them adds rows first and then removes those that are gone.

        Args:
            cursor: the cursor that an earlier call of `touched_since` returned.

        Returns:
            The ids, int64 [m], and whether they are all. If they are not, some were forgotten, and only all rows of the
            table tell what is gone.
        """
        # A table with fixed rows evicts none.
        return np.zeros(0, np.int64), True

    def numpy(self) -> np.ndarray[Any, Any]:
        """Returns the whole table, [rows, dim]. The chief needs memory for all of it."""
        # `zeros` and not `empty`, because a table that grows may lack rows. Pages that nobody writes take no memory.
        whole = np.zeros(self.placement.spec.shape, self.dtype.as_numpy_dtype)
        for chunk in self.scan():
            whole[chunk.ids] = chunk.rows.numpy()
        return whole

    def __array__(self, dtype: "npt.DTypeLike | None" = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """Returns `numpy()`, for `np.asarray(table)`.

        Raises:
            NotImplementedError: a graph is under trace, as for a `tf.Variable`. It would have the rows of that moment.
        """
        if not tf.executing_eagerly():
            raise NotImplementedError(
                f"a graph cannot use table {self.name!r} as an array, which would keep its rows of this moment. "
                "Valid: tf.convert_to_tensor(table), tf.gather(table, ids), or functions of keras.ops."
            )
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def assign(self, value: "npt.ArrayLike | tf.Tensor") -> "Self":
        """Overwrites every row.

        Args:
            value: the new rows, an array or tensor [rows, dim].

        Raises:
            UnsupportedError: a step that runs on workers assigns it.
            ValueError: the value has another shape.
        """
        # TensorFlow restores a checkpoint inside a function, where the value is symbolic.
        if not tf.executing_eagerly():
            return self._assign_in_graph(value)
        whole = np.asarray(value)
        if whole.shape != self.placement.spec.shape:
            raise ValueError(
                f"`value` must have the shape of table {self.name!r}. Received: {whole.shape}. Valid: {self.shape}."
            )
        self.assign_blocks(lambda start, end: whole[start:end])
        return self

    def _assign_in_graph(self, value: tf.Tensor) -> "Self":
        """Does what `assign` does inside a `tf.function`."""
        if step.current() is not None:
            # Workers have rows of their own under way, whose gradients would come after it, from older rows.
            raise UnsupportedError(
                f"a step cannot assign table {self.name!r}, which all workers read and update at the same time. Valid: "
                "assign it between two calls of `fit` or from a callback; or make it a dense variable, with "
                "`dense_tables_bytes` of the strategy."
            )
        value = tf.ensure_shape(value, self.shape)
        self.count_assignment()
        for shard, store in enumerate(self.stores):
            local = tf.range(self.routing.shard_rows(shard), dtype=tf.int64)
            store.assign(local, tf.cast(tf.gather(value, global_of(self.routing, shard, local)), self.dtype))
        return self

    @property
    def _chunk_rows(self) -> int:
        return max(1, _CHUNK_BYTES // (self.dim * self.dtype.size))

    def __tf_tensor__(self, dtype: tf.DType | None = None, name: str | None = None) -> tf.Tensor:
        """Returns the whole table; see `tfps.embedding.whole`. Outside a step, a graph gets the right shape alone.

        Keras converts a variable to a tensor in order to read its shape.
        """
        if tf.executing_eagerly():
            # A tape follows a lookup, but not values that came by numpy. All else only reads, in chunks.
            rows = self._read_dense(all_ids(self)) if record.could_possibly_record() else self.numpy()
            return tf.convert_to_tensor(rows, dtype)
        rows = read_in_graph(self)
        return rows if dtype is None or dtype == self.dtype else tf.cast(rows, dtype)

    def _read_dense(self, ids: tf.Tensor) -> tf.Tensor:
        """Looks up rows in place of a read whose gradient is dense in one process."""
        current = step.current()
        if current is not None:
            current.sum_repeats(self.key)
        return self.sparse_read(ids)

    def __getitem__(self, key: Any) -> tf.Tensor:
        """Reads a part of the table as `tf.Variable` does, but only the rows that the first index selects."""
        first, *others = key if isinstance(key, tuple) else (key,)
        if isinstance(first, slice):
            ids = tf.range(self.rows, dtype=tf.int64)[first]
            return self._read_dense(ids)[tuple([slice(None), *others])]
        if isinstance(first, int | np.integer) or (tf.is_tensor(first) and first.shape.rank == 0):
            wanted = tf.cast(first, tf.int64)
            row = self._read_dense(tf.where(wanted < 0, wanted + self.rows, wanted))
            return row[tuple(others)] if others else row
        return tf.convert_to_tensor(self)[key]

    def __iter__(self) -> "NoReturn":
        """Refuses a loop over the rows, as a `tf.Variable` does. Without this method Python would call `self[i]`."""
        raise TypeError(f"table {self.name!r} is not iterable.")

    def ref(self) -> object:
        """Returns a hashable reference to the table, as `tf.Variable.ref` does.

        Raises:
            UnsupportedError: a step is under trace, where TensorFlow asks for a table within a gradient of one's own.
        """
        current = step.current()
        if current is not None and not current.eager:
            raise UnsupportedError(
                "a table cannot be used within `tf.recompute_grad` or `tf.custom_gradient`: its gradient is no "
                f"tensor. Received: {self.name!r}. Valid: look up the rows before, and pass them to the function."
            )
        return object_identity.Reference(self)

    @property
    def device(self) -> str:
        """No device: the rows are on several. TensorFlow's lookups ask for it."""
        return ""

    def value(self) -> tf.Tensor:
        """Returns the whole table, as `tf.Variable.value` does."""
        return tf.convert_to_tensor(self)

    read_value = value

    def _serialize_to_tensors(self) -> dict[str, tf.Tensor]:
        """Returns the tensors that `tf.train.Checkpoint` saves."""
        # One tensor for a table, whatever the number of shards, so that another number of servers can restore it.
        return {"VARIABLE_VALUE": tf.convert_to_tensor(self.numpy())}

    def _restore_from_tensors(self, restored_tensors: dict[str, tf.Tensor]) -> "Self":
        """Restores the table from the tensors that a checkpoint holds."""
        return self.assign(restored_tensors["VARIABLE_VALUE"])

    def _export_to_saved_model_graph(self, *args: object, **kwargs: object) -> "NoReturn":
        """Refuses `tf.saved_model.save`, which calls this."""
        raise UnsupportedError(
            "`tf.saved_model.save` cannot write a table, whose rows are on several servers. "
            f"Received: table {self.name!r}. Valid: `model.export(path)`, which collects the rows."
        )

    def __repr__(self) -> str:
        """Type, name, shape and servers."""
        return f"<{type(self).__name__} {self.name!r} shape={tuple(self.shape)} servers={self.servers}>"
