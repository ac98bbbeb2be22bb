"""All-reduce training: the mode of a strategy with `dense="allreduce"`."""

from collections.abc import Callable

from tfps.inputs.epoch import Epoch
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.allreduce.closure import AllReduceClosure
from tfps.training.allreduce.collectives import Groups
from tfps.training.allreduce.schedule import AllReduceSchedule
from tfps.training.closure import Closure, Program
from tfps.training.runner import Runner
from tfps.training.schedule import Schedule
from tfps.training.steady_mode import SteadyMode


class AllReduce(SteadyMode):
    """Workers train in step: the gradients of dense variables are all-reduced, rows are pushed without waiting.

    All workers have equal copies of the dense variables. A closure begins with the values of the servers and stores its
    own there, so callbacks, `evaluate` and `save` see them between two closures. The rows of a step miss the pushes
    that other workers make in the same step, and no others.
    State: the groups of workers that it has formed.

    Args:
        strategy: the strategy whose workers train.
        steps: returns the most steps that a closure may have.
    """

    applies_updates = True

    def __init__(self, strategy: ParameterServerStrategy, steps: Callable[[], int]) -> None:
        super().__init__(strategy, steps)
        self._groups = Groups()

    def closure(self, program: Program, turn: int) -> Closure:
        """Returns a closure that a group of workers runs together."""
        return AllReduceClosure(program, turn, self._strategy.prefetch_lookups, self._groups)

    def schedule(self, runner: Runner, epoch: Epoch) -> Schedule:
        """Creates a schedule of rounds. A lost worker ends the epoch, because TensorFlow's collectives end with it."""
        return AllReduceSchedule(runner, epoch, self.closure_steps, self._groups)
