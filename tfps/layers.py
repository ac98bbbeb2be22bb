"""Keras layers that Keras itself lacks."""

from tfps.keras.dynamic_embedding import DynamicEmbedding, DynamicEmbeddingBag
from tfps.keras.embedding_bag import EmbeddingBag
from tfps.keras.growing_ids import fingerprint

__all__ = ["DynamicEmbedding", "DynamicEmbeddingBag", "EmbeddingBag", "fingerprint"]
