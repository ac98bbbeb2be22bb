"""Formats plans as text: a table, a line for the log, and the differences between two plans."""

from collections.abc import Iterable, Sequence

from tfps.placement.model import Placement, Plan, ServerLoad
from tfps.placement.spec import VariableSpec
from tfps.placement.text import align_columns, format_ranges, human_bytes


def plan_table(plan: Plan) -> str:
    """Returns a line for each variable, a line for each server, and how even the servers are."""
    variables = [("variable", "shape", "bytes", "slots", "split", "servers"), *map(_variable_row, plan)]
    return "\n".join([*align_columns(variables), "", *align_columns(_server_rows(plan.loads()))])


def summarize(plan: Plan) -> str:
    """Returns one sentence on the size of the model and how evenly the servers share it."""
    loads = plan.loads()
    memory = sum(load.bytes_with_slots for load in loads)
    in_bytes = largest_to_mean([load.bytes_with_slots for load in loads])
    in_rows = largest_to_mean([load.rows_per_step for load in loads])
    return (
        f"{len(plan.placements)} variables, {human_bytes(memory)} with slots, on {plan.num_servers} parameter servers; "
        f"largest / mean: {in_bytes:.2f} in bytes, {in_rows:.2f} in rows asked for."
    )


def compare(before: Plan, after: Plan) -> str:
    """Returns the differences between two plans, a line each; one line if there are none."""
    if before == after:
        return "The plans are equal."
    old = {placement.spec.name: placement for placement in before}
    new = {placement.spec.name: placement for placement in after}
    lines = [f"- {name}: only in the first plan" for name in old if name not in new]
    lines += [f"+ {name}: only in the second plan" for name in new if name not in old]
    for name, placement in new.items():
        if name in old and old[name] != placement:
            lines.append(f"~ {name}: {_describe_placement(old[name])} -> {_describe_placement(placement)}")
    if before.num_servers != after.num_servers:
        lines.append(f"servers: {before.num_servers} -> {after.num_servers}")
    return "\n".join([*lines, *_compare_loads(before.loads(), after.loads())])


def largest_to_mean(values: Iterable[float]) -> float:
    """Returns largest / mean: 1.0 if the servers are even (or empty), the number of servers if one has everything."""
    values = list(values)
    total = sum(values)
    # largest / (total / count), written without a division by a mean of 0.
    return max(values) * len(values) / total if total else 1.0


def format_slots(spec: VariableSpec) -> str:
    """Returns the number of slots as text: "2", "1 narrow" for a slot with one number per row, or "1 + 1 narrow"."""
    narrow = f"{spec.row_slots} narrow" if spec.row_slots else ""
    return narrow if narrow and not spec.slots else f"{spec.slots} + {narrow}" if narrow else str(spec.slots)


def _variable_row(placement: Placement) -> tuple[str, ...]:
    spec = placement.spec
    split = f"{len(placement.shards)} by {placement.routing.kind}" if placement.routing else "whole"
    # How many rows a table that grows will have is expected, not known.
    shape = ("~" if spec.growing else "") + str(list(spec.shape))
    return spec.name, shape, human_bytes(spec.nbytes), format_slots(spec), split, format_ranges(placement.servers)


def _server_rows(loads: Sequence[ServerLoad]) -> list[tuple[str, ...]]:
    head = ("server", "bytes", "with slots", "lookups/step", "rows/step", "row bytes/step", "dense bytes/step")
    rows = [(str(load.server), *_format_cells(load)) for load in loads]
    # `zip` turns the rows of numbers into columns, one for each quantity.
    even = [f"{largest_to_mean(column):.2f}" for column in zip(*(_numbers(load) for load in loads), strict=True)]
    return [head, *rows, ("largest / mean", *even)]


def _numbers(load: ServerLoad) -> tuple[float, ...]:
    rows = (load.lookups_per_step, load.rows_per_step, load.row_bytes_per_step)
    return (load.nbytes, load.bytes_with_slots, *rows, load.dense_bytes_per_step)


def _format_cells(load: ServerLoad) -> tuple[str, ...]:
    nbytes, memory, lookups, rows, row_bytes, dense = _numbers(load)
    counts = (f"{lookups:.0f}", f"{rows:.0f}")
    return (human_bytes(nbytes), human_bytes(memory), *counts, human_bytes(row_bytes), human_bytes(dense))


def _describe_placement(placement: Placement) -> str:
    kind = placement.routing.kind if placement.routing else "whole"
    shape = "x".join(map(str, placement.spec.shape))
    return f"{shape} {placement.spec.dtype} {kind} on {list(placement.servers)}, {format_slots(placement.spec)} slots"


def _compare_loads(before: Sequence[ServerLoad], after: Sequence[ServerLoad]) -> list[str]:
    lines = []
    # These two show whether the second plan is more even; `plan_table` has every quantity.
    for noun, field in (("memory", "bytes_with_slots"), ("rows asked for", "rows_per_step")):
        old, new = ([getattr(load, field) for load in loads] for loads in (before, after))
        lines.append(f"largest / mean in {noun}: {largest_to_mean(old):.2f} -> {largest_to_mean(new):.2f}")
    return lines
