"""The rows that workers keep for the closures of one model: their name, their size and their end."""

import contextlib
import dataclasses
import itertools

import tensorflow as tf

from tfps.embedding import row_cache, row_version
from tfps.embedding.row_cache import CacheSize, RowCache
from tfps.ops import cached_rows
from tfps.runtime.remote_variables import OwnedVariables, RemoteVariable
from tfps.training.order import Order

_NUMBERS = itertools.count()


@dataclasses.dataclass(frozen=True)
class _CachedRows(RemoteVariable):
    """The rows that one worker keeps."""

    def handle(self, dtype: tf.DType = tf.float32, shape: tf.TensorShape | list[int] | None = None) -> tf.Tensor:
        """Returns the handle of the rows; they have no dtype and shape of their own."""
        with tf.device(self.device):
            return cached_rows.make_handle(self.name)


class WorkerCaches:
    """Gives the closures of one model the rows that their worker keeps.

    Args:
        size: how much a worker keeps; None to keep nothing.
        variables: owns what the closures leave on the workers.
        worker_devices: the device of each worker.
    """

    def __init__(self, size: CacheSize | None, variables: OwnedVariables, worker_devices: list[str]) -> None:
        self._size = size
        # All graphs of the model share the rows. No other model does: its steps are not counted here.
        self._name = f"tfps_cached_rows_{next(_NUMBERS)}"
        if size is not None:
            for device in worker_devices:
                variables.add(_CachedRows(device, self._name))

    def in_closure(self, order: Order) -> contextlib.AbstractContextManager[None]:
        """Lets the lookups of the closure under trace use the rows that its worker keeps."""
        if self._size is None:
            return contextlib.nullcontext()
        return row_cache.using(RowCache(self._name, self._size, order.rows_version, order.row_uses))

    def stamp(self, order: Order) -> Order:
        """Returns an order with the version of the rows at this moment, when its closure is about to run."""
        if self._size is None:
            return order
        uses = min(int(order.row_uses), self._size.max_missed)
        return dataclasses.replace(order, rows_version=row_version.current(), row_uses=uses)
