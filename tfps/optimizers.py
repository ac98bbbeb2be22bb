"""The mode of training is the optimizer: a plain one is asynchronous.

`Sync(...)` makes one update of the batches of all workers, `Geo(...)` trains windows of batches on each worker.
"""

from tfps.keras.geo import geo as Geo  # noqa: N812
from tfps.keras.sync import sync as Sync  # noqa: N812

__all__ = ["Geo", "Sync"]
