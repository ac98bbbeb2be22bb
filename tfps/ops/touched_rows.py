"""Records which rows of a variable are updated, so that an export can contain only rows that have changed."""

from types import ModuleType

import tensorflow as tf

from tfps.errors import UnsupportedError
from tfps.ops import library, stored_rows


def watch_rows(variable: tf.Variable) -> tf.Operation | None:
    """Starts to record which rows of a variable `apply_rows` updates.

    The record is on the variable's server and is freed with the variable. Updates of other variables get no slower.
    Values that other ops assign (initialization, loading) are not recorded.

    Args:
        variable: float32, [rows, dim]. A variable that is watched already keeps its record.

    Returns:
        The operation, or None in eager mode.

    Raises:
        UnsupportedError: there is no C++ library, or the variable is not float32, so that the library cannot update it.
    """
    # The device scope puts the op on the variable's server, where the record is.
    ops = _ops_for(variable, "watch_rows")
    with tf.device(variable.device):
        return ops.tfps_watch_rows(variable=variable.handle)


def touched_rows(variable: tf.Variable, cursor: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the rows that were updated after `cursor`.

    Each reader keeps its own cursor. A row that is updated during the call is in this result or in the next. Rows that
    are read after the call have all updates up to the new cursor, and maybe later ones:

        rows, cursor = touched_rows(variable, cursor)
        values = tf.gather(variable, rows)

    Args:
        variable: a variable that `watch_rows` watches.
        cursor: int64 scalar; 0 for all rows updated since `watch_rows`, or the cursor of an earlier call.

    Returns:
        (rows, cursor): the rows, int64 [n], ascending, and the cursor for the next call, an int64 scalar.

    Raises:
        UnsupportedError: as for `watch_rows`.
        tf.errors.FailedPreconditionError: the variable is not watched.
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
            f"{caller} needs the C++ ops of tfps, because only they see each update of a row. Received: a TensorFlow "
            "without them. Build them with `pip install --no-build-isolation`, and leave TFPS_DISABLE_OPS unset."
        )
    # TensorFlow's own ops update tables of other types, and they record nothing.
    if variable.dtype not in stored_rows.DTYPES:
        raise UnsupportedError(
            f"{caller} works for variables of float32 and bfloat16. Received: {variable.dtype.name}."
        )
    return ops
