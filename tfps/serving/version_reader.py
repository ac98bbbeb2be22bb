"""Reads versions of an export into memory: a full one as new tables, a delta as changes of tables.

Threading: one thread reads; see `Follower`. Memory: one file at a time of a full version, all rows of a delta.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tfps.errors import ConfigError, ExportError, ExportGapError
from tfps.serving.row_files import Ids, Rows, crc32, decode_dense, decode_evicted, decode_rows
from tfps.serving.served_table import Change, ServedTable, TableLoader
from tfps.serving.stores import Store
from tfps.serving.versions import DENSE, EVICTED, MANIFEST, ROWS, Entry, ExportedFile, Version, parse_version

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A copy of a model.

    Args:
        tables: the tables by name.
        dense: the other variables by name.
        version: the version that it has; None for none.
    """

    tables: Mapping[str, ServedTable]
    dense: Mapping[str, "npt.NDArray[Any]"]
    version: Version | None

    def name_of(self, table: str) -> str:
        """Returns the path of a table, given that, or the path or the name of its layer.

        Raises:
            ConfigError: there is no such table, or the layer has several.
            ExportError: there is no version yet.
        """
        if self.version is None:
            raise ExportError("no version was read yet. Valid: `update()` before, once the export has a version.")
        # A small table is a dense variable for the servers, and a table for who looks up its rows.
        known = [*self.tables, *(name for name, value in self.dense.items() if value.ndim == 2)]
        if table in known:
            return table
        # Example: "items" is the layer of "items/embeddings", and of "tower/items/embeddings".
        layers = {name: name.rpartition("/")[0] for name in known}
        found = [name for name, layer in layers.items() if layer == table]
        found = found or [name for name, layer in layers.items() if layer.endswith(f"/{table}")]
        if len(found) != 1:
            raise ConfigError(f"`table` must name one table. Received: {table!r}. Valid: {', '.join(known) or 'none'}.")
        return found[0]

    def gather(self, table: str, ids: Ids, missing: "npt.ArrayLike") -> "tuple[Rows, npt.NDArray[np.bool_]]":
        """Copies rows; see `Follower.lookup`. The ids have one dimension."""
        name = self.name_of(table)
        if name in self.tables:
            return self.tables[name].gather(ids, _row(missing, self.tables[name].dim))
        value = self.dense[name]
        found = (ids >= 0) & (ids < len(value))
        rows = np.empty((ids.size, value.shape[1]), np.float32)
        rows[found], rows[~found] = value[ids[found]], _row(missing, value.shape[1])
        return rows, found


class VersionReader:
    """Reads versions and checks them.

    Args:
        store: where they are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def read_full(self, entry: Entry) -> Snapshot:
        """Reads a full version.

        Raises:
            ExportGapError: it is broken.
            FileNotFoundError: a file is missing.
            ExportError: the store does not answer.
        """
        version = self._read_manifest(entry)
        with _broken(version):
            # All memory at once, as the manifest has the counts: arrays that grow need twice as much for a moment.
            loaders = {table.name: TableLoader(table.dim, table.rows) for table in version.tables}
        for name, ids, rows in self._read_rows(version):
            with _broken(version):
                loaders[name].add(ids, rows)
        with _broken(version):
            tables = {name: loader.finish() for name, loader in loaders.items()}
        return Snapshot(tables, self._read_dense(version), version)

    def read_delta(self, entry: Entry, before: Snapshot) -> tuple[Snapshot, dict[str, Change]]:
        """Reads a delta; raises as `read_full` does.

        Args:
            entry: the delta.
            before: the copy of the version before it.

        Returns:
            The copy of the delta's version, whose tables may be those of before, and what must be changed in them.
        """
        version = self._read_manifest(entry)
        rows: dict[str, list[tuple[Ids, Rows]]] = {table.name: [] for table in version.tables}
        for name, ids, values in self._read_rows(version):
            rows[name].append((ids, values))
        evicted = {table.name: np.zeros(0, np.int64) for table in version.tables}
        for name, ids in self._read_evicted(version):
            evicted[name] = np.concatenate([evicted[name], ids])
        dense = self._read_dense(version)
        tables, changes = dict(before.tables), {}
        with _broken(version):
            for one in version.tables:
                # A delta may bring the first rows of a table.
                table = tables.setdefault(one.name, TableLoader(one.dim, 0).finish())
                ids, values = _join(rows.pop(one.name), one.dim)
                _check_counts(one.name, (one.dim, ids.size, evicted[one.name].size), (table.dim, one.rows, one.evicted))
                changes[one.name] = table.prepare(ids, values, evicted[one.name])
        return Snapshot(tables, dense, version), changes

    def _read_manifest(self, entry: Entry) -> Version:
        path = f"{entry.name}/{MANIFEST}"
        data = self._store.read(path)
        with _broken(entry):
            version = parse_version(data, f"{self._store.path}/{path}")
            if (version.name, version.checksum) != (entry.name, entry.checksum):
                raise ExportError(f"{self._store.path}/{path} is of another version than `current.json` says.")
        return version

    def _read_rows(self, version: Version) -> Iterator[tuple[str, Ids, Rows]]:
        dims = {table.name: table.dim for table in version.tables}
        for path, data in self._files(version, ROWS):
            with _broken(version):
                yield from decode_rows(data, path, dims)

    def _read_evicted(self, version: Version) -> Iterator[tuple[str, Ids]]:
        dims = {table.name: table.dim for table in version.tables}
        for path, data in self._files(version, EVICTED):
            with _broken(version):
                yield from decode_evicted(data, path, dims)

    def _read_dense(self, version: Version) -> "dict[str, npt.NDArray[Any]]":
        found: dict[str, npt.NDArray[Any]] = {}
        for path, data in self._files(version, DENSE):
            with _broken(version):
                found |= decode_dense(data, path)
        return found

    def _files(self, version: Version, holds: str) -> Iterator[tuple[str, bytes]]:
        """Yields the files that hold something, with their content, once it is checked."""
        for file in version.files:
            if file.holds == holds:
                path = f"{version.name}/{file.path}"
                data = self._store.read(path)
                with _broken(version):
                    _check_file(data, file, f"{self._store.path}/{path}")
                yield f"{self._store.path}/{path}", data


@contextlib.contextmanager
def _broken(version: Version | Entry) -> Iterator[None]:
    """Raises what is wrong with a version as a gap: a follower cannot read it, however often it tries."""
    try:
        yield
    except ExportGapError:
        raise
    except ExportError as error:
        raise ExportGapError(str(error), missing=version.number) from None


def _check_file(data: bytes, file: ExportedFile, path: str) -> None:
    # The length first: it tells a truncated file from a flipped bit.
    if len(data) != file.bytes:
        kind = "truncated" if len(data) < file.bytes else "of another version"
        raise ExportError(f"{path} is {kind}: it has {len(data):,} bytes, and {file.bytes:,} were written.")
    if crc32(data) != file.crc32:
        raise ExportError(f"{path} is broken: its content does not match its checksum.")


def _check_counts(name: str, found: tuple[int, int, int], wanted: tuple[int, int, int]) -> None:
    if found != wanted:
        raise ExportError(f"table {name!r} has (width, rows, evicted ids) {found}, and {wanted} are expected.")


def _join(pieces: list[tuple[Ids, Rows]], dim: int) -> tuple[Ids, Rows]:
    """Returns the ids and rows of all pieces."""
    ids = np.concatenate([np.zeros(0, np.int64), *(one for one, _ in pieces)])
    rows = np.concatenate([np.zeros((0, dim), np.float32), *(one for _, one in pieces)])
    return ids, rows


def _row(missing: "npt.ArrayLike", dim: int) -> Rows:
    """Returns the row that stands for missing ones."""
    row = np.asarray(missing, np.float32)
    if row.shape not in ((), (1,), (dim,)):
        raise ConfigError(f"`missing` must be a number or a row of width {dim}. Received: shape {row.shape}.")
    return np.broadcast_to(row, (dim,))
