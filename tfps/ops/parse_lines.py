"""Parses lines of CSV and TSV in C++: numbers, strings, and strings hashed to buckets, in one pass over the text.

There is no twin of TensorFlow ops: where the library is not built, or text is declined, `tfps.data` parses by pyarrow.
"""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tfps.errors import ConfigError
from tfps.ops import library

DTYPES = (
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float32", "float64", "string"),
)
"""The types that the op parses."""


@dataclasses.dataclass(frozen=True)
class ParsedColumn:
    """A column of lines.

    Args:
        default: the text that an empty cell counts as; None if a cell must not be empty.
        buckets: the number of buckets into which strings are hashed; 0 for values as they are.
        prefix: stands before a string when it is hashed.
    """

    default: bytes | None
    buckets: int = 0
    prefix: bytes = b""


@dataclasses.dataclass(frozen=True)
class ParsedOutput:
    """A tensor of the result.

    Args:
        dtype: one of `DTYPES`; "int64" for buckets.
        columns: its columns.
        is_stack: whether it is [rows, columns]; otherwise it is [rows], of one column.
    """

    dtype: str
    columns: tuple[ParsedColumn, ...]
    is_stack: bool

    def __post_init__(self) -> None:
        """Checks the fields."""
        if self.dtype not in DTYPES:
            raise ConfigError(f"`dtype` must be one of {', '.join(DTYPES)}. Received: {self.dtype!r}.")
        if not self.columns or (len(self.columns) > 1 and not self.is_stack):
            raise ConfigError(f"`columns` must be one, or several of a stack. Received: {len(self.columns)}.")


def parse_lines(
    text: tf.Tensor, fields: tf.Tensor, outputs: Sequence[ParsedOutput], delimiter: str, has_quotes: bool
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Parses whole lines.

    Args:
        text: the lines, a string scalar; the last one may have no end.
        fields: int32 [cells of a line]: for each cell the number of its column, over all outputs; -1 for none.
        outputs: the tensors of the result.
        delimiter: the character between cells.
        has_quotes: whether a quote has a meaning; text with one is declined then.

    Returns:
        Whether the text was parsed, a bool scalar, and the outputs. Text that is wrong or not plain is declined; the
        outputs have no rows then.

    Raises:
        ConfigError: the library is not built.
        tf.errors.InvalidArgumentError: `fields` does not have each column once.
    """
    ops = library.load()
    if ops is None:
        raise ConfigError(
            "`parse_lines` must have the C++ ops. Received: no library. Valid: tfps.ops.library.available()"
        )
    columns = [(number, column) for number, output in enumerate(outputs) for column in output.columns]
    parsed, values = ops.tfps_parse_lines(
        text=text,
        fields=fields,
        dtypes=[tf.as_dtype(output.dtype) for output in outputs],
        widths=[len(output.columns) if output.is_stack else 0 for output in outputs],
        outputs=[number for number, _ in columns],
        buckets=[column.buckets for _, column in columns],
        prefixes=[column.prefix for _, column in columns],
        required=[column.default is None for _, column in columns],
        defaults=[column.default or b"" for _, column in columns],
        delimiter=delimiter,
        has_quotes=has_quotes,
    )
    return parsed, list(values)
