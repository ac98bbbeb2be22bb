"""Checkpoints of Keras models, written and read by the servers that hold their rows.

Example::

    tfps.checkpoint.save(model, "run/ckpt-1000")
    tfps.checkpoint.restore(model, "run/ckpt-1000")
"""

from tfps.keras.checkpoints import restore, save
from tfps.keras.rebalancing import rebalanced_plan

__all__ = ["rebalanced_plan", "restore", "save"]
