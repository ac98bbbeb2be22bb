"""What modes have in common in which all workers are at work all the time, in closures of one length."""

from collections.abc import Callable

from tfps.inputs.epoch import Epoch
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.closure import Result
from tfps.training.mode import EpochTotals, Mode
from tfps.training.paced_schedules import paced_schedule
from tfps.training.pacing import CLOSURES_AN_EPOCH, Pace, SteadyPacing, closure_steps
from tfps.training.runner import Runner
from tfps.training.schedule import Schedule
from tfps.training.turns import MOST_STEPS, fed_steps


class SteadyMode(Mode):
    """Such a mode; a subclass says what its closures are.

    Args:
        strategy: whose workers and servers are used.
        steps: gives the steps of a closure at most, which the user may change from one `fit` to the next.
    """

    def __init__(self, strategy: ParameterServerStrategy, steps: Callable[[], int]) -> None:
        self._strategy, self._steps = strategy, steps

    @property
    def closure_steps(self) -> int:
        """The steps that the user chose for an exchange of dense variables."""
        return self._steps()

    def turn_steps(self, batches: int | None) -> int:
        """A few: they share a round trip. More than a closure has would be traced for nothing."""
        return min(MOST_STEPS, self._steps_for(batches))

    def schedule(self, runner: Runner, epoch: Epoch) -> Schedule:
        """All workers from the first step on. A lost closure is made again, and servers drop what they have applied."""
        return self._schedule_of_parts(runner, epoch, 1)

    def run_batch(self, run: Callable[[], Result]) -> Result:
        """The closure itself does all there is to do."""
        return run()

    def epoch_logs(self, totals: EpochTotals, ended: bool) -> dict[str, float]:
        """Nothing: metrics say it all."""
        return {}

    def _schedule_of_parts(self, runner: Runner, epoch: Epoch, parts: int) -> Schedule:
        """The schedule of an epoch whose closures over iterators have so many parts, each with its own exchange."""
        pace = Pace(self._strategy.num_workers, self._steps_for(epoch.source.num_batches))
        # The operations of a step are known once one is traced, hence a function.
        pacing = SteadyPacing(pace, parts, lambda: fed_steps(runner.closures.operations))
        return paced_schedule(runner, epoch, pacing, self.closure_steps)

    def _steps_for(self, batches: int | None) -> int:
        # The same number decides on the length of turns and of closures: a turn never has more steps than a closure.
        return closure_steps(batches, self._strategy.num_workers * CLOSURES_AN_EPOCH, self.closure_steps)
