"""`StepsUnderWay`: waits for the steps of one model that workers have under way."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from tfps.errors import ClusterError

_GIVE_UP_S = 5.0
"""Seconds to wait for the closures under way after a failure of the cluster or an interrupt by the user."""

# The two kinds of steps, by the name of the Keras attribute that holds them.
TRAIN = "train_function"
TEST = "test_function"


class Steps(Protocol):
    """The steps of one kind: of training or of evaluation."""

    def settle(self) -> None:
        """Waits for the steps under way. The epoch can continue afterwards."""
        ...

    def abandon(self, timeout_s: float) -> None:
        """Ends the epoch early, and waits up to `timeout_s` seconds for the closures that run."""
        ...

    def finish(self) -> dict[str, Any]:
        """Waits for all steps of the epoch, and returns the final logs."""
        ...


class StepsUnderWay:
    """Waits until no step of a model runs on the workers.

    Loops may be nested: a callback of `fit` may call `evaluate` between the steps of an epoch.

    Threading: the main thread.

    Args:
        steps_of: a function that returns the model's steps of a kind, `TRAIN` or `TEST`; None before the first use.
        timeout_s: the largest number of seconds that a closure may take.
    """

    def __init__(self, steps_of: Callable[[str], Steps | None], timeout_s: float) -> None:
        self._steps_of = steps_of
        self._timeout_s = timeout_s
        # The kinds of the loops that run, the innermost last.
        self._loops: list[str] = []

    def settle(self) -> None:
        """Waits for the training steps under way, so that the caller then reads the result of whole steps."""
        steps = self._steps_of(TRAIN)
        if steps is not None:
            steps.settle()

    @contextlib.contextmanager
    def loop(self, kind: str) -> Iterator[None]:
        """Runs a loop over steps (`fit`, `evaluate`). If the loop fails, its steps do not change the model afterwards.

        Args:
            kind: the kind of the steps, `TRAIN` or `TEST`.
        """
        self.settle()
        self._loops.append(kind)
        try:
            yield
        # A KeyboardInterrupt must stop the steps too.
        except BaseException as error:
            self._abandon(kind, error)
            raise
        finally:
            self._loops.pop()

    def finish(self) -> dict[str, Any] | None:
        """Ends an epoch of the innermost loop and returns its final logs; None if no loop of this model runs."""
        steps = self._steps_of(self._loops[-1]) if self._loops else None
        return None if steps is None else steps.finish()

    def _abandon(self, kind: str, error: BaseException) -> None:
        """Abandons the steps of a loop that an error has ended."""
        steps = self._steps_of(kind)
        if steps is None:
            return
        # After an error in the user's code, the closures still end by themselves. If a server is dead, they may never
        # end, and a user who interrupts does not want to wait.
        ends_soon = isinstance(error, Exception) and not isinstance(error, ClusterError)
        steps.abandon(self._timeout_s if ends_soon else _GIVE_UP_S)
