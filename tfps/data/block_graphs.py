"""How a graph gets the blocks of a part: functions of tfps read them, and C++ or pyarrow parses them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import tensorflow as tf

from tfps.cluster import worker_functions
from tfps.data import blocks
from tfps.data.blocks import Reading
from tfps.data.columns import Column, to_bytes
from tfps.data.outputs import Output
from tfps.data.packing import head_types, unpack
from tfps.ops import library
from tfps.ops.parse_lines import DTYPES, ParsedColumn, ParsedOutput, parse_lines
from tfps.ops.split_records import split_records

_MOST_INTEGER = 10**18
"""The op reads integers below it."""

Element: TypeAlias = tf.Tensor | dict[str, tf.Tensor]


class BlockGraph(Protocol):
    """Reads and parses blocks in a graph. Threading: the graph runs in any number of threads."""

    def read(self, part: tf.Tensor, offset: tf.Tensor) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        """Reads a block. Returns the offset of the next one, a scalar, and what `parse` takes."""
        ...

    def parse(self, part: tf.Tensor, read: Sequence[tf.Tensor]) -> Element:
        """Returns the rows of a block: a tensor of strings, [rows], or the outputs by name, [rows, ...] each."""
        ...


@dataclasses.dataclass(frozen=True)
class PackedBlocks:
    """Blocks that Python reads and parses.

    Args:
        how: how files are read.
        outputs: what an element has; None for strings without a name.
        on_chief: whether the chief alone can read the files.
    """

    how: Reading
    outputs: Sequence[Output] | None
    on_chief: bool

    def read(self, part: tf.Tensor, offset: tf.Tensor) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        """See `BlockGraph`."""
        types = [tf.int64, *head_types(self.how.columns)]
        after, *arrays = self._call(blocks.read_block, [part, self._text(), offset], types)
        return tf.ensure_shape(after, []), tuple(unpack(self.how.columns, arrays))

    def parse(self, part: tf.Tensor, read: Sequence[tf.Tensor]) -> Element:
        """See `BlockGraph`."""
        if self.outputs is None:
            return read[0]
        cells = {column.name: array for column, array in zip(self.how.columns, read, strict=True)}
        return {output.name: output.make(cells) for output in self.outputs}

    def parse_text(self, part: tf.Tensor, text: tf.Tensor, begin: tf.Tensor) -> Element:
        """Parses lines that were read already.

        Args:
            part: the part that they are of.
            text: the lines.
            begin: the offset of the first one.
        """
        inputs = [part, self._text(), text, begin]
        arrays = self._call(blocks.parse_csv_text, inputs, head_types(self.how.columns))
        return self.parse(part, unpack(self.how.columns, arrays))

    def _text(self) -> tf.Tensor:
        return tf.constant(self.how.to_json())

    def _call(self, function: Callable[..., Any], inputs: Sequence[Any], types: Sequence[tf.DType]) -> list[tf.Tensor]:
        return _call(self.on_chief, function, inputs, types)


@dataclasses.dataclass(frozen=True)
class LineBlocks:
    """Blocks of lines that Python reads and C++ parses. What it declines, `slow` parses.

    Args:
        slow: the blocks as pyarrow parses them, which also names the line that is wrong.
        outputs: what an element has.
    """

    slow: PackedBlocks
    outputs: Sequence[Output]

    def read(self, part: tf.Tensor, offset: tf.Tensor) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        """See `BlockGraph`."""
        inputs = [part, tf.constant(self._how().to_json()), offset]
        types = [tf.int64, tf.string, tf.int64, tf.int32]
        after, text, begin, fields = _call(self.slow.on_chief, blocks.read_csv_text, inputs, types)
        read = (tf.ensure_shape(text, []), tf.ensure_shape(begin, []), tf.ensure_shape(fields, [None]))
        return tf.ensure_shape(after, []), read

    def parse(self, part: tf.Tensor, read: Sequence[tf.Tensor]) -> Element:
        """See `BlockGraph`."""
        text, begin, fields = read
        how = self.slow.how
        wanted = [ParsedOutput(output.dtype, _parsed(output), output.is_stack) for output in self.outputs]
        is_parsed, values = parse_lines(text, fields, wanted, how.delimiter, how.has_quotes)
        fast = {output.name: value for output, value in zip(self.outputs, values, strict=True)}
        return tf.cond(is_parsed, lambda: fast, lambda: self.slow.parse_text(part, text, begin))

    def _how(self) -> Reading:
        """Returns the reading with the columns in the order of the op's."""
        columns = tuple(column for output in self.outputs for column in output.columns)
        return dataclasses.replace(self.slow.how, columns=columns)


@dataclasses.dataclass(frozen=True)
class RecordBlocks:
    """Blocks of TFRecord files that Python reads and C++ splits into records.

    Args:
        slow: the blocks as Python splits them, which also says what is wrong with a file.
    """

    slow: PackedBlocks

    def read(self, part: tf.Tensor, offset: tf.Tensor) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        """See `BlockGraph`."""
        inputs = [part, tf.constant(self.slow.how.to_json()), offset]
        data, begin, is_end = _call(
            self.slow.on_chief, blocks.read_record_bytes, inputs, [tf.string, tf.int64, tf.bool]
        )
        data, begin, is_end = (tf.ensure_shape(one, []) for one in (data, begin, is_end))
        is_valid, records, end = split_records(data)
        after = tf.where(is_end, tf.constant(blocks.END, tf.int64), begin + end)
        is_cut = is_end & (end < tf.cast(tf.strings.length(data), tf.int64))

        def read_slowly() -> tuple[tf.Tensor, tf.Tensor]:
            # The checksums are compared once more, also without google-crc32c: the records would pass otherwise.
            how = dataclasses.replace(self.slow.how, format=blocks.DOUBTFUL_RECORDS)
            after, (records,) = dataclasses.replace(self.slow, how=how).read(part, offset)
            return after, records

        after, records = tf.cond(is_valid & ~is_cut, lambda: (after, records), read_slowly)
        return after, (records,)

    def parse(self, part: tf.Tensor, read: Sequence[tf.Tensor]) -> Element:
        """See `BlockGraph`."""
        return self.slow.parse(part, read)


def make_block_graph(how: Reading, outputs: Sequence[Output] | None, on_chief: bool) -> BlockGraph:
    """Returns the fastest way to read blocks that there is here.

    Args:
        how: how files are read.
        outputs: what an element has; None for strings without a name.
        on_chief: whether the chief alone can read the files.
    """
    packed = PackedBlocks(how, outputs, on_chief)
    if how.format == "tfrecord" and library.available():
        return RecordBlocks(packed)
    if how.format != "csv" or outputs is None or not all(map(_is_known, how.columns)) or not library.available():
        return packed
    return LineBlocks(packed, outputs)


def _is_known(column: Column) -> bool:
    """Whether the op parses a column."""
    return column.dtype in DTYPES and not (isinstance(column.default, int) and abs(column.default) >= _MOST_INTEGER)


def _parsed(output: Output) -> tuple[ParsedColumn, ...]:
    return tuple(
        ParsedColumn(_default(column), column.buckets or 0, to_bytes(column.prefix)) for column in output.columns
    )


def _default(column: Column) -> bytes | None:
    """Returns the text of a default."""
    if column.default is None:
        return None
    if isinstance(column.default, str):
        return to_bytes(column.default)
    is_float = column.dtype.startswith("float")
    return repr(float(column.default) if is_float else int(column.default)).encode()


def _call(
    on_chief: bool, function: Callable[..., Any], inputs: Sequence[Any], types: Sequence[tf.DType]
) -> list[tf.Tensor]:
    """Calls a function of `blocks` in a graph."""
    if on_chief:
        results: list[tf.Tensor] = tf.numpy_function(function, inputs, types)
        return results
    return worker_functions.call(blocks.__name__, function.__name__, inputs, types)
