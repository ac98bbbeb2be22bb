"""The names of the jobs of a cluster, as TF_CONFIG, device names and messages spell them."""

from typing import Final

CHIEF: Final = "chief"
"""Runs the user's program and directs the other tasks. A cluster has one."""

PS: Final = "ps"
"""A parameter server: holds variables, and reads and updates them on request."""

WORKER: Final = "worker"
"""Computes the steps of a model."""

JOBS = (CHIEF, WORKER, PS)
"""All jobs that a cluster may have."""

PREEMPTED = 75
"""The exit status of a task that a SIGTERM has ended. It is EX_TEMPFAIL of sysexits.h: try again."""
