"""When an id of a table that grows gets a row; rules for `tfps.layers.DynamicEmbedding(admission=...)`."""

from tfps.embedding.admission import Admission, Always, Count, Filter, Probability

__all__ = ["Admission", "Always", "Count", "Filter", "Probability"]
