"""Keras layers that Keras itself lacks."""

from tfps.keras.dynamic_embedding import DynamicEmbedding, DynamicEmbeddingBag, fingerprint
from tfps.keras.embedding_bag import EmbeddingBag

__all__ = ["DynamicEmbedding", "DynamicEmbeddingBag", "EmbeddingBag", "fingerprint"]
