"""Datasets of files anywhere, which the workers read themselves."""

from tfps.data.dataset import files

__all__ = ["files"]
