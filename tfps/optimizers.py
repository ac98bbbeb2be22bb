"""Optimizers. The optimizer of a model chooses the training mode: a plain Keras optimizer trains asynchronously.

`Sync(optimizer)` makes one update from the batches of all workers. `Geo(optimizer)` lets each worker train windows of
batches and push the deltas of the rows that it touched. `RowwiseAdagrad` is an optimizer for large tables, with one
accumulator per row.
"""

# `Geo` and `Sync` are functions, but users call them like the optimizer classes beside them, so the names match those.

from tfps.keras.geo import geo as Geo  # noqa: N812
from tfps.keras.rowwise_adagrad import RowwiseAdagrad
from tfps.keras.sync import sync as Sync  # noqa: N812

__all__ = ["Geo", "RowwiseAdagrad", "Sync"]
