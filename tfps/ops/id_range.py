"""The one form of an id out of range: what the ops write, and the `IdRangeError` that it becomes.

An op cannot raise a Python class. It fails with a text, which TensorFlow passes on through as many servers as there are
between the op and the chief, quoted once more by each of them. So ops and their graph twins write the text of `pattern`
below, and `find` reads it back from whatever TensorFlow wrapped around it:

    id out of range: table 'item/embeddings' holds ids at least 0 and below 100. Received: 105 at position 31 of ids of
    shape [4,8]

Position 31 of [4, 8] is ids[3, 7]: example 3, position 7. Pure functions, any thread.
"""

import contextlib
import math
import re
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from tfps.errors import IdRangeError

# What stands between the parts: a space from the op, "] [" from an assertion in a graph, and "\nb" from an eager one.
_SEP = r"[\s\[\]'\"b]*"
_IDS = re.compile(
    r"id out of range: table \\*'(?P<table>[^'\\]*)\\*' holds ids at least 0 and below (?P<rows>\d+)\. "
    rf"Received:{_SEP}(?P<id>-?\d+){_SEP}at position{_SEP}(?P<position>\d+){_SEP}of ids of shape{_SEP}"
    r"(?P<shape>\d+(?:[ ,]+\d+)*)?"
)
# Contexts of a SkipGram, whose op draws the negatives beside them and knows no table.
_CONTEXTS = re.compile(
    r"`positives` must be at least 0 and below the rows, (?P<rows>\d+)\. "
    rf"Received:{_SEP}(?P<id>-?\d+){_SEP}as element{_SEP}(?P<position>\d+)"
)

_LOOKUPS = re.compile(r"(?P<table>.*) in (?P<count>\d+) lookups of shapes (?P<shapes>[\d?, \[\]]*)")
_Shape = tuple[int | None, ...]


def label(table: str, shapes: Sequence[tf.TensorShape]) -> str:
    """The name under which an op knows a table whose lookups in a step are joined to one vector of ids.

    Args:
        table: the table's name.
        shapes: of the ids of each lookup, as far as they are known when the step is traced.

    Example:
        >>> label("item", [tf.TensorShape([None, 8]), tf.TensorShape([4])])
        'item in 2 lookups of shapes [?, 8] [4]'
    """
    texts = ["[" + ", ".join("?" if size is None else str(size) for size in shape) + "]" for shape in shapes]
    return f"{table} in {len(texts)} lookups of shapes {' '.join(texts)}"


def check_in_range(table: str, rows: int, ids: tf.Tensor) -> tf.Operation | None:
    """Asserts that every id is in [0, rows), with the text of the C++ op; returns the operation, None outside a graph.

    Args:
        table: the table's name.
        rows: of the table.
        ids: integers of any shape.
    """
    flat = tf.reshape(ids, [-1])
    outside = (flat < 0) | (flat >= rows)
    first = tf.where(outside)[:1]
    data = [
        f"id out of range: table '{table}' holds ids at least 0 and below {rows}. Received:",
        tf.gather_nd(flat, first),
        "at position",
        first[:, 0],
        "of ids of shape",
        tf.shape(ids),
    ]
    return tf.debugging.Assert(~tf.reduce_any(outside), data, summarize=16)


def find(text: str) -> IdRangeError | None:
    """The error that a text of TensorFlow's tells of; None where it is about something else."""
    if found := _IDS.search(text):
        shape = tuple(int(size) for size in re.findall(r"\d+", found["shape"] or ""))
        return _error(found["table"], int(found["rows"]), int(found["id"]), int(found["position"]), shape)
    if found := _CONTEXTS.search(text):
        return _error("contexts", int(found["rows"]), int(found["id"]), int(found["position"]), None)
    return None


@contextlib.contextmanager
def raised_eagerly() -> Iterator[None]:
    """Runs an op so that, outside a graph, an id out of range is an `IdRangeError` at once."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        ours = find(str(error))
        if ours is None:
            raise
        raise ours from None  # the op's text has nothing that the error of ours does not say


def _error(table: str, rows: int, bad: int, position: int, shape: tuple[int, ...] | None) -> IdRangeError:
    which = ""
    if joined := _LOOKUPS.fullmatch(table):
        table = joined["table"]
        shapes = [_sizes(text) for text in re.findall(r"\[([^\]]*)\]", joined["shapes"])]
        number, position, shape = _find_lookup(shapes, position, shape)
        which = (
            f" in lookup {number} of {joined['count']} of this table"
            if number
            else (f" of its {joined['count']} lookups, one after the other")
        )
    layer = table.rpartition("/")[0] or table
    place = (position,) if shape is None else tuple(int(index) for index in np.unravel_index(position, shape))
    where = f"ids[{', '.join(map(str, place))}]" if place else "the only id"
    if shape is not None:
        where += f" of ids of shape {list(shape)}"
    if len(place) > 1:  # a vector may be the ids of several batches, or of ragged rows: it has no example to name
        where += f": example {place[0]}, position {', '.join(map(str, place[1:]))}"
    message = (
        f"every id that layer {layer!r} looks up in table {table!r} must be at least 0 and below {rows}. "
        f"Received: {bad}, at {where}{which}."
    )
    if bad < 0:
        # Keras adds `rows` to a negative id before it looks it up, so the op saw another number than the user gave.
        message += f" (An Embedding counts ids from -{rows} to -1 from the end: it may have been given {bad - rows}.)"
    return IdRangeError(message, table=table, layer=layer, id=bad, rows=rows, place=place, shape=shape)


def _sizes(text: str) -> _Shape:
    return tuple(None if size == "?" else int(size) for size in text.replace(" ", "").split(",") if size)


def _find_lookup(
    shapes: Sequence[_Shape], position: int, joined: tuple[int, ...] | None
) -> tuple[int, int, tuple[int, ...] | None]:
    """Which lookup a position in the joined ids belongs to.

    Example: shapes [?, 8] and [4], 36 ids in all. The first has 36 - 4 = 32 ids, so its shape is [4, 8], and position
    33 is the second id of the second lookup.

    Args:
        shapes: of each lookup; a size that a trace does not know is None.
        position: of the id in the joined vector.
        joined: the shape of that vector.

    Returns:
        The lookup's number from 1, the position in it and its shape; 0 and the arguments where the sizes do not follow.
    """
    unknown = [shape for shape in shapes if None in shape]
    known = sum(math.prod(size or 0 for size in shape) for shape in shapes if None not in shape)
    each = sum(math.prod(size for size in shape if size is not None) for shape in unknown)
    left = (joined or (0,))[0] - known
    # Several unknown sizes are taken for the batch, but vectors may be ragged rows, of any length each.
    alike = all(shape.count(None) == 1 for shape in unknown) and (
        len(unknown) < 2 or all(len(shape) > 1 and shape[0] is None for shape in unknown)
    )
    if not alike or (unknown and (not each or left % each)):
        return 0, position, joined
    batch = left // each if unknown else 0
    before = 0
    for number, shape in enumerate(shapes, start=1):
        full = tuple(batch if size is None else size for size in shape)
        if position < before + math.prod(full):
            return number, position - before, full
        before += math.prod(full)
    return 0, position, joined
