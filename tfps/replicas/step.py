"""`ReplicaStep`: the step of one replica under trace, which counts by its examples.

Threading: a thread of each replica; the replicas of a process take turns where they meet.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf


class ReplicaStep:
    """One step of one replica.

    Args:
        examples: the number of examples that the replica has, a float32 scalar; it may be 0.

    Attributes:
        assigned: the Keras variables that the step assigns, apart from those of the optimizer.
    """

    def __init__(self, examples: tf.Tensor) -> None:
        self.examples = examples
        self.assigned: list[Any] = []


class _Current(threading.local):
    """The current step and whether its gradients are reduced, of each thread."""

    step: ReplicaStep | None = None
    updating: bool = False


_CURRENT = _Current()


def current() -> ReplicaStep | None:
    """Returns the step that this thread traces; None outside of steps and of their updates."""
    return None if _CURRENT.updating else _CURRENT.step


@contextlib.contextmanager
def tracing(step: ReplicaStep) -> Iterator[None]:
    """Makes `step` the current step of this thread."""
    before, _CURRENT.step = _CURRENT.step, step
    try:
        yield
    finally:
        _CURRENT.step = before


def after_input() -> contextlib.AbstractContextManager[Any]:
    """Lets the operations within wait for the batch of the current step.

    A step that finds no batch fails, but TensorFlow runs what needs no batch all the same: it would count a step.
    """
    found = _CURRENT.step
    return contextlib.nullcontext() if found is None else tf.control_dependencies([found.examples])


def is_updating() -> bool:
    """Whether this thread updates variables from gradients that are those of all replicas."""
    return _CURRENT.updating


@contextlib.contextmanager
def updating() -> Iterator[None]:
    """Marks that gradients are those of all replicas now."""
    before, _CURRENT.updating = _CURRENT.updating, True
    try:
        yield
    finally:
        _CURRENT.updating = before
