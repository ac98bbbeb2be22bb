"""Writes and parses the message about an id out of range, and makes the `IdRangeError` from it.

An op cannot raise a Python class. It fails with a text, which TensorFlow passes from server to server up to the chief,
and each server quotes it once more. So the ops and their graph twins all write the text below, and `find` extracts it
from the text that TensorFlow wrapped around it:

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

from tfps import step
from tfps.errors import IdRangeError

# Separates the parts: a space in the op's text, "] [" in an assertion in a graph, and "\nb" in eager mode.
_SEP = r"[\s\[\]'\"b]*"
_IDS = re.compile(
    r"id out of range: table \\*'(?P<table>[^'\\]*)\\*' holds ids at least 0 and below (?P<rows>\d+)\. "
    rf"Received:{_SEP}(?P<id>-?\d+){_SEP}at position{_SEP}(?P<position>\d+){_SEP}of ids of shape{_SEP}"
    r"(?P<shape>\d+(?:[ ,]+\d+)*)?"
)
# The message of `draw_targets`, which does not know the table: the positives are the contexts of a SkipGram.
_CONTEXTS = re.compile(
    r"`positives` must be at least 0 and below the rows, (?P<rows>\d+)\. "
    rf"Received:{_SEP}(?P<id>-?\d+){_SEP}as element{_SEP}(?P<position>\d+)"
)

# The name that `make_label` gives a table with several lookups.
_LOOKUPS = re.compile(r"(?P<table>.*) in (?P<count>\d+) lookups of shapes (?P<shapes>[\d?, \[\]]*)")
_Shape = tuple[int | None, ...]


def make_label(table: str, shapes: Sequence[tf.TensorShape]) -> str:
    """Returns a table's name for messages of an op, if a step joins several lookups into one vector of ids.

    The name carries the shapes of the lookups, so that `find` can tell which lookup an id belongs to.

    Args:
        table: the table's name.
        shapes: the shape of the ids of each lookup; a size that is unknown during tracing is None.

    Example:
        >>> make_label("item", [tf.TensorShape([None, 8]), tf.TensorShape([4])])
        'item in 2 lookups of shapes [?, 8] [4]'
    """
    texts = ["[" + ", ".join("?" if size is None else str(size) for size in shape) + "]" for shape in shapes]
    return f"{table} in {len(texts)} lookups of shapes {' '.join(texts)}"


def check_in_range(table: str, rows: int, ids: tf.Tensor) -> tf.Operation | None:
    """Asserts that every id is in [0, rows), with the message of the C++ op.

    Args:
        table: the table's name.
        rows: the number of rows of the table.
        ids: integers of any shape.

    Returns:
        The operation, or None in eager mode.
    """
    # On a card an assertion does nothing.
    with step.on_host():
        return _assert_in_range(table, rows, ids)


def _assert_in_range(table: str, rows: int, ids: tf.Tensor) -> tf.Operation | None:
    flat = tf.reshape(ids, [-1])
    outside = (flat < 0) | (flat >= rows)
    # The first bad id, [1, 1]; empty if there is none.
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
    """Returns the error that a message of TensorFlow reports, or None if the message is about something else."""
    if found := _IDS.search(text):
        shape = tuple(int(size) for size in re.findall(r"\d+", found["shape"] or ""))
        return _error(found["table"], int(found["rows"]), int(found["id"]), int(found["position"]), shape)
    if found := _CONTEXTS.search(text):
        return _error("contexts", int(found["rows"]), int(found["id"]), int(found["position"]), None)
    return None


@contextlib.contextmanager
def translate_eager_errors() -> Iterator[None]:
    """Runs an op so that, in eager mode, an id out of range raises `IdRangeError` at once."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        ours = find(str(error))
        if ours is None:
            raise
        # Our message has everything that the op's message has.
        raise ours from None


def _error(table: str, rows: int, bad: int, position: int, shape: tuple[int, ...] | None) -> IdRangeError:
    which = ""
    # Several lookups of a table were joined: find the one that the position belongs to.
    if match := _LOOKUPS.fullmatch(table):
        table = match["table"]
        shapes = [_parse_shape(text) for text in re.findall(r"\[([^\]]*)\]", match["shapes"])]
        number, position, shape = _find_lookup(shapes, position, shape)
        which = (
            f" in lookup {number} of {match['count']} of this table"
            if number
            else (f" of its {match['count']} lookups, one after the other")
        )
    # Example: the table "ctr/item/embeddings" belongs to the layer "ctr/item".
    layer = table.rpartition("/")[0] or table
    place = (position,) if shape is None else tuple(int(index) for index in np.unravel_index(position, shape))
    where = f"ids[{', '.join(map(str, place))}]" if place else "the only id"
    if shape is not None:
        where += f" of ids of shape {list(shape)}"
    # A vector may hold the ids of ragged rows or of several lookups, so only a matrix has an example to name.
    if len(place) > 1:
        where += f": example {place[0]}, position {', '.join(map(str, place[1:]))}"
    message = (
        f"every id that layer {layer!r} looks up in table {table!r} must be at least 0 and below {rows}. "
        f"Received: {bad}, at {where}{which}."
    )
    if bad < 0:
        # Keras adds `rows` to a negative id before the lookup, so the op may have seen another number than the user.
        message += f" (An Embedding counts ids from -{rows} to -1 from the end: it may have been given {bad - rows}.)"
    return IdRangeError(message, table=table, layer=layer, id=bad, rows=rows, place=place, shape=shape)


def _parse_shape(text: str) -> _Shape:
    return tuple(None if size == "?" else int(size) for size in text.replace(" ", "").split(",") if size)


def _find_lookup(
    shapes: Sequence[_Shape], position: int, joined: tuple[int, ...] | None
) -> tuple[int, int, tuple[int, ...] | None]:
    """Finds the lookup that a position in the joined ids belongs to.

    Example: shapes [?, 8] and [4], 36 ids in all. The first lookup has 36 - 4 = 32 ids, so its shape is [4, 8], and
    position 33 is the second id of the second lookup.

    Args:
        shapes: the shape of each lookup; a size that is unknown during tracing is None.
        position: the position of the id in the joined vector.
        joined: the shape of that vector.

    Returns:
        The lookup's number from 1, the position in it, and its shape. If the sizes cannot be derived: 0, `position` and
        `joined`.
    """
    # The ids of all lookups of known shape, and the ids of one example in all others.
    unknown = [shape for shape in shapes if None in shape]
    known = sum(math.prod(size or 0 for size in shape) for shape in shapes if None not in shape)
    each = sum(math.prod(size for size in shape if size is not None) for shape in unknown)
    remaining = (joined or (0,))[0] - known
    # Several unknown first sizes are taken for the batch size. Vectors may be ragged rows, each of another length.
    alike = all(shape.count(None) == 1 for shape in unknown) and (
        len(unknown) < 2 or all(len(shape) > 1 and shape[0] is None for shape in unknown)
    )
    if not alike or (unknown and (not each or remaining % each)):
        return 0, position, joined
    batch = remaining // each if unknown else 0
    # The number of ids in the lookups before the current one.
    before = 0
    for number, shape in enumerate(shapes, start=1):
        full = tuple(batch if size is None else size for size in shape)
        if position < before + math.prod(full):
            return number, position - before, full
        before += math.prod(full)
    return 0, position, joined
