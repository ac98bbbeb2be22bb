"""The place of a task in a SLURM step: `srun --ntasks=6 tfps-launch train.py`.

SLURM tells each task of a step the names of the step's nodes and how many tasks each node has. So every task computes
the addresses of all tasks, and nothing is exchanged: the host is the node's name, the port follows from the job and the
task's rank.

Only a step counts. A program that `sbatch` starts without `srun` is one process, and starts a cluster of its own.
"""

import os
import re

from tfps import env
from tfps.checks import show_value
from tfps.cluster.environments.ranks import Ranks, read_integer, read_variable
from tfps.cluster.ports import LOOPBACK
from tfps.errors import ConfigError

_NAME = "SLURM"
_SIZE, _NODES, _COUNTS = "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE"
_DISTRIBUTIONS = ("", "block", "cyclic")
"""The orders in which SLURM may put ranks on nodes; it leaves the name empty for its default, which is block."""
_DISTRIBUTION_RULE = "`SLURM_DISTRIBUTION` must be block or cyclic (srun --distribution)"
_OTHER_ORDERS = "Valid for other orders: TF_CONFIG"

# Below 32768, where Linux begins to hand out ports to clients; jobs that follow one another have different ports.
_PORT_BASE, _PORTS_PER_STEP, _STEPS = 10_000, 64, 350
# Prime to the number of steps, and large: step 1 of a job must not have the ports of step 0 of the next.
_STEP_STRIDE = 131

_ITEM = re.compile(r"(?:[^,\[\]\s]|\[[^\[\]]*\])+")
# Of so many digits at most, so that a broken text gives no number that Python refuses to read.
_RANGE = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")
_COUNT = re.compile(r"([0-9]{1,18})(?:\(x([0-9]{1,18})\))?")
_LONGEST = 1000
"""Characters of a node's name with its ranges."""
_MOST = 100_000
"""Nodes of a step, or ports: a broken text must not fill the memory."""


def read_ranks() -> Ranks | None:
    """Returns this task's rank in its step, or None if this process is in no step.

    Raises:
        ConfigError: a variable of the step is missing or breaks its rule.
    """
    if not any(os.environ.get(name) for name in (_SIZE, _NODES, _COUNTS)):
        return None
    size = read_integer(_SIZE, _NAME, at_least=1)
    if size == 1:
        # A shell or a program of one process: the other variables do not matter, and must not refuse it.
        return Ranks(_NAME, 0, size, _SIZE, agree_on_addresses=list)
    rank = read_integer("SLURM_PROCID", _NAME, below=(_SIZE, size))
    nodes = expand_nodes(read_variable(_NODES, _NAME))
    counts = expand_counts(read_variable(_COUNTS, _NAME))
    if len(counts) != len(nodes) or sum(counts) != size:
        raise ConfigError(
            f"`{_COUNTS}` must have a number for each of the {len(nodes)} nodes of {_NODES}, {size} in all ({_SIZE}). "
            f"Received: {os.environ[_COUNTS]!r}."
        )
    node = nodes[read_integer("SLURM_NODEID", _NAME, below=("SLURM_STEP_NUM_NODES", len(nodes)))]
    return Ranks(_NAME, rank, size, _SIZE, lambda: _list_addresses(rank, nodes, counts), tuple(nodes), node)


def expand_nodes(text: str) -> list[str]:
    """Returns the node names of a SLURM node list.

    Raises:
        ConfigError: the text is not a node list.

    Example:
        >>> expand_nodes("gpu[08-10,12],login")
        ['gpu08', 'gpu09', 'gpu10', 'gpu12', 'login']
    """
    items = _ITEM.findall(text)
    if not items or ",".join(items) != text or max(map(len, items)) > _LONGEST:
        raise ConfigError(
            f'`{_NODES}` must be a list of nodes such as "node[01-03],login". Received: {show_value(text)}.'
        )
    names: list[str] = []
    for item in items:
        names += _expand_item(item, text)
        _check_most(_NODES, len(names), text)
    return names


def expand_counts(text: str) -> list[int]:
    """Returns the number of tasks on each node.

    Raises:
        ConfigError: the text is not such a list.

    Example:
        >>> expand_counts("4(x2),1")
        [4, 4, 1]
    """
    matches = [_COUNT.fullmatch(item) for item in text.split(",")]
    if not all(matches):
        raise ConfigError(f'`{_COUNTS}` must be a list of numbers such as "4(x2),1". Received: {show_value(text)}.')
    _check_most(_COUNTS, sum(int(match[2] or 1) for match in matches if match), text)
    return [int(match[1]) for match in matches if match for _ in range(int(match[2] or 1))]


def _list_addresses(rank: int, nodes: list[str], counts: list[int]) -> list[str]:
    """Returns the address of each rank."""
    places = _place_ranks(counts)
    _check_place(rank, *places[rank])
    ports = _choose_ports([local for _, local in places])
    # On one node no name needs to be known.
    hosts = nodes if len(nodes) > 1 else [LOOPBACK]
    return [f"{hosts[node]}:{port}" for (node, _), port in zip(places, ports, strict=True)]


def _expand_item(item: str, text: str) -> list[str]:
    """Expands the first brackets of one item, and then those that follow."""
    before, bracket, rest = item.partition("[")
    if not bracket:
        return [item]
    inside, _, after = rest.partition("]")
    endings, numbers = _expand_item(after, text), _expand_ranges(inside, _NODES, text)
    _check_most(_NODES, len(numbers) * len(endings), text)
    return [f"{before}{number}{ending}" for number in numbers for ending in endings]


def _check_most(variable: str, count: int, text: str) -> None:
    if count > _MOST:
        raise ConfigError(f"`{variable}` must name at most {_MOST}. Received: {count}, by {show_value(text)}.")


def _expand_ranges(ranges: str, variable: str, text: str) -> list[str]:
    """Returns the numbers of "08-10,12", with the leading zeros of the first number of a range."""
    numbers: list[str] = []
    for part in ranges.split(","):
        match = _RANGE.fullmatch(part)
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise ConfigError(
                f'`{variable}` must have ranges such as "01-03,7", not {show_value(part)}. '
                f"Received: {show_value(text)}."
            )
        first, last = match[1], match[2] or match[1]
        _check_most(variable, len(numbers) + int(last) - int(first) + 1, text)
        numbers += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return numbers


def _place_ranks(counts: list[int]) -> list[tuple[int, int]]:
    """Returns the node of each rank and the rank's number on that node."""
    # What follows a colon says how the tasks of a node share its cores.
    distribution = os.environ.get("SLURM_DISTRIBUTION", "").partition(":")[0].partition(",")[0]
    # Some ranks may be where "block" puts them. So all look at the name, and none waits for one that has refused.
    if distribution not in _DISTRIBUTIONS and len(counts) > 1:
        raise ConfigError(f"{_DISTRIBUTION_RULE}. Received: {os.environ['SLURM_DISTRIBUTION']!r}. {_OTHER_ORDERS}.")
    if distribution == "cyclic":
        turns = range(max(counts))
        return [(node, turn) for turn in turns for node, count in enumerate(counts) if turn < count]
    return [(node, local) for node, count in enumerate(counts) for local in range(count)]


def _check_place(rank: int, node: int, local: int) -> None:
    """Checks that SLURM has put this rank where the rule above puts it; other ranks rely on it."""
    given = read_integer("SLURM_NODEID", _NAME), read_integer("SLURM_LOCALID", _NAME)
    if given != (node, local):
        raise ConfigError(
            f"{_DISTRIBUTION_RULE}, which puts rank {rank} on node {node} as its task {local}. Received: "
            f"{os.environ.get('SLURM_DISTRIBUTION', '')!r}, with SLURM_NODEID {given[0]} and SLURM_LOCALID {given[1]}. "
            f"{_OTHER_ORDERS}."
        )


def _choose_ports(numbers: list[int]) -> list[int]:
    """Returns the port of each rank, given the number of each rank on its node."""
    first = env.first_port()
    reserved = os.environ.get("SLURM_STEP_RESV_PORTS", "").strip()
    if first is None and reserved:
        # SLURM gives them to no other step on these nodes, so they are better than a guess.
        return _choose_reserved(reserved, numbers)
    if first is None:
        job, step = read_integer("SLURM_JOB_ID", _NAME), read_integer("SLURM_STEP_ID", _NAME)
        first = _PORT_BASE + (job + _STEP_STRIDE * step) % _STEPS * _PORTS_PER_STEP
    # A port for each rank, as long as they do not reach those of the next job: several nodes may share one machine.
    offsets = list(range(len(numbers))) if len(numbers) <= _PORTS_PER_STEP else numbers
    if first + max(offsets) > 65535:
        raise ConfigError(
            f"`TFPS_FIRST_PORT` must be at most {65535 - max(offsets)}, because tasks take this port and the "
            f"{max(offsets)} above it. Received: {first}."
        )
    return [first + offset for offset in offsets]


def _choose_reserved(reserved: str, numbers: list[int]) -> list[int]:
    """Returns the port of each rank, from those that SLURM has reserved on every node of the step."""
    ports = [int(port) for port in _expand_ranges(reserved, "SLURM_STEP_RESV_PORTS", reserved)]
    count = max(numbers) + 1
    if len(ports) < count:
        raise ConfigError(
            f"`SLURM_STEP_RESV_PORTS` must have a port for each task of a node: srun --resv-ports={count}. "
            f"Received: {reserved!r}."
        )
    return [ports[number] for number in numbers]
