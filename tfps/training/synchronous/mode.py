"""Synchronous training, the mode of an optimizer made by `tfps.optimizers.Sync`."""

import functools
import itertools
from collections.abc import Callable, Sequence

import tensorflow as tf

from tfps.errors import ConfigError
from tfps.inputs.epoch import Epoch
from tfps.runtime.calls import Calls
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.closure import Closure, Program, Result
from tfps.training.mode import EpochTotals, Mode
from tfps.training.runner import Runner
from tfps.training.schedule import Schedule
from tfps.training.synchronous.contribution import ContributionClosure
from tfps.training.synchronous.layout import Layout
from tfps.training.synchronous.schedule import SyncSchedule, UpdatePolicy
from tfps.training.synchronous.stage import Stage
from tfps.training.synchronous.update import update

_NUMBERS = itertools.count()


class Synchronous(Mode):
    """One update a global step, of the mean gradient of a batch of every worker.

    State: a stage on every server where contributions wait; the layout of their messages, known once one is traced.

    Args:
        strategy: whose workers and servers train.
        drop_slowest: workers that an update does not wait for, below the number of workers.
        max_staleness: updates that a contribution may miss.

    Raises:
        ConfigError: an update would wait for nobody.
    """

    applies_updates = False  # on workers: the servers apply the optimizer

    def __init__(self, strategy: ParameterServerStrategy, drop_slowest: int, max_staleness: int) -> None:
        workers = strategy.num_workers
        if drop_slowest >= workers:
            raise ConfigError(
                f"`drop_slowest` of Sync must be below the number of workers, {workers}. Received: {drop_slowest}."
            )
        self._strategy = strategy
        self._policy = UpdatePolicy(drop_slowest, max_staleness, self._update)
        # Each shard has places of its own, so no worker ever writes where another does.
        self._stage = Stage(str(next(_NUMBERS)), workers * self._policy.slots)
        self._layout: Layout | None = None
        self.update_function = tf.function(self._trace_update, autograph=False)

    @property
    def closure_steps(self) -> int:
        """One batch is a contribution."""
        return 1

    def turn_steps(self, batches: int | None) -> int:
        """One batch is a contribution."""
        return 1

    def closure(self, program: Program, turn: int) -> Closure:
        """A contribution; its batch can be trained again where updates may leave it out."""
        return ContributionClosure(program, self._stage, self._on_layout, self._policy.drop_slowest > 0)

    def schedule(self, runner: Runner, epoch: Epoch) -> Schedule:
        """Steps count when they are part of an update. A lost contribution is made again, in the same place."""
        return SyncSchedule(runner, epoch, self._policy)

    def run_batch(self, run: Callable[[], Result]) -> Result:
        """A contribution, and an update of it alone."""
        result = run()
        self._update([0])
        return result

    def epoch_logs(self, totals: EpochTotals, ended: bool) -> dict[str, float]:
        """Nothing: metrics say it all."""
        return {}

    def _on_layout(self, layout: Layout) -> None:
        """Keeps the layout of a step that was traced; while a thread traces another, updates are of this one."""
        self._layout = layout

    def _update(self, places: Sequence[int]) -> None:
        """Makes the update of what waits in some places."""
        # One function for all sets of places: they are given as booleans, and the graph is traced once.
        merged = tf.constant([place in places for place in range(self._stage.places)])
        calls = Calls(self._strategy.server_pool, "the update of a synchronous step", self._strategy.closure_timeout_s)
        # The pool of servers, not of workers: the update runs where the variables are, and a worker that hangs does not
        # hold it up.
        calls.submit(0, None, functools.partial(self.update_function, merged))
        calls.take()

    def _trace_update(self, merged: tf.Tensor) -> tf.Tensor:
        layout = self._layout
        assert layout is not None  # a contribution was traced before
        with self._strategy.scope():
            update(layout, self._stage, merged)
        return tf.constant(True)
