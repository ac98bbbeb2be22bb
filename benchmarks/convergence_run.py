"""Trains one mode on one cluster for several seeds, and judges the model on held-out data after each epoch."""

import contextlib
import dataclasses
import time
from typing import Any

import keras
import numpy as np

import tfps
from benchmarks.convergence_tasks import Task
from tfps.training import schedule

_CLOSURES_AN_EPOCH = schedule.CLOSURES_AN_EPOCH


@dataclasses.dataclass(frozen=True)
class Mode:
    """How a run trains.

    Args:
        name: "one" (one process), "joined" (one process, batches of all workers joined), "async", "sync" or "geo".
        push_every: batches of a window (GEO).
        merge: of windows (GEO).
        rate: what the learning rate is multiplied by.
        exchange_every: steps between exchanges of dense variables ("async"); None for the strategy's default.
        overlap: whether windows (GEO) or dense variables ("async") are exchanged while others are trained.
    """

    name: str
    push_every: int | None = None
    merge: str | None = None
    rate: float = 1.0
    exchange_every: int | None = None
    overlap: bool = False

    @property
    def distributed(self) -> bool:
        """Whether it needs a cluster."""
        return self.name not in ("one", "joined")

    def optimizer(self, inner: Any) -> Any:
        """The optimizer of this mode around a plain one."""
        if self.name == "geo":
            return tfps.optimizers.Geo(inner, push_every=self.push_every, merge=self.merge, overlap=self.overlap)
        return tfps.optimizers.Sync(inner) if self.name == "sync" else inner


class Run:
    """Traces once. Each `train` begins from other first values and sees the data in another order.

    Args:
        task: what is trained.
        mode: how.
        workers: of the cluster; of "joined" those whose batches are joined.
        strategy: the cluster, where the mode needs one.
    """

    def __init__(self, task: Task, mode: Mode, workers: int, strategy: Any = None) -> None:
        self._task, self._mode, self._workers = task, mode, workers
        self._twin = task.build()
        if strategy is not None:
            strategy.dense_exchange_every = mode.exchange_every or max(1, 32 // workers)
            strategy.overlap_dense_exchange = mode.overlap and mode.name == "async"
        # With a given interval, closures must not be cut shorter than it: an epoch of adult has 114 batches.
        schedule.CLOSURES_AN_EPOCH = 1 if mode.exchange_every else _CLOSURES_AN_EPOCH
        with strategy.scope() if strategy is not None else contextlib.nullcontext():
            self._model = task.build()
            self._model.compile(mode.optimizer(task.optimizer(mode.rate)), loss=task.loss)
        self._model.fit(self._epoch(0).take(2 * workers), verbose=0)  # traces
        inner = task.optimizer(mode.rate)
        inner.build(self._twin.trainable_variables)
        self._first_slots = [float(np.max(variable)) for variable in _slots(inner)]

    def train(self, seed: int) -> dict[str, Any]:
        """Trains from first values of this seed; returns the figures after each epoch."""
        self._reset(seed)
        epochs, examples = self._task.epochs, self._task.steps * self._task.batch
        curve, seconds = [], 0.0
        for epoch in range(epochs):
            begun = time.monotonic()
            self._model.fit(self._epoch(seed * epochs + epoch), verbose=0)
            seconds += time.monotonic() - begun
            self._twin.set_weights(self._model.get_weights())
            figures = {name: round(value, 5) for name, value in self._task.judge(self._twin).items()}
            curve.append({"examples": (epoch + 1) * examples, "seconds": round(seconds, 2)} | figures)
        return {"task": self._task.name, **dataclasses.asdict(self._mode), "workers": self._workers, "seed": seed} | {
            "curve": curve
        }

    def _epoch(self, seed: int) -> Any:
        """The batches of one epoch; for "joined" the batches of all workers, joined."""
        batches = self._task.batches(seed, self._task.batch).take(self._task.steps)
        return batches.unbatch().batch(self._task.batch * self._workers) if self._mode.name == "joined" else batches

    def _reset(self, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        first = self._task.build()
        self._model.set_weights(first.get_weights())
        optimizer = self._model.optimizer
        optimizer.iterations.assign(0)
        for variable, value in zip(_slots(optimizer), self._first_slots, strict=True):
            variable.assign(np.full(variable.shape, value, np.float32))


def _slots(optimizer: Any) -> list[Any]:
    """The variables of an optimizer without its step count and learning rate, which are scalars."""
    return [variable for variable in optimizer.variables if len(variable.shape) > 0]
