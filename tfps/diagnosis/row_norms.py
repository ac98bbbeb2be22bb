"""The norms of a sample of a table's rows: rows that grow without end, or stay at zero, show here first.

Cost: one lookup of the sampled ids, beside training. A table that grows gives the first rows of its servers' scans.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from tfps.embedding.dynamic_table import DynamicTable
from tfps.embedding.table import Table

SAMPLE = 1_000
"""The most rows of a table that are read."""


def sample_norms(table: Table, draws: np.random.Generator, most: int = SAMPLE) -> "np.ndarray[Any, Any]":
    """Returns the Euclidean norms of some rows, float32 [m] with m at most `most`; NaN or infinite for rows that are.

    Args:
        table: the table.
        draws: draws the ids.
        most: the most rows that are read.
    """
    rows = _scanned(table, most) if isinstance(table, DynamicTable) else _drawn(table, draws, most)
    norms: np.ndarray[Any, Any] = np.linalg.norm(rows.astype(np.float32), axis=1)
    return norms


def _drawn(table: Table, draws: np.random.Generator, most: int) -> "np.ndarray[Any, Any]":
    # A whole table that is small; else ids that may repeat, which changes no distribution.
    small = table.rows <= most
    ids = np.arange(table.rows) if small else draws.integers(0, table.rows, most)
    found: np.ndarray[Any, Any] = table.sparse_read(tf.constant(ids, tf.int64)).numpy()
    return found


def _scanned(table: DynamicTable, most: int) -> "np.ndarray[Any, Any]":
    of_shard = max(1, most // len(table.stores))
    found = [np.zeros([0, table.dim], np.float32)]
    for shard in range(len(table.stores)):
        # The first chunk alone is asked for.
        for _, (rows, *_) in table.scan_shard(shard, (), of_shard):
            found.append(rows.numpy()[:of_shard])
            break
    return np.concatenate(found)
