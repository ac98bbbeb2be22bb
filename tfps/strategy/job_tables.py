"""What a snapshot says of tables and of what servers hold and move.

Threading: the thread of the collector. Cost: arithmetic on the plan; for tables that grow, a call to each server every
`_COUNTS_EVERY_S` seconds, in threads of their own.
"""

import functools
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import tensorflow as tf

from tfps import jobs
from tfps.cluster import devices
from tfps.cluster.faults import translate
from tfps.embedding.dynamic_table import DynamicTable
from tfps.embedding.table import Table
from tfps.errors import TfpsError
from tfps.monitoring.record import JobCounts
from tfps.monitoring.snapshot import ServerState, TableState, TaskState
from tfps.ops import growing_rows
from tfps.ops.growing_rows import GrowthCounts
from tfps.runtime.pool import WorkerPool

if TYPE_CHECKING:
    from tfps.strategy.strategy import ParameterServerStrategy

_LOG = logging.getLogger("tfps")
_COUNTS_EVERY_S = 4.0


class _Flow(NamedTuple):
    """The counts of a table that grows which never go down. The fields are those of `TableState`."""

    admitted: int = 0
    refused: int = 0
    evicted: int = 0

    @classmethod
    def of(cls, counts: GrowthCounts) -> "_Flow":
        """Returns those of the counts of a shard."""
        return cls(counts.admitted, counts.refused, counts.evicted)


class TableReader:
    """Reads the tables of one strategy."""

    def __init__(self) -> None:
        self._pool: WorkerPool | None = None
        self._counts_at = -_COUNTS_EVERY_S
        # The counts of each shard of the tables that grow, by the key of the table and the number of the shard.
        self._counts: dict[tuple[object, int], GrowthCounts] = {}
        self._asked: set[tuple[object, int]] = set()
        # What each shard had counted before its server was replaced, and began at 0.
        self._earlier: dict[tuple[object, int], _Flow] = {}

    def read(
        self, strategy: "ParameterServerStrategy", counts: JobCounts, steps_per_s: float | None
    ) -> tuple[TableState, ...]:
        """Returns the tables, those with most traffic first.

        Args:
            strategy: the strategy.
            counts: what the job has done.
            steps_per_s: the rate of its steps.
        """
        tables = strategy.factory.tables
        growing = [table for table, _ in tables if isinstance(table, DynamicTable)]
        if growing and time.monotonic() - self._counts_at >= _COUNTS_EVERY_S:
            self._counts_at = time.monotonic()
            self._ask(strategy, growing)
        states = [self._state(table, slot_row_bytes, counts, steps_per_s) for table, slot_row_bytes in tables]
        # Tables of models that are not trained any more come last.
        return tuple(sorted(states, key=lambda state: (state.row_bytes_per_s or 0.0, state.bytes), reverse=True))

    def shard_bytes(self, table: Table, slot_row_bytes: int) -> list[int]:
        """Returns the bytes of each shard with its slots: by plan, or as its server has counted if the table grows.

        Args:
            table: the table.
            slot_row_bytes: bytes of all slots of one row.
        """
        row_bytes = table.placement.spec.row_bytes + slot_row_bytes
        counted = [self._counts.get((table.key, shard)) for shard in range(len(table.servers))]
        return [
            rows * row_bytes if one is None else one.bytes
            for rows, one in zip(table.placement.rows_by_shard, counted, strict=True)
        ]

    def _state(self, table: Table, slot_row_bytes: int, counts: JobCounts, steps_per_s: float | None) -> TableState:
        spec = table.placement.spec
        ids = counts.ids_per_step.get(table.name)
        state = TableState(
            name=table.name,
            rows=spec.rows,
            row_bytes=spec.row_bytes,
            bytes=spec.rows * (spec.row_bytes + slot_row_bytes),
            servers=tuple(sorted(set(table.servers))),
            ids_per_step=ids,
            row_bytes_per_s=None if ids is None or steps_per_s is None else ids * spec.row_bytes * steps_per_s,
        )
        if not isinstance(table, DynamicTable):
            return state
        shards = [self._counts.get((table.key, shard)) for shard in range(len(table.stores))]
        known = [one for one in shards if one is not None]
        whole = len(known) == len(shards)
        return TableState(
            name=state.name,
            # The spec has what the plan expects. Before the servers have answered, nothing better is known.
            rows=sum(one.rows for one in known) if whole else state.rows,
            row_bytes=state.row_bytes,
            bytes=sum(one.bytes for one in known) if whole else state.bytes,
            servers=state.servers,
            ids_per_step=ids,
            row_bytes_per_s=state.row_bytes_per_s,
            grows=True,
            **(self._flow(table)._asdict() if whole else {}),
        )

    def _flow(self, table: DynamicTable) -> "_Flow":
        """Returns what all shards of a table have counted, since they were first made."""
        keys = [(table.key, shard) for shard in range(len(table.stores))]
        parts = [part for key in keys for part in (_Flow.of(self._counts[key]), self._earlier.get(key, _Flow()))]
        return _Flow(*map(sum, zip(*parts, strict=True)))

    def note(self, key: tuple[object, int], counts: GrowthCounts) -> None:
        """Takes the counts of a shard.

        Args:
            key: the key of the table and the number of the shard.
            counts: what its server says.
        """
        before = self._counts.get(key)
        if before is not None and any(new < old for new, old in zip(_Flow.of(counts), _Flow.of(before), strict=True)):
            earlier = self._earlier.get(key, _Flow())
            self._earlier[key] = _Flow(*map(sum, zip(earlier, _Flow.of(before), strict=True)))
        self._counts[key] = counts

    def _ask(self, strategy: "ParameterServerStrategy", tables: Sequence[DynamicTable]) -> None:
        """Asks the servers for the counts of tables that grow. The answers are in a later snapshot."""
        if self._pool is None:
            cluster = strategy.connection.cluster
            servers = [devices.server(index) for index in range(strategy.num_servers)]
            self._pool = strategy.pools.make(servers, lambda _, error: translate(error, cluster))
        for table in tables:
            for shard, server in enumerate(table.servers):
                # One call at a time: a server that hangs must not collect calls.
                if (key := (table.key, shard)) not in self._asked:
                    self._asked.add(key)
                    self._pool.run_later(server, functools.partial(self._count, server, table, shard))

    def _count(self, server: int, table: DynamicTable, shard: int) -> None:
        """Asks one server, in its thread."""
        assert self._pool is not None
        key = (table.key, shard)
        try:
            numbers, ratios = self._pool.call(server, lambda: growing_rows.count_tensors(table.stores[shard].handle))
            self.note(key, growing_rows.read_counts(numbers, ratios))
        # The server has died, or the strategy ends.
        except (TfpsError, tf.errors.OpError) as error:
            _LOG.debug("%s %d does not say how table %s grows: %s", jobs.PS, server, table.name, error)
        finally:
            self._asked.discard(key)


def server_states(
    strategy: "ParameterServerStrategy", reader: TableReader, tasks: Sequence[TaskState]
) -> tuple[ServerState, ...]:
    """Returns what each server holds, and its part of the traffic of all servers.

    Args:
        strategy: the strategy.
        reader: what is known of its tables.
        tasks: the tasks, with the rates of their bytes.
    """
    stored = [0] * strategy.num_servers
    for table, slot_row_bytes in strategy.factory.tables:
        for server, size in zip(table.servers, reader.shard_bytes(table, slot_row_bytes), strict=True):
            stored[server] += size
    for variable in strategy.dense_variables:
        placement = variable.placement
        for server, rows in zip(placement.servers, placement.rows_by_shard, strict=True):
            stored[server] += rows * placement.spec.row_bytes
    moved = {
        task.index: task.received_bytes_per_s + task.sent_bytes_per_s
        for task in tasks
        if task.job == jobs.PS and task.received_bytes_per_s is not None and task.sent_bytes_per_s is not None
    }
    # A part of all is known only if all are.
    total = sum(moved.values()) if len(moved) == strategy.num_servers else 0.0
    return tuple(
        ServerState(index, size, size / max(1, sum(stored)), moved[index] / total if total else None)
        for index, size in enumerate(stored)
    )
