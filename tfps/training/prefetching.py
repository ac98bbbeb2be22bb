"""Rows asked for one step ahead: a worker computes on one batch while the rows of the next are on their way.

Staleness: such rows miss the update of the one step that runs meanwhile. Nothing else changes.
"""

from typing import Any

import tensorflow as tf

from tfps.embedding.lookup import fetch
from tfps.embedding.lookup_group import LookupResult
from tfps.training.batches import where_there
from tfps.training.hoisting import DirectLookups, Recording


class PrefetchedRows:
    """Requests for the rows of coming batches, and their answers as tensors that a loop carries.

    Args:
        recording: of the step.
        first: the first batch, which may be empty.

    Attributes:
        first_rows: tensors of the rows of the first batch.
    """

    def __init__(self, recording: Recording, first: tf.experimental.Optional) -> None:
        self._recording = recording
        # The structure of the answer of any batch; its tensors are those of the first.
        self._pattern = self._fetch(first)
        self.first_rows = self._flatten(self._pattern)

    def request(self, batch: tf.experimental.Optional) -> list[tf.Tensor]:
        """Asks for the rows of a batch; for hardly any where it is empty. Returns the tensors to carry."""
        return self._flatten(self._fetch(batch))

    def lookups(self, rows: list[tf.Tensor]) -> DirectLookups:
        """What answers the lookups of a step by the tensors of its rows."""
        remaining = iter(rows)
        # Each turn has other tensors for the same structure of groups, that of the first batch.
        groups = {
            id(group): group.with_tensors([next(remaining) for _ in group.tensors()])
            for group in self._groups(self._pattern)
        }
        return self._recording.replay(
            [LookupResult(found.table, groups[id(found.group)], found.index) for found in self._pattern]
        )

    def _fetch(self, batch: tf.experimental.Optional) -> list[LookupResult]:
        recording = self._recording
        # After the last batch there is none, but the graph is the same: ids of no rows ask the servers for nothing.
        ids = where_there(batch.has_value(), lambda: recording.ids(batch.get_value()), recording.no_ids())
        for found, shape in zip(ids, recording.shapes, strict=True):
            found.set_shape(shape)
        return fetch(recording.tables, ids)

    def _flatten(self, found: list[LookupResult]) -> list[tf.Tensor]:
        return [tensor for group in self._groups(found) for tensor in group.tensors()]

    def _groups(self, found: list[LookupResult]) -> list[Any]:
        """The groups of some lookups, each once: lookups of tables of one width share a group."""
        return list({id(one.group): one.group for one in found}.values())
