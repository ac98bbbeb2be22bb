"""How rows cross the network: as they are, or in fewer bytes.

This is the one place that decides. `tfps.embedding.pulling` asks it about rows from a server to a worker, and
`tfps.embedding.push` about gradients and deltas from a worker to a server, while a closure is traced.

"float32": everything as it is.
"bfloat16": rows, gradients and deltas in 2 bytes an element. Rows are rounded to the nearest. What a worker pushes is
    rounded stochastically, so the sum of many pushes is right in the mean.
"int8": 1 byte an element and 2 bytes for the scale of a row. What rounding takes from a push, the worker adds to its
    next push of the row (`tfps.ops.error_store`). Rows that narrow tables have, and what must not change its sign or
    become 0, cross as bfloat16: slots of optimizers, rows of frozen tables, and the sums of squares of repeated ids.

With either, ids take as many bytes as they need (`tfps.ops.request_codec`). Not coded: what the chief reads and writes,
`evaluate` and `predict`, and tables of another dtype than float32 and bfloat16.

Threading: each thread has its own state, which it sets while it traces.
"""

import contextlib
import threading
import zlib
from collections.abc import Iterator, Sequence

import tensorflow as tf

from tfps import jobs
from tfps.cluster import devices
from tfps.embedding.routed_rows import RoutedRows
from tfps.ops.row_codec import RowCodec

FLOAT32 = "float32"
WIRES = (FLOAT32, "bfloat16", "int8")
"""What `ParameterServerStrategy(wire=)` takes."""

MEASURES: RowCodec = "bfloat16"
"""The codec of the sums of squares of repeated ids."""

_NARROW = 4
"""Below this width the scale of a row uses up what its codes save: 3 elements take 5 bytes instead of 6."""

_STORE_BYTES = 32 << 20
"""The most memory of a store of errors. A worker has a store for each server and kind of table."""
_MOST_PLACES_LOG2 = 18

_PREFIX = "tfps_wire_"
ERRORS_SUFFIX = "_errors"
"""The end of the names of the variables with errors."""


class _State(threading.local):
    wire = FLOAT32
    owner = ""


_STATE = _State()


@contextlib.contextmanager
def using(wire: str, owner: str) -> Iterator[None]:
    """Says, within, how the closures under trace send rows, gradients and deltas.

    Args:
        wire: one of `WIRES`.
        owner: a name of whoever owns the errors of these closures. Closures of one owner share them. Those of another
            owner may push the same rows in another unit: gradients, deltas, or gradients times examples.
    """
    before = _STATE.wire, _STATE.owner
    _STATE.wire, _STATE.owner = wire, owner
    try:
        yield
    finally:
        _STATE.wire, _STATE.owner = before


def current() -> str:
    """Returns how the closure under trace sends rows, gradients and deltas."""
    return _STATE.wire


def prefix_of(owner: str) -> str:
    """Returns the beginning of the names of all variables that closures of an owner have for their errors."""
    return f"{_PREFIX}{owner}_"


def name_of_errors(what: str, content: Sequence[object]) -> str:
    """Returns the beginning of the names of variables for the errors of a message in the closure under trace.

    Args:
        what: the kind of message.
        content: what the message has: every graph of the owner that sends the same finds the same errors.
    """
    return f"{prefix_of(_STATE.owner)}{what}_{zlib.crc32(repr(content).encode()):08x}"


def codec_of(table: RoutedRows) -> RowCodec | None:
    """Returns the codec of a table in the closure under trace; None if its rows and gradients cross as they are."""
    crosses = devices.is_of_job(table.stores[0].device, jobs.PS)
    if _STATE.wire == FLOAT32 or not crosses or table.dtype not in (tf.float32, tf.bfloat16):
        return None
    # Slots are not trainable. A second moment of 0, or one below 0, would let an update explode.
    if _STATE.wire == "int8" and table.trainable and table.dim >= _NARROW:
        return "int8"
    return "bfloat16"


def places_log2(dim: int) -> int:
    """Returns the logarithm of the places of a store of errors of rows of this width.

    Example: rows of 16 floats take 72 bytes a place, so 2**18 places are 18.9 MB.
    """
    most = _STORE_BYTES // (8 + 4 * dim)
    return max(1, min(_MOST_PLACES_LOG2, most.bit_length() - 1))


def store_handles(tables: Sequence[RoutedRows], server: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns handles of the keys and the errors of the store for some tables and a server, in the worker's own memory.

    Ownership: whoever owns the graph of the closure destroys them with it (`tfps.runtime.remote_variables`).
    """
    dim, places = tables[0].dim, 1 << places_log2(tables[0].dim)
    name = name_of_errors(f"rows_{server}_{dim}", [table.key for table in tables])
    return (
        tf.raw_ops.VarHandleOp(dtype=tf.int64, shape=[places], shared_name=f"{name}_keys"),
        tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[places, dim], shared_name=f"{name}{ERRORS_SUFFIX}"),
    )
