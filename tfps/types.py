"""Types that all packages of tfps share. This module imports nothing from tfps."""

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
