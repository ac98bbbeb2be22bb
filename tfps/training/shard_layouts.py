"""`ShardLayouts`: which shards the counts of rows at the end of a closure's result are of."""

import threading
from collections.abc import Iterable
from typing import TypeAlias

Shard: TypeAlias = tuple[str, int]
"""A shard of a table: (table name, shard)."""


class ShardLayouts:
    """The layouts of all graphs of a model's closures, by number.

    One closure reads the results of all graphs, and these may request the rows of other tables, or of the same in
    another order: batches of one kind have features that those of another lack. So a result has the number of its
    layout, and whoever reads it looks up the shards here.

    Threading: any; graphs are traced in several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._layouts: list[tuple[Shard, ...]] = []

    def number_of(self, shards: Iterable[Shard]) -> int:
        """Returns the number of a layout, the same for equal ones.

        Args:
            shards: the shards in the order of their counts.
        """
        layout = tuple(shards)
        with self._lock:
            if layout not in self._layouts:
                self._layouts.append(layout)
            return self._layouts.index(layout)

    def shards_of(self, number: int) -> tuple[Shard, ...]:
        """Returns the shards of a layout by its number."""
        with self._lock:
            return self._layouts[number]
