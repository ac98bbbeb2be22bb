"""Which of the tasks of one process manager is the chief, which are parameter servers and which are workers.

A process manager such as `srun` numbers its tasks by *rank*, from 0, and knows no roles. Every task computes the roles
of all tasks from the same values, so they agree without a message. Pure functions: any thread, microseconds.
"""

import dataclasses
from collections.abc import Sequence

from tfps import jobs
from tfps.errors import ConfigError

_LEAST = 3
"""A chief, a parameter server and a worker."""


@dataclasses.dataclass(frozen=True)
class RoleCounts:
    """The numbers of parameter servers and workers that the user asks for.

    Args:
        num_ps: parameter servers; None for all tasks that are left, or by default one for every two workers.
        num_workers: workers; None for all tasks that are left.
    """

    num_ps: int | None = None
    num_workers: int | None = None

    def is_given(self) -> bool:
        """Returns whether the user asks for a number of any role."""
        return self.num_ps is not None or self.num_workers is not None

    def divide(self, size: int, size_variable: str) -> int:
        """Returns the number of parameter servers among `size` tasks. One task is the chief, the others are workers.

        Args:
            size: the number of tasks that the process manager has started.
            size_variable: the environment variable that says so, for the message.

        Raises:
            ConfigError: there are too few tasks for the roles, or more tasks than roles.
        """
        if size < _LEAST:
            raise ConfigError(
                f"`{size_variable}` must be at least {_LEAST}: a chief, a parameter server and a worker. "
                f"Received: {size}. Valid for a cluster of its own in each task: tfps.LocalCluster()."
            )
        num_ps = self.num_ps
        if num_ps is None:
            num_ps = max(1, (size - 1) // 3) if self.num_workers is None else size - 1 - self.num_workers
        num_workers = size - 1 - num_ps if self.num_workers is None else self.num_workers
        if num_ps < 1 or num_workers < 1 or 1 + num_ps + num_workers != size:
            raise ConfigError(
                f"`--ps` and `--workers` must fit the tasks: 1 chief + servers + workers = {size} ({size_variable}), "
                f"at least 1 of each. Received: --ps {self.num_ps}, --workers {self.num_workers}."
            )
        return num_ps


def assign_roles(hosts: Sequence[str], num_ps: int) -> list[tuple[str, int]]:
    """Returns the job of each rank, and its index in the job.

    Rank 0 is the chief. Each host in turn, in the order of the hosts' lowest ranks, makes its lowest free rank a
    parameter server, until there are enough: their memory and their traffic are spread. All other ranks are workers.
    Ranks that have the same job have indices in the order of the ranks.

    Args:
        hosts: the host of each rank.
        num_ps: the number of parameter servers, from 1 to the number of ranks less 2.

    Example:
        >>> assign_roles(["a", "a", "a", "b", "b", "b"], num_ps=2)
        [('chief', 0), ('ps', 0), ('worker', 0), ('ps', 1), ('worker', 1), ('worker', 2)]
    """
    servers = _choose_servers(hosts, num_ps)
    by_rank = [jobs.CHIEF] + [jobs.PS if rank in servers else jobs.WORKER for rank in range(1, len(hosts))]
    return [(job, by_rank[:rank].count(job)) for rank, job in enumerate(by_rank)]


def _choose_servers(hosts: Sequence[str], num_ps: int) -> set[int]:
    """Returns the ranks of the parameter servers."""
    free: dict[str, list[int]] = {}
    for rank, host in enumerate(hosts):
        # The chief's host comes first even if the chief is its only rank, so that the order is that of the ranks.
        free.setdefault(host, [])
        if rank > 0:
            free[host].append(rank)
    turns = max(map(len, free.values()))
    in_turn = [ranks[turn] for turn in range(turns) for ranks in free.values() if turn < len(ranks)]
    return set(in_turn[:num_ps])
