"""`ShardedTable`: a table with a fixed number of rows, in one variable a shard."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import tensorflow as tf

from tfps.cluster.remote_variable import RemoteVariable
from tfps.embedding.initialization import InitialValue, fill
from tfps.embedding.table import Table, routing_of
from tfps.embedding.variable_row_store import VariableRowStore
from tfps.placement.model import Placement
from tfps.placement.spec import VariableSpec

if TYPE_CHECKING:
    from typing_extensions import Self  # in `typing` from Python 3.11 on


class ShardedTable(Table):
    """All rows exist from the start, in one matrix a shard: the table of `keras.layers.Embedding`.

    Memory: `rows * dim` floats over all servers, and nothing beside them. This class and `VariableRowStore` alone
    know that shards are variables.
    """

    @classmethod
    def create(cls, placement: Placement, initial: InitialValue, devices: Sequence[str], trainable: bool) -> "Self":
        """See `Table`."""
        # A constant is the initial value of the variables. Anything else is drawn into them, chunk by chunk: an initial
        # value of that kind would need the memory of the shard twice.
        constant = 0.0 if initial.constant is None else initial.constant
        stores = [
            VariableRowStore(_create_variable(placement.spec, shard.index, shard.rows, constant, device))
            for shard, device in zip(placement.shards, devices, strict=True)
        ]
        if initial.constant is None:
            fill(stores, routing_of(placement), initial, placement.spec)
        return cls(placement, stores, trainable)


def _create_variable(spec: VariableSpec, index: int, rows: int, value: float, device: str) -> RemoteVariable:
    """The variable of one shard, every element being `value`."""
    shape = (rows, *spec.shape[1:])
    # A function, so that the value is computed on the server.
    return RemoteVariable(
        lambda: tf.fill(shape, tf.cast(value, spec.dtype)),
        name=f"{spec.name}/shard_{index}",
        dtype=spec.dtype,
        shape=shape,
        trainable=False,
        device=device,
    )
