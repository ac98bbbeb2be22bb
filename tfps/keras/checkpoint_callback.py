"""`Checkpoint`: saves a model while `fit` trains it, and lets a `fit` that is started again go on from there."""

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from tfps.checks import check_integer, check_number
from tfps.errors import CheckpointError, CheckpointMismatchError, UnsupportedError
from tfps.keras import checkpoints, resuming
from tfps.keras._compat import TFEpochIterator, metrics_of
from tfps.keras.batch_callbacks import SavingCallback
from tfps.keras.model_content import strategy_of
from tfps.keras.resuming import Progress
from tfps.keras.seeds import twins_of
from tfps.saving.folders import name_of
from tfps.saving.locations import open_folder
from tfps.saving.manifest import Manifest

_LOG = logging.getLogger("tfps")


class Checkpoint(SavingCallback):
    """Saves the whole state of a training in a folder, and goes on from the latest one when `fit` begins.

    Saved are rows, optimizer slots, dense variables, metrics under way, random states, and the place in the input. A
    `fit` that is started again with the same model, input and folder goes on at the saved step: with one worker it then
    gives what it would have given without the stop, bit for bit. With several workers each batch is trained once. Rows
    are written by their servers; see `tfps.checkpoint.save`.

    A broken checkpoint is named in the log, and the one before it is used. Without `every_steps` and `every_s` it saves
    after each epoch. It also saves at the end of `fit`, so the same `fit` does not train again, and one with more
    `epochs` goes on. Models without parameter servers are saved after epochs alone.

    Args:
        path: the folder of the checkpoints, a path or an fsspec URL. It is made if it is not there. Each is a folder in
            it, `ckpt-1200` after 1,200 batches, and the file `latest` names the last complete one.
        every_steps: the number of batches between two checkpoints, at least 1. No batch beyond it begins before it is
            saved.
        every_s: the number of seconds between two checkpoints; steps under way end before. With both, whichever comes
            first.
        keep: the number of checkpoints that stay, at least 1; None for all.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        every_steps: int | None = None,
        every_s: float | None = None,
        keep: int | None = 3,
    ) -> None:
        super().__init__()
        self._folder = open_folder(path)
        none = "None for no such limit"
        self._every_steps = (
            None if every_steps is None else check_integer("every_steps", every_steps, at_least=1, valid=none)
        )
        self._every_s = None if every_s is None else check_number("every_s", every_s, above=0, valid=none)
        self._keep = None if keep is None else check_integer("keep", keep, at_least=1, valid="None to keep all")
        self._input: TFEpochIterator | None = None
        self._progress = Progress(0, 0, None)
        # The batches of all epochs before this one, in all programs.
        self._before_epoch = 0
        self._since_save = 0
        self._saved_at = 0.0
        self._latest: str | None = None
        self._restored: Manifest | None = None

    def batches_until_save(self) -> int | None:
        """See `SavingCallback`."""
        return None if self._every_steps is None else max(1, self._every_steps - self._since_save)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Restores the latest checkpoint, if there is one."""
        has_servers = strategy_of(self.model) is not None
        if not has_servers and (self._every_steps or self._every_s):
            raise UnsupportedError(
                "`every_steps` and `every_s` need a ParameterServerStrategy, which knows the place in the input. "
                f"Received: a model of {type(self.model.distribute_strategy).__name__}. Valid: None, to save epochs."
            )
        self._input = resuming.input_of(self.model) if has_servers else None
        self._progress, self._before_epoch = Progress(0, 0, None), checkpoints.trained_steps(self.model)
        self._since_save, self._saved_at = 0, time.monotonic()
        self._restored = self._restore_latest()
        if self._restored is not None:
            self._go_on(self._restored)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Restores the metrics under way: Keras has just reset them."""
        resumed = self._restored is not None and epoch == self._progress.epoch
        self._progress = Progress(epoch, self._progress.batches if resumed else 0, None)
        if resumed and self._progress.batches:
            self._restore_metrics()
        self._restored = None

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Saves, if it is time."""
        self._since_save += batch + 1 - self._progress.batches
        self._progress = Progress(self._progress.epoch, batch + 1, None)
        is_late = self._every_s is not None and time.monotonic() - self._saved_at >= self._every_s
        if is_late or (self._every_steps is not None and self._since_save >= self._every_steps):
            self._save(in_epoch=True)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Saves, if epochs are what it saves after."""
        self._before_epoch += self._progress.batches
        self._progress = Progress(epoch + 1, 0, None)
        if self._every_steps is None and self._every_s is None:
            self._save(in_epoch=False)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Saves the end."""
        if self._latest != name_of(self._before_epoch):
            self._save(in_epoch=False)

    def _save(self, in_epoch: bool) -> None:
        """Writes a checkpoint and removes old ones."""
        strategy = strategy_of(self.model)
        progress = self._progress
        if strategy is not None and self._input is not None:
            checkpoints.settle(self.model)
            if in_epoch:
                progress = resuming.progress_in_epoch(self.model, self._input, progress.epoch, progress.batches)
            else:
                progress = resuming.progress_after_epoch(self._input, progress.epoch - 1)
        step = self._before_epoch + progress.batches
        name = name_of(step)
        state = progress.to_json()
        state["keras_seed"] = None if strategy is None else twins_of(strategy).global_state()
        with self._folder.lock():
            self._check_alone()
            if name != self._latest:
                checkpoints.write(self.model, self._folder, name, state, step)
                self._folder.set_latest(name)
                self._latest = name
                self._remove_old()
        self._since_save, self._saved_at = 0, time.monotonic()

    def _check_alone(self) -> None:
        """Refuses to go on where another program has written since."""
        latest = self._folder.latest()
        if latest != self._latest and latest in self._folder.names():
            raise CheckpointError(
                f"another program has written {latest} to {self._folder.path} since this one began or saved. "
                "Valid: one folder for each training."
            )

    def _remove_old(self) -> None:
        names = self._folder.names()
        if self._keep is not None:
            for name in names[: -self._keep]:
                if name != self._latest:
                    self._folder.remove(name)

    def _restore_latest(self) -> Manifest | None:
        """Restores the newest checkpoint that is whole; None if there is none at all."""
        self._latest = self._folder.latest()
        names = self._folder.names()
        if self._latest not in names:
            # The file `latest` is missing or broken.
            self._latest = names[-1] if names else None
        # The one that `latest` names, then the others, the newest first.
        order = sorted(reversed(names), key=lambda name: name != self._latest)
        broken: CheckpointError | None = None
        for name in order:
            try:
                stored = self._folder.open(name)
                checkpoints.read(self.model, stored)
            except CheckpointMismatchError:
                raise
            except CheckpointError as error:
                broken = broken or error
                _LOG.warning("a checkpoint is left out: %s", error)
                continue
            return stored.manifest
        if broken is not None:
            raise CheckpointError(
                f"none of the {len(order)} checkpoints in {self._folder.path} can be used. The latest: {broken} "
                "Valid: another path; or remove them, to begin anew."
            )
        return None

    def _go_on(self, manifest: Manifest) -> None:
        """Lets `fit` begin where the checkpoint was written."""
        self._progress = progress = Progress.from_json(manifest.progress)
        self._before_epoch = manifest.step - progress.batches
        strategy, state = strategy_of(self.model), manifest.progress.get("keras_seed")
        if strategy is not None and self._input is not None:
            resuming.go_on(self.model, self._input, progress)
            if isinstance(state, list) and len(state) == 2:
                twins_of(strategy).set_global_state(state)
        else:
            self.model._initial_epoch = progress.epoch
        _LOG.info("fit goes on in epoch %d after batch %d.", progress.epoch + 1, progress.batches)
        self._metrics = {
            variable.path: variable.numpy() for metric in metrics_of(self.model) for variable in metric.variables
        }

    def _restore_metrics(self) -> None:
        for metric in metrics_of(self.model):
            for variable in metric.variables:
                variable.assign(self._metrics[variable.path])
