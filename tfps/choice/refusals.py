"""What is refused before anything starts: a device that holds no replica, servers without tables, too few machines."""

from tfps.choice import costs
from tfps.choice.candidates import MULTI, ONE, SERVERS, server_site
from tfps.choice.explanation import Candidate
from tfps.choice.footprint import Footprint
from tfps.choice.hardware import Site
from tfps.errors import ConfigError
from tfps.placement.text import human_bytes


def refusal(footprint: Footprint, site: Site, chosen: Candidate) -> str:
    """Returns why the choice cannot start on these machines; "" if it can."""
    if chosen.strategy != SERVERS or site.servers:
        return chosen.why_not
    if site.fixed:
        use = _use_of_servers(footprint)
        return f"`cluster.ps` of {site.fixed} must list parameter servers for {use}. Received: none."
    hosts = server_site(footprint, site)[0].hosts
    if hosts > site.hosts:
        return (
            f"`hosts` must be at least {hosts} of {human_bytes(site.host_bytes)} each, because parameter servers hold "
            f"{human_bytes(costs.whole_bytes(footprint))}. Received: {site.hosts}."
        )
    return chosen.why_not


def check_replica(footprint: Footprint, site: Site, found: dict[str, Candidate]) -> None:
    """Refuses a model of which a device holds no replica, with or without parameter servers."""
    if found[ONE].is_possible or found[MULTI].is_possible:
        return
    usable = found[ONE].device_limit_bytes
    with_servers = footprint.suits_servers
    if with_servers and footprint.worker_bytes <= usable:
        return
    needed = Footprint.worker_bytes.fget if with_servers else Footprint.replica_bytes.fget  # type: ignore[attr-defined]
    without = " without its tables" if with_servers else ""
    name, have = ("card_bytes", site.card_bytes) if site.cards else ("host_bytes", site.host_bytes)
    batch = footprint.largest_batch(usable, needed)
    ways = [f"a batch of at most {batch}"] if batch else []
    ways += ["Hardware(cards=0), to train on the CPU"] if site.cards else []
    if footprint.has_tables and not footprint.row_wise:
        ways.append("an optimizer that updates single rows (docs/optimizers.md), for parameter servers")
    ways.append(f"a {site.device} with more memory")
    raise ConfigError(
        f"`{name}` must hold one replica{without}, {human_bytes(needed(footprint))} for {footprint.batch_size} "
        f"examples: {_parts(footprint, with_servers)}. Received: {human_bytes(have)}, of which {human_bytes(usable)} "
        f"can be used. Valid: {'; '.join(ways)}."
    )


def _use_of_servers(footprint: Footprint) -> str:
    if footprint.mode:
        return f"an optimizer in {footprint.mode} mode"
    return f"tables of {human_bytes(footprint.table_bytes)} with slots"


def _parts(footprint: Footprint, with_servers: bool) -> str:
    variables = footprint.dense_bytes if with_servers else footprint.variable_bytes + footprint.slot_bytes
    return (
        f"{human_bytes(variables)} of variables and slots, {human_bytes(footprint.gradient_bytes)} of gradients, "
        f"{human_bytes(footprint.working_bytes)} of the batch and activations"
    )


def check_servers(footprint: Footprint, site: Site) -> None:
    """Refuses parameter servers that would have nothing to hold."""
    if site.servers and not footprint.has_tables and not footprint.mode:
        raise ConfigError(
            f"`cluster.ps` of {site.fixed} must be left out, because the model has nothing for parameter servers: no "
            f"tables, and {human_bytes(footprint.dense_bytes)} of dense variables and slots. Received: {site.servers} "
            "parameter servers. Valid: chief and workers, for MultiWorkerMirroredStrategy."
        )
