"""Keras layers that Keras itself lacks."""

from tfps.keras.embedding_bag import EmbeddingBag

__all__ = ["EmbeddingBag"]
