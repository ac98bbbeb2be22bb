"""`Checkpoint`: saves a model while `fit` trains it, and lets a `fit` that is started again go on from there."""

import contextlib
import dataclasses
import functools
import logging
import os
import time
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from tfps.checks import check_bool, check_choice, check_integer, check_number
from tfps.cluster.faults import translate_errors
from tfps.embedding.table import TouchedCursor
from tfps.errors import CheckpointError, CheckpointMismatchError, UnsupportedError
from tfps.keras import building, checkpoints, eager_steps, resuming
from tfps.keras._compat import TFEpochIterator
from tfps.keras.functions import StepFunction
from tfps.keras.model_content import content_of, strategy_of
from tfps.keras.resuming import Progress
from tfps.keras.seeds import twins_of
from tfps.keras.server_recovery import RestoringCallback
from tfps.saving.background import BackgroundWrite
from tfps.saving.folders import name_of
from tfps.saving.locations import open_folder
from tfps.saving.manifest import Manifest
from tfps.saving.rows import Touches
from tfps.types import JSON

_LOG = logging.getLogger("tfps")


class Checkpoint(RestoringCallback):
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
        recovery: what happens in this program after a parameter server has died and was started again. "consistent"
            restores everything from the last checkpoint and trains again what came after it. "partial" restores only
            what the lost server held, and goes on: all else keeps what it has learned since.
        background: whether training goes on while a checkpoint is written. It waits only until every server has copied
            its rows, and needs memory for the copy. A checkpoint that is due while another is written is left out.
        full_every: the number of checkpoints, at least 1, of which one has all rows. The others are deltas, with the
            rows that were touched since the one before; they need all of their chain, which is kept.

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
        recovery: str = "consistent",
        background: bool = False,
        full_every: int = 1,
    ) -> None:
        super().__init__()
        self._folder = open_folder(path)
        none = "None for no such limit"
        self._every_steps = (
            None if every_steps is None else check_integer("every_steps", every_steps, at_least=1, valid=none)
        )
        self._every_s = None if every_s is None else check_number("every_s", every_s, above=0, valid=none)
        self._keep = None if keep is None else check_integer("keep", keep, at_least=1, valid="None to keep all")
        self._recovery = check_choice("recovery", recovery, ("consistent", "partial"))
        self._background = check_bool("background", background)
        self._full_every = check_integer("full_every", full_every, at_least=1)
        # The names of the chain of the latest checkpoint, the complete one first, and what was touched since.
        self._chain: list[tuple[str, Manifest]] = []
        self._touches = Touches()
        self._writing: BackgroundWrite | None = None
        self._stopped = False
        # Where the `fit` was that has lost a server, and what was restored for the one that goes on.
        self._reached = Progress(0, 0, None)
        self._recovered: Manifest | None = None
        self._input: TFEpochIterator | None = None
        self._progress = Progress(0, 0, None)
        # The batches of all epochs before this one, in all programs.
        self._before_epoch = 0
        self._since_save = 0
        self._saved_at = 0.0
        self._latest: str | None = None
        self._is_resumed = False
        self._has_told = False

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
        trained = checkpoints.trained_steps(self.model)
        self._progress, self._before_epoch = Progress(0, 0, None), trained
        self._since_save, self._saved_at = 0, time.monotonic()
        # Deltas begin with a complete checkpoint of this program.
        self._chain, self._stopped = [], False
        if self._input is not None and not eager_steps.runs_eagerly(self.model):
            building.build_optimizers(self.model, self._input._distributed_dataset.element_spec)
        recovered = self._recovered is not None
        manifest, self._recovered = self._recovered or self._find_start(), None
        self._is_resumed = manifest is not None
        if manifest is not None:
            if (now := checkpoints.trained_steps(self.model)) < trained and not recovered:
                _LOG.warning("the model goes back from step %d to step %d of %s.", trained, now, self._folder.path)
            self._go_on(manifest)

    def _find_start(self) -> Manifest | None:
        """Restores what `fit` begins with; returns None if it begins anew."""
        return self._restore_latest()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Notes the epoch, and the batches of it that another program has trained."""
        resumed = self._is_resumed and epoch == self._progress.epoch
        self._progress = Progress(epoch, self._progress.batches if resumed else 0, None)
        self._is_resumed = False

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Saves, if it is time."""
        self._since_save += batch + 1 - self._progress.batches
        self._progress = Progress(self._progress.epoch, batch + 1, None)
        strategy = strategy_of(self.model)
        if strategy is not None and strategy.stop_signals.asked and self.model.stop_training:
            # The epoch is not over, whatever Keras calls next.
            self._stopped = True
            self.finish_writing()
            self._save(in_epoch=True)
            return
        # Between two batches, so an interval is at least as long as a batch.
        is_late = self._every_s is not None and time.monotonic() - self._saved_at >= self._every_s
        if is_late or (self._every_steps is not None and self._since_save >= self._every_steps):
            self._save(in_epoch=True, background=self._background)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Saves, if epochs are what it saves after."""
        if self._stopped:
            return
        self._before_epoch += self._progress.batches
        self._progress = Progress(epoch + 1, 0, None)
        if self._every_steps is None and self._every_s is None:
            self._save(in_epoch=False, background=self._background)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Saves the end."""
        self.finish_writing()
        if not self._stopped and self._latest != name_of(self._before_epoch):
            self._save(in_epoch=False)

    def _save(self, in_epoch: bool, background: bool = False) -> None:
        """Writes a checkpoint and removes old ones."""
        if self._writing is not None and self._writing.is_alive:
            level = logging.DEBUG if self._has_told else logging.WARNING
            _LOG.log(level, "a checkpoint is left out, because the one before is still being written. Said once.")
            self._has_told = True
            self._since_save, self._saved_at = 0, time.monotonic()
            return
        self.finish_writing()
        progress, strategy = self._progress, strategy_of(self.model)
        if strategy is not None and self._input is not None:
            checkpoints.settle(self.model)
            if in_epoch:
                progress = resuming.progress_in_epoch(self.model, self._input, progress.epoch, progress.batches)
            else:
                progress = self._after_epoch(self._input, progress)
        step = self._before_epoch + progress.batches
        # Nothing was trained since, after a restore say.
        if name_of(step) != self._latest:
            self._check_alone()
            # A server may die between two steps; then this is the first to ask it something.
            cluster = None if strategy is None else strategy.connection.cluster
            with contextlib.nullcontext() if cluster is None else translate_errors(cluster):
                prepared, cursors = self._prepare(progress, step, background)
            write = functools.partial(self._write, prepared, name_of(step), cursors)
            if background:
                self._writing = BackgroundWrite(write)
            else:
                write()
        self._since_save, self._saved_at = 0, time.monotonic()

    def _after_epoch(self, iterator: TFEpochIterator, progress: Progress) -> Progress:
        """Returns where the next epoch begins, after the epochs before `progress`."""
        return resuming.progress_after_epoch(iterator, progress.epoch - 1)

    def _prepare(
        self, progress: Progress, step: int, copies: bool
    ) -> tuple[checkpoints.Prepared, Mapping[int, TouchedCursor]]:
        """Prepares a checkpoint: a delta, if the chain is short enough and the rows that were touched are known."""
        state = self._state(progress)
        if self._full_every == 1 or strategy_of(self.model) is None:
            return checkpoints.prepare(self.model, state, step, copies=copies), {}
        content = content_of(self.model)
        found = self._touches.since(content) if 0 < len(self._chain) < self._full_every else None
        # A delta has rows that came or changed. One that has gone would come back with the checkpoint before it.
        gone = None if found is None else self._touches.evicted(content)
        if found is None or gone is None or any(ids.size for ids in gone):
            self._chain = []
            self._touches.begin(content)
            return checkpoints.prepare(self.model, state, step, copies=copies), {}
        touched, cursors = found
        base = self._chain[-1]
        return checkpoints.prepare(self.model, state, step, copies=copies, touched=touched, base=base), cursors

    def _write(self, prepared: checkpoints.Prepared, name: str, cursors: Mapping[int, TouchedCursor]) -> None:
        """Writes what was prepared, in this thread or in the background."""
        # Held while it writes alone: a program that was killed must not keep the next one out.
        with self._folder.lock():
            if name in self._folder.names():
                # Training went back before it, because it was broken, and has come to it again.
                self._folder.remove(name)
            manifest = checkpoints.write(prepared, self._folder, name)
            self._folder.set_latest(name)
            self._latest = name
            self._chain = [*(self._chain if prepared.base else ()), (name, manifest)]
            self._touches.advance(cursors)
            self._remove_old()

    def finish_writing(self) -> None:
        """See `RestoringCallback`."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.finish()

    @property
    def can_restore(self) -> bool:
        """See `RestoringCallback`."""
        again = self._input is None or resuming.may_rewind(self._input)
        return self._latest is not None and (again or self._recovery == "partial")

    def begin_recovery(self) -> None:
        """See `RestoringCallback`."""
        if self._writing is not None:
            # Whatever it was: that checkpoint is not there, and the one before it is.
            with contextlib.suppress(Exception):
                self.finish_writing()
        # What was touched before the loss is not known after it.
        self._chain = []
        function, self._reached = self.model.train_function, self._progress
        schedule = function.abandoned if isinstance(function, StepFunction) else None
        if schedule is not None:
            place = schedule.epoch.place(schedule.taken())
            self._reached = Progress(self._progress.epoch, schedule.trained, place)

    def restore_lost(self, servers: list[int]) -> None:
        """See `RestoringCallback`."""
        names = " and ".join(f"server {server}" for server in servers)
        step = self._before_epoch + self._reached.batches
        if self._recovery == "consistent":
            self._recovered = manifest = self._restore_latest()
            assert manifest is not None
            _LOG.warning("%s: all rows go back by %d steps, which are trained again.", names, step - manifest.step)
            self.model.distribute_strategy.record.take_back(step - manifest.step)
            return
        manifest = self._restore_latest(servers)
        assert manifest is not None
        tables = [table for one in content_of(self.model).tables for table in one.tables[:1]]
        rows = sum(
            table.routing.shard_rows(shard)
            for table in tables
            for shard, server in enumerate(table.servers)
            if server in servers
        )
        _LOG.warning("%s: %d rows there have lost what %d steps gave them.", names, rows, step - manifest.step)
        self._recovered = dataclasses.replace(manifest, step=step, progress=self._state(self._reached))

    def _check_alone(self) -> None:
        """Refuses to go on where another program has written since."""
        latest = self._folder.latest()
        if latest != self._latest and latest in self._folder.names():
            raise CheckpointError(
                f"another program has written {latest} to {self._folder.path} since this one began or saved. "
                "Valid: one folder for each training."
            )

    def _remove_old(self) -> None:
        """Removes all but the newest checkpoints, and those that they are deltas of."""
        names = self._folder.names()
        if self._keep is None or len(names) <= self._keep:
            return
        needed = {name for name, _ in self._chain}
        for name in names[-self._keep :]:
            with contextlib.suppress(CheckpointError):
                # A chain is in one folder, and its names are those of folders.
                while name not in needed:
                    needed.add(name)
                    name = self._folder.open(name).manifest.base or name
        for name in names:
            if name not in needed:
                self._folder.remove(name)

    def _state(self, progress: Progress) -> dict[str, JSON]:
        """Returns what a checkpoint has beside the values of variables."""
        strategy = strategy_of(self.model)
        return {
            **progress.to_json(),
            "keras_seed": None if strategy is None else twins_of(strategy).global_state(),
        }

    def _restore_latest(self, servers: Collection[int] | None = None) -> Manifest | None:
        """Restores the newest checkpoint that is whole; returns None if there is none at all.

        Args:
            servers: the servers whose variables are restored; None for all variables.
        """
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
                chain = checkpoints.open_chain(self._folder, name)
                checkpoints.read(self.model, chain, servers=servers)
            except CheckpointMismatchError:
                raise
            except CheckpointError as error:
                broken = broken or error
                _LOG.warning("a checkpoint is left out: %s", error)
                continue
            if name != self._latest and servers is None:
                # What is later is left behind.
                self._folder.set_latest(name)
                self._latest = name
            return chain[-1].manifest
        if broken is not None:
            raise CheckpointError(
                f"none of the {len(order)} checkpoints in {self._folder.path} can be used. The latest: {broken} "
                "Valid: another path; or remove them, to begin anew."
            )
        return None

    def _go_on(self, manifest: Manifest) -> None:
        """Lets `fit` begin where the checkpoint was written."""
        progress = Progress.from_json(manifest.progress)
        # `step` counts the batches of the program that saved, whatever their size.
        self._before_epoch = manifest.step - progress.batches
        strategy, state = strategy_of(self.model), manifest.progress.get("keras_seed")
        if strategy is not None and self._input is not None:
            content = content_of(self.model)
            values = {name: np.array(content.read(name)) for name in content.dense} if progress.batches else {}

            def set_values() -> None:
                for name, value in values.items():
                    content.dense[name].assign(value)

            progress = resuming.go_on(self.model, self._input, progress, set_values)
            if isinstance(state, list) and len(state) == 2:
                twins_of(strategy).set_global_state(state)
        else:
            self.model._initial_epoch = progress.epoch
            if progress.batches:
                _LOG.warning(
                    "%d batches of this epoch are trained again: the place in it is not known.", progress.batches
                )
        self._progress = progress
        _LOG.info("fit goes on in epoch %d after batch %d.", progress.epoch + 1, progress.batches)
        if progress.epoch >= self.params.get("epochs", progress.epoch + 1):
            _LOG.warning(
                "fit trains nothing, because the checkpoint in %s has all its %d epochs. Valid: more epochs, or "
                "another path.",
                self._folder.path,
                self.params["epochs"],
            )
