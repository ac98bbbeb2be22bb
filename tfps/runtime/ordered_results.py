"""Runs calls on all workers, and yields their results in the order of the calls."""

from collections.abc import Callable, Generator, Iterable
from typing import Protocol

import tensorflow as tf

from tfps.runtime.calls import Calls
from tfps.runtime.losses import WorkerLostError
from tfps.runtime.pool import WorkerPool
from tfps.types import Nest

_IN_FLIGHT = 4
"""Calls under way for each worker: one runs, and the others keep the worker busy while a slower worker is awaited."""


class Workers(Protocol):
    """The workers of a strategy. `ParameterServerStrategy` implements it."""

    closure_timeout_s: float

    @property
    def num_workers(self) -> int:
        """The number of workers."""
        ...

    @property
    def pool(self) -> WorkerPool:
        """The pool that runs the calls."""
        ...

    def host_of(self, shard: int) -> int:
        """Returns the worker that does the work of worker `shard`: that worker itself, unless it is lost."""
        ...


def run_in_order(
    workers: Workers, what: str, functions: Iterable[Callable[[], tf.Tensor]], in_turn: bool = False
) -> Generator[Nest, None, None]:
    """Calls functions on the workers in turn, and yields their results in the order of the functions.

    A call that is lost with its worker is repeated on another worker. The next function is taken from `functions` when
    a worker has room for it. If the caller stops early, the calls that have not begun are dropped.

    Args:
        workers: the workers that run the calls.
        what: a description of the calls for messages: "predictions for a batch".
        functions: the functions, as for `WorkerPool.call`.
        in_turn: whether each call builds on the one before it. All of them then run on one worker.
    """
    calls = Calls(workers.pool, what, workers.closure_timeout_s)
    # The functions whose results were not yielded yet, by number. A lost call needs its function again.
    submitted: dict[int, Callable[[], tf.Tensor]] = {}
    # Results that arrived before their turn, by number.
    early: dict[int, Nest] = {}

    def submit(number: int) -> None:
        shard = 0 if in_turn else number % workers.num_workers
        calls.submit(workers.host_of(shard), number, submitted[number])

    def wait_for_result(number: int) -> Nest:
        # Results arrive in any order, so those of later numbers are kept until their turn.
        while number not in early:
            tag, result = calls.take()
            if isinstance(result, WorkerLostError):
                submit(tag)
            else:
                early[tag] = result
        del submitted[number]
        return early.pop(number)

    next_number = 0
    try:
        for number, function in enumerate(functions):
            submitted[number] = function
            submit(number)
            # Bounds the memory for batches and for early results.
            if len(submitted) >= _IN_FLIGHT * workers.num_workers:
                yield wait_for_result(next_number)
                next_number += 1
        while submitted:
            yield wait_for_result(next_number)
            next_number += 1
    # Also reached when the caller closes the generator early.
    finally:
        calls.abandon(0.0)
