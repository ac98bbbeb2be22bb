"""Rows asked for one step ahead: a worker computes one batch while those of the next are on their way.

Staleness: rows that come ahead miss the update of the one step that runs meanwhile. Nothing else changes.
"""

from typing import Any

from tfps.embedding.lookup import LookupResult, fetch
from tfps.training.batches import where_there
from tfps.training.hoisting import DirectLookups, Recording


class Ahead:
    """The rows of the next batch, as tensors that a loop carries.

    Args:
        recording: of the step.
        first: the first batch, a `tf.experimental.Optional`, maybe empty.

    Attributes:
        rows: those of the first batch.
    """

    def __init__(self, recording: Recording, first: Any) -> None:
        self._recording = recording
        self._pattern = self._fetch(first)
        self.rows = self._flat(self._pattern)

    def ask(self, batch: Any) -> list[Any]:
        """Asks for the rows of a batch, which may be empty: then for hardly any."""
        return self._flat(self._fetch(batch))

    def answer(self, rows: list[Any]) -> DirectLookups:
        """Answers the lookups of a step with rows that were asked for."""
        left = iter(rows)
        groups = {
            id(group): group.with_tensors([next(left) for _ in group.tensors()])
            for group in self._groups(self._pattern)
        }
        return self._recording.replay(
            [LookupResult(found.table, groups[id(found.group)], found.index) for found in self._pattern]
        )

    def _fetch(self, batch: Any) -> list[LookupResult]:
        recording = self._recording
        ids = where_there(batch.has_value(), lambda: recording.ids(batch.get_value()), recording.no_ids())
        for found, shape in zip(ids, recording.shapes, strict=True):
            found.set_shape(shape)
        return fetch(recording.tables, ids)

    def _flat(self, found: list[LookupResult]) -> list[Any]:
        return [tensor for group in self._groups(found) for tensor in group.tensors()]

    def _groups(self, found: list[LookupResult]) -> list[Any]:
        return list({id(one.group): one.group for one in found}.values())
