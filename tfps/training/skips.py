"""Assignments that nobody takes note of: those of an optimizer, which the mode itself makes equal on all workers."""

import contextlib
from collections.abc import Iterator, Sequence

from tfps.strategy.variables import DenseVariable


class Skips:
    """What has part of its assignments skipped; a part of an implementation of `tfps.step.Assignments`.

    Threading: one thread traces a closure.
    """

    def __init__(self) -> None:
        self._skips: list[frozenset[int] | None] = []

    @contextlib.contextmanager
    def skipped(self, variables: Sequence[DenseVariable] | None) -> Iterator[None]:
        """Takes no note of assignments to some variables within; None for all variables."""
        before = self._skips
        self._skips = [*before, None if variables is None else frozenset(id(variable) for variable in variables)]
        try:
            yield
        finally:
            self._skips = before

    def is_skipped(self, variable: DenseVariable) -> bool:
        """Whether assignments to a variable are skipped now."""
        return any(skipped is None or id(variable) in skipped for skipped in self._skips)
