"""Results of calls on all workers, in the order of the calls."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import tensorflow as tf

from tfps.runtime.calls import Calls
from tfps.runtime.losses import WorkerLostError
from tfps.runtime.pool import WorkerPool
from tfps.types import Nest

_IN_FLIGHT = 4
"""Calls a worker has: one runs, and the others wait while results of slower workers, which come first, are awaited."""


class Workers(Protocol):
    """The workers of a strategy."""

    closure_timeout_s: float

    @property
    def num_workers(self) -> int:
        """How many there are."""
        ...

    @property
    def pool(self) -> WorkerPool:
        """Runs the calls."""
        ...

    def host_of(self, shard: int) -> int:
        """The worker that does the work of a worker: itself, or another where it is gone."""
        ...


def run_in_order(workers: Workers, what: str, functions: Iterable[Callable[[], tf.Tensor]]) -> Iterator[Nest]:
    """Calls functions on the workers, in turn, and gives their results in the order of the functions.

    A call that is lost with its worker is made again on another. Functions are taken as workers have room for them.
    Whoever stops early drops the calls that have not begun.

    Args:
        workers: run them.
        what: they are, for messages: "predictions for a batch".
        functions: as for `WorkerPool.call`.
    """
    calls = Calls(workers.pool, what, workers.closure_timeout_s)
    submitted: dict[int, Callable[[], tf.Tensor]] = {}
    early: dict[int, Nest] = {}  # results that came before their turn

    def submit(number: int) -> None:
        calls.submit(workers.host_of(number % workers.num_workers), number, submitted[number])

    def result_of(number: int) -> Nest:
        while number not in early:
            tag, result = calls.take()
            if isinstance(result, WorkerLostError):
                submit(tag)
            else:
                early[tag] = result
        del submitted[number]
        return early.pop(number)

    given = 0
    try:
        for number, function in enumerate(functions):
            submitted[number] = function
            submit(number)
            if len(submitted) >= _IN_FLIGHT * workers.num_workers:
                yield result_of(given)
                given += 1
        while submitted:
            yield result_of(given)
            given += 1
    finally:
        calls.abandon(0.0)
