"""Every error tfps raises on purpose. Each message names the argument, the rule, what was received and what is valid.

The message ends with what the user did wrong. What TensorFlow had to say goes to a log file (`tfps.cluster.fault_log`),
which the message names.
"""


class TfpsError(Exception):
    """Base of every error raised by tfps."""

    # Keras looks for this attribute. Without it, Keras raises a copy of an error that a layer raised: a longer message,
    # with the arguments of the layer after the useful part, and without the attributes below.
    _keras_call_info_injected = True


class ConfigError(TfpsError, ValueError):
    """A setting (TF_CONFIG, an argument, an environment variable) breaks a rule; nothing was started."""


class PlanError(TfpsError, ValueError):
    """A placement plan is impossible, incomplete or does not fit the model."""


class UnsupportedError(TfpsError, NotImplementedError):
    """What was asked for has no meaning or no implementation under a parameter server."""


class IdRangeError(TfpsError, IndexError):
    """A lookup was asked for an id outside its table.

    Args:
        message: what happened.
        table: the table's name; None, as the arguments below, where an error says the message alone.
        layer: path of the layer that holds the table.
        id: the first id that is out of range.
        rows: of the table: ids are at least 0 and below this.
        place: index of the id in the ids of its lookup: (3, 7) is example 3, position 7.
        shape: of these ids.
    """

    def __init__(
        self,
        message: str,
        *,
        table: str | None = None,
        layer: str | None = None,
        id: int | None = None,
        rows: int | None = None,
        place: tuple[int, ...] | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        # Keywords, because `pickle` and Keras make a copy of an exception from its message alone.
        super().__init__(message)
        self.table, self.layer, self.rows = table, layer, rows
        self.id, self.place, self.shape = id, place, shape


class LibraryError(TfpsError, RuntimeError):
    """The C++ library is missing, was built for another TensorFlow, or cannot be loaded."""


class ClusterError(TfpsError, RuntimeError):
    """The cluster failed: a task did not start, died, or cannot be reached.

    Args:
        message: what happened.
        task: job and number of the task to blame, where it is known.
        summary: the message in one line, where it has more.
    """

    def __init__(self, message: str, task: tuple[str, int] | None = None, summary: str = "") -> None:
        super().__init__(message)
        self.task = task
        self.summary = summary or message


class TaskDiedError(ClusterError):
    """A process of the cluster ended while it was needed; the message carries the tail of its log."""


class ClusterTimeoutError(ClusterError, TimeoutError):
    """A wait for the cluster passed its time limit; the message says what was waited for."""
