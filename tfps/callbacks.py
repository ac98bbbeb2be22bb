"""Keras callbacks of tfps."""

from tfps.debug.dump import Dump
from tfps.debug.first_nan import FirstNaN
from tfps.keras.checkpoint_callback import Checkpoint
from tfps.keras.export_callback import Export

__all__ = ["Checkpoint", "Dump", "Export", "FirstNaN"]
