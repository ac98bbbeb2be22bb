"""`TableMaker`: what makes the table of a layer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from tfps.embedding.initialization import InitialValue
from tfps.placement.model import Placement

if TYPE_CHECKING:
    from tfps.embedding.table import Table


class TableMaker(Protocol):
    """What makes the table of a layer: a subclass of `Table`, or an object that knows how its tables grow."""

    @property
    def grows(self) -> bool:
        """Whether ids are any int64, and rows appear as they do."""
        ...

    def create(self, placement: Placement, initial: InitialValue, devices: Sequence[str], trainable: bool) -> "Table":
        """Makes a table; see `Table.create`."""
        ...
