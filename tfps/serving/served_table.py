"""`ServedTable`: the rows of one table in memory, by key.

A row is in a numbered place of a matrix, and an index finds the place of a key: ascending keys, and beside each its
place. A key costs 12 bytes. Keys that follow one another, as those of a table with fixed rows do, are found without a
search.

Threading: any thread may call `gather`. A change is prepared beside lookups (`prepare`) and then made at once
(`commit`), both by one thread. A `gather` during a `commit` may mix old and new rows; the follower repeats it.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from tfps.errors import ExportError
from tfps.serving.row_files import Ids, Rows

Places = npt.NDArray[np.int32]
_GROWTH = 8
"""A full matrix grows by a block of an eighth of its rows, so that little of it is empty."""
_MIN_BLOCK = 1024


class KeyIndex:
    """Finds the places of keys. It never changes; a change makes another one.

    Args:
        keys: the keys, int64 [n], ascending, each once.
        places: the place of each, int32 [n].
    """

    def __init__(self, keys: Ids, places: Places) -> None:
        self.keys, self.places = keys, places
        # As Python integers: the difference of two int64 may overflow.
        self._is_range = bool(keys.size) and int(keys[-1]) - int(keys[0]) + 1 == keys.size

    def find(self, ids: Ids) -> tuple[Places, npt.NDArray[np.bool_]]:
        """Returns the place of each id, int32 [m], 0 where it is not there; and whether it is there, bool [m]."""
        if not self.keys.size:
            return np.zeros(ids.size, np.int32), np.zeros(ids.size, bool)
        if self._is_range:
            # Compared before the subtraction, which could overflow.
            found = (ids >= self.keys[0]) & (ids <= self.keys[-1])
            at = np.where(found, ids, self.keys[0]) - self.keys[0]
        else:
            at = np.minimum(np.searchsorted(self.keys, ids), self.keys.size - 1)
            found = self.keys[at] == ids
        return np.where(found, self.places[at], np.int32(0)), found

    def changed(self, added: Ids, places: Places, removed: Ids) -> "KeyIndex":
        """Returns an index with other keys.

        Args:
            added: new keys, ascending, none of which is there.
            places: the place of each.
            removed: keys to remove; those that are not there are skipped.
        """
        keys, of_keys = self.keys, self.places
        if added.size:
            at = np.searchsorted(keys, added)
            keys, of_keys = np.insert(keys, at, added), np.insert(of_keys, at, places)
        if removed.size:
            kept = ~np.isin(keys, removed)
            keys, of_keys = keys[kept], of_keys[kept]
        return KeyIndex(keys, of_keys)


@dataclasses.dataclass(frozen=True)
class Change:
    """A change of a table that is ready to be made.

    Args:
        places: the places to write, int32 [m].
        rows: their new rows, float32 [m, dim].
        index: the index afterwards.
        free: the places without a key afterwards.
    """

    places: Places
    rows: Rows
    index: KeyIndex
    free: Places


class ServedTable:
    """The rows of a table.

    Args:
        rows: the first rows, float32 [n, dim]. They are not copied.
        index: the places of their keys.
        free: the places without a key.
    """

    def __init__(self, rows: Rows, index: KeyIndex, free: Places) -> None:
        self.dim = rows.shape[1]
        self._index, self._free = index, free
        # The first place of each block. Blocks are never copied, so a table that grows needs no room for a copy of
        # itself.
        self._starts, self._blocks = np.zeros(1, np.int64), [rows]

    def __len__(self) -> int:
        """The number of rows."""
        return self._index.keys.size

    @property
    def keys(self) -> Ids:
        """The ids that have a row, int64 [n] ascending."""
        return self._index.keys

    @property
    def bytes(self) -> int:
        """The bytes of the matrix and of the index."""
        return sum(block.nbytes for block in self._blocks) + self._index.keys.nbytes + self._index.places.nbytes

    def gather(self, ids: Ids, missing: Rows) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Copies rows.

        Args:
            ids: int64 [m].
            missing: the row of ids that are not there, float32 [dim].

        Returns:
            The rows, float32 [m, dim], and whether each was there, bool [m].
        """
        places, found = self._index.find(ids)
        rows = np.empty((ids.size, self.dim), np.float32)
        for block, inside, at in self._split(places):
            # Places of ids that are not there are 0, which an empty block lacks.
            if len(block):
                rows[inside] = block[at]
        rows[~found] = missing
        return rows, found

    def prepare(self, keys: Ids, rows: Rows, evicted: Ids) -> Change:
        """Prepares a change. It makes room for new rows, and changes nothing that a lookup finds.

        Args:
            keys: the ids of rows that are new or have changed, int64 [m], each once.
            rows: these rows, float32 [m, dim].
            evicted: the ids of rows to remove, int64 [k]. An id that is among `keys` too is removed.

        Raises:
            ExportError: a new id comes twice.
        """
        places, found = self._index.find(keys)
        new = np.flatnonzero(~found)
        # `changed` inserts ascending keys; one sort serves it and the test for ids that come twice.
        new = new[np.argsort(keys[new])]
        if np.any(keys[new][1:] == keys[new][:-1]):
            raise ExportError("a table has an id twice among the rows that changed.")
        self._reserve(new.size)
        chosen, free = self._free[: new.size], self._free[new.size :]
        places[new] = chosen
        index = self._index
        if new.size or evicted.size:
            index = index.changed(keys[new], chosen, evicted)
        if evicted.size:
            gone = np.setdiff1d(np.concatenate([self._index.places, chosen]), index.places)
            free = np.concatenate([free, gone])
        return Change(places, rows, index, free)

    def commit(self, change: Change) -> None:
        """Makes the change that `prepare` returned last."""
        for block, inside, at in self._split(change.places):
            block[at] = change.rows[inside]
        # After the rows: a lookup that runs now finds a new key only once its row is written.
        self._index, self._free = change.index, change.free

    def _split(self, places: Places) -> Iterable[tuple[Rows, slice | npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Yields the blocks that have some places: the block, which of the places they are, and where in the block."""
        if len(self._blocks) == 1:
            yield self._blocks[0], slice(None), places.astype(np.int64)
            return
        numbers = np.searchsorted(self._starts, places, side="right") - 1
        for number in np.unique(numbers):
            inside = np.flatnonzero(numbers == number)
            yield self._blocks[number], inside, places[inside] - self._starts[number]

    def _reserve(self, rows: int) -> None:
        """Makes sure that there are free places for some rows."""
        lacking = rows - self._free.size
        if lacking <= 0:
            return
        end = int(self._starts[-1]) + len(self._blocks[-1])
        size = max(lacking, end // _GROWTH, _MIN_BLOCK)
        # The starts last: a lookup that runs now must not find a place whose block is not there.
        self._blocks = [*self._blocks, np.empty((size, self.dim), np.float32)]
        self._starts = np.append(self._starts, end)
        self._free = np.concatenate([self._free, np.arange(end, end + size, dtype=np.int32)])


class TableLoader:
    """Makes a table from pieces.

    Args:
        dim: the width of a row.
        rows: the number of rows of all pieces.
    """

    def __init__(self, dim: int, rows: int) -> None:
        self._keys, self._rows = np.empty(rows, np.int64), np.empty((rows, dim), np.float32)
        self._count = 0

    def add(self, ids: Ids, rows: Rows) -> None:
        """Takes ids and their rows. Of an id that comes twice the later row counts.

        Raises:
            ExportError: there are more rows than were announced.
        """
        end = self._count + ids.size
        if end > self._keys.size:
            raise ExportError(f"a table has more rows than the {self._keys.size} that its manifest says.")
        self._keys[self._count : end], self._rows[self._count : end] = ids, rows
        self._count = end

    def finish(self) -> ServedTable:
        """Returns the table.

        Raises:
            ExportError: there are fewer rows than were announced.
        """
        if self._count < self._keys.size:
            raise ExportError(f"a table has {self._count} rows, and its manifest says {self._keys.size}.")
        places = np.argsort(self._keys, kind="stable").astype(np.int32)
        keys = self._keys[places]
        last = np.append(keys[1:] != keys[:-1], True)[: keys.size]
        free = np.zeros(0, np.int32)
        # Usually each id comes once, and nothing is copied.
        if not last.all():
            keys, places, free = keys[last], places[last], places[~last]
        return ServedTable(self._rows, KeyIndex(keys, places), free)
