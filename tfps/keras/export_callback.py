"""`Export`: writes what a follower needs to serve a model, while `fit` trains it."""

import functools
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from tfps.checks import check_integer, check_number
from tfps.errors import TfpsError, UnsupportedError
from tfps.keras import checkpoints
from tfps.keras.batch_callbacks import SavingCallback
from tfps.keras.exported_values import ExportedModel
from tfps.keras.model_content import strategy_of
from tfps.saving.background import BackgroundWrite
from tfps.saving.version_list import VersionList
from tfps.serving.row_files import load_pyarrow
from tfps.serving.stores import open_store
from tfps.serving.versions import FULL, Version, name_of

_LOG = logging.getLogger("tfps")


class Export(SavingCallback):
    """Exports tables and dense variables for serving, while `fit` trains the model.

    A `tfps.serving.Follower` keeps a copy in step with it. The first version has all rows, later ones are deltas with
    the rows that were updated since the version before; every `full_every`-th one is there in full too, for followers
    that begin. The rows are read beside training, which waits for nothing: a row is never torn, and is at least as new
    as the moment of its version. What the optimizer keeps is not exported. The last version, at the end of `fit`, has
    the values at its end.

    A version that cannot be written is named in the log, and the next one has its rows too; at the end of `fit` it is
    an error. A training that is started again begins with a full version, whose number is larger than all before.

    Args:
        url: the folder of the versions, a path or an fsspec URL. It is made if it is not there. One training at a time
            may write into it.
        every_s: the number of seconds between the beginnings of two versions. An export that takes longer delays the
            next.
        full_every: the number of versions, at least 1, of which one is there in full.
        keep: the number of full versions, at least 2, that stay, each with the deltas after it. Followers may lag
            behind by `(keep - 1) * full_every * every_s` seconds before they must read all rows anew.

    Raises:
        ConfigError: an argument breaks its rule, or pyarrow is not installed.
    """

    def __init__(
        self, url: str | os.PathLike[str], *, every_s: float = 60.0, full_every: int = 60, keep: int = 2
    ) -> None:
        super().__init__()
        load_pyarrow()
        self._store = open_store(url)
        self._every_s = check_number("every_s", every_s, above=0)
        self._full_every = check_integer("full_every", full_every, at_least=1)
        self._keep = check_integer("keep", keep, at_least=2)
        self._versions: VersionList | None = None
        self._exported: ExportedModel | None = None
        # The version that is being written, and a full one beside it, which may take longer.
        self._writing: BackgroundWrite | None = None
        self._writing_full: BackgroundWrite | None = None
        self._full: Version | None = None
        self._began_at = -float("inf")
        self._since_full = 0
        self._is_training = False

    def batches_until_save(self) -> int | None:
        """See `SavingCallback`. Seconds decide, and no step waits for an export."""
        return None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Begins to record which rows are updated."""
        strategy = strategy_of(self.model)
        if strategy is None:
            raise UnsupportedError(
                "`Export` needs a ParameterServerStrategy, whose servers know which rows were updated. "
                f"Received: a model of {type(self.model.distribute_strategy).__name__}. Valid: `model.export`."
            )
        # A `fit` that has failed may have left one.
        self._finish_writing()
        if self._exported is None or not self._exported.is_of(self.model):
            self._exported = ExportedModel(self.model, strategy)
        with self._store.lock():
            self._versions = self._versions or VersionList(self._store, self._keep)
            self._versions.check_alone()
        self._is_training = True

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Begins a version, if it is time."""
        self._export_if_due()

    def on_test_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Begins a version during the validation of an epoch, which may take longer than an interval."""
        if self._is_training:
            self._export_if_due()

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Exports the values at the end.

        Raises:
            ExportError: they cannot be written.
        """
        self._is_training = False
        self._finish_writing()
        checkpoints.settle(self.model)
        self._export()
        if self._writing_full is not None:
            self._writing_full.wait()
            with self._store.lock():
                self._publish_full()

    def _export_if_due(self) -> None:
        if time.monotonic() - self._began_at < self._every_s or (self._writing is not None and self._writing.is_alive):
            return
        self._finish_writing()
        self._began_at = time.monotonic()
        self._writing = BackgroundWrite(self._export, "a version of an export")

    def _finish_writing(self) -> None:
        """Waits for the version that is being written. If it failed, this only logs it: the next one has its rows."""
        writing, self._writing = self._writing, None
        if writing is not None:
            try:
                writing.finish()
            except TfpsError as error:
                _LOG.warning("a version was not exported, and training goes on: %s", error)

    def _export(self) -> None:
        """Writes a version, in this thread or in the background."""
        assert self._versions is not None and self._exported is not None
        began, versions, model = time.monotonic(), self._versions, self._exported
        # Held while it writes alone: a program that was killed must not keep the next one out.
        with self._store.lock():
            versions.check_alone()
            self._publish_full()
            changes = model.find_changes() if versions.is_ours else None
            if changes is None:
                version = model.write_chain(self._store, versions)
                versions.publish(version)
                self._since_full = 0
            else:
                version = model.write_delta(self._store, versions, changes)
                versions.publish(version)
                model.advance(changes)
                self._since_full += 1
        _tell(version, began)
        if self._since_full >= self._full_every and self._writing_full is None:
            # A large table takes longer than an interval, and deltas must not wait for it.
            versions.under_way, self._since_full = name_of(FULL, version.number), 0
            write = functools.partial(self._write_full, version)
            self._writing_full = BackgroundWrite(write, "a full version of an export")

    def _write_full(self, delta: Version) -> None:
        """Writes a full version beside a delta, in a thread of its own. The thread of the next version lists it."""
        assert self._exported is not None
        began = time.monotonic()
        self._full = self._exported.write_full(self._store, delta)
        _tell(self._full, began)

    def _publish_full(self) -> None:
        """Lists the full version that was written beside deltas, if there is one."""
        assert self._versions is not None
        writing, versions = self._writing_full, self._versions
        if writing is None or writing.is_alive:
            return
        self._writing_full, versions.under_way = None, None
        try:
            writing.finish()
        except TfpsError as error:
            # Followers that begin read an older one and more deltas, so the next delta makes up for it.
            self._since_full = self._full_every
            _LOG.warning("a full version was not exported: %s", error)
            return
        assert self._full is not None
        if self._full.chain_id == versions.chain_id:
            versions.publish(self._full)


def _tell(version: Version, began: float) -> None:
    size = sum(file.bytes for file in version.files)
    _LOG.info("exported %s: %.1f MB in %.1f s.", version.name, size / 1e6, time.monotonic() - began)
