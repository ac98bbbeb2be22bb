"""The optimizer chooses the mode of training: one as Keras makes it trains asynchronously.

`Sync(optimizer)` makes one update of the batches of all workers. `Geo(optimizer)` lets each worker train windows of
batches and push the deltas of the rows it touched.
`RowwiseAdagrad` is an optimizer of its own, for large tables: one accumulator a row.
"""

from tfps.keras.geo import geo as Geo  # noqa: N812
from tfps.keras.rowwise_adagrad import RowwiseAdagrad
from tfps.keras.sync import sync as Sync  # noqa: N812

__all__ = ["Geo", "RowwiseAdagrad", "Sync"]
