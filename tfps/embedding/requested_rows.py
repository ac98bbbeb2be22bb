"""The rows that lookups request of each shard, as tensors: what shows which server is hot."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import tensorflow as tf

from tfps.embedding.lookup_group import LookupGroup
from tfps.embedding.table import Table

RequestedOfKind: TypeAlias = tuple[Sequence[tuple[str, int]], tf.Tensor]
"""The (table name, shard) of tables of one kind, and the rows that are requested of each, int64 of the same length."""


def requested_rows(groups: Iterable[LookupGroup]) -> list[RequestedOfKind]:
    """Returns the rows that groups of lookups request, each row once.

    Lookups in the compact copy of a window are left out: they request nothing of a server.

    Args:
        groups: the groups, each once.
    """
    found: list[RequestedOfKind] = []
    for group in groups:
        if all(isinstance(table, Table) for table in group.tables):
            pieces, counts = group.rows_by_piece()
            found.append(([(table.name, shard) for table, shard in pieces], counts))
    return found
