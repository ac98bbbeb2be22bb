"""`Hardware`: what the user says about the machines. `Site`: what there is, every field known."""

import dataclasses
from typing import Any

from tfps.checks import check_integer, check_number
from tfps.choice import constants
from tfps.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Hardware:
    """The machines to choose a strategy for. A field that is None is found on this machine, or in TF_CONFIG.

    Args:
        hosts: the number of hosts, all alike.
        cards: the number of cards (GPUs) of each host; 0 for none.
        card_bytes: the memory of a card.
        host_bytes: the memory of a host.
        cores: the CPU cores of a host.
        bandwidth: bytes a second between two hosts, each way: 1.25e9 for 10 Gbit/s.

    Raises:
        ConfigError: a field breaks its rule.

    Example:
        >>> Hardware(hosts=4, cards=8, card_bytes=80e9).cards
        8
    """

    hosts: int | None = None
    cards: int | None = None
    card_bytes: float | None = None
    host_bytes: float | None = None
    cores: int | None = None
    bandwidth: float | None = None

    def __post_init__(self) -> None:
        """Checks the fields that are given."""
        for name, least in (("hosts", 1), ("cards", 0), ("cores", 1)):
            if getattr(self, name) is not None:
                value = check_integer(name, getattr(self, name), at_least=least, valid=_FOUND)
                object.__setattr__(self, name, value)
        for name in ("card_bytes", "host_bytes", "bandwidth"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_number(name, getattr(self, name), above=0, valid=_FOUND))
        if self.cards == 0 and self.card_bytes is not None:
            raise ConfigError(f"`card_bytes` must be None without cards (cards=0). Received: {self.card_bytes}.")


_FOUND = "None for what is found"


@dataclasses.dataclass(frozen=True)
class Site:
    """The machines and the processes of a cluster, every field known.

    Args:
        hosts: hosts that have workers.
        workers: processes that compute, over all hosts.
        servers: parameter servers; 0 if none are given.
        server_hosts: hosts of parameter servers that have no worker; 0 if servers share the hosts of the workers.
        fixed: what has fixed the processes, such as "TF_CONFIG"; "" if tfps may start them as it likes.
        cards: cards of each host.
        card_bytes: memory of a card; 0 without cards.
        host_bytes: memory of a host.
        cores: CPU cores of a host.
        bandwidth: bytes a second between two hosts, each way.
        bandwidth_source: where the bandwidth comes from, for people.
        cpu_devices: logical devices of the CPU, which share its cores.
    """

    hosts: int = 1
    workers: int = 1
    servers: int = 0
    server_hosts: int = 0
    fixed: str = ""
    cards: int = 0
    card_bytes: float = 0.0
    host_bytes: float = 16e9
    cores: int = 1
    bandwidth: float = constants.BANDWIDTH_BYTES_S
    bandwidth_source: str = "assumed"
    cpu_devices: int = 1

    @property
    def workers_per_host(self) -> int:
        """The most workers of a host."""
        return -(-self.workers // self.hosts)

    @property
    def devices_per_worker(self) -> int:
        """The devices of a worker: its cards, or its logical devices of the CPU."""
        return self.cards or self.cpu_devices

    @property
    def device(self) -> str:
        """The device of a replica, for people."""
        return "card" if self.cards else "host"

    def device_limit(self, processes: int) -> float:
        """Returns the bytes that a replica may take, with `processes` processes on its host."""
        if self.cards:
            reserve = min(constants.CARD_RESERVE_BYTES, constants.CARD_RESERVE_PART * self.card_bytes)
            return self.card_bytes - reserve
        return self.host_limit(processes)

    def host_limit(self, processes: int) -> float:
        """Returns the bytes that each of some processes on a host may take for variables and tensors."""
        return max(0.0, self.host_bytes * constants.HOST_PART / processes - constants.PROCESS_BYTES)

    def to_dict(self) -> dict[str, Any]:
        """Returns every field by name, for JSON."""
        return dataclasses.asdict(self)
