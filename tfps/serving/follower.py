"""`Follower`: a copy of the tables of a model that is trained elsewhere, kept in step with what `Export` writes."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from tfps.checks import check_array, check_choice, check_number
from tfps.errors import ConfigError, ExportGapError
from tfps.serving.chains import find_route
from tfps.serving.row_files import load_pyarrow
from tfps.serving.stores import open_store
from tfps.serving.version_reader import Snapshot, VersionReader
from tfps.serving.versions import CURRENT, FULL, Current, Entry, Version, parse_current

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Self  # in `typing` from Python 3.11 on

_LOG = logging.getLogger("tfps")

_STOP_S = 60.0
"""Seconds that `close` waits for the update under way."""


class Follower:
    """Follows what `tfps.callbacks.Export` writes. It needs numpy and pyarrow, and no TensorFlow.

        follower = tfps.serving.Follower("s3://bucket/export")
        follower.update()
        rows, found = follower.lookup("items", [3, 14])

    `update` reads the versions since the last call, in order. As a context manager it follows in a thread of its own:

        with tfps.serving.Follower("export", poll_s=1) as follower:
            ...

    If versions between its copy and the newest one are missing or broken, it does not skip them silently: it logs a
    warning that names the first, and reads all rows anew from the newest full version; or raises, with
    `on_gap="raise"`. A version of another training, which goes back or was started again, is recognized. Until such a
    version is complete in memory, lookups find the old one.

    Threading: any thread may call every method. A lookup sees one version; it does not wait for an update unless rows
    are being replaced at that moment. Memory: the rows and 12 bytes for each, and the rows of one delta; while a full
    version is read, the old rows too.

    Args:
        url: the path or fsspec URL that `Export` got.
        poll_s: the number of seconds between two looks for a new version, above 0, for the thread.
        on_gap: what happens where versions are missing or broken: "resync" or "raise".

    Raises:
        ConfigError: an argument breaks its rule, or pyarrow is not installed.

    Attributes:
        error: the error of the thread's last look; None if it went well.
    """

    def __init__(self, url: str | os.PathLike[str], *, poll_s: float = 1.0, on_gap: str = "resync") -> None:
        # At once, and not with the first version: a missing package is found where the follower is made.
        load_pyarrow()
        self._store = open_store(url)
        self._poll_s = check_number("poll_s", poll_s, above=0)
        self._on_gap = check_choice("on_gap", on_gap, ("resync", "raise"))
        self._reader = VersionReader(self._store)
        self._snapshot = Snapshot({}, {}, None)
        # One update at a time. The second lock is held while rows are replaced, and `_changes` is odd then.
        self._updating, self._changing, self._changes = threading.Lock(), threading.Lock(), 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.error: Exception | None = None

    @property
    def version(self) -> int | None:
        """The version of the copy; None before the first one."""
        version = self._snapshot.version
        return None if version is None else version.number

    @property
    def step(self) -> int | None:
        """The number of training steps before the version of the copy."""
        version = self._snapshot.version
        return None if version is None else version.step

    @property
    def freshness_s(self) -> float:
        """The age of the copy in seconds: it has every update of before. Infinite before the first version.

        The clocks of both machines count.
        """
        version = self._snapshot.version
        return float("inf") if version is None else max(0.0, time.time() - version.as_of)

    @property
    def tables(self) -> Mapping[str, int]:
        """The number of rows of each table, by its path in the model."""
        return {name: len(table) for name, table in self._snapshot.tables.items()}

    @property
    def dense(self) -> Mapping[str, "npt.NDArray[Any]"]:
        """The variables that are no tables, by their path in the model; all of one version."""
        return MappingProxyType(self._snapshot.dense)

    @property
    def bytes(self) -> int:
        """The bytes of the rows and of what finds them."""
        return sum(table.bytes for table in self._snapshot.tables.values())

    def ids(self, table: str) -> "npt.NDArray[np.int64]":
        """Returns the ids that a table has rows of, int64 [n] ascending; see `lookup`."""
        with self._changing:
            name = self._snapshot.name_of(table)
            if name in self._snapshot.tables:
                return self._snapshot.tables[name].keys.copy()
            return np.arange(len(self._snapshot.dense[name]))

    def lookup(
        self, table: str, ids: "npt.ArrayLike", *, missing: "npt.ArrayLike" = 0.0
    ) -> "tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]":
        """Looks up rows. All of them are of one version.

        Args:
            table: the path in the model, "items/embeddings"; or the path or the name of its layer, "items".
            ids: integers of any shape.
            missing: what stands for rows that are not there: a number, or a row [dim].

        Returns:
            The rows, float32 `ids.shape + [dim]`, and whether each was there, bool `ids.shape`.

        Raises:
            ConfigError: there is no such table, or an argument breaks its rule.
            ExportError: no version was read yet.
        """
        wanted = check_array("ids", ids, None, "integers")
        if wanted.dtype.kind not in "iu" and wanted.size:
            raise ConfigError(f"`ids` must be integers. Received: an array of {wanted.dtype}.")
        flat = wanted.reshape(-1).astype(np.int64)
        while (before := self._changes) % 2 == 0:
            rows, found = self._snapshot.gather(table, flat, missing)
            # Nothing was replaced meanwhile, so all rows are of one version.
            if before == self._changes:
                break
        else:
            with self._changing:
                rows, found = self._snapshot.gather(table, flat, missing)
        return rows.reshape(*wanted.shape, rows.shape[1]), found.reshape(wanted.shape)

    def update(self) -> list[int]:
        """Reads the versions since the last call.

        Returns:
            The numbers of the versions that were read, in order; empty if there is none.

        Raises:
            ExportGapError: versions are missing or broken, and `on_gap` is "raise", or no full version leads past them.
                The copy stays as it is, and a later call tries again.
            ExportError: the export cannot be read.
        """
        with self._updating:
            version = self._snapshot.version
            return self._read_after(version)

    def resync(self) -> list[int]:
        """Reads all rows anew from the newest full version, and what came after it; see `update`."""
        with self._updating:
            return self._read_after(None)

    def start(self) -> "Self":
        """Begins to follow in a thread of its own, which looks for a new version every `poll_s` seconds."""
        if self._thread is None or not self._thread.is_alive():
            self._stopping.clear()
            self._thread = threading.Thread(target=self._watch, name="tfps-follower", daemon=True)
            self._thread.start()
        return self

    def close(self) -> None:
        """Ends the thread. Lookups still find the last version.

        Raises:
            TimeoutError: the update under way has not ended within a minute.
        """
        self._stopping.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(_STOP_S)
            if thread.is_alive():
                raise TimeoutError(f"waited {_STOP_S:.0f} s for the update of a follower of {self._store.path} to end.")

    def __enter__(self) -> "Self":
        """Calls `start`."""
        return self.start()

    def __exit__(self, *error: object) -> None:
        """Calls `close`."""
        self.close()

    def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                self.update()
                self.error = None
            # Whatever it is, it may be over at the next look: a store that does not answer, a version that is broken.
            except Exception as error:
                # Each problem is logged once, and not at every look.
                if self.error is None or str(error) != str(self.error):
                    _LOG.warning("%s", error)
                self.error = error
            # Ends at once when `close` is called.
            self._stopping.wait(self._poll_s)

    def _read_current(self) -> Current | None:
        try:
            return parse_current(self._store.read(CURRENT), f"{self._store.path}/{CURRENT}")
        except FileNotFoundError:
            return None

    def _read_after(self, version: Version | None) -> list[int]:
        """Reads the versions after one, or a full one and those after it; returns their numbers."""
        applied: list[int] = []
        # The versions that cannot be used, by name, with the reason.
        broken: dict[str, str] = {}
        # The list is read anew for each version, because the writer removes old ones meanwhile.
        while (current := self._read_current()) is not None:
            entry = self._choose(current, version, broken)
            if entry is None:
                break
            try:
                self._apply(entry)
                applied.append(entry.number)
                version = self._snapshot.version
            except ExportGapError as error:
                broken[entry.name] = str(error)
            except FileNotFoundError as error:
                broken[entry.name] = f"{self._store.path}/{entry.name} lacks a file ({error})."
        return applied

    def _choose(self, current: Current, version: Version | None, broken: Mapping[str, str]) -> Entry | None:
        """Returns the version to read after one; None if that is the newest one."""
        number, chain_id = (None, None) if version is None else (version.number, version.chain_id)
        # What is not listed any more was removed while it was read: nothing was wrong with it.
        broken = {one.name: broken[one.name] for one in current.entries if one.name in broken}
        route = find_route(current.without(broken), number, chain_id)
        # A first copy skips no version silently either. Broken versions that are not on the way do not matter.
        is_way = route.entries is not None and not route.gap and not (broken and version is None)
        if is_way and route.entries is not None:
            return route.entries[0] if route.entries else None
        problem = route.gap or ("a version is broken" if broken else "no full version leads to the newest one")
        gap = ExportGapError(
            " ".join([f"{self._store.path}: {problem}.", *broken.values()]), version=number, missing=route.missing
        )
        if self._on_gap == "raise" or not route.entries:
            raise gap
        _LOG.warning("%s All rows are read anew from %s.", gap, route.entries[0].name)
        return route.entries[0]

    def _apply(self, entry: Entry) -> None:
        """Reads a version and makes it that of the copy."""
        if entry.kind == FULL:
            snapshot = self._reader.read_full(entry)
            with self._change():
                self._snapshot = snapshot
            return
        # The rows are read and their places are found beside lookups; only the copy into the matrix is not.
        snapshot, changes = self._reader.read_delta(entry, self._snapshot)
        with self._change():
            for name, change in changes.items():
                snapshot.tables[name].commit(change)
            self._snapshot = snapshot

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Lets lookups that run now begin again, and others wait."""
        with self._changing:
            self._changes += 1
            try:
                yield
            finally:
                self._changes += 1
