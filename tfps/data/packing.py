"""Packs the columns of a block for the graph, and unpacks them there.

TensorFlow makes a Python object of each string that a Python function returns. With many columns of strings that takes
longer than to parse them. So all strings of a block travel as one, with a separator that none of them has, and the
graph splits them.

Threading: pure functions.
"""

import dataclasses
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfps.data.columns import STRING, Column

Arrays = list[np.ndarray[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Joined:
    """Strings as one string.

    Args:
        data: the strings, with the separator between them.
        separator: what none of them has.
    """

    data: bytes
    separator: bytes


NOTHING = Joined(b"", b"\n")


def is_joined(column: Column) -> bool:
    """Whether the values of a column travel in the joined string of a block."""
    return column.dtype == STRING and column.width is None and not column.is_opaque


def head_types(columns: Sequence[Column]) -> list[tf.DType]:
    """Returns the types of the packed tensors of a block."""
    others = [tf.as_dtype(column.dtype) for column in columns if not is_joined(column)]
    return [tf.int64, tf.string, tf.string, *others]


def pack(columns: Sequence[Column], values: Sequence[Any]) -> Arrays:
    """Packs the columns of a block.

    Args:
        columns: the columns.
        values: the cells of each, an array of pyarrow without nulls.

    Returns:
        The number of rows, the joined strings, their separator, and the other columns.
    """
    strings = [value for column, value in zip(columns, values, strict=True) if is_joined(column)]
    others = [column.to_numpy(value) for column, value in zip(columns, values, strict=True) if not is_joined(column)]
    return pack_joined(len(values[0]), join(strings), others)


def pack_joined(rows: int, joined: Joined, others: Arrays) -> Arrays:
    """Packs columns whose strings are joined already."""
    return [np.int64(rows), np.array(joined.data, object), np.array(joined.separator, object), *others]


def join(columns: Sequence[Any]) -> Joined:
    """Joins the strings of columns, one column behind the other.

    Args:
        columns: arrays of pyarrow, of binary without nulls and of one length.
    """
    if not columns or not len(columns[0]):
        return NOTHING
    count = sum(map(len, columns)) - 1
    separator = NOTHING.separator
    while True:
        data = separator.join(_join_one(column, separator) for column in columns)
        if data.count(separator) == count:
            return Joined(data, separator)
        # Eight random bytes are in no data by chance.
        separator = secrets.token_bytes(8)


def _join_one(column: Any, separator: bytes) -> bytes:
    import pyarrow
    from pyarrow import compute

    one_list = pyarrow.ListArray.from_arrays(pyarrow.array([0, len(column)], pyarrow.int32()), column)
    joined: bytes = compute.binary_join(one_list, separator)[0].as_py()
    return joined


def unpack(columns: Sequence[Column], tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the columns of a block in the graph, [rows, ...] each.

    Args:
        columns: the columns.
        tensors: what `pack` returned.
    """
    rows, data, separator, *rest = tensors
    joined = [column for column in columns if is_joined(column)]
    strings: list[tf.Tensor] = []
    if joined:
        found = tf.raw_ops.StringSplitV2(input=tf.reshape(data, [1]), sep=tf.reshape(separator, [])).values
        # The split of an empty string is one empty string, also where there is no row.
        matrix = tf.reshape(found[: rows * len(joined)], [len(joined), -1])
        strings = tf.unstack(tf.ensure_shape(matrix, [len(joined), None]))
    others, texts = iter(rest), iter(strings)
    found_columns = [next(texts) if is_joined(column) else next(others) for column in columns]
    return [
        tf.ensure_shape(tensor, [None, *column.shape]) for tensor, column in zip(found_columns, columns, strict=True)
    ]
