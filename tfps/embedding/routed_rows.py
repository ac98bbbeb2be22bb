"""`RoutedRows`: rows by id, spread over stores by a routing rule. Lookups and pushes see no more of a table than this.

Two things are routed rows: a `Table`, whose stores are on the servers, and a `LocalTable`, a worker's own copy of some
rows, which takes the place of a table while a window is trained.
"""

from collections.abc import Sequence

import tensorflow as tf

from tfps import step
from tfps.embedding.row_store import RowStore
from tfps.errors import UnsupportedError
from tfps.ops.routes import TableRoute
from tfps.placement.routing import Routing
from tfps.types import VariableKey


class RoutedRows:
    """Rows of one width and dtype by id.

    Threading: nothing here changes after construction but `trainable`, so any thread may use it.

    Args:
        key: tells the rows from all others of this process; a local copy has the key of its table.
        name: for messages.
        routing: the rule that gives the shard and the local row of an id.
        servers: the server of each shard.
        stores: the rows of each shard; all of one type, width and dtype.
        trainable: whether tapes watch lookups.
    """

    def __init__(
        self,
        key: VariableKey,
        name: str,
        routing: Routing,
        servers: tuple[int, ...],
        stores: Sequence[RowStore],
        trainable: bool,
    ) -> None:
        self.key, self.name, self.trainable = key, name, trainable
        self.routing, self.servers = routing, servers
        # Every shard has rows of the same width, so the first store speaks for all.
        self.stores = tuple(stores)
        self.dim, self.dtype = self.stores[0].dim, self.stores[0].dtype
        # Tapes of TensorFlow ask for these of what they take for a variable.
        self._unique_id = self._shared_name = "tfps_" + "_".join(map(str, key if isinstance(key, tuple) else (key,)))

    @property
    def rows(self) -> int:
        """Ids are at least 0 and below this."""
        return self.routing.rows

    @property
    def route(self) -> TableRoute:
        """How ids find their rows, as the ops need it."""
        return TableRoute(self.name, self.routing, self.servers)

    @property
    def kind(self) -> tuple[type[RowStore], int, tf.DType]:
        """Store type, width and dtype. One request, one gather and one update serve all rows of one kind."""
        return type(self.stores[0]), self.dim, self.dtype

    @property
    def handle(self) -> tf.Tensor:
        """What a gradient tape watches: the stand-in for the rows in the step under trace.

        Raises:
            UnsupportedError: no step is under trace.
        """
        current = step.current()
        if current is None:
            raise UnsupportedError(
                f"gradients for table {self.name!r} can be taken only inside a step (`fit`, `train_on_batch`, or a "
                "function given to `strategy.run`); this code runs on the chief."
            )
        return current.gradient_source(self.key)
