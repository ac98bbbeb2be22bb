"""The mode of training is the optimizer: a plain one is asynchronous.

`Sync(...)` makes one update of the batches of all workers, `Geo(...)` trains windows of batches on each worker.
`RowwiseAdagrad` is an optimizer of its own, for large tables: one accumulator a row.
"""

from tfps.keras.geo import geo as Geo  # noqa: N812
from tfps.keras.rowwise_adagrad import RowwiseAdagrad
from tfps.keras.sync import sync as Sync  # noqa: N812

__all__ = ["Geo", "RowwiseAdagrad", "Sync"]
