"""Every optimizer's update of rows, by name: the rules that the files of `tfps.ops.rules` declare.

    >>> from tfps.ops.row_rules import ROW_RULES
    >>> ROW_RULES["adam"].slot_names
    ('momentum', 'velocity')

A new optimizer is one more file there, and one in tfps_ops/core/rules/.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from tfps.ops import rules
from tfps.ops.rules.declaration import RowRule

__all__ = ["ROW_RULES", "RowRule"]


def _declared() -> Iterator[RowRule]:
    """The rules of every file of the folder, file by file in the order of their names."""
    for module in sorted(found.name for found in pkgutil.iter_modules(rules.__path__)):
        yield from getattr(importlib.import_module(f"{rules.__name__}.{module}"), "RULES", ())


ROW_RULES: Mapping[str, RowRule] = MappingProxyType({rule.name: rule for rule in _declared()})
"""Every rule by its name."""
