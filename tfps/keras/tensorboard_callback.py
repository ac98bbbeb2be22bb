"""`TensorBoard`: shows what a job does in TensorBoard, beside what Keras's own callback shows."""

import contextlib
import logging
import os
import pathlib
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfps.checks import check_number, check_type
from tfps.diagnosis.row_norms import sample_norms
from tfps.errors import ConfigError, TfpsError, UnsupportedError
from tfps.keras.failed_fit import EndsWithFit
from tfps.keras.model_content import strategy_of
from tfps.monitoring.collector import Subscription
from tfps.monitoring.event_file import EventFile, check_installed
from tfps.monitoring.scalars import scalars
from tfps.placement.model import Plan
from tfps.placement.plot import draw
from tfps.strategy.strategy import ParameterServerStrategy

_LOG = logging.getLogger("tfps")
_RUN = "tfps"
_FIRST_S = 30.0
_END_S = 20.0
"""Seconds for which the end of `fit` waits for the last numbers. A disk that hangs must not hold it up."""
_FAILED_S = 3.0
"""The same where `fit` has failed. What has not come by then is not written."""
_SEED = 0


class TensorBoard(EndsWithFit):
    """Shows a job in TensorBoard: `tensorboard --logdir <log_dir>`. Needs `pip install 'tfps[tensorboard]'`.

    It writes the run `tfps` in the folder. Keras's own `keras.callbacks.TensorBoard(log_dir)` may write to the same
    folder, and `tfps.callbacks.Profile(log_dir)` too. Shown are, over the steps of the model:

    - the loss and the metrics as the progress bar has them; steps and examples a second, in all and by worker;
    - the staleness, by worker; CPU and memory of each task; bytes in and out of each server, and how even the servers
      are in what they store and move;
    - ids that a step looks up in each table and the bytes of their rows; of tables that grow: rows, bytes, admitted and
      refused ids, evictions;
    - norms of a sample of rows of each table, as a mean, a maximum and a histogram;
    - what GEO says of its windows;
    - where the plan puts the variables, as a picture.

    A thread of its own reads and writes, and training waits for nothing. What it cannot read or write in time is left
    out. Cost: that of a snapshot every two seconds (see docs/monitoring.md); for the norms, one lookup of at most 1,000
    rows of each table every `norms_every_s` seconds.

    Args:
        log_dir: the folder, a path or a URL that TensorFlow can write. It is made if it is not there.
        every_s: seconds between two points of a chart, at least 1.
        norms_every_s: seconds between two samples of rows; None for no norms.

    Raises:
        ConfigError: an argument breaks its rule.
        LibraryError: TensorBoard is not installed.
    """

    def __init__(
        self, log_dir: str | os.PathLike[str], *, every_s: float = 10.0, norms_every_s: float | None = 60.0
    ) -> None:
        super().__init__()
        check_installed()
        check_type("log_dir", log_dir, (str, os.PathLike), "a path or a URL")
        self._folder = os.fspath(log_dir)
        # A path of bytes too has `__fspath__`.
        if not self._folder or not isinstance(self._folder, str):
            raise ConfigError(f"`log_dir` must be a path or a URL. Received: {log_dir!r}.")
        self._every_s = check_number("every_s", every_s, at_least=1)
        self._norms_every_s = None
        if norms_every_s is not None:
            self._norms_every_s = check_number("norms_every_s", norms_every_s, above=0, valid="None for no norms")
        self._writer: _Writer | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Opens the file.

        Raises:
            UnsupportedError: the strategy has no parameter servers.
            ConfigError: the folder cannot be written.
        """
        strategy = strategy_of(self.model)
        if strategy is None:
            raise UnsupportedError(
                "`tfps.callbacks.TensorBoard` needs a ParameterServerStrategy. Received: a model of "
                f"{type(self.model.distribute_strategy).__name__}. Valid: keras.callbacks.TensorBoard."
            )
        self._writer = self._open(strategy)

    def _open(self, strategy: ParameterServerStrategy) -> "_Writer":
        try:
            file = EventFile(f"{self._folder}/{_RUN}")
        except (OSError, tf.errors.OpError) as error:
            raise ConfigError(
                f"`log_dir` must be a folder that can be written. Received: {self._folder!r} ({error}). Valid: a local "
                "path, or gs://; TensorFlow writes this file, not fsspec."
            ) from error
        return _Writer(strategy, file, self._every_s, self._norms_every_s)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Starts to write, at the first epoch: by then other callbacks have restored what they restore."""
        strategy = strategy_of(self.model)
        assert strategy is not None  # or `on_train_begin` had failed
        # A window of `fit_continuous` that failed with a server and is trained again does not begin the training.
        if self._writer is None:
            self._writer = self._open(strategy)
        if not self._writer.has_begun:
            # A model that was restored goes on with its steps, and its curves too. Other models of the program have
            # steps of their own, which the record counts as well.
            self._writer.begin(int(self.model.optimizer.iterations.numpy()) - strategy.record.counts().kept_steps)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Writes the last numbers."""
        writer, self._writer = self._writer, None
        if writer is not None and not writer.close(_END_S):
            _LOG.warning("the last numbers for TensorBoard were not written to %s within %.0f s.", self._folder, _END_S)

    def on_train_fail(self) -> None:
        """Writes the last numbers if they come soon; a task may be lost."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close(_FAILED_S)


class _Writer:
    """The thread that writes.

    Ownership: the callback closes it, also where `fit` fails. It is a daemon, and ends when the strategy does.

    Args:
        strategy: the strategy whose job is shown.
        file: the file, which this closes.
        every_s: seconds between two points.
        norms_every_s: seconds between two samples of rows; None for no norms.
    """

    def __init__(
        self, strategy: ParameterServerStrategy, file: EventFile, every_s: float, norms_every_s: float | None
    ) -> None:
        self._strategy, self._file, self._steps_before = strategy, file, 0
        self._every_s, self._norms_every_s = every_s, norms_every_s
        self._draws = np.random.default_rng(_SEED)
        self._plan: Plan | None = None
        self._norms_at = -float("inf")
        self._end = threading.Event()
        self._ended_at = 0.0
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="tfps-tensorboard", daemon=True)

    @property
    def has_begun(self) -> bool:
        """Whether the thread was started."""
        return self._thread.ident is not None

    def begin(self, steps_before: int) -> None:
        """Starts the thread.

        Args:
            steps_before: what to add to the steps of the program to have those of the model; may be negative.
        """
        self._steps_before = steps_before
        self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """Lets the thread write once more and end; returns whether it has ended in time. If not, it writes no more."""
        if not self.has_begun:
            self._file.close()
            return True
        self._ended_at = time.time()
        self._end.set()
        self._thread.join(timeout_s)
        self._is_over = True
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with contextlib.closing(self._file), self._strategy.monitor.subscribe() as subscription:
                is_last = False
                while not is_last:
                    is_last = self._end.wait(self._every_s)
                    self._write(subscription)
        # Training is worth more than its charts.
        except (TfpsError, tf.errors.OpError, OSError) as error:
            if not self._is_over:
                _LOG.warning("nothing more is written for TensorBoard: %s", str(error).splitlines()[0])

    def _write(self, subscription: Subscription) -> None:
        snapshot = subscription.next(_FIRST_S)
        # The last point is of the end of training; a snapshot that is new here may have been made before it.
        while self._end.is_set() and snapshot.at < self._ended_at:
            snapshot = subscription.next(_FIRST_S)
        if self._is_over:
            return
        step = self._steps_before + snapshot.kept_steps
        self._file.add_scalars(scalars(snapshot), step)
        plan = self._strategy.plan
        if plan != self._plan:
            self._plan = plan
            self._file.add_picture("placement", _picture(plan), step)
        if self._norms_every_s is not None and time.monotonic() - self._norms_at >= self._norms_every_s:
            self._norms_at = time.monotonic()
            self._write_norms(step)
        self._file.flush()

    def _write_norms(self, step: int) -> None:
        for table, _ in self._strategy.factory.tables:
            sampled = sample_norms(table, self._draws)
            norms = sampled[np.isfinite(sampled)]
            self._file.add_scalars({f"rows_not_finite/{table.name}": float(sampled.size - norms.size)}, step)
            if norms.size:
                self._file.add_histogram(f"row_norms/{table.name}", norms, step)
                found = {"mean": float(norms.mean()), "largest": float(norms.max())}
                self._file.add_scalars({f"row_norm_{what}/{table.name}": one for what, one in found.items()}, step)


def _picture(plan: Plan) -> bytes:
    with tempfile.TemporaryDirectory(prefix="tfps-plan-") as folder:
        path = pathlib.Path(folder) / "plan.png"
        draw(plan, path)
        return path.read_bytes()
