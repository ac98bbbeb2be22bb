"""Every error tfps raises on purpose. Each message names the argument, the rule, what came and what is valid."""


class TfpsError(Exception):
    """Base of every error raised by tfps."""


class ConfigError(TfpsError, ValueError):
    """A setting (TF_CONFIG, an argument, an environment variable) breaks a rule; nothing was started."""


class PlanError(TfpsError, ValueError):
    """A placement plan is impossible, incomplete or does not fit the model."""


class UnsupportedError(TfpsError, NotImplementedError):
    """What was asked for has no meaning or no implementation under a parameter server."""


class IdRangeError(TfpsError, IndexError):
    """A lookup was asked for an id outside its table."""


class LibraryError(TfpsError, RuntimeError):
    """The C++ library is missing, was built for another TensorFlow, or cannot be loaded."""


class ClusterError(TfpsError, RuntimeError):
    """The cluster failed: a task did not start, died, or cannot be reached.

    Args:
        message: what happened.
        task: job and number of the task to blame, where it is known.
    """

    def __init__(self, message: str, task: tuple[str, int] | None = None) -> None:
        super().__init__(message)
        self.task = task


class TaskDiedError(ClusterError):
    """A process of the cluster ended while it was needed; the message carries the tail of its log."""


class ClusterTimeoutError(ClusterError, TimeoutError):
    """A wait for the cluster passed its time limit; the message says what was waited for."""
