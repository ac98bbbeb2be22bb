"""Writes rows in fewer bytes for a message, and reads them. tfps_ops/core/wire/wire_kernels.h has the rounding.

A codec is "bfloat16", 2 bytes an element, or "int8", 1 byte an element and 2 for the scale of each row. Coded rows are
a float32 vector whose elements are bytes and no numbers, so that they can be a part of any float32 message.
"""

from typing import Literal, TypeAlias

import tensorflow as tf

from tfps.ops import library
from tfps.ops.row_codec_graph import decode_rows_graph, encode_rows_graph

RowCodec: TypeAlias = Literal["bfloat16", "int8"]


def encode_rows(rows: tf.Tensor, codec: RowCodec, stochastic: bool) -> tf.Tensor:
    """Codes rows.

    Args:
        rows: float32 [count, dim].
        codec: the codec.
        stochastic: whether elements are rounded up or down by chance, so that the mean of many is exact; to the nearest
            otherwise. The same rows are always rounded in the same way.

    Returns:
        The coded rows, float32 [`coded_floats`]. NaN stays NaN; an infinity does in bfloat16, and is NaN in int8.
    """
    ops = library.load()
    if ops is None:
        return encode_rows_graph(rows, codec, stochastic)
    return ops.tfps_encode_rows(rows=rows, codec=codec, stochastic=stochastic)


def decode_rows(coded: tf.Tensor, count: tf.Tensor, dim: int, codec: RowCodec) -> tf.Tensor:
    """Reads coded rows, float32 [count, dim].

    Args:
        coded: what `encode_rows` returned.
        count: the number of rows, an integer scalar.
        dim: the width of a row.
        codec: the codec.

    Raises:
        tf.errors.InvalidArgumentError: `coded` does not have the size of so many rows.
    """
    ops = library.load()
    if ops is None:
        return decode_rows_graph(coded, tf.cast(count, tf.int64), dim, codec)
    return ops.tfps_decode_rows(coded=coded, count=tf.cast(count, tf.int64), dim=dim, codec=codec)


def coded_floats(count: tf.Tensor, dim: int, codec: RowCodec) -> tf.Tensor:
    """Returns the floats that coded rows take.

    Example: 3 rows of 16 take 24 as "bfloat16", and 14 as "int8": 3 * (2 + 16) bytes and 2 that fill up the last one.
    """
    return (count * (2 * dim if codec == "bfloat16" else dim + 2) + 3) // 4
