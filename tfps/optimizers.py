"""The mode of training is the optimizer: plain ones are asynchronous, `Geo(...)` trains windows of batches."""

from tfps.keras.geo import geo as Geo  # noqa: N812

__all__ = ["Geo"]
