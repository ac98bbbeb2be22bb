"""Prefetching of rows: a worker trains one batch while the rows of the next batch are on their way.

Staleness: prefetched rows miss the update of the one step that runs meanwhile. Nothing else changes.
"""

import tensorflow as tf

from tfps.embedding import row_cache
from tfps.embedding.lookup import fetch
from tfps.embedding.lookup_group import LookupGroup, LookupResult
from tfps.training.batches import run_if
from tfps.training.hoisting import Recording
from tfps.training.step_lookups import DirectLookups


class PrefetchedRows:
    """Requests the rows of coming batches, and holds the answers as tensors that a loop carries.

    Args:
        recording: the recording of the step.
        first: the first batch, which may be empty.

    Attributes:
        first_rows: the tensors of the rows of the first batch.
    """

    def __init__(self, recording: Recording, first: tf.experimental.Optional) -> None:
        self._recording = recording
        # All batches get answers of the same structure. The tensors in this one belong to the first batch.
        self._pattern = self._fetch(first)
        self.first_rows = self._flatten(self._pattern)

    def request(self, batch: tf.experimental.Optional) -> list[tf.Tensor]:
        """Requests the rows of a batch, or almost none if it is empty; returns the tensors to carry."""
        return self._flatten(self._fetch(batch))

    def lookups(self, rows: list[tf.Tensor]) -> DirectLookups:
        """Returns the object that answers the lookups of a step from the tensors of its rows."""
        remaining = iter(rows)
        # The tensors differ from turn to turn, but the structure of the groups is the same as for the first batch.
        groups = {
            id(group): group.with_tensors([next(remaining) for _ in group.tensors()])
            for group in self._groups(self._pattern)
        }
        return self._recording.replay(
            [LookupResult(found.table, groups[id(found.group)], found.index) for found in self._pattern]
        )

    def _fetch(self, batch: tf.experimental.Optional) -> list[LookupResult]:
        recording = self._recording
        row_cache.begin_step()
        # After the last batch the same graph runs with no ids, and asks the servers for nothing.
        ids = run_if(batch.has_value(), lambda: recording.ids(batch.get_value()), recording.no_ids())
        for batch_ids, shape in zip(ids, recording.shapes, strict=True):
            batch_ids.set_shape(shape)
        return fetch(recording.tables, ids)

    def _flatten(self, found: list[LookupResult]) -> list[tf.Tensor]:
        return [tensor for group in self._groups(found) for tensor in group.tensors()]

    def _groups(self, found: list[LookupResult]) -> list[LookupGroup]:
        """Returns the groups of some lookups without repeats: tables of the same width share a group."""
        return list({id(one.group): one.group for one in found}.values())
