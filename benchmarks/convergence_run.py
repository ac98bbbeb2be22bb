"""Trains one mode on one cluster for several seeds, and judges the model on held-out data after each epoch."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import tfps
from benchmarks.convergence_tasks import Task
from tfps.training import steady_mode

_CLOSURES_AN_EPOCH = steady_mode.CLOSURES_AN_EPOCH


OPTIMIZERS: dict[str, Callable[[float], Any]] = {
    "adagrad": lambda factor: keras.optimizers.Adagrad(0.1 * factor),
    "adam": lambda factor: keras.optimizers.Adam(0.001 * factor),
}
"""Optimizers that take the place of the task's own, by their name: (factor of the learning rate) -> optimizer."""


@dataclasses.dataclass(frozen=True)
class Mode:
    """How a run trains.

    Args:
        name: "one" (one process), "joined" (one process, batches of all workers joined), "async", "sync", "geo" or
            "allreduce".
        push_every: batches of a window (GEO).
        merge: of windows (GEO).
        rate: what the learning rate is multiplied by.
        exchange_every: steps between exchanges of dense variables ("async"); None for the strategy's default.
        overlap: whether windows (GEO) or dense variables ("async") are exchanged while others are trained.
        repeated_ids: of the strategy; None without one.
        kind: the optimizer: "task" for the task's own, or a key of `OPTIMIZERS`.
    """

    name: str
    push_every: int | None = None
    merge: str | None = None
    rate: float = 1.0
    exchange_every: int | None = None
    overlap: bool = False
    repeated_ids: str | None = None
    kind: str = "task"

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
        self._task, self._mode, self._workers, self._strategy = task, mode, workers, strategy
        self._twin = task.build()
        if strategy is not None:
            # One cluster serves all modes. Nothing else of a strategy depends on it while no worker dies.
            strategy.dense = "allreduce" if mode.name == "allreduce" else "exchange"
            strategy.dense_exchange_every = mode.exchange_every or max(1, 32 // workers)
            strategy.overlap_dense_exchange = mode.overlap and mode.name == "async"
            # One cluster serves both settings, so that they run in turns.
            strategy.factory.keep_repeats = mode.repeated_ids == "each"
        # With a given interval, closures must not be cut shorter than it: an epoch of adult has 114 batches.
        steady_mode.CLOSURES_AN_EPOCH = 1 if mode.exchange_every else _CLOSURES_AN_EPOCH
        with strategy.scope() if strategy is not None else contextlib.nullcontext():
            self._model = task.build()
            self._model.compile(mode.optimizer(self._plain_optimizer()), loss=task.loss)
        self._model.fit(self._epoch(0).take(2 * workers), verbose=0)  # traces
        inner = self._plain_optimizer()
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

    def _plain_optimizer(self) -> Any:
        kind = self._mode.kind
        return self._task.optimizer(self._mode.rate) if kind == "task" else OPTIMIZERS[kind](self._mode.rate)

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
