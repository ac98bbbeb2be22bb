"""The steps of one model that workers have under way, and every wait for them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from tfps.errors import ClusterError

_GIVE_UP_S = 5.0
"""Seconds that closures under way have to end when the cluster failed or the user interrupted."""

TRAIN = "train_function"
TEST = "test_function"


class Steps(Protocol):
    """Steps of one kind, of training or of evaluation."""

    def settle(self) -> None:
        """Waits for those under way; the epoch continues after it."""
        ...

    def abandon(self, timeout_s: float) -> None:
        """Ends the epoch where it is; closures that run have `timeout_s` to end."""
        ...

    def finish(self) -> dict[str, Any]:
        """Ends the epoch: waits for all steps and returns the final logs."""
        ...


class StepsUnderWay:
    """Says when nothing of a model runs on the workers, and makes it so.

    Loops may be nested: a callback of `fit` may call `evaluate`, which comes between the steps of an epoch.

    Threading: the main thread.

    Args:
        steps_of: the model's steps, `TRAIN` or `TEST`; None where it has made none.
        timeout_s: seconds that a closure may take.
    """

    def __init__(self, steps_of: Callable[[str], Steps | None], timeout_s: float) -> None:
        self._steps_of = steps_of
        self._timeout_s = timeout_s
        self._loops: list[str] = []

    def settle(self) -> None:
        """Waits for the training steps under way, so that what is read next is what whole steps have left."""
        steps = self._steps_of(TRAIN)
        if steps is not None:
            steps.settle()

    @contextlib.contextmanager
    def loop(self, kind: str) -> Iterator[None]:
        """Runs a loop over steps (`fit`, `evaluate`). If it fails, nothing that it began changes the model after it.

        Args:
            kind: of the steps, `TRAIN` or `TEST`.
        """
        self.settle()
        self._loops.append(kind)
        try:
            yield
        except BaseException as error:
            self._abandon(kind, error)
            raise
        finally:
            self._loops.pop()

    def finish(self) -> dict[str, Any] | None:
        """Ends an epoch of the loop that runs, and returns its final logs; None where none of ours runs."""
        steps = self._steps_of(self._loops[-1]) if self._loops else None
        return None if steps is None else steps.finish()

    def _abandon(self, kind: str, error: BaseException) -> None:
        steps = self._steps_of(kind)
        if steps is None:
            return
        # After an error of the user's code closures still end by themselves. A dead server's may never end, and a user
        # who interrupts does not want to wait.
        ends_soon = isinstance(error, Exception) and not isinstance(error, ClusterError)
        steps.abandon(self._timeout_s if ends_soon else _GIVE_UP_S)
