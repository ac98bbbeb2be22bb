"""What is refused before anything starts: a device that holds no replica, servers without tables, too few machines."""

from tfps.choice import costs
from tfps.choice.candidates import MULTI, ONE, SERVERS, server_site
from tfps.choice.explanation import Candidate
from tfps.choice.hardware import Site
from tfps.choice.measures import Measures
from tfps.errors import ConfigError
from tfps.placement.text import human_bytes


def refusal(measures: Measures, site: Site, chosen: Candidate) -> str:
    """Returns why the choice cannot start on these machines; "" if it can."""
    if chosen.strategy != SERVERS or site.servers:
        return chosen.why_not
    if site.fixed:
        return (
            f"`cluster.ps` of {site.fixed} must list parameter servers for tables of "
            f"{human_bytes(measures.table_bytes)} with slots. Received: none."
        )
    hosts = server_site(measures, site)[0].hosts
    if hosts > site.hosts:
        return (
            f"`hosts` must be at least {hosts} of {human_bytes(site.host_bytes)} each, because parameter servers hold "
            f"{human_bytes(costs.whole_bytes(measures))}. Received: {site.hosts}."
        )
    return chosen.why_not


def check_replica(measures: Measures, site: Site, found: dict[str, Candidate]) -> None:
    """Refuses a model of which a device holds no replica, with or without parameter servers."""
    if found[ONE].is_possible or found[MULTI].is_possible:
        return
    usable = found[ONE].device_limit_bytes
    with_servers = measures.has_tables and measures.row_wise
    if with_servers and measures.worker_bytes <= usable:
        return
    needed = Measures.worker_bytes.fget if with_servers else Measures.replica_bytes.fget  # type: ignore[attr-defined]
    without = " without its tables" if with_servers else ""
    name, have = ("card_bytes", site.card_bytes) if site.cards else ("host_bytes", site.host_bytes)
    batch = measures.largest_batch(usable, needed)
    ways = [f"a batch of at most {batch}"] if batch else []
    ways += ["Hardware(cards=0), to train on the CPU"] if site.cards else []
    if measures.has_tables and not measures.row_wise:
        ways.append("an optimizer that updates single rows (docs/optimizers.md), for parameter servers")
    ways.append(f"a {site.device} with more memory")
    raise ConfigError(
        f"`{name}` must hold one replica{without}, {human_bytes(needed(measures))} for {measures.batch_size} examples: "
        f"{_parts(measures, with_servers)}. Received: {human_bytes(have)}, of which {human_bytes(usable)} can be used. "
        f"Valid: {'; '.join(ways)}."
    )


def _parts(measures: Measures, with_servers: bool) -> str:
    variables = measures.dense_bytes if with_servers else measures.variable_bytes + measures.slot_bytes
    return (
        f"{human_bytes(variables)} of variables and slots, {human_bytes(measures.gradient_bytes)} of gradients, "
        f"{human_bytes(measures.working_bytes)} of the batch and activations"
    )


def check_servers(measures: Measures, site: Site) -> None:
    """Refuses parameter servers that would have nothing to hold."""
    if site.servers and not measures.has_tables:
        raise ConfigError(
            f"`cluster.ps` of {site.fixed} must be left out, because the model has nothing for parameter servers: no "
            f"tables, and {human_bytes(measures.dense_bytes)} of dense variables and slots. Received: {site.servers} "
            "parameter servers. Valid: chief and workers, for MultiWorkerMirroredStrategy."
        )
