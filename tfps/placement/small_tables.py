"""Decides which tables are small enough to be dense variables."""

from tfps.placement.spec import VariableSpec

DENSE_TABLES_BYTES = 1 << 20
"""The default of the bytes of tables that a model may have as dense variables.

Measured with Adam, 512 examples of 26 ids and rows of 16 floats, two workers: 1 MB takes a fifth more CPU time a step
than a table, 4 MB three times as much.
"""


class SmallTables:
    """Counts the bytes of the tables that one model has as dense variables.

    A table is dense if it fits into what is left of the limit. So the order in which a model makes its tables decides,
    and the same model gets the same tables each time.

    Args:
        limit: the bytes of all such tables of a model, without slots; 0 for none.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0

    def take(self, spec: VariableSpec) -> bool:
        """Returns whether a table may be a dense variable, and counts its bytes if so."""
        if spec.nbytes > self.limit - self._used:
            return False
        self._used += spec.nbytes
        return True

    def begin_model(self) -> None:
        """Makes the next table the first one of a model."""
        self._used = 0
