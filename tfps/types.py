"""Types shared by every package of tfps; nothing of ours is imported here."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

JSON: TypeAlias = Mapping[str, Any] | Sequence[Any] | str | int | float | bool | None
Shape: TypeAlias = tuple[int, ...]
