"""Writes a checkpoint: each server its own rows, in parts of bounded memory; the chief only what is dense.

The caller waits for the steps under way first, so all of it is of one moment.
Threading: one thread saves; servers write in the threads of the strategy's pool.
"""

import dataclasses
import functools
import itertools
import logging
import pathlib
import secrets
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from tfps.cluster import devices
from tfps.errors import CheckpointError
from tfps.saving import bundles
from tfps.saving.content import Content, TableContent
from tfps.saving.folders import Draft
from tfps.saving.manifest import SavedFile, SavedPart, SavedTable, SavedVariable, files_of
from tfps.saving.servers import run_on_servers
from tfps.strategy.strategy import ParameterServerStrategy

_LOG = logging.getLogger("tfps")

PART_BYTES = 64 << 20
"""The most bytes of one part: what a server, or the chief, needs of memory, and what is read at a time."""


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


def write(content: Content, draft: Draft, strategy: ParameterServerStrategy | None) -> Written:
    """Writes the values of a model into a draft, which the caller completes.

    Args:
        content: the values.
        draft: the checkpoint that is being written.
        strategy: the strategy that has the tables; None without tables.

    Raises:
        CheckpointError: a file cannot be written: the disk is full, say.
        ClusterError: a server died, or did not answer in time.
    """
    writer = _Writer(draft)
    bundle_of = dict(writer.write_dense(content))
    tables = []
    if content.tables:
        assert strategy is not None
        tables = writer.write_tables(content.tables, strategy)
    variables = [
        SavedVariable(name, content.shape(name), _dtype_of(content, name), bundle_of.get(name))
        for name in content.order
    ]
    return Written(variables, tables, writer.files)


def _dtype_of(content: Content, name: str) -> str:
    value = content.dense[name] if name in content.dense else content.table(name)
    return tf.as_dtype(value.dtype).name


class _Writer:
    """Writes bundles and notes their files."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self.files: dict[str, SavedFile] = {}

    def write_dense(self, content: Content) -> Iterator[tuple[str, str]]:
        """Writes the dense variables; yields the name of each and its bundle."""
        for number, names in enumerate(_groups(content)):
            bundle = f"dense-{number:05d}"
            # One variable at a time crosses to the chief, and one group is in its memory.
            values = [tf.convert_to_tensor(content.dense[name].numpy()) for name in names]
            self._write(devices.CHIEF, bundle, names, values)
            yield from ((name, bundle) for name in names)

    def write_tables(self, tables: Sequence[TableContent], strategy: ParameterServerStrategy) -> list[SavedTable]:
        """Writes the rows of tables, each server its own."""
        parts: list[list[SavedPart]] = [[] for _ in tables]
        servers = sorted({server for one in tables for server in one.tables[0].servers})
        places = {server: self._place(strategy, server) for server in servers}
        units = {server: self._units(tables, parts, server, places[server], strategy.num_servers) for server in servers}
        run_on_servers(strategy, units, "a server to write some rows of a checkpoint")
        return [
            SavedTable(one.tables[0].routing, one.names, tuple(sorted(found, key=lambda part: part.bundle)))
            for one, found in zip(tables, parts, strict=True)
        ]

    def _place(self, strategy: ParameterServerStrategy, server: int) -> str:
        """Returns the device that writes the rows of a server: itself, or the chief if it does not see the folder."""
        device = devices.server(server)
        if self._draft.is_shared:
            token, probe = secrets.token_hex(16), self._draft.prefix("probe")
            pathlib.Path(probe).write_text(token)
            seen = strategy.each_server_pool.call(server, lambda: tf.constant(bundles.sees(device, probe, token)))
            pathlib.Path(probe).unlink()
            if seen:
                return device
            _LOG.info("server %d does not share the folder of the checkpoint, so the chief writes its rows.", server)
        return devices.CHIEF

    def _units(
        self, tables: Sequence[TableContent], parts: list[list[SavedPart]], server: int, place: str, num_servers: int
    ) -> Iterator[Callable[[], None]]:
        """Yields the units of work of a server: one part each."""
        numbers = itertools.count()
        for one, found in zip(tables, parts, strict=True):
            for shard, owner in enumerate(one.tables[0].servers):
                if owner != server:
                    continue
                for local, rows in one.tables[0].scan_shard(shard, one.tables[1:], _chunk_rows(one)):
                    bundle = f"rows-{server}-of-{num_servers}/part-{next(numbers):05d}"
                    yield functools.partial(self._write_part, one, found, shard, local, rows, bundle, place)

    def _write_part(
        self,
        one: TableContent,
        found: list[SavedPart],
        shard: int,
        local: np.ndarray,
        rows: list[tf.Tensor],
        bundle: str,
        place: str,
    ) -> None:
        """Writes one part, on its server or on the chief."""
        names = [str(column) for column in range(len(rows))]
        # Rows of a table that grows have gaps between them.
        has_ids = bool(local.size) and int(local[-1]) - int(local[0]) + 1 != local.size
        if has_ids:
            with tf.device(None), tf.device(place):
                rows = [*rows, tf.constant(one.tables[0].routing.global_of(shard, local))]
            names.append(bundles.IDS)
        self._write(place, bundle, names, rows)
        first = 0 if has_ids or not local.size else int(local[0])
        found.append(SavedPart(bundle, shard, first, int(local.size), has_ids))

    def _write(self, device: str, bundle: str, names: Sequence[str], tensors: Sequence[tf.Tensor]) -> None:
        prefix = self._draft.prefix(bundle)
        try:
            bundles.write(device, prefix, names, tensors)
            sums = bundles.fingerprints(device, prefix)
        except (
            tf.errors.ResourceExhaustedError,
            tf.errors.PermissionDeniedError,
            tf.errors.FailedPreconditionError,
        ) as error:
            raise CheckpointError(f"cannot write {prefix}: {bundles.first_line(error)}.") from None
        sizes = self._draft.commit(bundle)
        for name, fingerprint in zip(files_of(bundle), sums, strict=True):
            self.files[name] = SavedFile(sizes[name], fingerprint)


def _groups(content: Content) -> Iterator[list[str]]:
    """Yields the names of dense variables in groups of at most `PART_BYTES`, or of one larger variable."""
    group: list[str] = []
    size = 0
    for name in content.order:
        if name not in content.dense:
            continue
        variable = content.dense[name]
        own = int(np.prod(variable.shape, dtype=np.int64)) * tf.as_dtype(variable.dtype).size
        if group and size + own > PART_BYTES:
            yield group
            group, size = [], 0
        group.append(name)
        size += own
    if group:
        yield group


def _chunk_rows(one: TableContent) -> int:
    """Returns the rows of a part."""
    width = sum(table.dim * table.dtype.size for table in one.tables)
    return max(1, PART_BYTES // width)
