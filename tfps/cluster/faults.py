"""Translates TensorFlow's errors into ours. The only module that tells failures apart by their text.

Our error is short and ends with what happened. TensorFlow's text goes to the file of `fault_log`, which the message
names. Our errors are raised `from None`; the original stays in `__context__` for a debugger.

Threading: any thread. Cost: microseconds, but `translate` writes to the log file, and it may wait up to a second for a
`LocalCluster` to report which process died.
"""

import contextlib
import re
import time
from collections.abc import Iterator
from typing import NoReturn, TypeAlias

from tfps import jobs
from tfps.cluster import devices, fault_log, tf_logging, worker_functions
from tfps.cluster.local import LocalCluster
from tfps.cluster.spec import ClusterSpec
from tfps.errors import (
    ClusterError,
    InputFileError,
    LibraryError,
    ServerLostError,
    TaskDiedError,
    TfpsError,
)

Cluster: TypeAlias = LocalCluster | ClusterSpec | None

_PEER = re.compile(r"ipv[46]:(?P<address>\S+?:\d+)\b")
_UNREACHABLE = re.compile(
    r"failed to connect to all addresses|connection reset by peer|connection refused|socket closed|broken pipe|"
    r"keepalive watchdog timeout|ping timeout|connection timed out|GOAWAY|endpoint closing",
    re.IGNORECASE,
)
_RESTARTED = re.compile(
    r"unable to find a context_id|session handle is not found|some remote workers have been restarted", re.IGNORECASE
)
_REMOTE = re.compile(r"error information from remote target (?P<task>\S+)")
_NO_OP = re.compile(r"Op type not registered '(?P<op>\w+)'")
_UNREADABLE = re.compile(
    r"^(?:.*\}\} ?|\w+Error: |\s*\(\d+\) \w+: +)?(?P<path>[^\n]*?); "
    r"(?P<reason>No such file or directory|Permission denied|Is a directory)",
    re.MULTILINE,
)
_NO_SCHEME = re.compile(r"(?P<reason>File system scheme '[^']*' not implemented) \(file: '(?P<path>[^']*)'\)")
_NO_PORT = re.compile(r"could not start grpc server", re.IGNORECASE)
# A connection breaks a little before the zygote reports that the process at its other end died.
_DEATH_REPORT_S = 1.0


@contextlib.contextmanager
def translate_errors(cluster: Cluster) -> Iterator[None]:
    """Runs a block and raises cluster failures and ids out of range as our errors.

    Args:
        cluster: as for `translate`.
    """
    try:
        yield
    except Exception as error:
        raise_translated(error, translate(error, cluster))


def raise_translated(error: BaseException, ours: BaseException) -> NoReturn:
    """Raises the result of `translate`. Call it inside the `except` block that caught `error`.

    Args:
        error: the error that was caught.
        ours: its translation, or `error` itself if it has none.
    """
    if ours is error:
        raise error
    # The traceback is dropped: its frames belong to the translation or to our own threads and do not help the user.
    raise ours.with_traceback(None) from None


def translate(error: Exception, cluster: Cluster, task: tuple[str, int] | None = None) -> Exception:
    """Returns our error for a failure of the cluster, of a lookup or of a file, and any other `error` unchanged.

    Args:
        error: the error that TensorFlow, or a closure of its coordinator, raised.
        cluster: the cluster it ran on. For a `LocalCluster` the message has the tail of a dead server's log.
        task: the worker that ran what failed, for messages about files; None if it is unknown.
    """
    if isinstance(error, TfpsError):
        return error
    ours = _translation(error, cluster, task)
    if ours is None:
        return error
    if path := fault_log.record(error):
        text = str(ours)
        # A message that ends with the tail of a log gets the path on a new line.
        gap = "\n" if "\n" in text else " " if text.endswith(".") else ". "
        ours.args = (f"{text}{gap}TensorFlow's full message: {path}", *ours.args[1:])
    return ours


def _translation(error: Exception, cluster: Cluster, task: tuple[str, int] | None) -> TfpsError | None:
    # The error of a closure that was aborted, or whose inputs failed, carries the error that caused it.
    error_text = str(getattr(error, "original_exception", None) or error)
    # The most specific texts come first: a server without our ops may also close its connection.
    if missing := _NO_OP.search(error_text):
        return _library_error(missing["op"], error_text)
    if _NO_PORT.search(error_text):
        return ClusterError(f"The chief cannot listen on its port; another process may have it. {_first_line(error)}")
    if _RESTARTED.search(error_text):
        return _lost_task_error(error_text, cluster, "was started again and has lost what it held")
    if _UNREACHABLE.search(error_text) and _is_connection_error(error):
        return _find_dead_task(cluster) or _lost_task_error(error_text, cluster, "cannot be reached")
    if _is_broken_off(error, error_text):
        return _find_dead_task(cluster) or _lost_task_error(error_text, cluster, "has broken off a call")
    if task is not None and (found := _find_unreadable(error, error_text)):
        return _file_error(found, task, cluster)
    return _step_error(error, error_text, task)


def _find_unreadable(error: Exception, error_text: str) -> re.Match[str] | None:
    """Returns the path of a file that cannot be read, and the reason, from the text of an error."""
    # As for connections, a user's own error may quote such words, so the class counts too.
    import tensorflow as tf

    kinds = (
        tf.errors.NotFoundError,
        tf.errors.PermissionDeniedError,
        tf.errors.FailedPreconditionError,
        tf.errors.UnimplementedError,
    )
    from_op = isinstance(getattr(error, "original_exception", None) or error, kinds)
    return (_UNREADABLE.search(error_text) or _NO_SCHEME.search(error_text)) if from_op else None


def _file_error(found: re.Match[str], task: tuple[str, int], cluster: Cluster) -> InputFileError:
    who = _format_task(*task, _get_spec(cluster))
    return InputFileError(
        f"every worker must be able to read the files of the input. {who} cannot read {found['path']!r}: "
        f"{found['reason']}. Valid: the path of a file that is the same on all workers; a relative one starts at the "
        "folder in which a worker was started, or, for workers on this machine, at the current folder of the program.",
        task=task,
        path=found["path"],
    )


def _step_error(error: Exception, error_text: str, task: tuple[str, int] | None) -> TfpsError | None:
    """Returns the error that an op of ours in a step reports."""
    import tensorflow as tf

    from tfps.ops import id_range, label_check, not_finite

    # Only an op raises this class; a user's own error may quote the same text.
    from_op = isinstance(getattr(error, "original_exception", None) or error, tf.errors.InvalidArgumentError)
    if not from_op:
        return None
    if ours := worker_functions.find_error(error_text):
        return ours
    return (
        id_range.find(error_text)
        or not_finite.find(error_text, None if task is None else task[1])
        or label_check.find(error_text)
    )


def _is_connection_error(error: Exception) -> bool:
    # A user's own error may quote such words, so the class counts too.
    import tensorflow as tf

    kinds = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.InternalError, tf.errors.UnknownError)
    return isinstance(getattr(error, "original_exception", None) or error, kinds)


def _is_broken_off(error: Exception, error_text: str) -> bool:
    """Whether a call on another task was cancelled by gRPC, which closes a connection that stands still."""
    import tensorflow as tf

    cancelled = isinstance(getattr(error, "original_exception", None) or error, tf.errors.CancelledError)
    return cancelled and _REMOTE.search(error_text) is not None


def _find_dead_task(cluster: Cluster) -> TaskDiedError | None:
    """Returns the error of an embedded cluster whose task died, after waiting for its report if necessary."""
    if not isinstance(cluster, LocalCluster) or not cluster.tasks:
        return None
    deadline = time.monotonic() + _DEATH_REPORT_S
    while time.monotonic() < deadline:
        try:
            cluster.check()
        except TaskDiedError as died:
            return died
        time.sleep(0.02)
    return None


def _lost_task_error(text: str, cluster: Cluster, what: str) -> ClusterError:
    spec = _get_spec(cluster)
    task = _task_to_blame(text, spec)
    tf_logging.quieten()
    who = "A server" if task is None else _format_task(*task, spec)
    reason = _extract_reason(text)
    message = f"{who} {what}. TensorFlow says: {spec.show_addresses(reason) if spec else reason}"
    if task is None or task[0] != jobs.PS:
        return ClusterError(message, task)
    return ServerLostError(message, (task[1],), is_restarted=_RESTARTED.search(text) is not None)


def _get_spec(cluster: Cluster) -> ClusterSpec | None:
    """Returns the addresses of the tasks, or None if they are unknown, as for a stopped embedded cluster."""
    if isinstance(cluster, LocalCluster):
        return cluster.spec if cluster.tasks else None
    return cluster


def _task_to_blame(text: str, spec: ClusterSpec | None) -> tuple[str, int] | None:
    """Returns the task at the other end of the broken connection, else the first task that the text names."""
    # Example: worker 0 reports that ps 1 refuses its connection. The text names worker 0 as the remote target, and only
    # the peer's address, "ipv4:10.0.0.5:2222", points to ps 1.
    if isinstance(spec, ClusterSpec):
        for peer in _PEER.finditer(text):
            if task := spec.task_at(peer["address"]):
                return task
    return devices.find_task(text)


def _format_task(job: str, index: int, spec: ClusterSpec | None) -> str:
    endpoints = () if spec is None else spec.endpoints(job)
    return f"{job} {index} at {endpoints[index]}" if index < len(endpoints) else f"{job} {index}"


def _library_error(op: str, text: str) -> LibraryError:
    task = devices.find_task(text)
    where = "A server" if task is None else f"{task[0]} {task[1]}"
    return LibraryError(
        f"{where} does not know the op {op!r}: it was not started by tfps, or by one without the C++ library. Install "
        "the same tfps on every host, or set TFPS_DISABLE_OPS=1 on the chief."
    )


def _extract_reason(text: str) -> str:
    """Returns the one line of TensorFlow's text that says what failed."""
    found = _UNREACHABLE.search(text) or _RESTARTED.search(text) or _REMOTE.search(text)
    if found is None:
        return text.strip()
    start = text.rfind("\n", 0, found.start()) + 1
    return text[start:].splitlines()[0].strip()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
