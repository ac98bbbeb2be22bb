"""The description of one variable: all that the planner knows of it."""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from tfps.errors import PlanError
from tfps.types import Shape, is_integer

_NARROW_BYTES = {"bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "int4": 1, "uint4": 1}
"""Types that Keras and TensorFlow have and numpy lacks."""


def dtype_bytes(dtype: str) -> int:
    """Bytes of one element, for example 4 for "float32".

    Raises:
        PlanError: the type is unknown or has no fixed size.
    """
    if dtype in _NARROW_BYTES:
        return _NARROW_BYTES[dtype]
    try:
        size = np.dtype(dtype).itemsize
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
        if not isinstance(self.name, str) or not self.name:
            raise PlanError(f"`name` must be a text that is not empty. Received: {self.name!r}.")
        if not isinstance(self.shape, Iterable):
            self._refuse("shape", "a tuple of sizes", self.shape)
        object.__setattr__(self, "shape", tuple(self.shape))
        for field in ("trainable", "is_table"):
            if not isinstance(getattr(self, field), bool):
                self._refuse(field, "True or False", getattr(self, field))
        if not all(isinstance(size, int | np.integer) and size >= 0 for size in self.shape):
            self._refuse("shape", "a tuple of sizes known beforehand, each at least 0", self.shape)
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        if self.is_table and (len(self.shape) < 2 or not self.shape[0]):
            self._refuse("shape", "[rows, width, ...] with at least one row for a table", self.shape)
        for field in ("slots", "row_slots"):
            number_of_slots = getattr(self, field)
            if not is_integer(number_of_slots) or number_of_slots < 0:
                self._refuse(field, "an integer of at least 0", number_of_slots)
            object.__setattr__(self, field, int(number_of_slots))
        if self.rows_per_step is not None and not 0 <= self.rows_per_step < math.inf:
            self._refuse("rows_per_step", "None or a finite number of ids, at least 0", self.rows_per_step)
        if self.rows_per_step is not None:
            number = int if is_integer(self.rows_per_step) else float
            object.__setattr__(self, "rows_per_step", number(self.rows_per_step))
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

    def _refuse(self, field: str, rule: str, received: object) -> None:
        raise PlanError(f"`{field}` of variable {self.name!r} must be {rule}. Received: {received!r}.")
