"""`Export`: writes what a follower needs to serve a model, while `fit` trains it."""

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
        self._writing: BackgroundWrite | None = None
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
            changed = model.find_changes() if versions.is_ours else None
            if changed is not None:
                version = model.write_delta(self._store, versions, changed)
                versions.publish(version)
                model.advance(changed)
                self._since_full += 1
            if changed is None or self._since_full >= self._full_every:
                version = model.write_full(self._store, versions, changed)
                versions.publish(version)
                self._since_full = 0
        size = sum(file.bytes for file in version.files)
        _LOG.info("exported %s: %.1f MB in %.1f s.", version.name, size / 1e6, time.monotonic() - began)
