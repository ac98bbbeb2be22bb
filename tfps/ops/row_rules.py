"""All update rules of optimizers, by name. The files of `tfps.ops.rules` declare them.

    >>> from tfps.ops.row_rules import ROW_RULES
    >>> ROW_RULES["adam"].slot_names
    ('momentum', 'velocity')

A new optimizer needs one more file in that folder and one in tfps_ops/core/rules/.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from tfps.ops import rules
from tfps.ops.rules.declaration import RowRule

__all__ = ["ROW_RULES", "RowRule"]


def _find_rules() -> Iterator[RowRule]:
    """Yields the rules of all files of the folder, in the order of the file names."""
    # A file without `RULES`, such as `declaration`, declares nothing.
    for module in sorted(found.name for found in pkgutil.iter_modules(rules.__path__)):
        yield from getattr(importlib.import_module(f"{rules.__name__}.{module}"), "RULES", ())


ROW_RULES: Mapping[str, RowRule] = MappingProxyType({rule.name: rule for rule in _find_rules()})
"""Every rule by its name."""
