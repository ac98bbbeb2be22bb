"""Finds what this machine has: cards and their memory, cores, memory, the speed of its network.

It starts no device: TensorFlow may still be connected to a cluster, or get logical devices, afterwards. Cost:
milliseconds; with cards, a run of `nvidia-smi`.
"""

import math
import os
import pathlib
import subprocess

import tensorflow as tf

from tfps.choice import constants
from tfps.choice.hardware import Hardware, Site
from tfps.choice.tasks import Tasks
from tfps.errors import ConfigError

_CARD_QUERY = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
_QUERY_LIMIT_S = 20.0
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where a container finds its limit: control groups of version 2, then of version 1."""
_CPU_LIMIT = "/sys/fs/cgroup/cpu.max"
_NETWORKS = "/sys/class/net"
_ROUTES = "/proc/net/route"


def find_site(hardware: Hardware, tasks: Tasks | None, measured: float | None = None) -> Site:
    """Returns the machines: what the user says, and for all else what this machine and TF_CONFIG have.

    Args:
        hardware: what the user says.
        tasks: the processes that others have started; None if there are none.
        measured: the measured bandwidth between hosts; None if it was not measured.

    Raises:
        ConfigError: the user contradicts TF_CONFIG, or the memory of the cards is not known.
    """
    hosts = _hosts(hardware, tasks)
    cards = _cards() if hardware.cards is None else hardware.cards
    bandwidth, source = _bandwidth(hardware, measured)
    return Site(
        hosts=hosts,
        workers=tasks.workers if tasks else hosts,
        servers=tasks.servers if tasks else 0,
        server_hosts=tasks.server_hosts if tasks else 0,
        fixed=tasks.source if tasks else "",
        cards=cards,
        card_bytes=(hardware.card_bytes or _card_bytes()) if cards else 0.0,
        host_bytes=hardware.host_bytes or memory_bytes(),
        cores=hardware.cores or cores(),
        bandwidth=bandwidth,
        bandwidth_source=source,
        cpu_devices=_logical_devices("CPU"),
    )


def found_cards() -> int:
    """Returns the number of cards, or of logical devices where the cards are divided."""
    return _cards()


def memory_bytes() -> float:
    """Returns the memory of this machine, or the limit of its container if that is less."""
    limits = [float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")]
    for name in _MEMORY_LIMITS:
        # "max" where there is no limit.
        text = _read(name)
        limits += [float(text)] if text.isdecimal() else []
    return min(limits)


def cores() -> int:
    """Returns the cores that this process may use."""
    allowed = len(os.sched_getaffinity(0))
    # "200000 100000": 200 ms of CPU in each 100 ms, which is two cores.
    quota, _, period = _read(_CPU_LIMIT).partition(" ")
    return min(allowed, max(1, math.ceil(int(quota) / int(period)))) if quota.isdecimal() and period else allowed


def _hosts(hardware: Hardware, tasks: Tasks | None) -> int:
    if tasks is None:
        return hardware.hosts or 1
    if hardware.hosts not in (None, tasks.hosts):
        raise ConfigError(
            f"`hosts` must be None or {tasks.hosts}, as many as {tasks.source} has. Received: {hardware.hosts}."
        )
    return tasks.hosts


def _cards() -> int:
    return _logical_devices("GPU")


def _logical_devices(kind: str) -> int:
    """Returns the number of devices of a kind, without starting them."""
    physical = tf.config.list_physical_devices(kind)
    return sum(len(tf.config.get_logical_device_configuration(device) or (device,)) for device in physical)


def _card_bytes() -> float:
    """Returns the memory of the smallest card, or of the smallest logical device."""
    devices = [
        logical.memory_limit
        for card in tf.config.list_physical_devices("GPU")
        for logical in tf.config.get_logical_device_configuration(card) or ()
    ]
    # Logical devices of cards must have a limit, in MB.
    if devices and all(devices):
        return float(min(devices)) * 2**20
    try:
        listed = subprocess.run(_CARD_QUERY, capture_output=True, text=True, timeout=_QUERY_LIMIT_S, check=True).stdout
        return min(float(line) for line in listed.split()) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ConfigError(
            "`card_bytes` must be given, because nvidia-smi does not say how much memory the cards have. "
            f"Received: None; {type(error).__name__}: {error}."
        ) from None


def _bandwidth(hardware: Hardware, measured: float | None) -> tuple[float, str]:
    """Returns the bandwidth between hosts in bytes a second, and where it comes from."""
    if hardware.bandwidth is not None:
        return hardware.bandwidth, "given"
    if measured is not None:
        return measured, "measured"
    for line in _read(_ROUTES).splitlines()[1:]:
        name, destination = line.split()[:2]
        # The network of the default route leads to other hosts. Its speed is in Mbit/s; virtual networks have none.
        speed = _read(f"{_NETWORKS}/{name}/speed") if destination == "00000000" else ""
        if speed.isdecimal() and int(speed) > 0:
            return int(speed) * 1e6 / 8, f"the speed of {name}"
    return constants.BANDWIDTH_BYTES_S, "assumed"


def _read(name: str) -> str:
    """Returns the text of a file of the system; "" if it cannot be read."""
    try:
        return pathlib.Path(name).read_text().strip()
    except (OSError, ValueError):
        return ""
