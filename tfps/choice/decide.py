"""The decision: which strategy, from what a model needs and what there is. Pure functions.

docs/choosing.md explains the rules:

An optimizer in the mode `Geo` or `Sync`, or a table that grows, needs parameter servers. For all others:

1. A replica must fit its device without the tables, or nothing can train: an error.
2. If it does not fit with its tables: parameter servers.
3. On one host: all its cards, or one device. Without cards, parameter servers if they are predicted to be faster.
4. On several hosts: parameter servers if all-reduce would move more bytes, both exchanging everything in every step,
   and is not predicted to be twice as fast; else all-reduce. One host if it is predicted to be twice as fast.
5. What TF_CONFIG or a process manager has started is used: with servers, parameter servers; without, all-reduce.
"""

from tfps.choice import constants, costs
from tfps.choice.candidates import MIRRORED, MULTI, ONE, SERVERS, all_candidates, bytes_ratio, server_site, speedup
from tfps.choice.cautions import assumptions, borderlines
from tfps.choice.explanation import Candidate, Explanation
from tfps.choice.footprint import Footprint
from tfps.choice.hardware import Site
from tfps.choice.refusals import check_replica, check_servers, refusal
from tfps.placement.text import human_bytes

_Reasons = tuple[str, list[str]]
"""The name of a strategy, and why."""


def decide(footprint: Footprint, site: Site) -> Explanation:
    """Chooses the strategy.

    Args:
        footprint: the model.
        site: the machines.

    Raises:
        ConfigError: a device holds no replica even without the tables, or TF_CONFIG has servers that would have
            nothing to hold.
    """
    found = all_candidates(footprint, site)
    check_replica(footprint, site, found)
    check_servers(footprint, site)
    choice, reasons = _choose(footprint, site, found)
    return Explanation(
        choice,
        tuple(reasons),
        tuple(borderlines(footprint, site, found, choice)),
        tuple(assumptions(footprint, site, choice)),
        refusal(footprint, site, found[choice]),
        footprint,
        site,
        tuple(found.values()),
    )


def _choose(footprint: Footprint, site: Site, found: dict[str, Candidate]) -> _Reasons:
    if reason := footprint.servers_only:
        return SERVERS, [f"{reason[0].upper()}{reason[1:]}, which only parameter servers have."]
    if not found[ONE].is_possible and not found[MULTI].is_possible:
        return SERVERS, [_no_fit(footprint, site, found[ONE]), _server_link(footprint, site) + "."]
    if site.servers:
        return SERVERS, [_fixed_servers(footprint, site), *_compare(found, SERVERS, MULTI)]
    if site.workers > 1 and site.fixed:
        text = (
            f"{site.fixed} has {site.workers} workers and no parameter servers, and the model fits each {site.device}."
        )
        return MULTI, [text, *_link_reasons(footprint, site, found), *_compare(found, MULTI, ONE)]
    if site.workers > 1:
        return _choose_hosts(footprint, site, found)
    return _choose_on_host(footprint, site, found)


def _choose_on_host(footprint: Footprint, site: Site, found: dict[str, Candidate]) -> _Reasons:
    fit = _fit(footprint, site, found[ONE])
    if site.cards > 1:
        sent = f"all-reduce moves {human_bytes(found[MIRRORED].link_bytes)} a step between {site.cards} cards"
        # Speeds of cards are assumed, so only a clear loss keeps cards idle.
        if speedup(found, ONE, MIRRORED) > constants.BORDER:
            return ONE, [
                f"{fit} {sent[0].upper()}{sent[1:]}, which takes longer than the step.",
                *_compare(found, ONE, MIRRORED),
            ]
        return MIRRORED, [f"{fit} {sent[0].upper()}{sent[1:]} (NCCL).", *_compare(found, MIRRORED, ONE)]
    if site.cards:
        return ONE, [f"{fit} There is one card on one host, so nothing crosses."]
    if found[SERVERS].is_possible and speedup(found, SERVERS, ONE) > constants.TIE:
        text = "one process does not use all cores, and several workers do"
        return SERVERS, [f"{fit} On one host without cards {text}.", *_compare(found, SERVERS, ONE)]
    return ONE, [
        f"{fit} There is one host without cards: one process uses its cores, and nothing crosses.",
        *(_compare(found, ONE, SERVERS) if found[SERVERS].is_possible else ()),
    ]


def _choose_hosts(footprint: Footprint, site: Site, found: dict[str, Candidate]) -> _Reasons:
    single = MIRRORED if site.cards > 1 else ONE
    if not found[single].is_possible:
        single = ONE
    best, reasons = _choose_distributed(footprint, site, found)
    if found[single].is_possible and speedup(found, single, best) > constants.UNSURE:
        return single, [
            f"{_fit(footprint, site, found[ONE])} {site.hosts} hosts would be clearly slower than one: a step moves "
            f"{human_bytes(found[best].link_bytes)} between them under {best}.",
            *_compare(found, single, best),
        ]
    return best, [*reasons, *_compare(found, best, single)]


def _choose_distributed(footprint: Footprint, site: Site, found: dict[str, Candidate]) -> _Reasons:
    fit, link = _fit(footprint, site, found[MULTI]), "".join(_link_reasons(footprint, site, found))
    kind = f"{'NCCL' if site.cards else 'RING'}, {found[MULTI].replicas} replicas"
    if not found[SERVERS].is_possible:
        return MULTI, [f"{fit} {link or 'It has nothing for parameter servers.'} All-reduce: {kind}."]
    ratio, slower = bytes_ratio(footprint, site, found), speedup(found, MULTI, SERVERS)
    if ratio > constants.TIE and slower < constants.UNSURE:
        return SERVERS, [f"{fit} All-reducing would move more. {link}", *_compare(found, SERVERS, MULTI)]
    if ratio > constants.TIE:
        return MULTI, [
            f"{fit} All-reducing would move more, but would be clearly faster than the requests to servers. {link}",
            *_compare(found, MULTI, SERVERS),
        ]
    return MULTI, [f"{fit} All-reducing ({kind}) moves no more than parameter servers would. {link}"]


def _link_reasons(footprint: Footprint, site: Site, found: dict[str, Candidate]) -> list[str]:
    """Returns what crosses in a step, if there is something to compare."""
    if not footprint.has_tables:
        return []
    all_reduce = f"all-reduce over {found[MULTI].replicas} replicas would move {human_bytes(found[MULTI].link_bytes)}"
    return [f"{_server_link(footprint, site)}; {all_reduce}."]


def _server_link(footprint: Footprint, site: Site) -> str:
    there, servers = server_site(footprint, site)
    every = costs.exchange(footprint, there.workers).every
    fresh = human_bytes(costs.server_link_bytes(footprint, there, servers, every=1))
    averaged = human_bytes(costs.server_link_bytes(footprint, there, servers))
    often = f" ({averaged} with an exchange every {every} steps)" if averaged != fresh else ""
    return (
        f"A step moves {fresh} over the busiest link with {servers} parameter server{'s' if servers > 1 else ''} and "
        f"{there.workers} workers that exchange dense variables in every step{often}"
    )


def _fit(footprint: Footprint, site: Site, candidate: Candidate) -> str:
    return (
        f"The model fits a {site.device}: a replica needs {human_bytes(footprint.replica_bytes)} of "
        f"{human_bytes(candidate.device_limit_bytes)}."
    )


def _no_fit(footprint: Footprint, site: Site, candidate: Candidate) -> str:
    return (
        f"The tables do not fit a {site.device}: a replica with them needs {human_bytes(footprint.replica_bytes)} of "
        f"{human_bytes(candidate.device_limit_bytes)}. A worker of parameter servers needs "
        f"{human_bytes(footprint.worker_bytes)}."
    )


def _fixed_servers(footprint: Footprint, site: Site) -> str:
    return (
        f"{site.fixed} has {site.servers} parameter servers, and {footprint.table_share:.0%} of the model's bytes are "
        "tables for them."
    )


def _compare(found: dict[str, Candidate], winner: str, other: str) -> list[str]:
    """Returns a sentence that compares two predictions; none if there is nothing to say."""
    if winner == other:
        return []
    fast, slow = found[winner].examples_per_s, found[other].examples_per_s
    return [f"Predicted: {fast:,.0f} examples a second, against {slow:,.0f} under {other}."]
