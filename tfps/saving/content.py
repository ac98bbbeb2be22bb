"""`Content`: the values of a model that a checkpoint has: dense variables, and tables with their slots."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tfps.embedding.table import Table
from tfps.types import Shape

METRICS = "metrics"
"""The first part of the names of the states of metrics, which another model of the same layers may lack."""


class DenseValue(Protocol):
    """A variable whose whole value may come to the chief: a `keras.Variable`, say."""

    @property
    def shape(self) -> Shape:
        """Its shape."""
        ...

    @property
    def dtype(self) -> Any:
        """Its dtype, or the name of it."""
        ...

    def numpy(self) -> np.ndarray[Any, Any]:
        """Returns its value."""
        ...

    def assign(self, value: Any) -> Any:
        """Replaces its value."""
        ...


@dataclasses.dataclass(frozen=True)
class TableContent:
    """A table with the slots that an optimizer has for it.

    Args:
        names: the names of the table and of its slots.
        tables: the table and its slots, which have its routing and servers.
    """

    names: tuple[str, ...]
    tables: tuple[Table, ...]


@dataclasses.dataclass(frozen=True)
class Content:
    """What is saved of a model, or replaced when it is restored.

    Args:
        order: the names of all variables, in the order of the model.
        dense: the variables that are no tables, by name.
        tables: the tables with their slots.
    """

    order: Sequence[str]
    dense: Mapping[str, DenseValue]
    tables: Sequence[TableContent]

    def shape(self, name: str) -> Shape:
        """Returns the shape of a variable."""
        if name in self.dense:
            return tuple(self.dense[name].shape)
        return tuple(self.table(name).placement.spec.shape)

    def grows(self, name: str) -> bool:
        """Whether a variable is of a table that grows."""
        return name not in self.dense and self.table(name).grows

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Returns the value of a dense variable."""
        return self.dense[name].numpy()

    def table(self, name: str) -> Table:
        """Returns a table or slot table by its name."""
        return next(
            table for one in self.tables for known, table in zip(one.names, one.tables, strict=True) if known == name
        )
