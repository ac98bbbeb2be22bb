"""Types that all packages of tfps share. This module imports nothing from tfps."""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard

import numpy as np

JSON: TypeAlias = Mapping[str, Any] | Sequence[Any] | str | int | float | bool | None
Shape: TypeAlias = tuple[int, ...]


def is_integer(value: object) -> TypeGuard[int]:
    """Whether a value is a Python or numpy integer. True and False do not count."""
    # In Python bool is a subclass of int.
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


Nest: TypeAlias = Any
"""A structure of tensors for `tf.nest`: a tensor, or a tuple, list or dictionary of structures."""

VariableKey: TypeAlias = Hashable
"""A value that identifies a variable or a table within this process."""

TaskKey: TypeAlias = tuple[str, int]
"""A task of a cluster: its job and its index, such as ("ps", 1)."""


@dataclasses.dataclass(frozen=True)
class CachedCounts:
    """What workers have saved by keeping rows.

    Args:
        asked: the rows that steps asked for, where rows are kept.
        found: those of them that the worker had.
        saved_bytes: the bytes of their ids and rows, which did not cross: 8 an id, and 4 an element.
    """

    asked: int = 0
    found: int = 0
    saved_bytes: int = 0

    def __add__(self, other: "CachedCounts") -> "CachedCounts":
        """Adds counts."""
        return CachedCounts(self.asked + other.asked, self.found + other.found, self.saved_bytes + other.saved_bytes)
