"""`Column`: the name, type and default of a column, and its values as arrays for TensorFlow. No TensorFlow.

Threading: pure functions.
"""

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfps.data.hashing import Hash
from tfps.errors import ConfigError

STRING = "string"
NUMBERS = (
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64"),
)
"""The types of columns of numbers, as numpy and TensorFlow call them."""
_TYPES = (STRING, *NUMBERS)

_TYPE_LIKE = re.compile(
    r"((tf|np|numpy|pa|pyarrow)\..*"
    r"|(u?int|uint|b?float|double|half|long|short|byte|bool|boolean|str|string|bytes|binary|object|complex|decimal)"
    r"[ _]?\d*(_t)?"
    # The short names of numpy, such as "<i8".
    r"|[<>=|]?[iufbSUO]\d+)"
)
"""Strings that other libraries have for types."""


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        name: its name.
        dtype: "string", or one of `NUMBERS`.
        default: the value of an empty cell, a number or a string; None if a cell must not be empty.
        width: the numbers in each cell; None for one value that is no list.
        is_opaque: whether strings may have any bytes and any length, such as records.
        buckets: the number of buckets into which the graph hashes strings; None for strings as they are.
        prefix: stands before each string when it is hashed.
    """

    name: str
    dtype: str
    default: bool | int | float | str | None = None
    width: int | None = None
    is_opaque: bool = False
    buckets: int | None = None
    prefix: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a cell."""
        return () if self.width is None else (self.width,)

    def arrow_type(self) -> Any:
        """Returns pyarrow's type of a cell."""
        import pyarrow

        # Binary, because TensorFlow's strings are bytes of any encoding.
        scalar = pyarrow.binary() if self.dtype == STRING else pyarrow.from_numpy_dtype(np.dtype(self.dtype))
        return scalar if self.width is None else pyarrow.list_(scalar, self.width)

    def fill(self, values: Any) -> Any:
        """Returns the cells of a column with its default in the empty ones.

        Args:
            values: an array or chunked array of pyarrow, of `arrow_type`.

        Returns:
            An array of pyarrow without nulls.

        Raises:
            ValueError: a cell is empty and the column has no default.
        """
        import pyarrow

        if isinstance(values, pyarrow.ChunkedArray):
            values = values.combine_chunks()
        if not values.null_count and (self.width is None or not values.flatten().null_count):
            return values
        if self.default is None or self.width is not None:
            empty = values.is_null().index(True).as_py()
            where = f"in row {empty}" if empty >= 0 else "in a list"
            raise ValueError(f"the column {self.name!r} is empty {where}, and has no default")
        text = to_bytes(self.default) if isinstance(self.default, str) else self.default
        return values.fill_null(pyarrow.scalar(text, values.type))

    def to_numpy(self, values: Any) -> np.ndarray[Any, Any]:
        """Returns filled cells, [rows, *shape]."""
        flat = values if self.width is None else values.flatten()
        array: np.ndarray[Any, Any] = flat.to_numpy(zero_copy_only=False)
        return array if self.width is None else array.reshape(len(values), self.width)

    def no_cells(self) -> Any:
        """Returns the cells of no rows."""
        import pyarrow

        return pyarrow.array([], self.arrow_type())


def to_bytes(text: str) -> bytes:
    """Returns the bytes of a default, whatever a user gave."""
    return text.encode("utf-8", "surrogateescape")


def to_json(columns: Sequence[Column]) -> list[list[Any]]:
    """Returns columns as JSON."""
    return [list(dataclasses.astuple(column)) for column in columns]


def from_json(value: Sequence[Sequence[Any]]) -> tuple[Column, ...]:
    """Reads what `to_json` wrote."""
    return tuple(Column(*fields) for fields in value)


def make_column(name: object, wanted: object) -> Column | None:
    """Returns the column that a user describes; None for one that is not read.

    Args:
        name: its name.
        wanted: the type, such as "int64", `tf.string` or `np.float32`; or the default, whose type is that of the
            column; or a `Hash`; or None. A string that looks like a type but is none is refused, since it may be a
            slip; as a default it is given as bytes.

    Raises:
        ConfigError: it is none of these.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError(f"the names of `columns` must be strings that are not empty. Received: {name!r}.")
    if wanted is None:
        return None
    if isinstance(wanted, Hash):
        return Column(name, STRING, wanted.empty, buckets=int(wanted.buckets), prefix=wanted.prefix)
    # `tf.int64.name`; a numpy type has its name in `np.dtype`.
    text = getattr(wanted, "name", None) if hasattr(wanted, "as_numpy_dtype") else wanted
    if text in (str, bytes):
        text = STRING
    if isinstance(text, type):
        text = np.dtype(text)
    if isinstance(text, np.dtype):
        text = text.name
    if isinstance(text, str) and text in _TYPES:
        return Column(name, text)
    if isinstance(wanted, str) and _looks_like_type(wanted):
        raise ConfigError(
            f"`columns` must have a type or a default for {name!r}. Received: {wanted!r}, which looks like a type but "
            f"is none. Valid: {', '.join(_TYPES)}; or, for an empty cell that is this string, {wanted.encode()!r}."
        )
    default = _default(wanted)
    if default is None:
        raise ConfigError(
            f"`columns` must have a type or a default for {name!r}. Received: {wanted!r}. Valid: "
            f"{', '.join(_TYPES)}; a number or a string; tfps.data.Hash; or None for a column that is not read."
        )
    return default if default.name else dataclasses.replace(default, name=name)


def _looks_like_type(text: str) -> bool:
    """Whether a string is likely meant as a type: a name of another library, or a slip such as "flot32"."""
    # Types are written in any case: "Int64" of pandas.
    known = text.strip().lower()
    is_known = _TYPE_LIKE.fullmatch(text.strip()) or _TYPE_LIKE.fullmatch(known) or known in _TYPES
    return bool(is_known or difflib.get_close_matches(known, _TYPES, n=1, cutoff=0.8))


def _default(wanted: object) -> Column | None:
    """Returns a column without a name for a default value; None if it is none."""
    if isinstance(wanted, bool):
        return Column("", "bool", wanted)
    if isinstance(wanted, np.generic):
        return Column("", wanted.dtype.name, wanted.item()) if wanted.dtype.name in NUMBERS else None
    # Python's numbers have the types that TensorFlow and Keras give ids and features.
    kinds: Mapping[type, str] = {int: "int64", float: "float32"}
    if type(wanted) in kinds:
        return Column("", kinds[type(wanted)], wanted)  # type: ignore[arg-type]  # a number
    if isinstance(wanted, bytes):
        return Column("", STRING, wanted.decode("utf-8", "surrogateescape"))
    return Column("", STRING, wanted) if isinstance(wanted, str) else None
