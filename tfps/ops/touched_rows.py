"""Which rows of a variable were updated since some moment, recorded beside it: for exports of what has changed."""

from types import ModuleType

import tensorflow as tf

from tfps.errors import UnsupportedError
from tfps.ops import library


def watch_rows(variable: tf.Variable) -> tf.Operation | None:
    """Begins to record which rows `apply_rows` updates.

    The record lies beside the variable and goes with it. Updates of variables that nobody watches cost nothing more.
    Values that are assigned by other ops (initialization, loading) are not recorded.

    Args:
        variable: float32, [rows, dim]. One that is watched already keeps its record.

    Returns:
        The operation; None when run eagerly.

    Raises:
        UnsupportedError: there is no C++ library, or the variable is not float32 and so is updated without it.
    """
    ops = _ops_for(variable, "watch_rows")
    with tf.device(variable.device):
        return ops.tfps_watch_rows(variable=variable.handle)


def touched_rows(variable: tf.Variable, cursor: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the rows that were updated after `cursor`.

    Readers keep their own cursors. A row that is updated while this runs is in this answer or in the next. Rows read
    after this call have at least all updates up to the new cursor:

        rows, cursor = touched_rows(variable, cursor)
        values = tf.gather(variable, rows)

    Args:
        variable: watched by `watch_rows`.
        cursor: int64 scalar; 0 for all rows touched since the watch began, or the cursor of an earlier call.

    Returns:
        (rows, cursor): int64 [n], ascending; and an int64 scalar to ask with next time.

    Raises:
        UnsupportedError: as for `watch_rows`.
        tf.errors.FailedPreconditionError: nobody watches the variable.
        tf.errors.InvalidArgumentError: the cursor is negative, or ahead of this variable's updates.
    """
    ops = _ops_for(variable, "touched_rows")
    with tf.device(variable.device):
        found = ops.tfps_touched_rows(variable=variable.handle, cursor=tf.cast(cursor, tf.int64))
    return found.rows, found.next_cursor


def _ops_for(variable: tf.Variable, caller: str) -> ModuleType:
    ops = library.load()
    if ops is None:
        raise UnsupportedError(
            f"{caller} needs the C++ ops of tfps, which alone see each update of a row. Received: a TensorFlow without "
            "them. Build them with `pip install --no-build-isolation`, and leave TFPS_DISABLE_OPS unset."
        )
    if variable.dtype != tf.float32:
        # Tables of other types are updated by TensorFlow's own ops, which nobody can watch.
        raise UnsupportedError(f"{caller} works for float32 variables. Received: {variable.dtype.name}.")
    return ops
