"""The errors that tfps raises. A message gives the argument, its rule, the value received and the valid values.

The useful part comes last in the message. The text of TensorFlow's own error goes to a log file
(`tfps.cluster.fault_log`), and the message names the file.
"""

from tfps import jobs


class TfpsError(Exception):
    """The base class of the errors of tfps."""

    # Keras looks for this attribute. Without it, Keras would replace an error from a layer by a copy with a longer
    # message, which has the arguments of the layer after the useful part, and without the attributes below.
    _keras_call_info_injected = True


class ConfigError(TfpsError, ValueError):
    """A setting (TF_CONFIG, an argument, an environment variable) breaks a rule; nothing was started."""


class PlanError(TfpsError, ValueError):
    """A placement plan is impossible, incomplete or does not fit the model."""


class UnsupportedError(TfpsError, NotImplementedError):
    """The requested feature makes no sense with parameter servers, or is not implemented."""


class IdRangeError(TfpsError, IndexError):
    """A lookup got an id that is outside its table.

    Args:
        message: the message.
        table: the name of the table. This argument and the ones below are None if the error has only a message.
        layer: the path of the layer that holds the table.
        id: the first id that is out of range.
        rows: the number of rows of the table; valid ids are at least 0 and below it.
        place: the index of the id in the ids of its lookup. Example: (3, 7) is example 3, position 7.
        shape: the shape of these ids.
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
        # All but the message have defaults, because `pickle` and Keras copy an exception from its message alone.
        super().__init__(message)
        self.table, self.layer, self.rows = table, layer, rows
        self.id, self.place, self.shape = id, place, shape


class NotFiniteError(TfpsError, ArithmeticError):
    """A gradient is NaN or infinite, and the strategy has `on_nan="stop"`.

    Args:
        message: the message.
        worker: the number of the worker that found it. This argument and the ones below are None if the error has only
            a message.
        step: the number of the step, as the optimizer of the worker counts.
        layer: the path of the first layer.
        variables: the paths of the variables.
        rows: for each table among them, ids of its rows, eight at most.
    """

    def __init__(
        self,
        message: str,
        *,
        worker: int | None = None,
        step: int | None = None,
        layer: str | None = None,
        variables: tuple[str, ...] | None = None,
        rows: dict[str, tuple[int, ...]] | None = None,
    ) -> None:
        super().__init__(message)
        self.worker, self.step, self.layer, self.variables, self.rows = worker, step, layer, variables, rows


class InputFileError(TfpsError, OSError):
    """A worker cannot read a file of its input.

    Args:
        message: the message.
        task: the job and number of the task; None if it is unknown.
        path: the path or URL as the task sees it; None if it is unknown.
    """

    def __init__(self, message: str, *, task: tuple[str, int] | None = None, path: str | None = None) -> None:
        super().__init__(message)
        self.task, self.path = task, path


class BufferLimitError(TfpsError, MemoryError):
    """A metric has collected more examples than its `limit`. The message names the metric."""


class LabelError(TfpsError, ValueError):
    """A metric got a label or a prediction that it cannot count. The message names the metric and what is valid."""


class SourceError(TfpsError, OSError):
    """A stream cannot be read: its source is not there, cannot be reached, or has lost records.

    Args:
        message: the message.
        may_pass: whether the same call may succeed later.
    """

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class CheckpointError(TfpsError, ValueError):
    """A checkpoint cannot be written, is incomplete or broken, or does not fit the model. Nothing was overwritten."""


class CheckpointMismatchError(CheckpointError):
    """A checkpoint is of another model."""


class ExportError(TfpsError, ValueError):
    """An export for serving cannot be written or read, or is broken."""


class ExportGapError(ExportError):
    """A follower cannot get from its version to the newest one, because a version between them is missing or broken.

    Args:
        message: the message.
        version: the version of the follower; None if it has none. This argument and the one below are None if the error
            has only a message.
        missing: the version that is missing or broken; None if it is unknown.
    """

    def __init__(self, message: str, *, version: int | None = None, missing: int | None = None) -> None:
        super().__init__(message)
        self.version, self.missing = version, missing


class DumpError(TfpsError, ValueError):
    """A dump of steps cannot be written or read, is broken, or cannot be compared with another one."""


class LibraryError(TfpsError, RuntimeError):
    """The C++ library is missing, was built for another TensorFlow, or cannot be loaded."""


class ClusterError(TfpsError, RuntimeError):
    """The cluster failed: a task did not start, died, or cannot be reached.

    Args:
        message: the message.
        task: the job and number of the task that failed; None if it is unknown.
        summary: a summary of one line, if the message has several lines.
    """

    def __init__(self, message: str, task: tuple[str, int] | None = None, summary: str = "") -> None:
        super().__init__(message)
        # Log lines quote the summary, because the message may carry the tail of a log.
        self.task = task
        self.summary = summary or message


class TaskDiedError(ClusterError):
    """A process of the cluster died while the program needed it. The message has the tail of its log."""


class ServerLostError(TaskDiedError):
    """A parameter server died or cannot be reached, and the variables that it held are lost.

    Args:
        message: the message.
        servers: the numbers of the servers.
        summary: a summary of one line, if the message has several lines.
        is_restarted: whether a server runs again, without what it held.
    """

    def __init__(
        self, message: str, servers: tuple[int, ...] = (), summary: str = "", is_restarted: bool = False
    ) -> None:
        super().__init__(message, (jobs.PS, servers[0]) if servers else None, summary)
        self.servers, self.is_restarted = servers, is_restarted


class ClusterTimeoutError(ClusterError, TimeoutError):
    """A wait for the cluster exceeded its time limit. The message names the awaited event."""
