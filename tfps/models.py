"""Keras models that can train a whole window of batches in one op on parameter servers."""

from tfps.keras.skip_gram import SkipGram

__all__ = ["SkipGram"]
