"""`DynamicTable`: a table that grows. Its ids are any int64, and the row of an id appears with its first update."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfps import step
from tfps.checks import show_value
from tfps.cluster.remote_resource import RemoteResource
from tfps.embedding.growing_row_store import GrowingRowStore
from tfps.embedding.growth import FirstValue, Growth, first_value_of
from tfps.embedding.initialization import InitialValue
from tfps.embedding.table import Table, TouchedCursor
from tfps.embedding.whole import never
from tfps.errors import ConfigError, UnsupportedError
from tfps.ops import growing_rows
from tfps.ops.growing_rows import META_WIDTH, GrowthCounts
from tfps.ops.routing_graph import locate
from tfps.placement.model import Placement

if TYPE_CHECKING:
    from typing import NoReturn

    import numpy.typing as npt

_ASSIGN_ROWS = 1 << 20
"""The largest number of ids in a message of the methods below: 8 MB of them."""


class DynamicTable(Table):
    """A table whose rows appear as their ids do, in a hash table on each server.

    The first value of a row follows from the seed and the id alone. The shape has the expected number of rows, for
    plans and summaries; `counts()` returns the true one. A table that grows has no matrix: whatever needs one is
    refused by name.

    Args:
        placement: as for `Table`.
        stores: as for `Table`.
        trainable: as for `Table`.
        growth: how the table grows.
        first: how rows begin.
        is_slot: whether this is a column of the rows of another table.

    Attributes:
        meta: the table of the metadata of rows, for checkpoints; None for a slot.
    """

    stores: tuple[GrowingRowStore, ...]
    grows = True

    def __init__(
        self,
        placement: Placement,
        stores: Sequence[GrowingRowStore],
        trainable: bool,
        growth: Growth,
        first: FirstValue,
        is_slot: bool = False,
    ) -> None:
        super().__init__(placement, stores, trainable)
        self.growth, self.first, self.is_slot = growth, first, is_slot
        self.meta: DynamicTable | None = None

    @classmethod
    def create(
        cls, placement: Placement, initial: InitialValue, devices: Sequence[str], trainable: bool
    ) -> "DynamicTable":
        """See `Table`; a table without limits or rules. `DynamicTables` makes others."""
        return DynamicTables(Growth()).create(placement, initial, devices, trainable)

    def create_slot(self, placement: Placement, initial: InitialValue) -> "DynamicTable":
        """See `Table`. A slot is a column of the rows, so it comes and goes with them."""
        name = placement.spec.name
        if initial.constant is None:
            raise UnsupportedError(
                f"the slot {name!r} of a table that grows must begin with a constant. Received: another initializer."
            )
        width, constant = placement.spec.shape[1], initial.constant
        # In the block of the row: one search finds a row and its slots, and they are evicted together.
        stored = tf.as_dtype(placement.spec.dtype_on_servers)
        columns = [store.add_column(width, constant, stored) for store in self.stores]
        return DynamicTable(placement, columns, False, self.growth, FirstValue("constant", constant), is_slot=True)

    def begin_restore(self, servers: Iterable[int] | None) -> None:
        """See `Table`: rows that the checkpoint lacks must not stay."""
        self.clear(servers)

    @property
    def companions(self) -> Mapping[str, Table]:
        """See `Table`: when each row was used, and its score, in `META_WIDTH` columns. A slot has none of its own."""
        if self.is_slot:
            return {}
        if self.meta is None:
            spec = dataclasses.replace(
                self.placement.spec,
                name=f"{self.name}/use",
                shape=(self.rows, META_WIDTH),
                trainable=False,
                stored_dtype=None,
            )
            placement = dataclasses.replace(self.placement, spec=spec)
            columns = [store.meta_column() for store in self.stores]
            self.meta = DynamicTable(placement, columns, False, self.growth, FirstValue(), is_slot=True)
        return {"use": self.meta}

    def counts(self) -> GrowthCounts:
        """Returns the counts of all shards together. Costs a call to each server."""
        shards = [store.counts() for store in self.stores]
        rows = sum(one.rows for one in shards)

        def mean(ratios: list[float]) -> float:
            # Weighted by rows, because that of an empty shard says nothing.
            return sum(ratio * one.rows for ratio, one in zip(ratios, shards, strict=True)) / max(1, rows)

        return GrowthCounts(
            rows=rows,
            bytes=sum(one.bytes for one in shards),
            admitted=sum(one.admitted for one in shards),
            refused=sum(one.refused for one in shards),
            over_budget=sum(one.over_budget for one in shards),
            evicted=sum(one.evicted for one in shards),
            updates=sum(one.updates for one in shards),
            load=mean([one.load for one in shards]),
            probes=mean([one.probes for one in shards]),
        )

    def evicted_since(self, cursor: TouchedCursor) -> tuple[np.ndarray[Any, Any], bool]:
        """Returns the ids of rows that were evicted or erased since a cursor of `touched_since`.

        Returns:
            The ids, int64 [m] ascending; and whether they are all. If not, some were forgotten since the cursor.
        """
        found = [store.keys_since(one) for store, one in zip(self.stores, cursor, strict=True)]
        ids = np.concatenate([one.evicted.numpy() for one in found])
        return np.sort(ids), all(bool(one.complete) for one in found)

    def erase(self, ids: "npt.ArrayLike") -> int:
        """Erases the rows of ids, [n]; ids without a row are skipped. Returns the number of erased rows."""
        return sum(int(growing_rows.erase(store.handle, keys)) for store, (keys,) in self._by_shard("ids", ids))

    def clear(self, servers: Iterable[int] | None = None) -> None:
        """Erases all rows on the given servers; None for all servers."""
        # Some servers only, after a loss: those that stayed keep their rows.
        chosen = set(self.servers if servers is None else servers)
        for server, store in zip(self.servers, self.stores, strict=True):
            if server in chosen:
                with tf.device(store.device):
                    growing_rows.clear(store.handle)

    def pin(self, ids: "npt.ArrayLike", pinned: bool = True) -> None:
        """Pins ids, [n], or unpins them. The row of a pinned id is never evicted, whenever it was made."""
        for store, (keys,) in self._by_shard("ids", ids):
            growing_rows.pin(store.handle, keys, pinned)

    def add_scores(self, ids: "npt.ArrayLike", amounts: "npt.ArrayLike") -> None:
        """Adds to the scores of rows; ids without a row are skipped.

        Args:
            ids: the ids, int64 [n].
            amounts: what to add to each, float32 [n].

        Raises:
            ConfigError: the eviction of the table keeps no scores, or the lengths differ.
        """
        values = np.asarray(amounts, np.float32)
        if not np.isfinite(values).all():
            raise ConfigError(f"`amounts` must be finite. Received: {values[~np.isfinite(values)][0]}.")
        if values.shape != np.shape(ids):
            raise ConfigError(f"`amounts` must be as many as `ids`, {np.shape(ids)}. Received: shape {values.shape}.")
        try:
            for store, (keys, added) in self._by_shard("ids", ids, values):
                growing_rows.add_scores(store.handle, keys, added)
        except tf.errors.InvalidArgumentError as error:
            raise ConfigError(
                f"table {self.name!r} keeps no scores. Valid: `eviction=tfps.eviction.Score(...)`."
            ) from error

    def evict(self) -> int:
        """Evicts all rows that the rule of the table selects now, and returns their number.

        Training evicts by itself, in small slices. This is for the end of a window, or a table at rest.
        """
        evicted = 0
        for store in self.stores:
            with tf.device(store.device):
                # As many rows as there are: the walk of the server goes round once.
                evicted += int(growing_rows.evict(store.handle, store.counts().rows))
        return evicted

    def assign_rows(self, ids: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> None:
        """See `Table`; ids without a row get one, whatever the admission says.

        Raises:
            ConfigError: a row has a number that is not finite, or the shapes do not fit.
        """
        keys, values = _check_ids("ids", ids), np.asarray(rows)
        if not keys.size:
            return
        if np.unique(keys).size < keys.size:
            repeated, counts = np.unique(keys, return_counts=True)
            raise ConfigError(f"`ids` must have each id once. Received: {repeated[counts > 1][0]} more than once.")
        if values.shape != (keys.size, self.dim) or values.dtype.kind not in "fiu":
            raise ConfigError(
                f"`rows` must be numbers, [{keys.size}, {self.dim}]. Received: {values.dtype} of shape {values.shape}."
            )
        if not np.isfinite(values).all():
            bad = keys[~np.isfinite(values).all(axis=1)][0]
            raise ConfigError(f"`rows` must be finite. Received: the row of id {bad}, which is not.")
        super().assign_rows(keys, values)

    def _by_shard(
        self, name: str, ids: "npt.ArrayLike", *others: np.ndarray[Any, Any]
    ) -> Iterator[tuple[GrowingRowStore, list[tf.Tensor]]]:
        """Yields each store with its part of `ids` and of each other array, [n, ...], in the scope of its device."""
        array = _check_ids(name, ids)
        shards, _ = self.routing.locate(array)
        for shard, store in enumerate(self.stores):
            places = np.flatnonzero(shards == shard)
            # In parts, so that a message has a bounded size whatever the caller gives.
            for start in range(0, places.size, _ASSIGN_ROWS):
                part = places[start : start + _ASSIGN_ROWS]
                with tf.device(store.device):
                    yield store, [tf.constant(one[part]) for one in (array, *others)]

    def _serialize_to_tensors(self) -> dict[str, tf.Tensor]:
        """Returns the tensors that `tf.train.Checkpoint` saves: all ids and rows, for which the chief needs memory."""
        chunks = list(self.scan())
        ids = np.concatenate([chunk.ids for chunk in chunks]) if chunks else np.zeros(0, np.int64)
        rows = [chunk.rows.numpy() for chunk in chunks] or [np.zeros([0, self.dim], np.float32)]
        return {"IDS": tf.constant(ids), "ROWS": tf.constant(np.concatenate(rows))}

    def _restore_from_tensors(self, restored_tensors: dict[str, tf.Tensor]) -> "DynamicTable":
        """Restores the table, or slot, from the tensors that a checkpoint holds."""
        # TensorFlow restores within a function, so these are operations of its graph.
        ids, rows = restored_tensors["IDS"], restored_tensors["ROWS"]
        shard_of, _ = locate(self.routing, ids)
        self.count_assignment()
        for shard, store in enumerate(self.stores):
            chosen = tf.reshape(tf.where(shard_of == shard), [-1])
            keys, values = tf.gather(ids, chosen), tf.gather(rows, chosen)
            # A slot does not clear: that would erase the rows of its table.
            cleared = []
            if not self.is_slot:
                with tf.device(store.device):
                    cleared = [growing_rows.clear(store.handle)]
            # In a graph nothing else would keep the order: the rows could be written first and then cleared.
            with tf.control_dependencies([one for one in cleared if one is not None]):
                store.assign(keys, values)
        return self

    def _refuse(self, what: str) -> "NoReturn":
        raise UnsupportedError(
            f"{what} needs the matrix of table {self.name!r}, which grows and has none: its ids are any int64. Valid: "
            "look up rows by id, or read them in chunks by `DynamicEmbedding.rows()`."
        )

    def numpy(self) -> "NoReturn":
        """Refuses to return a matrix."""
        self._refuse("`numpy()`")

    def blocks(self, block_rows: int) -> "NoReturn":
        """Refuses to return a matrix in blocks."""
        self._refuse("a file of weights")

    def assign_blocks(self, read: Callable[[int, int], np.ndarray[Any, Any]]) -> "NoReturn":
        """Refuses to be overwritten by a matrix."""
        self._refuse("`assign`")

    def assign(self, value: "npt.ArrayLike | tf.Tensor") -> "NoReturn":
        """Refuses to be overwritten by a matrix."""
        self._refuse("`assign`")

    def __tf_tensor__(self, dtype: tf.DType | None = None, name: str | None = None) -> tf.Tensor:
        """Refuses to be a tensor, but for a graph that only wants its shape: Keras builds regularizers so."""
        if tf.executing_eagerly() or step.current() is not None:
            self._refuse("a tensor")
        return never(self)

    def __getitem__(self, key: Any) -> "NoReturn":
        """Refuses an index: rows are found by `tf.gather(table, ids)`."""
        self._refuse("an index")


@dataclasses.dataclass(frozen=True)
class DynamicTables:
    """Makes tables that grow in one way; a layer names it as its table type.

    Args:
        growth: how the tables grow.
    """

    growth: Growth
    grows = True

    @property
    def embeddings_dtype(self) -> str | None:
        """The type in which servers keep the rows; None for that of the strategy."""
        return self.growth.embeddings_dtype

    def create(
        self, placement: Placement, initial: InitialValue, devices: Sequence[str], trainable: bool
    ) -> DynamicTable:
        """See `Table.create`."""
        spec, first = placement.spec, first_value_of(initial, placement.spec.name)
        attributes = {**first.attributes(), **self.growth.attributes(len(devices))}
        stored = tf.as_dtype(spec.dtype_on_servers)

        # A function and not a handle: the resource calls it again after a restart of its server.
        def make() -> tf.Tensor:
            return growing_rows.make_table(spec.shape[1], attributes, stored)

        stores = [GrowingRowStore(RemoteResource(device, make), device, spec.shape[1], stored) for device in devices]
        return DynamicTable(placement, stores, trainable, self.growth, first)


def _check_ids(name: str, ids: "npt.ArrayLike") -> np.ndarray[Any, Any]:
    """Returns ids as an array, int64 [n].

    Raises:
        ConfigError: they are no integers.
    """
    array = np.asarray(ids)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ConfigError(f"`{name}` must be integers, [n]. Received: {show_value(ids)}.")
    return array.astype(np.int64)
