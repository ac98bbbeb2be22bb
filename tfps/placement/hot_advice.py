"""Advice on a hot server: its number, the tables that make it hot, and the rows that move at the next restore."""

from tfps.placement.model import Placement
from tfps.placement.rebalance import Rebalanced
from tfps.placement.requested import HotServer

_NAMED = 4
"""The most tables that a line names."""


def advise_on_hot(hot: HotServer, rebalanced: Rebalanced) -> str:
    """Returns a few sentences.

    Args:
        hot: the hot server.
        rebalanced: what to do about it.
    """
    tables = ", ".join(f"{name!r} {share:.0%}" for name, share in hot.tables[:_NAMED])
    rest = len(hot.tables) - _NAMED
    more = f" and {rest} more" if rest > 0 else ""
    head = (
        f"Hot server: server {hot.server} has {hot.share:.0%} of the row bytes that steps request, {hot.ratio:.1f} "
        f"times the mean of {rebalanced.before.num_servers} servers; by table: {tables}{more}."
    )
    if not rebalanced.moved:
        return (
            f"{head} No move of rows would help: its load is that of a few rows, which most steps request, and a row "
            "is on one server."
        )
    moves = "; ".join(_describe(rebalanced.before.find(new.spec.name), new) for new in rebalanced.moved[:_NAMED])
    rest = len(rebalanced.moved) - _NAMED
    more = f"; and {rest} more tables" if rest > 0 else ""
    return (
        f"{head} The plan for the next restore moves rows: {moves}{more}. The largest share should then be "
        f"{rebalanced.largest_share:.0%}, {rebalanced.ratio:.2f} times the mean. To follow it, start with "
        "ParameterServerStrategy(plan=tfps.checkpoint.rebalanced_plan(folder))."
    )


def _describe(before: Placement, after: Placement) -> str:
    return f"{after.spec.name!r} from {_where(before)} to {_where(after)}"


def _where(placement: Placement) -> str:
    kind = placement.routing.kind if placement.routing is not None and len(placement.shards) > 1 else "whole"
    servers = sorted(set(placement.servers))
    numbers = ", ".join(map(str, servers[:8])) + (", ..." if len(servers) > 8 else "")
    shards = f"{len(placement.shards)} shards, " if len(placement.shards) > len(servers) else ""
    return f"{kind} ({shards}server{'s' if len(servers) > 1 else ''} {numbers})"
