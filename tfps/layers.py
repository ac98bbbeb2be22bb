"""Keras layers of ours, for what Keras has no layer for."""

from tfps.keras.embedding_bag import EmbeddingBag

__all__ = ["EmbeddingBag"]
