"""The description of one variable: all that the planner knows of it."""

import dataclasses
import math

import numpy as np

from tfps.checks import check_bool, check_integer, check_list, check_number, check_string
from tfps.errors import PlanError
from tfps.types import Shape, is_integer

_NARROW_BYTES = {"bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "int4": 1, "uint4": 1}
"""Types that Keras and TensorFlow have and numpy lacks."""


def dtype_bytes(dtype: str) -> int:
    """Bytes of one element, for example 4 for "float32".

    Raises:
        PlanError: the type is unknown or has no fixed size.
    """
    if isinstance(dtype, str) and dtype in _NARROW_BYTES:
        return _NARROW_BYTES[dtype]
    try:
        size = np.dtype(dtype).itemsize if isinstance(dtype, str) else 0  # of None numpy makes float64
    except (TypeError, ValueError):
        size = 0
    if not size:
        raise PlanError(f"`dtype` must name a type of fixed size, such as 'float32'. Received: {dtype!r}.")
    return size


@dataclasses.dataclass(frozen=True)
class VariableSpec:
    """Describes one variable of a model without creating it.

    Args:
        name: unique within a model, such as "ctr/embedding/embeddings".
        shape: [rows, ...] of a table, any static shape of a dense variable.
        dtype: element type by name.
        slots: optimizer variables of the same shape that live beside it: SGD 0, Adagrad 1, Adam 2.
        row_slots: optimizer variables with one number for each row that live beside it: RowwiseAdagrad 1.
        rows_per_step: ids that one step of one worker looks up in this table, repeats counted; None if unknown.
        trainable: whether steps push updates to it.
        is_table: whether steps ask for some of its rows (True) or for all of it (False, a dense variable).

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

    def __post_init__(self) -> None:
        """Checks the fields. A list as `shape` becomes a tuple, and numbers of numpy become Python's, for JSON."""
        check_string("name", self.name, error=PlanError)
        for field in ("trainable", "is_table"):
            object.__setattr__(self, field, check_bool(self._field(field), getattr(self, field), error=PlanError))
        object.__setattr__(self, "shape", self._checked_shape())
        if self.is_table and (len(self.shape) < 2 or not self.shape[0]):
            self._refuse("shape", "[rows, width, ...] with at least one row for a table", self.shape)
        for field in ("slots", "row_slots"):
            slots = check_integer(self._field(field), getattr(self, field), at_least=0, error=PlanError)
            object.__setattr__(self, field, slots)
        if self.rows_per_step is not None:
            rows = check_number(
                self._field("rows_per_step"), self.rows_per_step, at_least=0, error=PlanError, valid="None if unknown"
            )
            object.__setattr__(self, "rows_per_step", int(rows) if is_integer(self.rows_per_step) else rows)
        dtype_bytes(self.dtype)

    @property
    def rows(self) -> int:
        """First dimension; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def nbytes(self) -> int:
        """Bytes of the variable itself."""
        return math.prod(self.shape) * dtype_bytes(self.dtype)

    @property
    def bytes_with_slots(self) -> int:
        """Bytes of the variable and its slots, which its servers must hold."""
        return self.bytes_of_rows(self.rows)

    def bytes_of_rows(self, rows: int) -> int:
        """Bytes of some of the rows and their slots."""
        return rows * (self.row_bytes * (1 + self.slots) + dtype_bytes(self.dtype) * self.row_slots)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row without slots; a lookup of one id moves this much."""
        return math.prod(self.shape[1:]) * dtype_bytes(self.dtype)

    def _field(self, name: str) -> str:
        """How messages name a field: a plan has many variables."""
        return f"{name} of variable {self.name!r}"

    def _checked_shape(self) -> Shape:
        """The shape as a tuple of Python's integers."""
        sizes = check_list(self._field("shape"), self.shape, "a tuple of sizes", error=PlanError)
        if not all(is_integer(size) and size >= 0 for size in sizes):
            self._refuse("shape", "a tuple of sizes known beforehand, each at least 0", self.shape)
        return tuple(int(size) for size in sizes)

    def _refuse(self, field: str, rule: str, received: object) -> None:
        raise PlanError(f"`{field}` of variable {self.name!r} must be {rule}. Received: {received!r}.")
