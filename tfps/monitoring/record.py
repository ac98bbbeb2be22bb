"""`JobRecord`: what a job has done so far, counted where it happens. Counts never go down.

The code that trains writes to it; a board, a port and a callback read it. It is the only thing that training pays for
being watched: an addition for each closure, which has several steps.

Threading: any thread. One lock, held for some additions, guards all fields.
"""

import collections
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

from tfps.monitoring.snapshot import CheckpointState, LossEvent, Phase
from tfps.types import CachedCounts

_LAST_LOSSES = 32
"""The most losses that are kept; all are counted."""

Kind: TypeAlias = Literal["train", "test"]
"""The kind of a step: of `fit`, or of `evaluate`."""


@dataclasses.dataclass(frozen=True)
class WorkerCounts:
    """What a worker has done.

    Args:
        steps: its steps of training.
        examples: the examples in them.
        unique_rows: the rows that its steps requested, each once a step.
        closures: its closures of training.
        cached: the rows that it had kept, of those that its steps asked for.
        staleness: steps that other workers finished while its last closure ran; None before the second one.
    """

    steps: int = 0
    examples: int = 0
    unique_rows: int = 0
    closures: int = 0
    cached: CachedCounts = CachedCounts()
    staleness: int | None = None


@dataclasses.dataclass(frozen=True)
class JobCounts:
    """What a job has done, at one moment.

    Args:
        phase: what the program does now.
        mode: the mode of training.
        epoch: the epoch of `fit`, from 0.
        epochs: the epochs of `fit`.
        epochs_begun: the epochs of training that have begun in this program.
        epoch_step: the steps of this epoch.
        steps_per_epoch: the steps of a whole epoch.
        fed: whether the chief reads the batches.
        steps: steps of training.
        examples: the examples in them.
        unique_rows: the rows that these steps requested, each once a step.
        cached: the rows that workers had kept, of those that these steps asked for.
        repeated_steps: the steps of these that a checkpoint has taken back, and that are trained again.
        test_steps: steps of evaluation.
        test_examples: the examples in them.
        closures: closures of both kinds.
        workers: the counts of each worker that has done something, by its number.
        logs: the last logs of the training, as they are shown; values may be tensors of the chief.
        shard_rows: the rows that steps of training requested, each once a step, by (table name, shard).
        ids_per_step: the ids that a step looks up, by table; None where not known.
        checkpoint: the last checkpoint.
        losses: the last losses of tasks.
        losses_of: the losses of each task.
        returns_of: how often each task came back.
    """

    phase: Phase = "idle"
    mode: str = ""
    epoch: int | None = None
    epochs: int | None = None
    epochs_begun: int = 0
    epoch_step: int = 0
    steps_per_epoch: int | None = None
    fed: bool = False
    steps: int = 0
    examples: int = 0
    unique_rows: int = 0
    cached: CachedCounts = CachedCounts()
    repeated_steps: int = 0
    test_steps: int = 0
    test_examples: int = 0
    closures: int = 0
    workers: Mapping[int, WorkerCounts] = dataclasses.field(default_factory=dict)
    logs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shard_rows: Mapping[tuple[str, int], int] = dataclasses.field(default_factory=dict)
    ids_per_step: Mapping[str, int | None] = dataclasses.field(default_factory=dict)
    checkpoint: CheckpointState | None = None
    losses: tuple[LossEvent, ...] = ()
    losses_of: Mapping[tuple[str, int], int] = dataclasses.field(default_factory=dict)
    returns_of: Mapping[tuple[str, int], int] = dataclasses.field(default_factory=dict)

    @property
    def kept_steps(self) -> int:
        """The steps of training without those that were taken back: as many as the optimizer has counted."""
        return self.steps - self.repeated_steps

    @property
    def losses_count(self) -> int:
        """All losses of tasks."""
        return sum(self.losses_of.values())


class JobRecord:
    """Counts what one strategy does.

    Args:
        clock: returns the seconds since 1970.

    Attributes:
        began: when the record began.
        initial_epoch: the first epoch of the `fit` that runs, unless a callback has resumed it.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock, self.began = clock, clock()
        self.initial_epoch = 0
        self._lock = threading.Lock()
        # All plain values: `counts` copies what can change.
        self._now = JobCounts()
        self._workers: dict[int, WorkerCounts] = {}
        # The steps of all workers when the running closure of each began.
        self._steps_before: dict[int, int] = {}
        self._shard_rows: collections.Counter[tuple[str, int]] = collections.Counter()
        self._losses: collections.deque[LossEvent] = collections.deque(maxlen=_LAST_LOSSES)
        self._losses_of: collections.Counter[tuple[str, int]] = collections.Counter()
        self._returns_of: collections.Counter[tuple[str, int]] = collections.Counter()

    def counts(self) -> JobCounts:
        """Returns all counts of this moment."""
        with self._lock:
            return dataclasses.replace(
                self._now,
                workers=dict(self._workers),
                shard_rows=dict(self._shard_rows),
                losses=tuple(self._losses),
                losses_of=dict(self._losses_of),
                returns_of=dict(self._returns_of),
            )

    def begin_epoch(
        self, mode: str, epoch: int, epochs: int | None, steps: int | None, fed: bool = False, done: int = 0
    ) -> None:
        """Notes that an epoch of training has begun.

        Args:
            mode: the mode of training.
            epoch: the epoch, from 0.
            epochs: the number of epochs; None if not known.
            steps: the steps of the epoch; None if not known.
            fed: whether the chief reads its batches.
            done: the steps of the epoch that were trained before, where a `fit` goes on within it.
        """
        with self._lock:
            self._now = dataclasses.replace(
                self._now,
                mode=mode,
                epoch=epoch,
                epochs=epochs,
                epochs_begun=self._now.epochs_begun + 1,
                fed=fed,
                epoch_step=done,
                steps_per_epoch=steps,
            )

    @contextlib.contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Notes what the program does within the context; after it, it does again what it did before."""
        before = self._set_phase(phase)
        try:
            yield
        finally:
            self._set_phase(before)

    def _set_phase(self, phase: Phase) -> Phase:
        """Sets the phase and returns the one before it."""
        with self._lock:
            before, self._now = self._now.phase, dataclasses.replace(self._now, phase=phase)
            return before

    def count_closure(
        self,
        kind: Kind,
        worker: int,
        steps: int,
        examples: int,
        unique_rows: int = 0,
        cached: CachedCounts = CachedCounts(),  # noqa: B008 (immutable)
        shard_rows: Mapping[tuple[str, int], int] | None = None,
    ) -> None:
        """Counts a closure that has ended and whose steps are part of the model.

        Args:
            kind: what its steps did.
            worker: the worker that ran it.
            steps: the number of its steps.
            examples: the examples in them.
            unique_rows: the rows that they requested, each once a step.
            cached: the rows that the worker had kept.
            shard_rows: the rows requested by (table name, shard); None if they were not counted.
        """
        with self._lock:
            now, closures = self._now, self._now.closures + 1
            if kind == "test":
                self._now = dataclasses.replace(
                    now,
                    closures=closures,
                    test_steps=now.test_steps + steps,
                    test_examples=now.test_examples + examples,
                )
                return
            self._now = dataclasses.replace(
                now,
                closures=closures,
                steps=now.steps + steps,
                examples=now.examples + examples,
                unique_rows=now.unique_rows + unique_rows,
                cached=now.cached + cached,
                epoch_step=now.epoch_step + steps,
            )
            for shard, rows in (shard_rows or {}).items():
                self._shard_rows[shard] += rows
            before = self._workers.get(worker, WorkerCounts())
            # The closure began when the one before it on this worker ended; its own steps are none of the others'.
            since = self._steps_before.get(worker)
            staleness = None if since is None else max(0, self._now.steps - since - steps)
            self._steps_before[worker] = self._now.steps
            self._workers[worker] = WorkerCounts(
                before.steps + steps,
                before.examples + examples,
                before.unique_rows + unique_rows,
                before.closures + 1,
                before.cached + cached,
                staleness,
            )

    def take_back(self, steps: int) -> None:
        """Notes that a checkpoint was restored after the loss of a server: some steps will be trained again.

        Args:
            steps: the number of steps. They stay in `steps`, which counts work and never goes down.
        """
        with self._lock:
            self._now = dataclasses.replace(self._now, repeated_steps=self._now.repeated_steps + max(0, steps))

    def set_logs(self, logs: Mapping[str, Any]) -> None:
        """Keeps the logs of the training that are shown now."""
        with self._lock:
            self._now = dataclasses.replace(self._now, logs=logs)

    def set_ids_per_step(self, ids: Mapping[str, int | None]) -> None:
        """Keeps the number of ids that a step looks up in each table."""
        with self._lock:
            self._now = dataclasses.replace(self._now, ids_per_step={**self._now.ids_per_step, **ids})

    def record_checkpoint(self, step: int, seconds: float, url: str) -> None:
        """Notes a checkpoint that is complete."""
        with self._lock:
            before = self._now.checkpoint
            count = 1 if before is None else before.count + 1
            made = CheckpointState(step, self._clock(), seconds, url, count)
            self._now = dataclasses.replace(self._now, checkpoint=made)

    def record_loss(self, job: str, index: int, why: str) -> None:
        """Notes that a task is lost."""
        with self._lock:
            self._losses.append(LossEvent(job, index, self._clock(), why))
            self._losses_of[job, index] += 1

    def record_return(self, job: str, index: int) -> None:
        """Notes that a lost task works again."""
        with self._lock:
            self._returns_of[job, index] += 1
            for place in reversed(range(len(self._losses))):
                loss = self._losses[place]
                if (loss.job, loss.index) == (job, index) and loss.back_at is None:
                    self._losses[place] = dataclasses.replace(loss, back_at=self._clock())
                    return
