"""Advice on a plan: what to change before anything runs, and why."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping

from tfps.checks import check_integer, check_type
from tfps.errors import PlanError
from tfps.placement.model import Plan, ServerLoad, placement_loads
from tfps.placement.report import largest_to_mean, summarize
from tfps.placement.spec import VariableSpec
from tfps.placement.text import human_bytes

_UNEVEN = 1.2
"""Largest / mean above which the most loaded server visibly sets the pace."""
_SMALL_SHARD_ROWS = 32
"""A smaller shard serves only a few rows of a batch, and asking it costs more than copying those rows."""
_MUCH_DENSE = 0.5
"""If dense variables are more than this part of a step's bytes, they limit the servers and rows do not."""
_DENSE_MODEL, _MIXED_MODEL = 0.5, 0.1
"""A step that moves more than half of the model makes it dense, more than a tenth mixed, less sparse."""
_DENSE_TRAFFIC, _MIXED_TRAFFIC = 0.9, 0.7
"""The same limits for the dense part of a step's bytes: a large table does not make the MLP beside it any lighter."""
# Steps of all workers together that the servers have not seen: more of them cost accuracy, fewer cost traffic.
_STEPS_UNSEEN = 32
_WORKERS = 2
"""Workers of the default local cluster, assumed if the number of workers is not given."""


def default_exchange_every(num_workers: int) -> int:
    """Returns the default number of steps between two exchanges of dense variables: 32 divided by the workers.

    Then all workers together make about 32 steps that the servers have not seen, for any number of workers.
    """
    return max(1, _STEPS_UNSEEN // num_workers)


def advise(plan: Plan, num_workers: int | None = None, dense_exchange_every: int | None = None) -> list[str]:
    """Returns advice on a plan, a few sentences per item; the ratio of servers to workers comes last.

    Args:
        plan: the plan.
        num_workers: workers of the cluster; None if not decided yet.
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
    # Computed once, because every rule needs them.
    loads = plan.loads()
    return [
        *_advise_on_partitions(plan),
        *_advise_on_growth(plan),
        *_advise_on_dense_traffic(plan, loads, dense_exchange_every),
        *_advise_on_balance(plan, loads),
        *_advise_on_idle_servers(plan, loads),
        _advise_on_ratio(plan, loads, num_workers, dense_exchange_every),
    ]


def _advise_on_growth(plan: Plan) -> Iterator[str]:
    """Says what tables that grow are reckoned with, and what further rows would take."""
    for placement in plan:
        spec = placement.spec
        if spec.growing:
            per_server = spec.bytes_of_rows(1_000_000) // len(placement.shards)
            yield (
                f"Table {spec.name!r} grows: {spec.rows:,} rows are expected, which take "
                f"{human_bytes(spec.bytes_with_slots)} with slots and index. Each further million takes "
                f"{human_bytes(per_server)} on each of its {len(placement.shards)} servers; `max_rows` or `max_bytes` "
                "limits them."
            )


def format_start_up(
    plan: Plan,
    ids_per_step: Mapping[str, int | None],
    num_workers: int,
    dense_exchange_every: int | None = None,
    small_tables: Collection[VariableSpec] = (),
    repeated_ids: str | None = None,
) -> str:
    """Returns the log line of the first `fit`: what each server holds, the rows that a step looks up, and advice.

    Args:
        plan: the plan of all variables that exist, slots included.
        ids_per_step: the number of ids that one step looks up, by table; None if batches differ. Empty if nothing is
            known.
        num_workers: workers of the cluster.
        dense_exchange_every: as for `advise`.
        small_tables: the tables that are dense variables because they are small.
        repeated_ids: what the strategy does with ids that repeat; None if the model trains no table.
    """
    measured = _with_traffic(plan, ids_per_step) if ids_per_step else plan
    loads = measured.loads()
    largest = max(loads, key=lambda load: load.bytes_with_slots)
    busiest = max(loads, key=lambda load: load.rows_per_step)
    advice = " ".join(advise(measured, num_workers, dense_exchange_every))
    # One table of unknown traffic makes the whole figure a guess.
    known = ids_per_step and None not in ids_per_step.values()
    guess = "" if known else " (a guess: how many ids a batch has is not known yet)"
    return (
        f"{summarize(measured)} At most on one server: {human_bytes(largest.bytes_with_slots)} with slots, "
        f"{busiest.rows_per_step:.0f} rows a step{guess}. {_format_small(small_tables)}"
        f"{_format_repeated(repeated_ids)}{advice}"
    )


def _format_repeated(repeated_ids: str | None) -> str:
    """Returns a sentence, and a space, on ids that repeat in a batch; nothing if there are no tables."""
    meanings = {
        None: "",
        "sum": "An id that repeats in a batch has one gradient, the sum (repeated_ids='sum'). ",
        "each": "Of an id that repeats in a batch, each gradient is squared by itself (repeated_ids='each'). ",
    }
    return meanings[repeated_ids]


def _format_small(small_tables: Collection[VariableSpec]) -> str:
    """Returns a sentence, and a space, on the tables that are dense variables; nothing if there are none."""
    if not small_tables:
        return ""
    nbytes = human_bytes(sum(spec.nbytes for spec in small_tables))
    kind = (
        "1 small table is a dense variable"
        if len(small_tables) == 1
        else f"{len(small_tables)} small tables are dense variables"
    )
    return f"{kind}, {nbytes}, updated whole as in one process (dense_tables_bytes). "


def _with_traffic(plan: Plan, ids_per_step: Mapping[str, int | None]) -> Plan:
    """Returns the plan with measured ids per step; a table without a measurement, such as a slot, gets 0."""
    placements = [
        dataclasses.replace(p, spec=dataclasses.replace(p.spec, rows_per_step=ids_per_step.get(p.spec.name, 0)))
        if p.spec.is_table
        else p
        for p in plan
    ]
    return Plan(plan.num_servers, tuple(placements))


def _advise_on_partitions(plan: Plan) -> Iterator[str]:
    for placement in plan:
        spec, shards = placement.spec, len(placement.shards)
        # A table that no step looks up is a slot, which is always split like its table.
        if spec.is_table and spec.rows_per_step == 0:
            continue
        if shards > 1 and not spec.is_table:
            yield (
                f"Over-partitioned: dense variable {spec.name!r} ({human_bytes(spec.nbytes)}) is split over {shards} "
                "shards. A step needs all of it, so it waits for the slowest of them; keep it whole."
            )
        elif shards > 1 and spec.rows // shards < _SMALL_SHARD_ROWS and not spec.growing:
            yield (
                f"Over-partitioned: table {spec.name!r} has {spec.rows // shards} rows a shard. Each shard costs a "
                f"server an operation a step for a handful of rows; {max(1, spec.rows // _SMALL_SHARD_ROWS)} would do."
            )


def _advise_on_dense_traffic(plan: Plan, loads: tuple[ServerLoad, ...], every: int) -> Iterator[str]:
    """Advises to exchange dense variables less often. Nothing else helps, because they are never split."""
    rows, dense = _step_bytes(loads, every)
    if not rows or dense / (rows + dense) <= _MUCH_DENSE:
        return
    largest = max(loads, key=lambda load: load.dense_bytes_per_step)
    part = largest.dense_bytes_per_step / sum(load.dense_bytes_per_step for load in loads)
    yield (
        f"Dense variables are {dense / (rows + dense):.0%} of the bytes of a step, {part:.0%} of them from server "
        f"{largest.server}. Exchange them less often (dense_exchange_every) or take larger batches: rows grow with the "
        "batch, dense variables do not."
    )


def _advise_on_balance(plan: Plan, loads: tuple[ServerLoad, ...]) -> Iterator[str]:
    # Memory and lookups are judged apart: a server may be even in one and far off in the other.
    for noun, field in (("memory", "bytes_with_slots"), ("rows asked for", "rows_per_step")):
        values = [getattr(load, field) for load in loads]
        if (ratio := largest_to_mean(values)) > _UNEVEN:
            server = values.index(max(values))
            yield (
                f"Uneven: server {server} has {ratio:.2f} times the mean in {noun}, and every step waits for it. "
                f"{_suggest_relief(plan, server, field)}"
            )


def _suggest_relief(plan: Plan, server: int, field: str) -> str:
    """Returns a way to make a server lighter. It depends on the kind of the heaviest variable on the server."""
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


def _advise_on_idle_servers(plan: Plan, loads: tuple[ServerLoad, ...]) -> Iterator[str]:
    # A plan without variables is not worth advice: nothing is placed yet.
    idle = [load.server for load in loads if not load.nbytes]
    if idle and plan.placements:
        yield f"Servers {idle} hold nothing: {plan.num_servers - len(idle)} servers are enough for this model."


def _advise_on_ratio(plan: Plan, loads: tuple[ServerLoad, ...], num_workers: int | None, every: int) -> str:
    rows, dense = _step_bytes(loads, every)
    nbytes = sum(load.nbytes for load in loads)
    part = (rows + dense) / nbytes if nbytes else 0.0
    few, many, kind = _workers_per_server(part, dense / (rows + dense) if rows + dense else 0.0)
    # Example: a sparse model on 2 servers reads "1 : 3 to 1 : 5; here 2 : 6 to 10".
    text = (
        f"A step of one worker moves, each way, {human_bytes(rows)} of rows and {human_bytes(dense)} of dense "
        f"variables, {part:.2%} of the model: by its traffic a {kind} model, for which servers : workers is best "
        f"about {_format_ratio(few, many)}; here {plan.num_servers} : "
        f"{_format_range(plan.num_servers * few, plan.num_servers * many)}."
    )
    # A single server with few workers needs no advice: there is no server to remove.
    fits = num_workers is None or plan.num_servers * few <= num_workers <= plan.num_servers * many
    if num_workers is None or fits or (plan.num_servers == 1 and num_workers < few):
        return text
    return f"{text} {_advise_on_workers(num_workers, plan.num_servers * few)}"


def _step_bytes(loads: tuple[ServerLoad, ...], every: int) -> tuple[float, float]:
    """Returns (row bytes, dense bytes) that a step of one worker moves each way, over all servers."""
    rows = sum(load.row_bytes_per_step for load in loads)
    # Rows cross in every step, dense variables once in `every` steps.
    return rows, sum(load.dense_bytes_per_step for load in loads) / every


def _workers_per_server(moved: float, dense: float) -> tuple[int, int, str]:
    """Returns (fewest workers per server, most workers per server, kind of model).

    Args:
        moved: part of the model's bytes that one step moves, 0 to 1.
        dense: part of the moved bytes that belongs to dense variables, 0 to 1.
    """
    # The more a step moves, the more work a worker makes for its server.
    if moved > _DENSE_MODEL or dense > _DENSE_TRAFFIC:
        return 1, 1, "dense"
    return (1, 3, "mixed") if moved > _MIXED_MODEL or dense > _MIXED_TRAFFIC else (3, 5, "sparse")


def _format_ratio(few: int, many: int) -> str:
    return f"1 : {few}" if few == many else f"1 : {few} to 1 : {many}"


def _format_range(few: int, many: int) -> str:
    return str(few) if few == many else f"{few} to {many}"


def _advise_on_workers(num_workers: int, fewest: int) -> str:
    if num_workers < fewest:
        return f"With {num_workers} workers the servers will idle: fewer servers would do."
    return f"With {num_workers} workers the servers may become the bottleneck: watch their CPU, or add servers."
