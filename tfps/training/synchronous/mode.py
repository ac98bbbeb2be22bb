"""Synchronous training: the mode of an optimizer made by `tfps.optimizers.Sync`."""

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
    """One update in each global step, from the mean gradient of one batch of every worker.

    State: a stage on every server, where contributions wait; the layout of their messages, once one is traced.

    Args:
        strategy: the strategy whose workers and servers train.
        drop_slowest: the number of workers that an update does not wait for, below the number of workers.
        max_staleness: the number of updates that a contribution may miss.

    Raises:
        ConfigError: an update would wait for no worker.
    """

    # The servers apply the optimizer, not the workers.
    applies_updates = False

    def __init__(self, strategy: ParameterServerStrategy, drop_slowest: int, max_staleness: int) -> None:
        workers = strategy.num_workers
        if drop_slowest >= workers:
            raise ConfigError(
                f"`drop_slowest` of Sync must be below the number of workers, {workers}. Received: {drop_slowest}."
            )
        self._strategy = strategy
        self._policy = UpdatePolicy(drop_slowest, max_staleness, self._update)
        # Each shard has its own places, so two workers never write to the same place.
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
        """Returns a closure of one contribution, which can train its batch again if updates may leave it out."""
        return ContributionClosure(program, self._stage, self._on_layout, self._policy.drop_slowest > 0)

    def schedule(self, runner: Runner, epoch: Epoch) -> Schedule:
        """Creates a schedule in which a step counts once it is part of an update."""
        return SyncSchedule(runner, epoch, self._policy)

    def run_batch(self, run: Callable[[], Result]) -> Result:
        """Runs one contribution, and an update from it alone."""
        result = run()
        self._update([0])
        return result

    def epoch_logs(self, totals: EpochTotals, ended: bool) -> dict[str, float]:
        """Returns no entries: the metrics are enough."""
        return {}

    def _on_layout(self, layout: Layout) -> None:
        """Stores the layout of a traced step; updates use it until another trace ends."""
        self._layout = layout

    def _update(self, places: Sequence[int]) -> None:
        """Runs the update from the contributions in some places."""
        # The places are given as booleans, so one graph serves all sets of places.
        merged = tf.constant([place in places for place in range(self._stage.places)])
        calls = Calls(self._strategy.server_pool, "the update of a synchronous step", self._strategy.closure_timeout_s)
        # It runs on the pool of servers, where the variables are, so a hanging worker does not hold it up.
        calls.submit(0, None, functools.partial(self.update_function, merged))
        calls.take()

    def _trace_update(self, merged: tf.Tensor) -> tf.Tensor:
        layout = self._layout
        # A contribution was traced before the first update.
        assert layout is not None
        with self._strategy.scope():
            update(layout, self._stage, merged)
        return tf.constant(True)
