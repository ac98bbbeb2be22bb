"""The base of modes in which all workers train in closures of one length, all the time or once a model has aged."""

from collections.abc import Callable

from tfps.inputs.epoch import Epoch
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.closure import Result
from tfps.training.mode import EpochTotals, Mode
from tfps.training.paced_schedules import make_paced_schedule
from tfps.training.pacing import CLOSURES_AN_EPOCH, Pace, Pacing, SteadyPacing, closure_steps
from tfps.training.runner import Runner
from tfps.training.schedule import Schedule
from tfps.training.turns import MOST_STEPS, fed_steps


class SteadyMode(Mode):
    """A mode with closures of one length; a subclass decides what its closures are.

    Args:
        strategy: the strategy whose workers and servers are used.
        steps: returns the most steps of a closure; the user may change it between two calls of `fit`.
    """

    def __init__(self, strategy: ParameterServerStrategy, steps: Callable[[], int]) -> None:
        self._strategy, self._steps = strategy, steps

    @property
    def closure_steps(self) -> int:
        """The steps that the user chose between two exchanges of dense variables."""
        # Called each time: Keras lets users change `steps_per_execution` between two calls of `fit`.
        return self._steps()

    def turn_steps(self, batches: int | None) -> int:
        """Returns a small number: the steps of a turn share a round trip."""
        # More steps than a closure has would be traced in vain.
        return min(MOST_STEPS, self._steps_for(batches))

    def schedule(self, runner: Runner, epoch: Epoch) -> Schedule:
        """Creates a schedule with all workers at work; lost closures are repeated."""
        # A repeated closure pushes with the same ids, so servers ignore the pushes that they have applied.
        return self._schedule_of_parts(runner, epoch, 1)

    def run_batch(self, run: Callable[[], Result]) -> Result:
        """Runs the closure, which trains and pushes by itself."""
        return run()

    def epoch_logs(self, totals: EpochTotals, ended: bool) -> dict[str, float]:
        """Returns no entries: the metrics are enough."""
        return {}

    def _schedule_of_parts(self, runner: Runner, epoch: Epoch, parts: int) -> Schedule:
        """Creates the schedule of an epoch in which closures over iterators have `parts` exchanges."""
        pace = Pace(self._strategy.num_workers, self._steps_for(epoch.source.num_batches))
        # A function, because the operations of a step are unknown until one is traced.
        pacing = self._pacing(pace, parts, lambda: fed_steps(runner.closures.operations), epoch)
        return make_paced_schedule(runner, epoch, pacing, self.closure_steps)

    def _pacing(self, pace: Pace, parts: int, steps_of_fed: Callable[[], int], epoch: Epoch) -> Pacing:
        """Creates the pacing of an epoch that has begun; see `SteadyPacing` for the others."""
        return SteadyPacing(pace, parts, steps_of_fed)

    def _steps_for(self, batches: int | None) -> int:
        # This limits both turns and closures, so that a turn never has more steps than a closure.
        return closure_steps(batches, self._strategy.num_workers * CLOSURES_AN_EPOCH, self.closure_steps)
