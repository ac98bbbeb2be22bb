"""Keras models with a faster form on parameter servers: they train a whole window of batches in one op."""

from tfps.keras.skip_gram import SkipGram

__all__ = ["SkipGram"]
