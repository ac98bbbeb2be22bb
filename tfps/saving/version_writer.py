"""Writes one version of an export for serving: rows as the servers send them, dense variables, evicted ids.

Servers run no Python, so their rows pass through the chief: a chunk of each server at a time, then a file.
Threading: the thread that exports; chunks are read in the threads of the strategy's pool. Writing takes place in the
thread that exports alone, so a slow store does not hold up a server or its thread.
Memory: a chunk and a file for each of a few servers on the chief, a chunk on each server.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfps.progress import Progress, progress
from tfps.saving.content import TableContent
from tfps.saving.rows import Rows, servers_of
from tfps.saving.servers import run_on_servers
from tfps.serving.row_files import crc32, encode_dense, encode_evicted, encode_rows
from tfps.serving.stores import Draft, Store
from tfps.serving.versions import DENSE, EVICTED, MANIFEST, ROWS, ExportedFile, ExportedTable, Version, name_of
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.version import __version__

CHUNK_BYTES = 4 << 20
"""Bytes of rows that a server copies at a time. An update of the table waits for the copy, so a chunk is small."""
_SERVERS_AT_A_TIME = 8
"""Servers whose rows are read at the same time: the chief has room for a file of each."""
_FILE_BYTES = 32 << 20
"""Bytes of rows in a file: what a follower needs of memory beside the rows."""

_Piece = tuple[int, np.ndarray[Any, Any], np.ndarray[Any, Any]]
"""Some rows: the position of their table, their ids, int64 [m], and the rows, [m, dim]."""


@dataclasses.dataclass(frozen=True)
class VersionHead:
    """What a version is, apart from its content.

    Args:
        kind: "full" or "delta".
        number: its number.
        parent: the number of the version before it; None for the first one.
        chain_id: the chain that it belongs to.
        step: the number of training steps before it.
        as_of: the moment that it is of, in seconds since 1970.
    """

    kind: str
    number: int
    parent: int | None
    chain_id: str
    step: int
    as_of: float


@dataclasses.dataclass(frozen=True)
class VersionContent:
    """What a version has.

    Args:
        names: the name of each table.
        tables: the tables.
        rows: the rows to write.
        evicted: for each table, the ids that are gone since the parent.
        dense: the other variables by name.
    """

    names: Sequence[str]
    tables: Sequence[TableContent]
    rows: Rows
    evicted: Sequence[np.ndarray[Any, Any]]
    dense: Mapping[str, np.ndarray[Any, Any]]


def write_version(
    store: Store, head: VersionHead, content: VersionContent, strategy: ParameterServerStrategy
) -> Version:
    """Writes a version. No reader sees it until it is in `current.json`.

    Raises:
        ExportError: the store cannot be written.
        ClusterError: a server died, or did not answer in time.
    """
    draft = store.begin(name_of(head.kind, head.number))
    try:
        with progress(f"exporting {name_of(head.kind, head.number)}", None, "bytes") as bar:
            files = _Files(draft, bar)
            files.write(DENSE, "dense.npz", encode_dense(content.dense))
            gone = [(name, ids) for name, ids in zip(content.names, content.evicted, strict=True) if ids.size]
            if gone:
                files.write(EVICTED, "evicted.parquet", encode_evicted(gone))
            counts = _write_rows(files, content, strategy)
        tables = [
            ExportedTable(name, one.tables[0].dim, count, ids.size)
            for name, one, count, ids in zip(content.names, content.tables, counts, content.evicted, strict=True)
        ]
        fields = {field.name: getattr(head, field.name) for field in dataclasses.fields(head)}
        version = Version(**fields, writer=f"tfps {__version__}", tables=tuple(tables), files=tuple(files.written))
        # The manifest last: in an object store a version without one was not completed.
        draft.write(MANIFEST, version.to_json())
        draft.finish()
    # Also after an interrupt: a draft that is left behind would only take room.
    except BaseException:
        draft.discard()
        raise
    return version


def _write_rows(files: "_Files", content: VersionContent, strategy: ParameterServerStrategy) -> list[int]:
    """Writes the rows; returns the number of them by table."""
    servers = servers_of(content.tables)
    writers = {
        server: _RowWriter(files, f"rows-{number}-of-{len(servers)}", content.names)
        for number, server in enumerate(servers)
    }
    counts = [0] * len(content.tables)
    for first in range(0, len(servers), _SERVERS_AT_A_TIME):
        group = servers[first : first + _SERVERS_AT_A_TIME]
        for pieces in _pieces(content, group, strategy):
            for server, (table, ids, rows) in pieces.items():
                counts[table] += ids.size
                writers[server].add(table, ids, rows)
        for server in group:
            writers[server].flush()
    return counts


def _pieces(
    content: VersionContent, servers: Sequence[int], strategy: ParameterServerStrategy
) -> Iterator[Mapping[int, _Piece]]:
    """Yields some rows of each server that has more, until no server has."""
    chunks = {server: content.rows.chunks(server) for server in servers}
    found: dict[int, _Piece] = {}

    def take(server: int) -> None:
        if (chunk := next(chunks[server], None)) is not None:
            table = content.tables[chunk.table].tables[0]
            ids = table.routing.global_of(chunk.shard, chunk.local)
            found[server] = (chunk.table, ids, chunk.rows[0].numpy())

    left = set(chunks)
    while left:
        found.clear()
        units = {server: iter([functools.partial(take, server)]) for server in left}
        run_on_servers(strategy, units, "servers to send rows for an export")
        left = set(found)
        yield found


class _Files:
    """Writes the files of a version, and notes them.

    Args:
        draft: the version.
        bar: what is told of each file.

    Attributes:
        written: the files so far.
    """

    def __init__(self, draft: Draft, bar: Progress) -> None:
        self._draft, self._bar = draft, bar
        self.written: list[ExportedFile] = []

    def write(self, holds: str, path: str, data: bytes) -> None:
        """Writes a file."""
        self._draft.write(path, data)
        self._bar.add(len(data))
        self.written.append(ExportedFile(path, holds, len(data), crc32(data)))


class _RowWriter:
    """Writes the rows of a server, in files of about `_FILE_BYTES`.

    Args:
        files: where.
        folder: the folder of the files.
        names: the names of the tables.
    """

    def __init__(self, files: _Files, folder: str, names: Sequence[str]) -> None:
        self._files, self._folder, self._names = files, folder, names
        self._pieces: list[_Piece] = []
        self._bytes = 0
        self._count = 0

    def add(self, table: int, ids: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> None:
        """Takes rows of a table."""
        if ids.size:
            self._pieces.append((table, ids, rows))
            self._bytes += rows.nbytes
        if self._bytes >= _FILE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what is left."""
        if self._pieces:
            data = encode_rows([(self._names[table], ids, rows) for table, ids, rows in self._pieces])
            self._files.write(ROWS, f"{self._folder}/part-{self._count:05}.parquet", data)
            self._count += 1
        self._pieces, self._bytes = [], 0
