"""`Source`: where the records of a stream come from. `Files` and `Kafka` implement it; so may a user's own class.

A source has no state that matters. What was trained is a *position*, plain JSON that is saved with the model; `plan`
derives the next window from it. So a program that was killed plans again from the position of its last checkpoint, and
each record counts once in what was restored.

Threading: the main thread of the chief. A dataset of a source runs on the workers.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import tensorflow as tf

from tfps.streaming.windows import Rule
from tfps.types import JSON


@dataclasses.dataclass(frozen=True)
class Planned:
    """The next window.

    Args:
        parts: what it consists of, at least one.
        count: the number of files or messages.
        start_s: the time at which it begins; None for a window of a count.
        end_s: the time before which it ends; None for a window of a count.
        position: the position after it.
    """

    parts: tuple[JSON, ...]
    count: int
    start_s: float | None
    end_s: float | None
    position: JSON


@dataclasses.dataclass(frozen=True)
class Waiting:
    """There is no next window yet.

    Args:
        reason: what is waited for, for the log.
    """

    reason: str


@runtime_checkable
class Source(Protocol):
    """A stream of records that comes in windows.

    Attributes:
        unit: what `count` of a window counts: "files", "messages".
        poll_s: the seconds between two calls of `plan` while there is no window.
        patience_s: for how long `plan` may fail by a `SourceError` that may pass, before the training ends with it.
    """

    unit: str
    poll_s: float
    patience_s: float

    def check(self, rule: Rule) -> None:
        """Checks that the source is there and can be divided by a rule, before anything is trained.

        Raises:
            ConfigError: it cannot; the message names what is missing.
        """
        ...

    def plan(self, position: JSON, rule: Rule, now_s: float) -> Planned | Waiting:
        """Returns the window after a position.

        Args:
            position: the position of the last window; None at the start of the training.
            rule: how the stream is divided.
            now_s: the time.

        Raises:
            SourceError: the source cannot be read, or has lost records.
            CheckpointError: the position is of another source.
        """
        ...

    # The test, the training and a training after a restart each make a dataset of their own.
    def dataset(self, parts: Sequence[JSON]) -> tf.data.Dataset:
        """Returns the batches of a window, the same ones each time."""
        ...

    def commit(self, position: JSON) -> None:
        """Notes outside that everything before a position is in a checkpoint."""
        ...
