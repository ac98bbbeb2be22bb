"""Keras callbacks of tfps."""

from tfps.keras.checkpoint_callback import Checkpoint

__all__ = ["Checkpoint"]
