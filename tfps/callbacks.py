"""Keras callbacks of tfps."""

from tfps.keras.checkpoint_callback import Checkpoint
from tfps.keras.export_callback import Export
from tfps.keras.profile_callback import Profile

__all__ = ["Checkpoint", "Export", "Profile"]
