"""Datasets of files anywhere, which the workers read themselves."""

from tfps.data.dataset import files
from tfps.data.hashing import Hash

__all__ = ["Hash", "files"]
