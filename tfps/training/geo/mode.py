"""GEO training: the mode of an optimizer made by `tfps.optimizers.Geo`."""

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
from tfps.training.paced_schedules import make_paced_schedule
from tfps.training.pacing import closure_steps
from tfps.training.push_ids import PushLedgers
from tfps.training.runner import Runner
from tfps.training.schedule import Schedule


class WindowedModel(Protocol):
    """The methods that GEO training needs of a model."""

    def window_settings(self) -> WindowSettings:
        """Returns what its windows carry and push; called once the optimizer's variables exist."""
        ...

    def window_methods(self) -> WindowMethods | None:
        """Returns its methods that train a whole window; None if its steps are trained one by one."""
        ...

    def trained_steps(self) -> int:
        """Returns the number of steps that it was trained for."""
        ...


class Geo(Mode):
    """A worker trains a window of batches on its own rows, then pushes their deltas.

    State: two push ledgers on every server; the length of windows, if timing finds it; the speed of the previous epoch,
    to detect windows that drive each other apart.

    Args:
        strategy: the strategy whose workers and servers train.
        model: the model that they train.
        push_every: the steps of a window; None to find the number by timing.
        overlap: whether one window is exchanged while the next is trained.
    """

    applies_updates = True

    def __init__(
        self, strategy: ParameterServerStrategy, model: WindowedModel, push_every: int | None, overlap: bool
    ) -> None:
        self._strategy, self._model = strategy, model
        # The length outlives an epoch: a length found in one epoch holds for the next.
        self.length = Length() if push_every is None else None
        self._most = LONGEST if push_every is None else push_every
        # Several windows in a closure: only its first pull and last push make the worker wait.
        self._windows = WINDOWS if overlap else 1
        self._ledgers = PushLedgers(strategy)
        self._runaway = Runaway()

    @property
    def closure_steps(self) -> int:
        """The steps of a window. The user's `steps_per_execution` has no effect."""
        return self._most

    def turn_steps(self, batches: int | None) -> int:
        """Returns 1: the steps of a window have no operations on servers, so there is no round trip to share."""
        return 1

    def closure(self, program: Program, turn: int) -> Closure:
        """Returns a closure of one window, or of several that overlap."""
        # Read for each graph: the settings name slots of the optimizer, which exist by the time a graph is traced, but
        # not when the mode is made.
        settings, methods = self._model.window_settings(), self._model.window_methods()
        return WindowClosure(program, settings, methods, self._ledgers, self._windows > 1)

    def schedule(self, runner: Runner, epoch: Epoch) -> Schedule:
        """Creates a schedule with few workers and short windows while the model is young.

        A lost window is repeated as a whole. Servers ignore the pushes of it that they have applied.
        """
        workers = self._strategy.num_workers
        # Even a short epoch has a window for each worker, however long `push_every` is.
        steps = closure_steps(epoch.source.num_batches, workers, self._most)
        pacing = WindowPacing(
            workers, steps, self._windows, epoch.source.is_fed, self._model.trained_steps(), self.length
        )
        return make_paced_schedule(runner, epoch, pacing, self._most)

    def run_batch(self, run: Callable[[], Result]) -> Result:
        """Runs a window of one batch, which changes the model when it ends."""
        return run()

    def epoch_logs(self, totals: EpochTotals, ended: bool) -> dict[str, float]:
        """Returns the drift of the epoch's windows; at its end, warns if windows drive each other apart."""
        drift = Drift.from_totals(totals)
        if ended:
            self._runaway.compare(drift)
        return drift.logs()
