"""`WindowCheckpoint`: saves the model together with the position of its stream, so that each record counts once."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import keras

from tfps.checks import check_integer, check_type
from tfps.embedding.table import TouchedCursor
from tfps.errors import CheckpointError
from tfps.keras import checkpoints
from tfps.keras._compat import TFEpochIterator
from tfps.keras.checkpoint_callback import Checkpoint
from tfps.keras.model_content import strategy_of
from tfps.keras.resuming import Progress
from tfps.saving.folders import name_of
from tfps.saving.manifest import Manifest
from tfps.streaming.windows import Window
from tfps.types import JSON

_LOG = logging.getLogger("tfps")

_ENTRY = "stream"
"""The entry in what a checkpoint says about the progress of a training."""


@dataclasses.dataclass(frozen=True)
class StreamState:
    """Where a training is in its stream.

    Args:
        number: the number of the window that is trained next, or is being trained.
        position: the position of the source before it; None at the start.
        window: the window that is being trained; None between two windows.
        after: the position after that window.
        tested: what the test of that window gave.
    """

    number: int = 0
    position: JSON = None
    window: Window | None = None
    after: JSON = None
    tested: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def to_json(self) -> JSON:
        """Returns the state as JSON."""
        return {
            "number": self.number,
            "position": self.position,
            "window": None if self.window is None else self.window.to_json(),
            "after": self.after,
            "tested": dict(self.tested),
        }

    @property
    def next(self) -> "StreamState":
        """The state once the window is trained."""
        return StreamState(self.number + 1, self.after)

    @classmethod
    def from_manifest(cls, manifest: Manifest, path: str) -> "StreamState":
        """Reads the state that a checkpoint has.

        Args:
            manifest: the manifest of the checkpoint.
            path: the folder, for messages.

        Raises:
            CheckpointError: the checkpoint was not written by the training of a stream, or is broken.
        """
        value = manifest.progress.get(_ENTRY)
        if value is None:
            raise CheckpointError(
                f"the checkpoints in {path} were not written by tfps.streaming.fit, so the position in the stream is "
                "not known. Valid: another folder; `tfps.checkpoint.restore` gives the model their values."
            )
        fields = check_type(_ENTRY, value, dict, "an object", error=CheckpointError)
        tested = check_type("tested", fields.get("tested"), dict, "an object", error=CheckpointError)
        window = fields.get("window")
        return cls(
            check_integer("number", fields.get("number"), at_least=0, error=CheckpointError),
            fields.get("position"),
            None if window is None else Window.from_json(window),
            fields.get("after"),
            {str(name): float(one) for name, one in tested.items()},
        )


class WindowCheckpoint(Checkpoint):
    """Saves the training of a stream, for `tfps.streaming.fit`.

    It saves at the end of every window, and with `every_steps` or `every_s` also within one, with the parts of the
    window and the place in them. Model and position are in one checkpoint, so after any kill each record counts once.

    Args:
        path: the folder of the checkpoints, a path or an fsspec URL. See `tfps.callbacks.Checkpoint` for this and all
            other arguments.
        every_steps: the number of batches between two checkpoints within a window; None for none.
        every_s: the number of seconds between two checkpoints within a window; None for none.
        keep: the number of checkpoints that stay; None for all.
        recovery: what happens in this program after a parameter server has died: "consistent" or "partial".
        background: whether the next window begins while a checkpoint is written.
        full_every: the number of checkpoints of which one has all rows; the others are deltas.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    # The state of the window that is trained; None before the first one of this program.
    _state_now: StreamState | None = None
    # Whether the counters of this object are those of the last window.
    _continues = False
    # What the last complete checkpoint has.
    _saved: StreamState | None = None

    @property
    def saved(self) -> StreamState | None:
        """What the last complete checkpoint of this program has; None before the first one."""
        return self._saved

    @property
    def is_whole(self) -> bool:
        """Whether the window was trained to its end, and not broken off by a signal or a callback."""
        return not self._stopped

    @property
    def path(self) -> str:
        """The folder of the checkpoints."""
        return self._folder.path

    def look(self) -> StreamState:
        """Returns the state of the newest checkpoint without reading its values; the start if there is none.

        Raises:
            CheckpointError: it was not written by the training of a stream.
        """
        # The one that is marked as latest comes first, then the others from the newest: `sorted` keeps their order.
        for name in sorted(reversed(self._folder.names()), key=lambda one: one != self._folder.latest()):
            try:
                manifest = self._folder.open(name).manifest
            except CheckpointError:
                # `restore` names it, and takes the one before.
                continue
            return StreamState.from_manifest(manifest, self.path)
        return StreamState()

    def restore(self, model: keras.Model) -> StreamState | None:
        """Gives a built model the values of the newest checkpoint that is whole.

        Returns:
            What it has; None if there is no checkpoint.

        Raises:
            CheckpointError: no checkpoint can be used, or they are of another kind or model.
        """
        self.set_model(model)
        trained = checkpoints.trained_steps(model)
        # The first `fit` goes on at the place that it has, and does not restore again.
        self._recovered = manifest = self._restore_latest()
        if manifest is None:
            return None
        if trained > manifest.step:
            _LOG.warning("the model goes back from step %d to step %d of %s.", trained, manifest.step, self.path)
        return StreamState.from_manifest(manifest, self.path)

    def begin_window(self, state: StreamState) -> None:
        """Notes the window that the next `fit` trains."""
        self._state_now = state

    def finish(self) -> None:
        """Ends the training: waits for the checkpoint under way, and saves what is in none yet."""
        self.finish_writing()
        # A checkpoint is left out while another one is written in the background, so the last window may not be saved.
        if self._latest != name_of(self._before_epoch) and not self._stopped and self._continues:
            self._save(in_epoch=False)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Begins a window."""
        chain, trained = self._chain, self._before_epoch
        goes_on = self._continues and self._recovered is None
        recovered = self._recovered
        super().on_train_begin(logs)
        if goes_on:
            # The batches of all windows, and the deltas of this program.
            self._chain, self._before_epoch = chain, trained
            # Set where the first window was restored; without servers Keras would keep it.
            self.model._initial_epoch = 0
        elif recovered is not None:
            self._check_window(recovered)
        self._continues = True

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Saves, if it is time, and notes whether a callback breaks the window off."""
        strategy = strategy_of(self.model)
        asked = strategy is not None and strategy.stop_signals.asked
        if self.model.stop_training and not asked:
            # For example at a loss of NaN: neither the half window nor this model is saved.
            self._stopped = True
            return
        super().on_train_batch_end(batch, logs)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Saves the end of the window, if its epoch has not done it."""
        # With these the base class saves within epochs only; the end of the window is a checkpoint of its own.
        if not self._stopped and (self._every_steps is not None or self._every_s is not None):
            self._save(in_epoch=False, background=self._background)

    def _check_window(self, manifest: Manifest) -> None:
        """Refuses to train a window that does not follow what was restored."""
        state, now = StreamState.from_manifest(manifest, self.path), self._state_now
        if now is not None and state.number != now.number:
            raise CheckpointError(
                f"window {now.number} does not follow the checkpoint of step {manifest.step}, after which window "
                f"{state.number} comes. Valid: start the program again; it goes on there."
            )

    def _find_start(self) -> Manifest | None:
        """Returns None: the model has the values of the window before."""
        return None

    def _after_epoch(self, iterator: TFEpochIterator, progress: Progress) -> Progress:
        """The next epoch is another window, with an input of its own."""
        return Progress(progress.epoch, 0, None)

    def _state(self, progress: Progress) -> dict[str, JSON]:
        """Adds the state of the stream."""
        now = self._state_now
        assert now is not None
        # The number of the epoch is that of the window.
        return {**super()._state(progress), _ENTRY: (now.next if progress.epoch > now.number else now).to_json()}

    def _write(self, prepared: checkpoints.Prepared, name: str, cursors: Mapping[int, TouchedCursor]) -> None:
        super()._write(prepared, name, cursors)
        # After the write: what `saved` tells is on the disk, and offsets may be committed up to there.
        value = prepared.progress[_ENTRY]
        self._saved = StreamState(value["number"], value["position"])
