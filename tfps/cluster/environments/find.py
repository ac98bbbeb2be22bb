"""Finds this process's task in its cluster.

Asked in this order; the first that is there decides:

1. TF_CONFIG. In Kubernetes the manifest sets it: that of `tfps-launch --kubernetes` (`kubernetes.py`), or an operator
   such as TFJob.
2. Open MPI. Before SLURM, because in a SLURM job `mpirun` starts its own daemons by `srun`: the processes below a
   daemon have variables of both, and those of SLURM are the daemon's.
3. SLURM, if this process is a task of a step.

A process manager that has started one task alone is not asked: its program is a program of one machine.
"""

from tfps.cluster import tf_config
from tfps.cluster.environments import mpi, slurm
from tfps.cluster.environments.ranks import Ranks
from tfps.cluster.environments.roles import RoleCounts
from tfps.cluster.tf_config import TaskConfig


def find_task(counts: RoleCounts | None = None) -> TaskConfig | None:
    """Returns the task of this process, or None if it belongs to no cluster.

    Under Open MPI all tasks exchange their addresses in this call, so all must make it, and each once.

    Args:
        counts: how many tasks of a process manager become parameter servers and workers; None for the default. Only
            read if there is no TF_CONFIG.

    Raises:
        ConfigError: a variable breaks a rule, TF_CONFIG contradicts the process manager, or the tasks do not fit the
            roles.
        ClusterError: the tasks could not agree on their addresses.
    """
    config = tf_config.from_environment()
    ranks = read_ranks()
    if config is not None:
        if ranks is not None:
            ranks.check_against(config)
        return config
    if ranks is None:
        mpi.refuse_other_mpi()
        return None
    return ranks.find_task(counts or RoleCounts())


def read_ranks() -> Ranks | None:
    """Returns the rank of this process, or None if no process manager has started it beside others. Sends nothing."""
    ranks = mpi.read_ranks() or slurm.read_ranks()
    return None if ranks is None or ranks.size == 1 else ranks
