"""`RoutedRows`: rows that are found by id, in stores that a routing rule selects. Lookups and pushes need only this.

There are two kinds of routed rows: a `Table`, whose stores are on the servers, and a `LocalTable`, a worker's own copy
of some rows that replaces a table while the worker trains a window.
"""

from collections.abc import Sequence
from typing import TypeAlias

import tensorflow as tf

from tfps import step
from tfps.cluster import devices
from tfps.embedding.row_store import RowStore
from tfps.ops.routes import TableRoute
from tfps.placement.routing import Routing
from tfps.types import VariableKey

Kind: TypeAlias = tuple[type[RowStore], int, tf.DType, tf.DType]
"""The store type, width and dtypes of rows. One request, one gather and one update serve all tables of one kind."""


class RoutedRows:
    """Rows of one width and dtype that are found by id.

    Threading: only `trainable` changes after construction, so any thread may use it.

    Args:
        key: the key of the rows, unique in this process; a local copy has the key of its table.
        name: the name that messages use.
        routing: the rule that gives the shard and the local row of an id.
        servers: the server of each shard.
        stores: the store of each shard; all have the same type, width and dtype.
        trainable: whether gradient tapes watch lookups.

    Attributes:
        keeps_repeats: whether a lookup gives the gradient of each place, so that a rule can measure each by itself. If
            not, it sums the gradients of an id that repeats.
    """

    keeps_repeats = False

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
        # All stores have the same width and dtype, so the first one stands for all.
        self.stores = tuple(stores)
        self.dim, self.dtype = self.stores[0].dim, self.stores[0].dtype
        self.stored_dtype = self.stores[0].stored_dtype
        # TensorFlow's tapes treat the rows as a variable and read these two attributes of it.
        self._unique_id = self._shared_name = "tfps_" + "_".join(map(str, key if isinstance(key, tuple) else (key,)))

    @property
    def rows(self) -> int:
        """The number of rows; ids are at least 0 and below it."""
        return self.routing.rows

    @property
    def route(self) -> TableRoute:
        """The shards and their servers, in the form that the ops need."""
        return TableRoute(self.name, self.routing, self.servers)

    @property
    def kind(self) -> Kind:
        """The kind of the rows; tables of one kind share messages."""
        return type(self.stores[0]), self.dim, self.dtype, self.stored_dtype

    @property
    def handle(self) -> tf.Tensor:
        """The tensor that a gradient tape watches: the gradient source of the step under trace, or of the chief."""
        # `tape.gradient(loss, table)` reads the handle of its source, as it does for a `tf.Variable`.
        current = step.current()
        if current is not None and not current.eager:
            return current.gradient_source(self.key)
        # Eager code, and functions that the chief itself calls. A function keeps the source of its trace, so there is
        # one for all of them.
        source = self.__dict__.get("_source_on_chief")
        if source is None:
            # `None` first, because a device without a job is one of the worker where the thread of a worker traces.
            with tf.init_scope(), tf.device(None), tf.device(devices.CHIEF):
                source = tf.zeros([], name="table_gradient_source")
            # Two threads may get here at once. The first one decides.
            source = self.__dict__.setdefault("_source_on_chief", source)
        return source
