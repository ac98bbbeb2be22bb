"""Types shared by every package of tfps; nothing of ours is imported here."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

JSON: TypeAlias = Mapping[str, Any] | Sequence[Any] | str | int | float | bool | None
Shape: TypeAlias = tuple[int, ...]


def is_integer(value: object) -> bool:
    """Whether a value is a whole number of Python or numpy, which True and False are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


Nest: TypeAlias = Any
"""A structure of tensors as `tf.nest` takes it: a tensor, or tuples, lists and dictionaries of structures."""

VariableKey: TypeAlias = Hashable
"""What tells a variable or a table from all others of this process."""
