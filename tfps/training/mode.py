"""The interface of a mode of training: everything that differs between modes.

A mode object belongs to one function of a model (`fit` and `train_on_batch`, or `evaluate`) and lives as long as the
optimizer keeps its settings. Code that traces closures, runs them or hands out their steps holds a `Mode` and never
asks which mode it is. To add a mode, write a dataclass of settings for the optimizer (`tfps.keras.modes.ModeSettings`)
whose `make_mode` returns a subclass of `Mode`. No other file changes; `tests/training/test_toy_mode.py` shows it.

State: a mode owns the state that outlives an epoch, such as ledgers on the servers or timings of closures. The state of
one epoch is in the schedule that the mode creates for it.
Threading: the main thread calls everything. For fed batches the threads of workers call `closure` too, so `closure`
must not change the mode.
Cost: `schedule` runs once an epoch, `epoch_logs` a few times a second, `closure` once for each graph and `run_batch`
once for each `train_on_batch`.
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
    """The totals of an epoch's closures so far.

    Attributes:
        steps: the number of steps that they trained.
        measured: the sum of each measured value, [`Closure.measures`]; empty before the first closure.
    """

    steps: int = 0
    measured: Sequence[float] = ()

    def add(self, result: Result) -> None:
        """Adds the result of a closure. One without steps found its input used up and is skipped."""
        if result.steps:
            # Sums, not means: closures of different lengths must have different weights.
            self.steps += result.steps
            # The first closure with steps says how many measurements there are; most modes have none.
            before = self.measured or [0.0] * len(result.measured)
            self.measured = [a + b for a, b in zip(before, result.measured, strict=True)]


class Mode(abc.ABC):
    """Decides how the steps of one model are trained.

    Attributes:
        applies_updates: whether closures apply the optimizer on the worker. If so, the optimizer's dense variables are
            exchanged with those of the model, and must exist before a closure is traced.
        trains: whether steps lead to updates of the rows that they look up.
        may_cache_rows: whether the steps of a worker may use the rows that it keeps, where the strategy says so.
    """

    # No default: every mode has to decide.
    applies_updates: ClassVar[bool]
    trains: ClassVar[bool] = True
    may_cache_rows: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def closure_steps(self) -> int:
        """The most steps that a closure may have."""

    def begins_alone(self) -> bool:
        """Returns whether one worker would train the first steps of an epoch that begins now.

        It then reads the whole input, in the order of one process, until the schedule divides the rest. In most modes
        all workers train from the first step on.
        """
        return False

    @abc.abstractmethod
    def turn_steps(self, batches: int | None) -> int:
        """Returns the most steps that the graph over an iterator may have side by side.

        The graph for a short input is traced again for a longer input that allows more steps.

        Args:
            batches: the number of batches in the longest epoch of the input; None where it is unknown.
        """

    def first_turn_steps(self, batches: int | None) -> int:
        """Returns the most steps side by side in the graph for the first steps of an input, at most `turn_steps`.

        A graph of short turns is traced and started sooner, and one of longer turns takes its place while an epoch runs
        (`TracedClosures.lengthen_turns`). So a mode may have shorter turns here only if two closures that run at the
        same time may have turns of different lengths.

        Args:
            batches: as for `turn_steps`.
        """
        return self.turn_steps(batches)

    @abc.abstractmethod
    def closure(self, program: Program, turn: int) -> Closure:
        """Creates the object that traces the closures of a program.

        Args:
            program: the steps that closures run.
            turn: the value of `turn_steps` for the input; 1 for fed batches.

        Raises:
            UnsupportedError: the mode cannot train this model or optimizer.
        """

    @abc.abstractmethod
    def schedule(self, runner: Runner, epoch: Epoch) -> Schedule:
        """Creates the schedule of one epoch.

        A schedule decides how long closures are, which may run ahead of others, when a closure counts as done, how a
        lost closure is repeated, and how to wait for the end of the epoch.
        """

    @abc.abstractmethod
    def run_batch(self, run: Callable[[], Result]) -> Result:
        """Trains on a single batch; returns once the model has changed.

        Args:
            run: runs a closure of one step on a worker and returns its result.
        """

    @abc.abstractmethod
    def epoch_logs(self, totals: EpochTotals, ended: bool) -> dict[str, float]:
        """Returns the entries that the mode adds to the logs of an epoch, beside the metrics.

        Args:
            totals: the totals of the epoch so far.
            ended: whether this is the last call for this epoch.
        """
