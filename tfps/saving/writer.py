"""Writes a checkpoint: each server its own rows, in parts of bounded memory; the chief only what is dense.

The caller waits for the steps under way first, so all of it is of one moment.
Threading: one thread saves; servers write in the threads of the strategy's pool.
"""

import dataclasses
import functools
import pathlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfps.cluster import devices
from tfps.errors import CheckpointError
from tfps.progress import Progress, progress
from tfps.saving import bundles
from tfps.saving.content import Content, TableContent
from tfps.saving.interface import Draft
from tfps.saving.manifest import SavedFile, SavedPart, SavedTable, SavedVariable, files_of
from tfps.saving.rows import PART_BYTES, AllRows, Chunk, Rows, servers_of
from tfps.saving.servers import find_places, run_on_servers
from tfps.strategy.strategy import ParameterServerStrategy


@dataclasses.dataclass
class Written:
    """What was written so far.

    Attributes:
        variables: the variables, in the order of the model.
        tables: the tables.
        files: the files by name.
    """

    variables: list[SavedVariable]
    tables: list[SavedTable]
    files: dict[str, SavedFile]


def write(
    content: Content,
    dense: Callable[[str], np.ndarray[Any, Any]],
    rows: Rows,
    draft: Draft,
    strategy: ParameterServerStrategy | None,
) -> Written:
    """Writes the values of a model into a draft, which the caller completes.

    Args:
        content: the variables.
        dense: returns the value of a dense variable, by its name.
        rows: the rows of its tables.
        draft: the checkpoint that is being written.
        strategy: the strategy that has the tables; None without tables.

    Raises:
        CheckpointError: a file cannot be written: the disk is full, say.
        ClusterError: a server died, or did not answer in time.
    """
    tables = []
    with progress(f"saving {draft.path}", _bytes_of(content, rows), "bytes") as bar:
        writer = _Writer(draft, bar)
        # Dense variables first: a folder that is not writable shows before the servers have done anything.
        bundle_of = dict(writer.write_dense(content, dense))
        if content.tables:
            assert strategy is not None
            tables = writer.write_tables(content.tables, rows, strategy)
    variables = [
        SavedVariable(name, content.shape(name), _dtype_of(content, name), bundle_of.get(name))
        for name in content.order
    ]
    return Written(variables, tables, writer.files)


def _dtype_of(content: Content, name: str) -> str:
    value = content.dense[name] if name in content.dense else content.table(name)
    return tf.as_dtype(value.dtype).name


def _bytes_of(content: Content, rows: Rows) -> int | None:
    """Returns about how many bytes are written; None if that shows only when they are read."""
    if not isinstance(rows, AllRows) or any(content.grows(name) for name in content.order):
        return None
    return sum(_variable_bytes(content, name) for name in content.order)


def _variable_bytes(content: Content, name: str) -> int:
    return int(np.prod(content.shape(name), dtype=np.int64)) * tf.as_dtype(_dtype_of(content, name)).size


class _Writer:
    """Writes bundles and notes their files.

    Args:
        draft: the checkpoint that is being written.
        bar: what is told of each part.
    """

    def __init__(self, draft: Draft, bar: Progress) -> None:
        self._draft, self._bar = draft, bar
        self.files: dict[str, SavedFile] = {}

    def write_dense(self, content: Content, dense: Callable[[str], np.ndarray[Any, Any]]) -> Iterator[tuple[str, str]]:
        """Writes the dense variables; yields the name of each and its bundle."""
        for number, names in enumerate(_groups(content)):
            bundle = f"dense-{number:05d}"
            # One variable at a time crosses to the chief, and one group is in its memory.
            values = [tf.convert_to_tensor(dense(name)) for name in names]
            self._write(devices.CHIEF, bundle, names, values)
            yield from ((name, bundle) for name in names)

    def write_tables(
        self, tables: Sequence[TableContent], rows: Rows, strategy: ParameterServerStrategy
    ) -> list[SavedTable]:
        """Writes the rows of tables, each server its own."""
        parts: list[list[SavedPart]] = [[] for _ in tables]
        servers = servers_of(tables)
        places = self._places(strategy, servers)
        # The name says how many servers there were, for whoever looks at the files.
        folders = {server: f"rows-{server}-of-{strategy.num_servers}" for server in servers}
        units = {
            server: self._units(tables, rows.chunks(server), parts, folders[server], places[server])
            for server in servers
        }
        run_on_servers(strategy, units, "a server to write some rows of a checkpoint")
        return [
            SavedTable(one.tables[0].routing, one.names, tuple(sorted(found, key=lambda part: part.bundle)))
            for one, found in zip(tables, parts, strict=True)
        ]

    def _places(self, strategy: ParameterServerStrategy, servers: Sequence[int]) -> dict[int, str]:
        """Returns the device that writes the rows of each server: itself, or the chief if it sees no such folder."""
        if not self._draft.is_shared:
            return dict.fromkeys(servers, devices.CHIEF)
        token, probe = secrets.token_hex(16), self._draft.prefix("probe")
        pathlib.Path(probe).write_text(token)
        places = find_places(strategy, servers, probe, token)
        pathlib.Path(probe).unlink()
        return places

    def _units(
        self,
        tables: Sequence[TableContent],
        chunks: Iterator[Chunk],
        parts: list[list[SavedPart]],
        folder: str,
        place: str,
    ) -> Iterator[Callable[[], None]]:
        """Yields the units of work of a server: one part each."""
        for number, chunk in enumerate(chunks):
            bundle = f"{folder}/part-{number:05d}"
            yield functools.partial(self._write_part, tables[chunk.table], parts[chunk.table], chunk, bundle, place)

    def _write_part(self, one: TableContent, found: list[SavedPart], chunk: Chunk, bundle: str, place: str) -> None:
        """Writes one part, on its server or on the chief."""
        names, rows, first = [str(column) for column in range(len(chunk.rows))], chunk.rows, 0
        # The parts of a table that grows always have ids: a range of them would mean nothing to its readers.
        has_ids = not chunk.is_range or one.tables[0].grows
        if has_ids:
            ids = one.tables[0].routing.global_of(chunk.shard, chunk.local)
            with tf.device(None), tf.device(place):
                rows = [*rows, tf.constant(ids)]
            names.append(bundles.IDS)
        elif chunk.local.size:
            first = int(chunk.local[0])
        self._write(place, bundle, names, rows)
        # Several servers append to one list at a time, which is safe in Python.
        found.append(SavedPart(bundle, chunk.shard, first, int(chunk.local.size), has_ids))

    def _write(self, device: str, bundle: str, names: Sequence[str], tensors: Sequence[tf.Tensor]) -> None:
        prefix = self._draft.prefix(bundle)
        try:
            bundles.write(device, prefix, names, tensors)
            # Read back from the page cache: what counts is what the files have, not what was meant.
            sums = bundles.fingerprints(device, prefix)
        except (
            tf.errors.ResourceExhaustedError,
            tf.errors.PermissionDeniedError,
            tf.errors.FailedPreconditionError,
        ) as error:
            raise CheckpointError(f"cannot write {prefix}: {bundles.first_line(error)}.") from None
        sizes = self._draft.commit(bundle)
        self._bar.add(sum(sizes.values()))
        for name, fingerprint in zip(files_of(bundle), sums, strict=True):
            self.files[name] = SavedFile(sizes[name], fingerprint)


def _groups(content: Content) -> Iterator[list[str]]:
    """Yields the names of dense variables in groups of at most `PART_BYTES`, or of one larger variable."""
    group: list[str] = []
    size = 0
    for name in content.order:
        if name not in content.dense:
            continue
        own = _variable_bytes(content, name)
        if group and size + own > PART_BYTES:
            yield group
            group, size = [], 0
        group.append(name)
        size += own
    if group:
        yield group
