"""`ShardedTable`: a table with a fixed number of rows, in one variable for each shard."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import tensorflow as tf

from tfps.cluster.remote_variable import RemoteVariable
from tfps.embedding.initialization import InitialValue, fill
from tfps.embedding.table import Table
from tfps.embedding.variable_row_store import VariableRowStore
from tfps.placement.model import Placement
from tfps.placement.spec import VariableSpec

if TYPE_CHECKING:
    from typing_extensions import Self  # in `typing` from Python 3.11 on


class ShardedTable(Table):
    """The table of `keras.layers.Embedding`: all rows exist from the start, in one matrix for each shard.

    Memory: `rows * dim` numbers of the spec's `dtype_on_servers` over all servers, and nothing else. Only this class
    and `VariableRowStore` know that shards are variables.
    """

    @classmethod
    def create(cls, placement: Placement, initial: InitialValue, devices: Sequence[str], trainable: bool) -> "Self":
        """See `Table`."""
        # A constant can be the initial value of the variables. Other values are drawn into the variables chunk by
        # chunk, because an initial value of a whole shard would need its memory twice.
        constant = 0.0 if initial.constant is None else initial.constant
        stores = [
            VariableRowStore(_create_variable(placement.spec, shard.index, shard.rows, constant, device))
            for shard, device in zip(placement.shards, devices, strict=True)
        ]
        if initial.constant is None:
            fill(stores, placement.table_routing, initial, placement.spec)
        return cls(placement, stores, trainable)


def _create_variable(spec: VariableSpec, index: int, rows: int, value: float, device: str) -> RemoteVariable:
    """Creates the variable of one shard, with `value` in every element."""
    shape, stored = (rows, *spec.shape[1:]), spec.dtype_on_servers
    # The lambda makes the server compute the value. A tensor would cross from the chief.
    return RemoteVariable(
        lambda: tf.fill(shape, tf.cast(value, stored)),
        name=f"{spec.name}/shard_{index}",
        dtype=stored,
        shape=shape,
        # The table is what tapes watch, and not its shards.
        trainable=False,
        device=device,
    )
