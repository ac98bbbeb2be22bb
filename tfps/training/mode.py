"""The interface of a mode of training: everything in which one mode differs from another.

A mode is an object that belongs to one model's function (`fit` and `train_on_batch`, or `evaluate`) for as long as the
optimizer keeps its settings. Whoever traces closures, runs them and hands out their steps holds a `Mode` and never asks
which one it has. To add a mode: a dataclass with its settings for the optimizer (`tfps.keras.modes.ModeSettings`) whose
`make_mode` returns a subclass of `Mode`. Nothing else is edited; `tests/training/test_toy_mode.py` adds one in a file.

State: a mode owns what outlives an epoch, such as ledgers on the servers or what it has learnt about pace. What belongs
to one epoch is in the schedule that it makes for it.
Threading: `closure` is called by the main thread and, for fed batches, by the threads of workers; it must not change
the mode. Everything else is called by the main thread alone.
Cost: `schedule` and `epoch_logs` run once an epoch (the logs a few times a second), `closure` once for each graph,
`run_batch` once for each `train_on_batch`.
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

from tfps.inputs.epoch import Epoch
from tfps.training.closure import Closure, Program, Result
from tfps.training.runner import Runner
from tfps.training.schedule import Schedule


@dataclasses.dataclass
class EpochTotals:
    """What the closures of an epoch have done so far.

    Attributes:
        steps: that they made.
        measured: sums of what they measured, one for each of `Closure.measures`; empty before the first closure.
    """

    steps: int = 0
    measured: Sequence[float] = ()

    def add(self, result: Result) -> None:
        """Adds a closure. One without steps found its input used up, and has nothing to say."""
        if result.steps:
            # Sums and no means: two closures of different lengths must count by what they did, and only sums add up.
            self.steps += result.steps
            # The first closure with steps says how many measurements there are; for most modes none.
            before = self.measured or [0.0] * len(result.measured)
            self.measured = [a + b for a, b in zip(before, result.measured, strict=True)]


class Mode(abc.ABC):
    """How the steps of one model are made.

    Attributes:
        applies_updates: whether a closure applies the optimizer on the worker. If so, the optimizer's dense variables
            cross with those of the model, and must exist before a closure is traced.
    """

    # Without a default, so that every mode says it.
    applies_updates: ClassVar[bool]

    @property
    @abc.abstractmethod
    def closure_steps(self) -> int:
        """Steps of a closure, at most."""

    @abc.abstractmethod
    def turn_steps(self, batches: int | None) -> int:
        """Steps that the graph over an iterator has side by side, at most.

        A graph made for a short input is traced again for one that allows more.

        Args:
            batches: of the longest epoch of the input; None where nobody knows.
        """

    @abc.abstractmethod
    def closure(self, program: Program, turn: int) -> Closure:
        """What traces the closures of a program.

        Args:
            program: the steps.
            turn: what `turn_steps` gave for the input; 1 for fed batches.

        Raises:
            UnsupportedError: the mode cannot train this model or optimizer.
        """

    @abc.abstractmethod
    def schedule(self, runner: Runner, epoch: Epoch) -> Schedule:
        """The schedule of one epoch.

        It decides how long closures are, which may run ahead of others, when a closure counts as done, how a lost one
        is made again, and how the end of the epoch is waited for.
        """

    @abc.abstractmethod
    def run_batch(self, run: Callable[[], Result]) -> Result:
        """Trains on a single batch; returns when the model is changed by it.

        Args:
            run: runs a closure of one step on a worker, waits for it and returns its result.
        """

    @abc.abstractmethod
    def epoch_logs(self, totals: EpochTotals, ended: bool) -> dict[str, float]:
        """What the mode adds to the logs of an epoch beside the metrics.

        Args:
            totals: what the epoch has done so far.
            ended: whether this is the last call for this epoch.
        """
