"""The tasks that one process manager has started, as one of them sees them, and the task that a rank becomes.

A process manager (`srun`, `mpirun`) starts one command several times and gives each process its rank in environment
variables. Checks come before anything is started, and before tasks exchange anything.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence

from tfps import jobs
from tfps.checks import show_value
from tfps.cluster.endpoints import split_address
from tfps.cluster.environments.roles import RoleCounts, assign_roles
from tfps.cluster.spec import ClusterSpec
from tfps.cluster.tf_config import TaskConfig
from tfps.errors import ConfigError

_MOST_DIGITS = 18


@dataclasses.dataclass(frozen=True)
class Ranks:
    """This task's rank among all tasks of its process manager.

    Args:
        manager: its name in messages: "SLURM".
        rank: this task's number, from 0.
        size: the number of tasks.
        size_variable: the environment variable that has the size.
        agree_on_addresses: returns the "host:port" of each rank. It may exchange messages with all other tasks.
        nodes: the names of all hosts of the process manager; () if it does not say.
        node: the name of this host; "" if the process manager does not say.
    """

    manager: str
    rank: int
    size: int
    size_variable: str
    agree_on_addresses: Callable[[], Sequence[str]]
    nodes: tuple[str, ...] = ()
    node: str = ""

    def find_task(self, counts: RoleCounts) -> TaskConfig:
        """Returns the task that this rank is, and the cluster of all ranks.

        Raises:
            ConfigError: the tasks do not fit the roles.
            ClusterError: the tasks could not agree on their addresses.
        """
        # Before the addresses: a rank that waits for the others must not find out alone that it is one too many.
        num_ps = counts.divide(self.size, self.size_variable)
        addresses = self.agree_on_addresses()
        roles = assign_roles([split_address(address)[0] for address in addresses], num_ps)
        by_job: dict[str, list[str]] = {job: [] for job in jobs.JOBS}
        for (job, _), address in zip(roles, addresses, strict=True):
            by_job[job].append(address)
        return TaskConfig(ClusterSpec(**{job: tuple(by_job[job]) for job in jobs.JOBS}), *roles[self.rank])

    def check_against(self, config: TaskConfig) -> None:
        """Checks that a TF_CONFIG does not contradict the process manager.

        It may list other tasks, too: servers of one step and workers of another. It must not give one of its tasks to
        several ranks, which is what a TF_CONFIG does that was exported before `srun`.

        Raises:
            ConfigError: TF_CONFIG has fewer tasks than the process manager, or puts this task on another of its hosts.
        """
        listed = sum(len(config.cluster.endpoints(job)) for job in jobs.JOBS)
        if listed < self.size:
            raise ConfigError(
                f"TF_CONFIG must list a task for each of the {self.size} tasks of {self.manager} "
                f"({self.size_variable}), and name another one in each. Received: {listed} tasks. Valid: unset it, "
                f"and {self.manager} gives the roles."
            )
        host = split_address(config.endpoint.dial)[0]
        if host in self.nodes and host != self.node:
            raise ConfigError(
                f"TF_CONFIG must name a task of this host, which is {self.node!r} for {self.manager}. Received: "
                f"{config.name} at {config.endpoint}. Valid: unset it, and {self.manager} gives the roles."
            )


def read_variable(name: str, manager: str) -> str:
    """Returns a variable that the process manager sets in every task.

    Raises:
        ConfigError: the variable is unset or empty, although others of the process manager are set.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        raise ConfigError(
            f"`{name}` must be set, because other variables of {manager} are. Received: none. Valid: start every task "
            f"by {manager}, or unset the others."
        )
    return text


def read_integer(name: str, manager: str, *, at_least: int = 0, below: tuple[str, int] | None = None) -> int:
    """Returns a number that the process manager sets in every task.

    Args:
        name: the variable.
        manager: its process manager, for the message.
        at_least: the smallest valid number.
        below: the variable that limits this one, and the limit: ("SLURM_STEP_NUM_TASKS", 6). None for no limit.

    Raises:
        ConfigError: the variable is unset, is no integer or is outside the limits.
    """
    text = read_variable(name, manager)
    # Python refuses to read a number of thousands of digits, and reads digits of other scripts.
    is_number = text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
    if is_number and at_least <= int(text) and (below is None or int(text) < below[1]):
        return int(text)
    limit = f"of at least {at_least}" if below is None else f"from {at_least} to {below[1] - 1} ({below[0]} less 1)"
    raise ConfigError(f"`{name}` must be an integer {limit}. Received: {show_value(text)}.")
