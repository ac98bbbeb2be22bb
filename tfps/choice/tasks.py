"""`Tasks`: the processes that TF_CONFIG or a process manager has started, for a choice between strategies.

Unlike `tfps.cluster.tf_config`, which is for parameter servers alone, it takes a TF_CONFIG without them, too.
"""

import dataclasses
import json

from tfps import env, jobs
from tfps.cluster.endpoints import canonicalize, split_address
from tfps.cluster.environments.find import read_ranks
from tfps.cluster.environments.ranks import Ranks
from tfps.cluster.environments.roles import RoleCounts
from tfps.cluster.tf_config import parse_cluster_of_workers, parse_tf_config
from tfps.errors import ConfigError

_COMPUTING = (jobs.CHIEF, jobs.WORKER)


@dataclasses.dataclass(frozen=True)
class Tasks:
    """The tasks of a cluster that others have started.

    Args:
        source: what says so, for messages: "TF_CONFIG" or "SLURM".
        hosts: hosts of the tasks that compute.
        workers: tasks that compute.
        servers: parameter servers.
        server_hosts: hosts of parameter servers that have no task that computes.
        job: the job of this task.
        index: its number in the job.
        addresses: the "host:port" of each task that computes, of chief and workers in this order; () if unknown.
        has_chief: whether the first of them is the chief.
    """

    source: str
    hosts: int
    workers: int
    servers: int
    server_hosts: int
    job: str
    index: int
    addresses: tuple[str, ...] = ()
    has_chief: bool = False

    @property
    def address(self) -> str:
        """The "host:port" of this task; "" if it is unknown, or if it is a parameter server."""
        # The chief comes first, where there is one.
        computing = len(self.addresses)
        position = self.index + (self.job == jobs.WORKER and self.has_chief)
        return self.addresses[position] if self.job in _COMPUTING and position < computing else ""

    @property
    def is_server(self) -> bool:
        """Whether this task only serves a chief: a parameter server, or a worker beside some."""
        return self.servers > 0 and self.job != jobs.CHIEF


def find_tasks() -> Tasks | None:
    """Returns the tasks that TF_CONFIG or a process manager has started; None if this program stands alone.

    Raises:
        ConfigError: TF_CONFIG or a variable of the process manager breaks a rule.
    """
    text = env.tf_config()
    if text is not None:
        return parse_tasks(text)
    ranks = read_ranks()
    return None if ranks is None else _of_ranks(ranks)


def parse_tasks(text: str) -> Tasks:
    """Parses and checks the text of a TF_CONFIG, with or without parameter servers.

    Raises:
        ConfigError: the text breaks a rule.
    """
    if _has_servers(text):
        # With parameter servers there is a chief, which computes nothing.
        config = parse_tf_config(text)
        by_job = config.cluster.as_dict()
        return _tasks(by_job, by_job[jobs.WORKER], by_job[jobs.PS], config.task_type, config.task_index)
    by_job = parse_cluster_of_workers(text)
    addresses = [address for job in _COMPUTING for address in by_job.get(job, [])]
    if len({canonicalize(address) for address in addresses}) != len(addresses):
        raise ConfigError(f"TF_CONFIG: `cluster` must list no address twice. Received: {addresses}.")
    task = json.loads(text)["task"]
    return _tasks(by_job, addresses, [], task["type"], task["index"])


def _has_servers(text: str) -> bool:
    """Whether a text that may be wrong is meant as a cluster with parameter servers."""
    try:
        return jobs.PS in json.loads(text)["cluster"]
    except (ValueError, TypeError, KeyError):
        return False


def _tasks(by_job: dict[str, list[str]], computing: list[str], serving: list[str], job: str, index: int) -> Tasks:
    hosts, server_hosts = ({_host(address) for address in group} for group in (computing, serving))
    # Servers that are all on hosts of their own do not share the network of the workers.
    alone = len(server_hosts) if not server_hosts & hosts else 0
    addresses = tuple(address for each in _COMPUTING for address in by_job.get(each, ()))
    return Tasks(
        "TF_CONFIG", len(hosts), len(computing), len(serving), alone, job, index, addresses, jobs.CHIEF in by_job
    )


def _of_ranks(ranks: Ranks) -> Tasks:
    """Returns the tasks of a process manager, which become a chief, parameter servers and workers."""
    servers = RoleCounts().divide(ranks.size, ranks.size_variable)
    workers = ranks.size - 1 - servers
    hosts = max(1, min(len(set(ranks.nodes)), workers))
    # Which rank serves is known once the tasks have exchanged their addresses; rank 0 is the chief.
    job = jobs.CHIEF if ranks.rank == 0 else jobs.WORKER
    return Tasks(ranks.manager, hosts, workers, servers, 0, job, 0)


def _host(address: str) -> str:
    return split_address(canonicalize(address))[0]
