"""GEO training, the mode of an optimizer made by `tfps.optimizers.Geo`."""

from collections.abc import Callable
from typing import Protocol

from tfps.inputs.epoch import Epoch
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.closure import Closure, Program, Result
from tfps.training.geo.closure import WindowClosure
from tfps.training.geo.drift import Drift, Runaway
from tfps.training.geo.length import LONGEST, Length
from tfps.training.geo.overlapped import WINDOWS
from tfps.training.geo.pacing import WindowPacing
from tfps.training.geo.whole_window import WindowMethods
from tfps.training.geo.window import WindowSettings
from tfps.training.mode import EpochTotals, Mode
from tfps.training.paced_schedules import paced_schedule
from tfps.training.pacing import closure_steps
from tfps.training.push_ids import PushLedgers
from tfps.training.runner import Runner
from tfps.training.schedule import Schedule


class WindowedModel(Protocol):
    """What GEO training asks of a model."""

    def window_settings(self) -> WindowSettings:
        """What its windows carry and push; to be called once the optimizer's variables exist."""
        ...

    def window_methods(self) -> WindowMethods | None:
        """Its methods that train a whole window; None where its steps are trained one by one."""
        ...

    def trained_steps(self) -> int:
        """Steps that it was trained for."""
        ...


class Geo(Mode):
    """A worker trains a window of batches on rows of its own, then pushes their deltas.

    State: two ledgers on every server; the length of windows, where it is found by timing; the speed of the epoch
    before, to notice windows that drive each other apart.

    Args:
        strategy: whose workers and servers train.
        model: that they train.
        push_every: steps of a window; None to find them by timing.
        overlap: whether the exchange of one window runs while the next is trained.
    """

    applies_updates = True

    def __init__(
        self, strategy: ParameterServerStrategy, model: WindowedModel, push_every: int | None, overlap: bool
    ) -> None:
        self._strategy, self._model = strategy, model
        # It outlives an epoch: what was found in one holds for the next.
        self.length = Length() if push_every is None else None
        self._most = LONGEST if push_every is None else push_every
        # A few windows a closure: the first pull and the last push of a closure are waited for, the others are not.
        self._windows = WINDOWS if overlap else 1
        self._ledgers = PushLedgers(strategy)
        self._runaway = Runaway()

    @property
    def closure_steps(self) -> int:
        """The steps of a window; the user's `steps_per_execution` does not count."""
        return self._most

    def turn_steps(self, batches: int | None) -> int:
        """One: the loop over the steps of a window has no operations on servers to save round trips of."""
        return 1

    def closure(self, program: Program, turn: int) -> Closure:
        """A window, or several that overlap."""
        # Asked for each graph: the settings name the slots of the optimizer, which exist when a graph is traced and not
        # when the mode is made.
        settings, methods = self._model.window_settings(), self._model.window_methods()
        return WindowClosure(program, settings, methods, self._ledgers, self._windows > 1)

    def schedule(self, runner: Runner, epoch: Epoch) -> Schedule:
        """Few workers and short windows while the model is young.

        A lost window is made again whole; servers that have applied its push drop the repeat.
        """
        workers = self._strategy.num_workers
        # A short epoch still has a window for each worker, however long `push_every` is.
        steps = closure_steps(epoch.source.num_batches, workers, self._most)
        pacing = WindowPacing(
            workers, steps, self._windows, epoch.source.is_fed, self._model.trained_steps(), self.length
        )
        return paced_schedule(runner, epoch, pacing, self._most)

    def run_batch(self, run: Callable[[], Result]) -> Result:
        """A window of one batch changes the model when it ends."""
        return run()

    def epoch_logs(self, totals: EpochTotals, ended: bool) -> dict[str, float]:
        """The drift of the epoch's windows; warns at its end if windows drive each other apart."""
        drift = Drift.of(totals)
        if ended:
            self._runaway.compare(drift)
        return drift.logs()
