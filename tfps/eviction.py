"""Which rows of a table that grows go; rules for `tfps.layers.DynamicEmbedding(eviction=...)`."""

from tfps.embedding.eviction import Eviction, LeastFrequent, LeastRecent, Score, SmallNorm, Unseen

__all__ = ["Eviction", "LeastFrequent", "LeastRecent", "Score", "SmallNorm", "Unseen"]
