"""`ExportedModel`: the values of a model that an export has, read beside training.

Each version begins with the moment of its cursors: the rows that were touched before it are known. Rows and dense
variables are read after that moment, so each value is at least as new. What is touched later is in the next version.

Threading: one thread writes deltas and begins chains; another may write a full version at the same time.
"""

import dataclasses
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import keras
import numpy as np

from tfps.embedding.table import TouchedCursor
from tfps.errors import ExportError
from tfps.keras import checkpoints
from tfps.keras.model_content import MODEL, content_of
from tfps.saving.content import Content, TableContent
from tfps.saving.rows import AllRows, Rows, TouchedRows, Touches
from tfps.saving.servers import run_on_servers
from tfps.saving.version_list import VersionList
from tfps.saving.version_writer import CHUNK_BYTES, VersionContent, VersionHead, write_version
from tfps.serving.stores import Store
from tfps.serving.versions import DELTA, FULL, Version
from tfps.strategy.strategy import ParameterServerStrategy

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Changes:
    """What has changed since the version before.

    Args:
        as_of: the moment, in seconds since 1970.
        ids: for each table, the ids of the rows that were updated.
        evicted: for each table, the ids that are gone.
        cursors: the cursors of this moment.
    """

    as_of: float
    ids: Sequence[np.ndarray[Any, Any]]
    evicted: Sequence[np.ndarray[Any, Any]]
    cursors: Mapping[int, TouchedCursor]


class ExportedModel:
    """Reads a model for an export.

    Args:
        model: a built model.
        strategy: its strategy.

    Raises:
        UnsupportedError: the model has a table whose updates cannot be recorded.
    """

    def __init__(self, model: keras.Model, strategy: ParameterServerStrategy) -> None:
        # A callback may outlive its model, whose rows the servers then free.
        self._model, self._strategy = weakref.ref(model), strategy
        self._touches = Touches()
        # The variables of the servers that this knows of; another number means that some were lost.
        self._remakes = strategy.remote_variables.remakes
        self._run(lambda: self._touches.begin(self._content()))
        self._has_begun = False

    def is_of(self, model: keras.Model) -> bool:
        """Whether this reads a model."""
        return self._model() is model

    def find_changes(self) -> Changes | None:
        """Returns what has changed since the last version; None if that is not known, so all rows are needed."""
        if not self._has_begun or self._remakes != self._strategy.remote_variables.remakes:
            return None
        content, as_of = self._content(), time.time()
        found = self._run(lambda: self._touches.since(content))
        # The evicted ids after the others, as `Table.evicted_since` demands.
        evicted = None if found is None else self._run(lambda: self._touches.evicted(content))
        return None if found is None or evicted is None else Changes(as_of, found[0], evicted, found[1])

    def advance(self, changes: Changes) -> None:
        """Counts from these changes on: they were exported."""
        self._touches.advance(changes.cursors)

    def write_delta(self, store: Store, versions: VersionList, changes: Changes) -> Version:
        """Writes a version with what has changed; `advance` then counts from it on, once it is listed."""
        rows = TouchedRows(self._tables(), changes.ids, CHUNK_BYTES)
        head = VersionHead(
            DELTA, versions.next_number(), versions.newest, versions.chain_id, self._step(), changes.as_of
        )
        return self._write(store, head, rows, changes.evicted)

    def write_chain(self, store: Store, versions: VersionList) -> Version:
        """Writes a version with all rows that begins a chain. Changes are counted from it on."""
        self._remakes, self._has_begun = self._strategy.remote_variables.remakes, False
        as_of = time.time()
        # First the cursors, then the rows: what is updated between them is in the next version too.
        self._run(lambda: self._touches.begin(self._content()))
        versions.begin_chain()
        head = VersionHead(FULL, versions.next_number(), versions.newest, versions.chain_id, self._step(), as_of)
        version = self._write(store, head, AllRows(self._tables(), CHUNK_BYTES), self._none())
        self._has_begun = True
        return version

    def write_full(self, store: Store, delta: Version) -> Version:
        """Writes a version with all rows beside a delta. It may take long: later deltas may be written meanwhile.

        Its rows are newer than those of the delta, and some are as new as later deltas. These then replace them by what
        they were; at the last of them, each row is at least as new as that version.
        """
        head = VersionHead(FULL, delta.number, delta.parent, delta.chain_id, delta.step, delta.as_of)
        return self._write(store, head, AllRows(self._tables(), CHUNK_BYTES), self._none())

    def _write(self, store: Store, head: VersionHead, rows: Rows, evicted: Sequence[np.ndarray[Any, Any]]) -> Version:
        content = self._content()
        assigned = [table.assignments for one in content.tables for table in one.tables]
        dense = self._run(lambda: _read_dense(content))
        names = [_plain(one.names[0]) for one in content.tables]
        written = VersionContent(names, self._tables(), rows, evicted, dense)
        version = write_version(store, head, written, self._strategy)
        # A server that was started again has no values until they are restored, and a restore takes time.
        if self._remakes != self._strategy.remote_variables.remakes or assigned != [
            table.assignments for one in content.tables for table in one.tables
        ]:
            store.remove(version.name)
            raise ExportError(
                f"{version.name} is left out, because values were restored or assigned while it was read."
            )
        return version

    def _known_model(self) -> keras.Model:
        model = self._model()
        if model is None:
            raise ExportError("the model of an export does not exist any more.")
        return model

    def _step(self) -> int:
        return self._run(lambda: checkpoints.trained_steps(self._known_model()))

    def _content(self) -> Content:
        return content_of(self._known_model(), with_metrics=False)

    def _tables(self) -> list[TableContent]:
        """Returns the tables without their slots."""
        return [TableContent(one.names[:1], one.tables[:1]) for one in self._content().tables]

    def _none(self) -> list[np.ndarray[Any, Any]]:
        """Returns no evicted ids for each table, as a full version has them."""
        return [np.zeros(0, np.int64) for _ in self._tables()]

    def _run(self, function: Callable[[], T]) -> T:
        """Runs a function that waits for servers, with the time limit of a closure."""
        found: list[T] = []
        units = {0: iter([lambda: found.append(function())])}
        run_on_servers(self._strategy, units, "servers to answer an export")
        return found[0]


def _read_dense(content: Content) -> dict[str, np.ndarray[Any, Any]]:
    """Returns the variables of the layers that are no tables, by their paths."""
    values = {_plain(name): content.read(name) for name in content.dense if name.startswith(f"{MODEL}/")}
    return {name: _storable(value) for name, value in values.items() if value.dtype.kind in "biufcV"}


def _plain(name: str) -> str:
    """Returns the path of a variable in the model: "items/embeddings" for "model/items/embeddings"."""
    return name.removeprefix(f"{MODEL}/")


def _storable(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Returns a value that a file of numpy can have: bfloat16 is none of numpy's own dtypes."""
    return value.astype(np.float32) if value.dtype.kind == "V" else value
