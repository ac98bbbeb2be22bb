"""Error feedback: what rounding took from a row of a push is added to the next push of the same row.

tfps_ops/core/wire/error_store.h explains the store, a table of bounded size on the worker.
"""

import tensorflow as tf

from tfps.ops import library
from tfps.ops.row_codec import RowCodec
from tfps.ops.row_codec_graph import decode_rows_graph, encode_rows_graph
from tfps.ops.row_request import REPEATS, split_request

_GOLDEN = 0x9E3779B97F4A7C15


def encode_with_errors(
    store: tuple[tf.Tensor, tf.Tensor],
    places_log2: int,
    request: tf.Tensor,
    rows: tf.Tensor,
    pieces: int,
    codec: RowCodec,
    marked: bool = False,
) -> tf.Tensor:
    """Codes rows plus their errors, rounded stochastically, and stores the new errors.

    Args:
        store: handles of two variables that nobody else uses, which the first call makes: the keys of the rows, int64
            [2**places_log2], and their errors, float32 [2**places_log2, dim].
        places_log2: the logarithm of the places of the store, 1 to 30. A row has one place, which a hash gives; it
            takes it from another row, whose error is then lost.
        request: whose the rows are, int64 [pieces + m]; each row at most once.
        rows: float32 [m, dim], in the order of the request.
        pieces: the number of tables in the request.
        codec: the codec.
        marked: whether `REPEATS` may have been added to the rows of the request.

    Returns:
        The coded rows, as `tfps.ops.row_codec.encode_rows` returns them.
    """
    ops = library.load()
    if ops is None:
        return encode_with_errors_graph(store, places_log2, request, rows, pieces, codec, marked)
    return ops.tfps_encode_with_errors(
        keys=store[0],
        errors=store[1],
        request=request,
        rows=rows,
        codec=codec,
        pieces=pieces,
        marked=marked,
        places_log2=places_log2,
    )


def encode_with_errors_graph(
    store: tuple[tf.Tensor, tf.Tensor],
    places_log2: int,
    request: tf.Tensor,
    rows: tf.Tensor,
    pieces: int,
    codec: RowCodec,
    marked: bool,
) -> tf.Tensor:
    """Does the same with TensorFlow's own ops; see `encode_with_errors`."""
    places, dim = 1 << places_log2, rows.shape[1]
    _, local = split_request(request, pieces)
    keys = tf.concat([_keys_of(piece, of & ~REPEATS if marked else of) for piece, of in enumerate(local)], 0)
    # The upper bits of a key are its place.
    at = tf.bitcast(tf.bitwise.right_shift(tf.bitcast(keys, tf.uint64), _uint64(64 - places_log2)), tf.int64)
    stored = _read(store[0], tf.zeros([places], tf.int64))
    errors = _read(store[1], tf.zeros([places, dim]))
    had = tf.equal(tf.gather(stored, at), keys)
    # The last row of the push that has a place gets it.
    numbers = tf.range(tf.size(keys))
    gets = tf.equal(tf.gather(tf.math.unsorted_segment_max(numbers, at, places), at), numbers)
    sums = rows + tf.where((had & gets)[:, tf.newaxis], tf.gather(errors, at), 0.0)
    coded = encode_rows_graph(sums, codec, True)
    left = sums - decode_rows_graph(coded, tf.size(keys, tf.int64), dim, codec)
    left = tf.where(tf.math.is_finite(left), left, 0.0)
    where = tf.boolean_mask(at, gets)[:, tf.newaxis]
    new_keys = tf.tensor_scatter_nd_update(stored, where, tf.boolean_mask(keys, gets))
    new_errors = tf.tensor_scatter_nd_update(errors, where, tf.boolean_mask(left, gets))
    # The assignments come after the reads, because they need what was read.
    tf.raw_ops.AssignVariableOp(resource=store[0], value=new_keys)
    tf.raw_ops.AssignVariableOp(resource=store[1], value=new_errors)
    return coded


def _keys_of(piece: int, rows: tf.Tensor) -> tf.Tensor:
    """Returns the keys of rows, int64 and never 0: the end of splitmix64, as in C++."""
    key = tf.bitcast(rows, tf.uint64) + _uint64((piece + 1) * _GOLDEN)
    key = (key ^ tf.bitwise.right_shift(key, _uint64(30))) * _uint64(0xBF58476D1CE4E5B9)
    key = (key ^ tf.bitwise.right_shift(key, _uint64(27))) * _uint64(0x94D049BB133111EB)
    key = tf.bitcast(key ^ tf.bitwise.right_shift(key, _uint64(31)), tf.int64)
    return tf.where(tf.equal(key, 0), tf.ones_like(key), key)


def _uint64(value: int) -> tf.Tensor:
    return tf.constant(value % (1 << 64), tf.uint64)


def _read(handle: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
    """Reads a variable, or returns `first` if it has no value yet."""
    value = tf.cond(
        tf.raw_ops.VarIsInitializedOp(resource=handle),
        lambda: tf.raw_ops.ReadVariableOp(resource=handle, dtype=first.dtype),
        lambda: first,
    )
    return tf.ensure_shape(value, first.shape)
