"""Keras callbacks of tfps."""

from tfps.keras.checkpoint_callback import Checkpoint
from tfps.keras.export_callback import Export

__all__ = ["Checkpoint", "Export"]
