"""Advice on a plan: what to change before anything runs, and why."""

import dataclasses
from collections.abc import Iterator, Mapping

from tfps.checks import check_integer, check_type
from tfps.errors import PlanError
from tfps.placement.model import Plan, ServerLoad, placement_loads
from tfps.placement.report import largest_to_mean, summary
from tfps.placement.text import human_bytes

_UNEVEN = 1.2
"""Largest / mean above which the most loaded server visibly sets the pace."""
_SMALL_SHARD_ROWS = 32
"""A smaller shard serves only a few rows of a batch, and asking it costs more than copying those rows."""
_MUCH_DENSE = 0.5
"""Above this part of the bytes of a step, dense variables limit the servers, not rows."""
_DENSE_MODEL, _MIXED_MODEL = 0.5, 0.1
"""A step that moves more than half of the model makes it dense, more than a tenth mixed, less sparse."""
_DENSE_TRAFFIC, _MIXED_TRAFFIC = 0.9, 0.7
"""The same by the dense part of the bytes of a step: a large table does not make the MLP beside it any lighter."""
_STEPS_UNSEEN = 32
_WORKERS = 2
"""Workers of the default cluster on this machine, for advice where the number of workers is not given."""


def default_exchange_every(num_workers: int) -> int:
    """The default number of steps between two exchanges of dense variables: 32 divided by the workers.

    So all workers together make about 32 steps that the servers have not seen, however many workers there are.
    """
    return max(1, _STEPS_UNSEEN // num_workers)


def advise(plan: Plan, num_workers: int | None = None, dense_exchange_every: int | None = None) -> list[str]:
    """Lists advice on a plan, a sentence or two each; the ratio of servers to workers comes last.

    Args:
        plan: the plan.
        num_workers: workers of the cluster; None if not decided.
        dense_exchange_every: steps between two exchanges of dense variables; None for the strategy's default.

    Raises:
        PlanError: an argument breaks its rule.
    """
    check_type("plan", plan, Plan, "a Plan", error=PlanError)
    for name, value in (("num_workers", num_workers), ("dense_exchange_every", dense_exchange_every)):
        if value is not None:
            check_integer(name, value, at_least=1, error=PlanError, valid="None if not decided")
    if dense_exchange_every is None:
        dense_exchange_every = default_exchange_every(num_workers or _WORKERS)
    loads = plan.loads()
    return [
        *_over_partitioned(plan),
        *_dense_traffic(plan, loads, dense_exchange_every),
        *_uneven(plan, loads),
        *_idle(plan, loads),
        _ratio(plan, loads, num_workers, dense_exchange_every),
    ]


def start_up(
    plan: Plan, asked: Mapping[str, int | None], num_workers: int, dense_exchange_every: int | None = None
) -> str:
    """Writes the log line of the first `fit`: what the servers hold, what a step asks of them, and advice.

    Args:
        plan: of all variables that were made, slots included.
        asked: ids that one step looks up, by table; None where batches differ; empty if nothing is known.
        num_workers: workers of the cluster.
        dense_exchange_every: as for `advise`.
    """
    counted = _with_traffic(plan, asked) if asked else plan
    loads = counted.loads()
    most = max(loads, key=lambda load: load.bytes_with_slots)
    busiest = max(loads, key=lambda load: load.rows_per_step)
    advice = " ".join(advise(counted, num_workers, dense_exchange_every))
    guessed = "" if asked and None not in asked.values() else " (a guess: how many ids a batch has is not known yet)"
    return (
        f"{summary(counted)} At most on one server: {human_bytes(most.bytes_with_slots)} with slots, "
        f"{busiest.rows_per_step:.0f} rows a step{guessed}. {advice}"
    )


def _with_traffic(plan: Plan, asked: Mapping[str, int | None]) -> Plan:
    """Returns the plan with the measured ids per step. Steps look nothing up in tables not named, such as slots."""
    placements = [
        dataclasses.replace(p, spec=dataclasses.replace(p.spec, rows_per_step=asked.get(p.spec.name, 0)))
        if p.spec.is_table
        else p
        for p in plan
    ]
    return Plan(plan.num_servers, tuple(placements))


def _over_partitioned(plan: Plan) -> Iterator[str]:
    for placement in plan:
        spec, shards = placement.spec, len(placement.shards)
        if spec.is_table and spec.rows_per_step == 0:
            # A slot: steps do not look it up, and it lies beside its table however that is split.
            continue
        if shards > 1 and not spec.is_table:
            yield (
                f"Over-partitioned: dense variable {spec.name!r} ({human_bytes(spec.nbytes)}) is split over {shards} "
                "shards. A step needs all of it, so it waits for the slowest of them; keep it whole."
            )
        elif shards > 1 and spec.rows // shards < _SMALL_SHARD_ROWS:
            yield (
                f"Over-partitioned: table {spec.name!r} has {spec.rows // shards} rows a shard. Each shard costs a "
                f"server an operation a step for a handful of rows; {max(1, spec.rows // _SMALL_SHARD_ROWS)} would do."
            )


def _dense_traffic(plan: Plan, loads: tuple[ServerLoad, ...], every: int) -> Iterator[str]:
    """Advises to exchange dense variables less often, which is all that can be done: they are not split."""
    rows, dense = _step_bytes(loads, every)
    if not rows or dense / (rows + dense) <= _MUCH_DENSE:
        return
    largest = max(loads, key=lambda load: load.dense_bytes_per_step)
    share = largest.dense_bytes_per_step / sum(load.dense_bytes_per_step for load in loads)
    yield (
        f"Dense variables are {dense / (rows + dense):.0%} of the bytes of a step, {share:.0%} of them from server "
        f"{largest.server}. Exchange them less often (dense_exchange_every) or take larger batches: rows grow with the "
        "batch, dense variables do not."
    )


def _uneven(plan: Plan, loads: tuple[ServerLoad, ...]) -> Iterator[str]:
    for noun, field in (("memory", "bytes_with_slots"), ("rows asked for", "rows_per_step")):
        values = [getattr(load, field) for load in loads]
        if (ratio := largest_to_mean(values)) > _UNEVEN:
            server = values.index(max(values))
            yield (
                f"Uneven: server {server} has {ratio:.2f} times the mean in {noun}, and every step waits for it. "
                f"{_relief(plan, server, field)}"
            )


def _relief(plan: Plan, server: int, field: str) -> str:
    """Says what would make a server lighter, by the kind of the heaviest variable on it."""
    parts = [
        (getattr(load, field), placement.spec)
        for placement in plan
        for load in placement_loads(placement)
        if load.server == server
    ]
    heaviest = max(parts, key=lambda part: part[0])[1]
    if heaviest.is_table:
        return "Split the largest tables on it (Auto, MinBytes), route rows by hash, balance by bytes and traffic."
    return (
        f"Dense variable {heaviest.name!r} ({human_bytes(heaviest.bytes_with_slots)} with slots) is heaviest on it "
        "and stays whole, as a step needs all of it: fewer servers, or a smaller layer, would even it out."
    )


def _idle(plan: Plan, loads: tuple[ServerLoad, ...]) -> Iterator[str]:
    idle = [load.server for load in loads if not load.nbytes]
    if idle and plan.placements:
        yield f"Servers {idle} hold nothing: {plan.num_servers - len(idle)} servers are enough for this model."


def _ratio(plan: Plan, loads: tuple[ServerLoad, ...], num_workers: int | None, every: int) -> str:
    rows, dense = _step_bytes(loads, every)
    nbytes = sum(load.nbytes for load in loads)
    share = (rows + dense) / nbytes if nbytes else 0.0
    few, many, kind = _workers_per_server(share, dense / (rows + dense) if rows + dense else 0.0)
    text = (
        f"A step of one worker moves, each way, {human_bytes(rows)} of rows and {human_bytes(dense)} of dense "
        f"variables, {share:.2%} of the model: by its traffic a {kind} model, for which servers : workers is best "
        f"about {_ratios(few, many)}; here {plan.num_servers} : "
        f"{_span(plan.num_servers * few, plan.num_servers * many)}."
    )
    # One server with few workers needs no advice: there is nothing to take away.
    fits = num_workers is None or plan.num_servers * few <= num_workers <= plan.num_servers * many
    if num_workers is None or fits or (plan.num_servers == 1 and num_workers < few):
        return text
    return f"{text} {_towards(num_workers, plan.num_servers * few)}"


def _step_bytes(loads: tuple[ServerLoad, ...], every: int) -> tuple[float, float]:
    """Returns (row bytes, dense bytes) that a step of one worker moves each way, over all servers."""
    rows = sum(load.row_bytes_per_step for load in loads)
    # Dense variables cross once in `every` steps.
    return rows, sum(load.dense_bytes_per_step for load in loads) / every


def _workers_per_server(share: float, dense: float) -> tuple[int, int, str]:
    """Returns (fewest workers a server, most, kind of model).

    Args:
        share: part of the bytes of the model that one step moves, 0 to 1.
        dense: part of those bytes that belongs to dense variables, 0 to 1.
    """
    if share > _DENSE_MODEL or dense > _DENSE_TRAFFIC:
        return 1, 1, "dense"
    return (1, 3, "mixed") if share > _MIXED_MODEL or dense > _MIXED_TRAFFIC else (3, 5, "sparse")


def _ratios(few: int, many: int) -> str:
    return f"1 : {few}" if few == many else f"1 : {few} to 1 : {many}"


def _span(few: int, many: int) -> str:
    return str(few) if few == many else f"{few} to {many}"


def _towards(num_workers: int, fewest: int) -> str:
    if num_workers < fewest:
        return f"With {num_workers} workers the servers will idle: fewer servers would do."
    return f"With {num_workers} workers the servers may become the bottleneck: watch their CPU, or add servers."
