"""Creates what a plan says: dense variables on their server, tables as one resource a shard."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfps.cluster import devices
from tfps.embedding.initialization import RowSource, fill
from tfps.embedding.table import Table
from tfps.ops.routing_graph import global_of
from tfps.placement.model import Placement
from tfps.placement.spec import VariableSpec
from tfps.strategy.variables import DenseVariable, SeedVariable, SumVariable

_LARGE_BYTES = 1 << 30
_LOG = logging.getLogger("tfps")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a variable gets its first value.

    Args:
        whole: returns all of it; run on the device of the variable (for a dense variable), with no argument.
        rows: for a table, gives any range of rows, or None where only `whole` can.
        constant: the value of every element, where there is one.
        is_seed: whether it is the state of a random generator.
        bookkeeping: whether it belongs to no layer (an optimizer's counter), so that no plan names it.
    """

    whole: Callable[[], Any]
    rows: RowSource | None = None
    constant: float | None = None
    is_seed: bool = False
    bookkeeping: bool = False


def create_dense(placement: Placement, recipe: Recipe, trainable: bool) -> DenseVariable:
    """A variable that one server holds whole."""
    spec = placement.spec
    device = devices.server(placement.servers[0])
    kind = SeedVariable if recipe.is_seed else DenseVariable
    variable = kind(
        recipe.whole, name=spec.name, dtype=spec.dtype, shape=spec.shape, trainable=trainable, device=device
    )
    variable.placement = placement
    return variable


def create_sum(spec: VariableSpec, recipe: Recipe) -> SumVariable:
    """A sum over the workers, held by the chief."""
    return SumVariable(
        recipe.whole, name=spec.name, dtype=spec.dtype, shape=spec.shape, trainable=False, device=devices.CHIEF
    )


def create_table(placement: Placement, recipe: Recipe, trainable: bool) -> Table:
    """A table with one resource a shard, filled on the servers."""
    spec = placement.spec
    shards = [
        _create_shard(spec, shard.server, shard.index, shard.rows, recipe.constant or 0.0) for shard in placement.shards
    ]
    table = Table(placement, shards, trainable)
    if recipe.constant is None:
        if recipe.rows is not None:
            fill(placement, shards, recipe.rows)
        else:
            _fill_from_whole(table, recipe)
    return table


def _create_shard(spec: VariableSpec, server: int, index: int, rows: int, value: float) -> DenseVariable:
    shape = (rows, *spec.shape[1:])
    return DenseVariable(
        lambda: tf.fill(shape, tf.cast(value, spec.dtype)),
        name=f"{spec.name}/shard_{index}",
        dtype=spec.dtype,
        shape=shape,
        trainable=False,
        device=devices.server(server),
    )


def _fill_from_whole(table: Table, recipe: Recipe) -> None:
    """An initializer that can only draw all rows at once draws them on each server, which keeps its own."""
    spec = table.placement.spec
    if spec.nbytes > _LARGE_BYTES:
        _LOG.warning(
            "the initializer of %s cannot draw single rows: every server draws all of %s at once", spec.name, spec.shape
        )
    for shard, part in zip(table.shards, table.placement.shards, strict=True):
        with tf.device(shard.device):
            ids = global_of(table.routing, part.index, tf.range(part.rows, dtype=tf.int64))
            shard.assign(tf.gather(recipe.whole(), ids))
