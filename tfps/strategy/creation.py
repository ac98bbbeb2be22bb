"""Creates what a plan says: dense variables on their server, tables with a store a shard."""

import dataclasses

from tfps.cluster import devices
from tfps.embedding.initialization import InitialValue
from tfps.embedding.sharded_table import ShardedTable
from tfps.embedding.table import Table
from tfps.placement.model import Placement
from tfps.placement.spec import VariableSpec
from tfps.strategy.variables import DenseVariable, SeedVariable, SumVariable


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a variable is made.

    Args:
        initial: its first value.
        table_type: what keeps the rows, if it is a table; the layer that makes it may choose.
        is_seed: whether it is the state of a random generator.
        bookkeeping: whether it belongs to no layer (an optimizer's counter), so that no plan names it.
    """

    initial: InitialValue
    table_type: type[Table] = ShardedTable
    is_seed: bool = False
    bookkeeping: bool = False


def create_dense(placement: Placement, recipe: Recipe, trainable: bool) -> DenseVariable:
    """A variable that one server holds whole."""
    spec = placement.spec
    device = devices.server(placement.servers[0])
    # Workers must not draw the same numbers, so the state of a generator is a type of its own.
    kind = SeedVariable if recipe.is_seed else DenseVariable
    variable = kind(
        recipe.initial.whole, name=spec.name, dtype=spec.dtype, shape=spec.shape, trainable=trainable, device=device
    )
    variable.placement = placement
    return variable


def create_sum(spec: VariableSpec, recipe: Recipe) -> SumVariable:
    """A sum over the workers, held by the chief."""
    return SumVariable(
        recipe.initial.whole, name=spec.name, dtype=spec.dtype, shape=spec.shape, trainable=False, device=devices.CHIEF
    )


def create_table(placement: Placement, recipe: Recipe, trainable: bool) -> Table:
    """A table of the type that the recipe names, filled on the servers."""
    # The strategy knows where servers are; a table only gets to know where its stores go.
    on = [devices.server(server) for server in placement.servers]
    return recipe.table_type.create(placement, recipe.initial, on, trainable)


def is_slot_shape(shape: tuple[int, ...], table: Table) -> bool:
    """Whether an optimizer's variable for a table is a slot: a row for each of its rows, as wide or of one float."""
    return len(shape) == 2 and shape[0] == table.rows and shape[1] in (table.dim, 1)
