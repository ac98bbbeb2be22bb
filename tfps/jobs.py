"""The names of the jobs of a cluster, as TF_CONFIG, device names and messages spell them."""

from typing import Final

CHIEF: Final = "chief"
"""Runs the user's program and tells the others what to do. One a cluster."""

PS: Final = "ps"
"""A parameter server: holds variables and works on them when asked."""

WORKER: Final = "worker"
"""Computes the steps of the model."""

JOBS = (CHIEF, WORKER, PS)
"""Every job a cluster may have."""
