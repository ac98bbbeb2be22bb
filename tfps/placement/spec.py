"""`VariableSpec`: the description of one variable, from which the planner works."""

import dataclasses
import math

import numpy as np

from tfps.checks import check_bool, check_choice, check_integer, check_list, check_number, check_string, show_value
from tfps.errors import PlanError
from tfps.types import Shape, is_integer

_NARROW_BYTES = {"bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "int4": 1, "uint4": 1}
"""Bytes of an element of the types that Keras and TensorFlow have and numpy lacks."""
STORED_DTYPES = ("float32", "bfloat16")
"""The types in which servers can keep the rows and slots of a table."""
LEAST_GROWING_BYTES = 1 << 20
"""The least budget of a shard of a table that grows: an empty one takes about a quarter of it."""
GROWING_ROW_BYTES = 16
"""What a row of a table that grows takes beyond its floats: its id, its part of the index, and when it was used."""


def dtype_bytes(dtype: str) -> int:
    """Returns the bytes of one element, for example 4 for "float32".

    Raises:
        PlanError: the type is unknown or has no fixed size.
    """
    if isinstance(dtype, str) and dtype in _NARROW_BYTES:
        return _NARROW_BYTES[dtype]
    try:
        # Only strings: `np.dtype(None)` is float64.
        size = np.dtype(dtype).itemsize if isinstance(dtype, str) else 0
    except (TypeError, ValueError):
        size = 0
    # Types without a fixed size, such as "str", have an item size of 0.
    if not size:
        raise PlanError(f"`dtype` must name a type of fixed size, such as 'float32'. Received: {show_value(dtype)}.")
    return size


@dataclasses.dataclass(frozen=True)
class TableDtypes:
    """The types in which servers keep tables.

    Args:
        rows: of the rows, one of `STORED_DTYPES`.
        slots: of the slots that are as wide as the rows.
    """

    rows: str = "float32"
    slots: str = "float32"

    def of_table(self, spec: "VariableSpec") -> "VariableSpec":
        """Returns the spec of a table with these types. What a spec says of itself, for its layer, stays.

        Tables of another type than float32 keep it: servers store no other type in fewer bytes.
        """
        if spec.dtype != "float32":
            return spec
        # Nothing is written where nothing is narrow, so plans stay what they were.
        rows = None if self.rows == spec.dtype else self.rows
        slots = None if self.slots == spec.dtype else self.slots
        return dataclasses.replace(spec, stored_dtype=spec.stored_dtype or rows, slots_dtype=spec.slots_dtype or slots)


@dataclasses.dataclass(frozen=True)
class VariableSpec:
    """The description of one variable of a model, without the variable itself.

    Args:
        name: the variable's name, unique within a model, such as "ctr/embedding/embeddings".
        shape: [rows, ...] for a table, any static shape for a dense variable.
        dtype: the element type by name.
        slots: the number of optimizer slots of the same shape: SGD 0, Adagrad 1, Adam 2.
        row_slots: the number of optimizer slots with one number per row: RowwiseAdagrad 1.
        stored_dtype: the type in which servers keep the rows of a table, "float32" or "bfloat16"; None for `dtype`.
        slots_dtype: the same for its slots that are as wide as the rows; None for `dtype`.
        growing: whether rows appear as their ids do, which are any int64. The shape has the expected number of rows.
        rows_per_step: ids that one step of one worker looks up in this table, with repeats; None if unknown.
        trainable: whether steps push updates to the variable.
        is_table: True if steps look up some of its rows, False for a dense variable, of which they need everything.

    Raises:
        PlanError: a field breaks its rule.
    """

    name: str
    shape: Shape
    dtype: str = "float32"
    slots: int = 0
    rows_per_step: float | None = None
    trainable: bool = True
    is_table: bool = False
    row_slots: int = 0
    growing: bool = False
    stored_dtype: str | None = None
    slots_dtype: str | None = None

    def __post_init__(self) -> None:
        """Checks the fields. A list as `shape` becomes a tuple, and numbers of numpy become Python's, for JSON."""
        check_string("name", self.name, error=PlanError)
        for field in ("trainable", "is_table", "growing"):
            object.__setattr__(self, field, check_bool(self._field(field), getattr(self, field), error=PlanError))
        object.__setattr__(self, "shape", self._check_shape())
        # An empty table has no row to look up, and no shard could be non-empty.
        if self.is_table and (len(self.shape) < 2 or not self.shape[0]):
            self._refuse("shape", "[rows, width, ...] with at least one row for a table", self.shape)
        for field in ("slots", "row_slots"):
            slots = check_integer(self._field(field), getattr(self, field), at_least=0, error=PlanError)
            object.__setattr__(self, field, slots)
        # A number of numpy becomes Python's, which JSON needs; an integer stays an integer.
        if self.rows_per_step is not None:
            rows = check_number(
                self._field("rows_per_step"), self.rows_per_step, at_least=0, error=PlanError, valid="None if unknown"
            )
            object.__setattr__(self, "rows_per_step", int(rows) if is_integer(self.rows_per_step) else rows)
        dtype_bytes(self.dtype)
        for field in ("stored_dtype", "slots_dtype"):
            if getattr(self, field) is not None:
                check_choice(self._field(field), getattr(self, field), STORED_DTYPES, error=PlanError)

    @property
    def rows(self) -> int:
        """The first dimension; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def nbytes(self) -> int:
        """Bytes of the variable without slots."""
        return math.prod(self.shape) * dtype_bytes(self.dtype_on_servers)

    @property
    def dtype_on_servers(self) -> str:
        """The type in which servers keep the rows."""
        return self.stored_dtype or self.dtype

    @property
    def bytes_with_slots(self) -> int:
        """Bytes of the variable and its slots, all of which its servers must hold."""
        return self.bytes_of_rows(self.rows)

    def bytes_of_rows(self, rows: int) -> int:
        """Returns the bytes of some rows and their slots."""
        # Example: a row of 16 floats with one slot and one row slot is 64 + 64 + 4 bytes.
        slot = math.prod(self.shape[1:]) * dtype_bytes(self.slots_dtype or self.dtype)
        own = self.row_bytes + slot * self.slots + dtype_bytes(self.dtype) * self.row_slots
        return rows * (own + (GROWING_ROW_BYTES if self.growing else 0))

    @property
    def row_bytes(self) -> int:
        """Bytes of one row without slots, which a lookup of one id moves."""
        return math.prod(self.shape[1:]) * dtype_bytes(self.dtype_on_servers)

    def _field(self, name: str) -> str:
        """Returns the name of a field for messages, with the variable's name, because a plan has many variables."""
        return f"{name} of variable {self.name!r}"

    def _check_shape(self) -> Shape:
        """Checks the shape and returns it as a tuple of Python's integers."""
        sizes = check_list(self._field("shape"), self.shape, "a tuple of sizes", error=PlanError)
        if not all(is_integer(size) and size >= 0 for size in sizes):
            self._refuse("shape", "a tuple of sizes known beforehand, each at least 0", self.shape)
        return tuple(int(size) for size in sizes)

    def _refuse(self, field: str, rule: str, received: object) -> None:
        raise PlanError(
            f"`{field}` of variable {show_value(self.name)} must be {rule}. Received: {show_value(received)}."
        )
