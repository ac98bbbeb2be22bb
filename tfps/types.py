"""Types that every package of tfps shares. This module imports nothing of tfps."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

JSON: TypeAlias = Mapping[str, Any] | Sequence[Any] | str | int | float | bool | None
Shape: TypeAlias = tuple[int, ...]


def is_integer(value: object) -> bool:
    """Returns whether a value is an integer of Python or numpy. True and False are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


Nest: TypeAlias = Any
"""A structure of tensors as `tf.nest` takes it: a tensor, or tuples, lists and dictionaries of structures."""

VariableKey: TypeAlias = Hashable
"""What tells a variable or a table from all others of this process."""
