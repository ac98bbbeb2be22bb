"""Synchronous training of one model: its closures, the stage they fill, and the update they wait for."""

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfps.runtime.pool import Calls
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.closure import Program
from tfps.training.synchronous.contribution import ContributionClosure
from tfps.training.synchronous.layout import Layout
from tfps.training.synchronous.schedule import UpdatePolicy
from tfps.training.synchronous.stage import Stage
from tfps.training.synchronous.update import update


class SyncSteps:
    """What the global steps of one model share.

    Args:
        strategy: whose workers and servers make them.
        name: which no other has.
        drop_slowest: workers that an update does not wait for, below the number of workers.
        max_staleness: updates that a contribution may miss.

    Attributes:
        policy: when an update is made.
    """

    def __init__(self, strategy: ParameterServerStrategy, name: str, drop_slowest: int, max_staleness: int) -> None:
        self._strategy = strategy
        self.policy = UpdatePolicy(drop_slowest, max_staleness, self._update)
        self._stage = Stage(name, strategy.num_workers * self.policy.slots)
        self._layout: Layout | None = None
        self._run = tf.function(self._trace, autograph=False)

    def closure(self, program: Program) -> ContributionClosure:
        """Traces the contributions of a program; the updates are of what the last one was made of."""
        return ContributionClosure(program, self._stage, self._traced)

    def _traced(self, layout: Layout) -> None:
        """Takes note of the layout of a step; while a thread traces it, updates are of one that was traced before."""
        self._layout = layout

    def _update(self, places: Sequence[int]) -> None:
        """Makes the update of what waits in some places."""
        merged = tf.constant([place in places for place in range(self._stage.places)])
        calls = Calls(self._strategy.server_pool, "the update of a synchronous step", self._strategy.closure_timeout_s)
        calls.submit(0, None, functools.partial(self._run, merged))
        calls.take()

    def _trace(self, merged: Any) -> Any:
        layout = self._layout
        assert layout is not None  # a contribution was traced before
        with self._strategy.scope():
            update(layout, self._stage, merged)
        return tf.constant(True)
