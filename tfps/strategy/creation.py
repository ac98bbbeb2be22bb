"""Creates variables at their placement: dense variables on one server, and tables with a store for each shard."""

import dataclasses

from tfps.cluster import devices
from tfps.embedding.initialization import InitialValue
from tfps.embedding.sharded_table import ShardedTable
from tfps.embedding.table import Table
from tfps.embedding.table_maker import TableMaker
from tfps.errors import UnsupportedError
from tfps.placement.model import Placement
from tfps.placement.spec import VariableSpec
from tfps.strategy.variables import DenseVariable, SeedVariable, SmallTable, SumVariable


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings for creating a variable that no plan decides.

    Args:
        initial: the first value.
        table_type: what makes the table, if the variable is a table; a layer may choose another one.
        is_seed: whether the variable is the state of a random generator.
        is_small_table: whether the variable is a table that is small enough to be a dense variable.
        may_be_dense: whether the variable, if it is a table, may be a dense variable instead.
        bookkeeping: whether the variable belongs to no layer (an optimizer's counter, say), so that plans do not name
            it.
    """

    initial: InitialValue
    table_type: TableMaker = ShardedTable
    is_seed: bool = False
    is_small_table: bool = False
    may_be_dense: bool = False
    bookkeeping: bool = False


def create_dense(placement: Placement, recipe: Recipe, trainable: bool) -> DenseVariable:
    """Creates a variable that one server holds as a whole."""
    spec = placement.spec
    device = devices.server(placement.servers[0])
    # The state of a generator has its own class, because workers must not draw the same numbers from it.
    kind = SeedVariable if recipe.is_seed else SmallTable if recipe.is_small_table else DenseVariable
    variable = kind(
        recipe.initial.whole, name=spec.name, dtype=spec.dtype, shape=spec.shape, trainable=trainable, device=device
    )
    variable.placement = placement
    return variable


def create_sum(spec: VariableSpec, recipe: Recipe) -> SumVariable:
    """Creates a sum over the workers, which the chief holds."""
    # Not trainable: it is the state of a metric.
    return SumVariable(
        recipe.initial.whole, name=spec.name, dtype=spec.dtype, shape=spec.shape, trainable=False, device=devices.CHIEF
    )


def create_table(placement: Placement, recipe: Recipe, trainable: bool) -> Table:
    """Creates a table of the recipe's type, and fills it on the servers."""
    if placement.spec.dtype != "float32":
        raise UnsupportedError(
            f"`dtype` of table {placement.spec.name!r} must be 'float32'. Received: {placement.spec.dtype!r}. "
            "To compute in another type, set a policy that keeps variables in float32, such as 'mixed_bfloat16'."
        )
    # A placement has numbers of servers. The table gets the devices for them.
    store_devices = [devices.server(server) for server in placement.servers]
    return recipe.table_type.create(placement, recipe.initial, store_devices, trainable)


def is_slot_shape(shape: tuple[int, ...], table: Table) -> bool:
    """Whether an optimizer's variable for a table is a slot: it has a row for each row of the table."""
    # A slot row is as wide as the table row, or is one number (as in row-wise Adagrad).
    return len(shape) == 2 and shape[0] == table.rows and shape[1] in (table.dim, 1)
