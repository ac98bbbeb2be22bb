"""`Profile`: records some steps of `fit` on servers and workers, and says where their time goes."""

import logging
import os
import pathlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfps.checks import check_integer, check_list, check_number
from tfps.diagnosis.capture import Capture, choose_tasks
from tfps.diagnosis.report import TABLE, TIMELINE, TRACE, Recording, Span, make_report, read_timeline
from tfps.diagnosis.timeline import Timeline
from tfps.errors import ConfigError, TfpsError, UnsupportedError
from tfps.keras.batch_callbacks import SavingCallback
from tfps.keras.failed_fit import EndsWithFit
from tfps.keras.functions import StepFunction
from tfps.keras.model_content import strategy_of
from tfps.serving.stores import Store, open_store
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.asynchronous.pacing import ALONE

_LOG = logging.getLogger("tfps")
_AHEAD = 3
"""Closures of a worker that may have begun when `fit` hands out a step: two, and one more for the begin to arrive."""
_END_S = 900.0
"""Seconds for which the end of `fit` waits for a report."""
_TENSORBOARD, _TIMELINE = "plugins/profile", "timeline"
_XPLANE = ".xplane.pb"


class Profile(SavingCallback, EndsWithFit):
    """Records some steps of `fit` on servers and workers, and says where their time goes.

    At the end of `fit` it prints a table: how long a step takes in each stage (input, ids, waiting for rows, forward
    and backward pass, push, exchange) on each worker and server, and one line of advice. The stages of a task add up to
    its step. The folder gets, for each run:

    - `timeline/<run>/timeline.json`: the table with all its numbers; `table.txt`: the table as printed.
    - `timeline/<run>/trace.json.gz`: all operations of all tasks on one clock, for https://ui.perfetto.dev.
    - `plugins/profile/<run>/`: the same for the profiler of TensorBoard (`tensorboard --logdir <url>`; it needs the
      package `tensorboard-plugin-profile`).

    Workers run steps ahead of `fit`, so the recording begins some closures before the first step and ends after the
    last one; `timeline.json` says which steps may be in it. Recording makes each operation about a microsecond slower,
    and a dataset that works element by element slower than that. If the tasks cannot be recorded, the log says why, and
    training goes on. Before and after the recording the callback costs nothing.

    Args:
        url: the folder, a path or an fsspec URL. It is made if it is not there.
        steps: the first and the last step that are recorded, counted from 1 over all epochs of this `fit`. The first
            closures of a `fit` cannot be recorded. An asynchronous model that is new is trained by one worker alone for
            512 steps or more; a profile of those shows the others idle, and the log warns of it.
        workers: the numbers of the workers that are recorded; None for all. Servers are all recorded.
        most_s: the recording ends after so many seconds, even if the last step has not come.

    Attributes:
        timeline: the timeline of the last `fit`; None before, and if nothing was recorded.
        advice: the line of advice; "" before.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        steps: Sequence[int] = (200, 300),
        workers: Sequence[int] | None = None,
        *,
        most_s: float = 3.0,
    ) -> None:
        super().__init__()
        self._store: Store = open_store(url)
        self._first, self._last = _check_steps(steps)
        self._workers = None if workers is None else _check_workers(workers)
        self._most_s = check_number("most_s", most_s, above=0)
        self.timeline: Timeline | None = None
        self.advice = self._shown = ""
        self._capture: Capture | None = None
        self._ahead = 0
        # Steps that were handed out: before this epoch, in all, and when the recording began.
        self._before = self._done = self._begun = 0
        self._is_stopped = False

    def batches_until_save(self) -> int | None:
        """See `SavingCallback`. No step waits for a recording."""
        return None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Checks that the folder can be written and that there are tasks to record.

        Raises:
            ExportError: the folder cannot be written.
            UnsupportedError: the strategy has no parameter servers.
            ConfigError: there is no such worker.
        """
        strategy = strategy_of(self.model)
        if strategy is None:
            raise UnsupportedError(
                "`Profile` needs a ParameterServerStrategy, whose tasks it records. Received: a model of "
                f"{type(self.model.distribute_strategy).__name__}. Valid: keras.callbacks.TensorBoard(profile_batch=)."
            )
        missing = [index for index in self._workers or () if index >= strategy.num_workers]
        if missing:
            count = strategy.num_workers
            raise ConfigError(
                f"`workers` has {', '.join(map(str, missing))}, and the cluster has {count} worker{'s' * (count > 1)}. "
                f"Valid: 0{f' to {count - 1}' * (count > 1)}."
            )
        self._store.begin(f"{_TIMELINE}/check").discard()
        self._begin(strategy)

    def _begin(self, strategy: ParameterServerStrategy) -> None:
        closure = max(int(self.model.steps_per_execution), strategy.dense_exchange_every)
        self._ahead = _AHEAD * closure * strategy.num_workers
        self._capture = Capture(choose_tasks(strategy, self._workers), self._most_s)
        self._before = self._done = self._begun = 0
        self._is_stopped, self.timeline, self.advice = False, None, ""

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Counts on from the steps of the epochs before."""
        self._before = self._done

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Begins the recording if the first step may begin soon, and ends it after the last one."""
        self._done = self._before + batch + 1
        capture = self._capture
        if capture is None or self._is_stopped:
            return
        if not self._begun:
            # Not before a step is done: until then graphs are traced.
            if self._done + 1 >= self._first - self._ahead:
                self._begun = self._done + 1
                capture.start()
        elif capture.seconds > 0 and (self._done >= self._last or capture.seconds > self._most_s):
            self._stop(capture)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Waits for the report, and prints it."""
        capture, self._capture = self._capture, None
        if capture is None:
            return
        if not self._begun:
            _LOG.warning(
                "nothing was profiled: `fit` ended after %d steps, and `steps` begins at %d.", self._done, self._first
            )
            return
        if not self._is_stopped:
            self._stop(capture)
        try:
            if not capture.wait(_END_S):
                _LOG.warning("the report of a profile has not come within %.0f s.", _END_S)
                return
        except (TfpsError, tf.errors.OpError, OSError) as error:
            _LOG.warning("nothing was profiled, and training went on: %s", str(error).splitlines()[0])
            return
        # Not in the log, which shows no reports unless a program asks for them. Keras prints its summaries, too.
        print(self._shown, flush=True)

    def on_train_fail(self) -> None:
        """Ends a recording, which would make the tasks slow and be in the way of the next one."""
        capture, self._capture = self._capture, None
        # A report that is being made is complete.
        if capture is not None and self._begun and not self._is_stopped:
            capture.drop()

    def _stop(self, capture: Capture) -> None:
        self._is_stopped = True
        self._warn_if_young(capture)
        # Steps that have begun but were not handed out may be in the recording, too.
        span = Span(self._begun, self._done + self._ahead, self._done - self._begun + 1)
        capture.stop(lambda recordings: self._report(recordings, span))

    def _report(self, recordings: list[Recording], span: Span) -> None:
        """Writes the files, in a thread beside training."""
        run = time.strftime("%Y_%m_%d_%H_%M_%S")
        with tempfile.TemporaryDirectory(prefix="tfps-profile-") as folder:
            out = make_report(recordings, span, pathlib.Path(folder))
            files = {path.name: path.read_bytes() for path in out.iterdir()}
        _write(self._store, f"{_TENSORBOARD}/{run}", {name: data for name, data in files.items() if _XPLANE in name})
        _write(self._store, f"{_TIMELINE}/{run}", {name: files[name] for name in (TIMELINE, TABLE, TRACE)})
        self.timeline, self.advice = read_timeline(files[TIMELINE])
        self._shown = (
            f"Where the time of a step goes (steps {span.first} to {span.last} at most):\n{files[TABLE].decode()}\n"
            f"{self.advice}\nMore in {self._store.path}/{_TIMELINE}/{run}."
        )

    def _warn_if_young(self, capture: Capture) -> None:
        """Says so if one worker alone trained while all should be recorded."""
        function = self.model.train_function
        if capture.has_failed or not isinstance(function, StepFunction):
            return
        if function.mode.begins_alone():
            _LOG.warning(
                "the profile of steps %d to %d shows a young model, which one worker trains alone: the others have no "
                "work yet. Valid: `steps` after the first %d or more (docs/convergence.md).",
                *(self._begun, self._done, ALONE),
            )


def _write(store: Store, name: str, files: Mapping[str, bytes]) -> None:
    draft = store.begin(name)
    for file, data in files.items():
        draft.write(file, data)
    draft.finish()


def _check_steps(steps: object) -> tuple[int, int]:
    rule = "the numbers of the first and the last step, such as (200, 300)"
    given = check_list("steps", steps, rule)
    if len(given) != 2:
        raise ConfigError(f"`steps` must be {rule}. Received: {steps!r}.")
    first, last = (check_integer(f"steps[{place}]", one, at_least=1) for place, one in enumerate(given))
    if first > last:
        raise ConfigError(f"`steps` must be (first, last) with first <= last. Received: {steps!r}.")
    return first, last


def _check_workers(workers: object) -> list[int]:
    given = check_list("workers", workers, "a list of numbers of workers")
    found = sorted({check_integer(f"workers[{place}]", one, at_least=0) for place, one in enumerate(given)})
    if not found:
        raise ConfigError("`workers` must have at least one number. Received: []. Valid: None for all workers.")
    return found
