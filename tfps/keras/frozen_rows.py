"""`FrozenRows`: the rows of a table that grows as stock TensorFlow: an index from id to row, and a matrix.

An exported model has them in place of the table. An id without a row is answered as in training: by its first value, or
by the mean of first values where the table does not admit every id.
"""

import numpy as np
import tensorflow as tf

from tfps.embedding.admission import Always, Count, Probability
from tfps.embedding.dynamic_table import DynamicTable
from tfps.errors import UnsupportedError
from tfps.ops.first_values_graph import normal_rows, uniform_rows

_NONE = -1
"""What the index says of an id without a row."""


class FrozenRows:
    """A copy of a table on the chief, whose memory it needs.

    Args:
        table: the table.

    Attributes:
        matrix: the rows, a variable [n, dim].
        index: the row of each id, a `tf.lookup` table.
    """

    def __init__(self, table: DynamicTable) -> None:
        self._first, self._dim = table.first, table.dim
        self._reads_first = _reads_first(table)
        if self._reads_first and table.first.distribution == "truncated_normal":
            raise UnsupportedError(
                f"an exported model cannot draw the first rows of table {table.name!r}, which are truncated normal. "
                "Valid: another initializer, or an admission that reads the mean."
            )
        # On the chief, and outside of the function that the export traces.
        with tf.device(None), tf.init_scope():
            self.index = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, _NONE)
            parts, count = [], 0
            for chunk in table.scan():
                self.index.insert(chunk.ids, np.arange(count, count + len(chunk.ids)))
                parts.append(chunk.rows.numpy())
                count += len(chunk.ids)
            # A gather needs a row to read where there is none.
            rows = np.concatenate(parts) if parts else np.zeros([1, table.dim], np.float32)
            self.matrix = tf.Variable(rows, name=table.name.split(":")[0])

    def look_up(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the rows of ids, int64 of any shape: `ids.shape + [dim]`."""
        flat = tf.reshape(ids, [-1])
        places = self.index.lookup(flat)
        # Ids without a row read row 0, which the next line replaces: a gather has no default.
        rows = tf.gather(self.matrix, tf.maximum(places, 0))
        rows = tf.where((places == _NONE)[:, tf.newaxis], self._missing(flat), rows)
        shaped = tf.reshape(rows, tf.concat([tf.shape(ids), [self._dim]], 0))
        return tf.ensure_shape(shaped, [*ids.shape, self._dim])

    def _missing(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns what ids without a row read, [m, dim]."""
        first = self._first
        if not self._reads_first or first.distribution == "constant":
            return tf.fill([tf.size(ids), self._dim], tf.constant(first.mean, tf.float32))
        draw = uniform_rows if first.distribution == "uniform" else normal_rows
        return draw(ids, self._dim, first.stream(), first.a, first.b)


def _reads_first(table: DynamicTable) -> bool:
    rule = table.growth.admission
    return isinstance(rule, Always) or (isinstance(rule, Count | Probability) and rule.reads == "first")
