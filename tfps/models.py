"""Keras models of ours, for what is worth more than its layers: whole windows of batches in one op."""

from tfps.keras.skip_gram import SkipGram

__all__ = ["SkipGram"]
