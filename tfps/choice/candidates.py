"""Every strategy with what it needs and how fast it would be on given machines, whether or not it is possible there."""

import dataclasses
from collections.abc import Iterator

from tfps.choice import constants, costs, times
from tfps.choice.explanation import Candidate
from tfps.choice.footprint import Footprint
from tfps.choice.hardware import Site
from tfps.placement.text import human_bytes

ONE, MIRRORED, MULTI = "OneDeviceStrategy", "MirroredStrategy", "MultiWorkerMirroredStrategy"
SERVERS, CENTRAL, TPU = "ParameterServerStrategy", "CentralStorageStrategy", "TPUStrategy"


def all_candidates(footprint: Footprint, site: Site) -> dict[str, Candidate]:
    """Returns every strategy by the name of its class. What a machine lacks, such as a second card, is imagined."""
    found = (
        _one_device(footprint, site),
        _mirrored(footprint, site),
        _multi_worker(footprint, site),
        _parameter_servers(footprint, site),
        _central_storage(footprint, site),
        Candidate(TPU, False, "never chosen: tfps has no operations for TPUs, and its tables would need them."),
    )
    return {candidate.strategy: candidate for candidate in found}


def server_site(footprint: Footprint, site: Site) -> tuple[Site, int]:
    """Returns the machines with the workers that parameter servers would have, and the number of servers.

    Servers that are given stay. One host has one server and two workers, as `LocalCluster` does, or one worker for all
    its cards. Of several, and of as
    many as the model needs, each has a worker, and those of the fastest number of servers have one.
    """
    if site.servers:
        return site, site.servers
    if site.hosts == 1 and not site.fixed:
        # Two workers would share the cards of the host.
        here = dataclasses.replace(site, workers=1 if site.cards else constants.EMBEDDED_WORKERS)
        if fits_hosts(footprint, here, 1):
            return here, 1
    hosts = max(site.hosts, costs.hosts_needed(footprint, site))
    there = dataclasses.replace(site, hosts=hosts, workers=max(hosts, site.workers))
    # More servers share the traffic, and each costs a request. With one for each host the memory is enough.
    counts = [count for count in _halves(hosts) if count == hosts or fits_hosts(footprint, there, count)]
    return there, max(counts, key=lambda count: times.parameter_servers(footprint, there, count).examples_per_s)


def _halves(count: int) -> Iterator[int]:
    """Yields a count, half of it, and so on to 1: 6, 3, 1."""
    while count:
        yield count
        count //= 2


def fits_hosts(footprint: Footprint, site: Site, servers: int) -> bool:
    """Returns whether the hosts hold the model under parameter servers."""
    return costs.host_bytes(footprint, site, servers) <= site.host_bytes * constants.HOST_PART


def _one_device(footprint: Footprint, site: Site) -> Candidate:
    speed = times.one_device(footprint, site)
    return _replicated(ONE, footprint, site.device_limit(1), site, 1, 0.0, speed)


def _mirrored(footprint: Footprint, site: Site) -> Candidate:
    # One card, or a CPU of one device, is shown with two: what a second one would give.
    replicas = max(2, site.cards or site.cpu_devices)
    limit = site.device_limit(1) if site.cards else site.device_limit(1) / replicas
    sent = costs.all_reduce_bytes(footprint, replicas)
    made = _replicated(MIRRORED, footprint, limit, site, replicas, sent, times.mirrored(footprint, site, replicas))
    if site.cards > 1 or not made.is_possible:
        return made
    why = (
        f"there is one card; shown for {replicas}."
        if site.cards
        else (f"there are no cards, and logical devices of a CPU share its cores; shown for {replicas}.")
    )
    return dataclasses.replace(made, is_possible=False, why_not=why)


def _multi_worker(footprint: Footprint, site: Site) -> Candidate:
    there = site if site.workers > 1 else dataclasses.replace(site, workers=2)
    replicas = there.workers * there.devices_per_worker
    limit = there.device_limit(there.workers_per_host) / (1 if there.cards else there.cpu_devices)
    sent = costs.all_reduce_bytes(footprint, replicas)
    speed = times.multi_worker_mirrored(footprint, there)
    made = _replicated(MULTI, footprint, limit, there, replicas, sent, speed)
    if site.workers > 1 or not made.is_possible:
        return made
    why = f"there is one process and one host; shown for {there.workers} processes of this host."
    return dataclasses.replace(made, is_possible=False, why_not=why)


def _replicated(
    name: str, footprint: Footprint, limit: float, site: Site, replicas: int, sent: float, speed: times.Speed
) -> Candidate:
    """Returns a strategy whose replicas hold the whole model."""
    why = ""
    if footprint.servers_only:
        why = f"{footprint.servers_only}, which only parameter servers have."
    elif footprint.replica_bytes > limit:
        needed = human_bytes(footprint.replica_bytes)
        why = f"a replica needs {needed}, and a {site.device} has {human_bytes(limit)} for it."
    return Candidate(
        name, not why, why, replicas, 0, footprint.replica_bytes, limit, sent, speed.step_s, speed.examples_per_s
    )


def _parameter_servers(footprint: Footprint, site: Site) -> Candidate:
    there, servers = server_site(footprint, site)
    speed = times.parameter_servers(footprint, there, servers)
    limit = there.device_limit(there.workers_per_host + 1)
    why = _why_no_servers(footprint, there, servers)
    return Candidate(
        SERVERS,
        not why,
        why,
        there.workers * max(1, there.cards),
        servers,
        footprint.worker_bytes,
        limit,
        costs.server_link_bytes(footprint, there, servers),
        speed.step_s,
        speed.examples_per_s,
    )


def _why_no_servers(footprint: Footprint, there: Site, servers: int) -> str:
    if not footprint.has_tables and not footprint.mode:
        return "the model has no tables, so servers would have nothing that a worker does not need whole."
    if not footprint.row_wise:
        return "the optimizer cannot update single rows of a table (docs/optimizers.md lists those that can)."
    if not fits_hosts(footprint, there, servers):
        needed = costs.host_bytes(footprint, there, servers)
        return f"a host would need {human_bytes(needed)} of memory, and has {human_bytes(there.host_bytes)}."
    return ""


def _central_storage(footprint: Footprint, site: Site) -> Candidate:
    devices = max(2, site.cards or site.cpu_devices)
    copied = human_bytes(devices * footprint.variable_bytes)
    return Candidate(
        CENTRAL,
        False,
        f"never chosen: it has one host, and copies all variables to each device in every step, {copied} to {devices}.",
    )


def bytes_ratio(footprint: Footprint, site: Site, found: dict[str, Candidate]) -> float:
    """Returns the bytes of all-reduce / those of parameter servers that exchange dense variables in every step.

    At equal freshness: servers that exchange every k steps move less because they train on older values.
    """
    of_servers = costs.server_link_bytes(footprint, *server_site(footprint, site), every=1)
    return found[MULTI].link_bytes / of_servers if of_servers else 1.0


def speedup(found: dict[str, Candidate], one: str, other: str) -> float:
    """Returns how many times as fast one strategy is predicted to be as another."""
    return found[one].examples_per_s / found[other].examples_per_s
