"""Hot servers of a job: what the log says of them, what a checkpoint keeps, and the plan for the next restore."""

import json
import logging
import os
from collections.abc import Mapping

from tfps.checks import check_integer
from tfps.errors import CheckpointError, PlanError
from tfps.placement.hot_advice import advise_on_hot
from tfps.placement.model import Plan
from tfps.placement.rebalance import plan_for, rebalance
from tfps.placement.report import largest_to_mean
from tfps.placement.requested import RequestedRows, find_hot, server_loads
from tfps.saving.locations import locate_latest
from tfps.saving.manifest import Manifest
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.types import JSON

_LOG = logging.getLogger("tfps")

ENTRY = "placement"
"""The entry of a checkpoint's progress that has the plan and the requested rows."""


def requested_rows(strategy: ParameterServerStrategy) -> RequestedRows:
    """Returns the rows that the steps of a strategy have requested so far of the tables that are still in use."""
    counts = strategy.record.counts()
    used = {table.name for table, _ in strategy.factory.tables}
    return RequestedRows.of_counts(
        counts.steps, {shard: rows for shard, rows in counts.shard_rows.items() if shard[0] in used}
    )


def placement_entry(strategy: ParameterServerStrategy) -> dict[str, JSON]:
    """Returns what a checkpoint keeps of the placement of its variables, as JSON: plan and requested rows."""
    plan = json.loads(strategy.factory.plan_without_slots.to_json())
    return {ENTRY: {"plan": plan, "requested": requested_rows(strategy).to_json()}}


class HotServerWatch:
    """Logs once, at the end of an epoch, that a server is hot and what the next restore can do about it.

    Args:
        strategy: the strategy whose steps are counted.

    Threading: the training loop's thread.
    """

    def __init__(self, strategy: ParameterServerStrategy) -> None:
        self._strategy = strategy
        self._has_logged = False

    def end_epoch(self) -> None:
        """Looks at the counts so far. Cost: arithmetic on the plan, once an epoch."""
        if self._has_logged or self._strategy.num_servers == 1:
            return
        plan, requested = self._strategy.factory.plan_without_slots, requested_rows(self._strategy)
        hot = find_hot(plan, requested)
        if hot is not None:
            self._has_logged = True
            _LOG.warning("%s", advise_on_hot(hot, rebalance(plan, requested)))


def rebalanced_plan(path: str | os.PathLike[str], num_servers: int | None = None) -> Plan | None:
    """Returns the plan to restore a checkpoint with, in which rows have moved away from a server that was hot.

    A checkpoint keeps the plan of its variables and the rows that steps have requested of each shard. If one server had
    at least twice the mean of all servers (1.5 times of two servers) in bytes of requested rows, tables are routed by
    hash, split over more servers or moved whole, as far as that makes the servers even. Otherwise the plan is that of
    the checkpoint, so a placement that was changed once stays. What moves is logged.

    The model must have the variables that it had: a strategy refuses a plan without one of them.

    Args:
        path: the path or URL of a checkpoint, or of a folder of checkpoints, whose latest is used.
        num_servers: the number of servers of the cluster to come; None for as many as before. For another number all
            variables are planned anew, by the rows that steps have requested; a single server counts none.

    Returns:
        The plan, for `ParameterServerStrategy(plan=)`; None if there is no checkpoint yet, or if one of an earlier
        version of tfps or of another strategy keeps no plan. The strategy then plans as always.

    Raises:
        CheckpointError: the checkpoint is broken.
        ConfigError: an argument breaks its rule.
    """
    if num_servers is not None:
        num_servers = check_integer("num_servers", num_servers, at_least=1, valid="None for as many as before")
    kept = read_placement(path)
    if kept is None:
        _LOG.info("%s keeps no plan: variables are placed as always.", os.fspath(path))
        return None
    plan, requested = kept
    wanted = plan_for(plan, requested, plan.num_servers if num_servers is None else num_servers)
    if wanted is not plan and wanted.num_servers == plan.num_servers:
        _LOG.info("%s", describe_balance(plan, requested))
    return wanted


def read_placement(path: str | os.PathLike[str]) -> tuple[Plan, RequestedRows] | None:
    """Reads the plan that a checkpoint keeps and the rows that steps have requested.

    Args:
        path: the path or URL of a checkpoint, or of a folder of checkpoints, whose latest is used.

    Returns:
        Both; None if there is no checkpoint, or it keeps no plan.

    Raises:
        CheckpointError: the checkpoint is broken.
    """
    found = _find(path)
    if found is None or (kept := found[0].progress.get(ENTRY)) is None:
        return None
    return _parse(kept, found[1])


def describe_balance(plan: Plan, requested: RequestedRows) -> str:
    """Returns the advice on a hot server, or a sentence that says how even the servers are."""
    if plan.num_servers == 1:
        return "There was one server, so none could be hot, and requested rows were not counted."
    hot = find_hot(plan, requested)
    if hot is not None:
        return advise_on_hot(hot, rebalance(plan, requested))
    if not requested.steps:
        return "No step has requested rows yet."
    ratio = largest_to_mean(server_loads(plan, requested))
    return f"No server is hot: in {requested.steps:,} steps the largest had {ratio:.2f} times the mean in row bytes."


def _find(path: str | os.PathLike[str]) -> tuple[Manifest, str] | None:
    """Returns the manifest of a checkpoint, or of the latest one of a folder, and its path; None if there is none."""
    folder, name = locate_latest(path)
    if name not in folder.complete():
        return None
    stored = folder.open(name)
    return stored.manifest, stored.path


def _parse(kept: JSON, name: str) -> tuple[Plan, RequestedRows]:
    try:
        if not isinstance(kept, Mapping):
            raise PlanError("it is no object.")
        return Plan.from_json(json.dumps(kept.get("plan"))), RequestedRows.from_json(kept.get("requested"))
    except PlanError as error:
        raise CheckpointError(f"{name} is broken: the plan that it keeps cannot be read: {error}") from None
