"""Keras callbacks of tfps."""

from tfps.debug.dump import Dump
from tfps.debug.first_nan import FirstNaN
from tfps.keras.checkpoint_callback import Checkpoint
from tfps.keras.export_callback import Export
from tfps.keras.profile_callback import Profile
from tfps.keras.tensorboard_callback import TensorBoard

__all__ = ["Checkpoint", "Dump", "Export", "FirstNaN", "Profile", "TensorBoard"]
