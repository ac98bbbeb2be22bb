"""TensorFlow's errors translated into ours. The one place that tells its failures apart by their text.

An error of ours is short and says what happened last; the text of TensorFlow goes to the file of `fault_log`, which the
message names. So ours are raised `from None`: the original stays in `__context__`, for a debugger.

Threading: any thread. Cost: microseconds, but `translate` may wait up to a second for the news of a death, and writes
to the log file. It asks a `LocalCluster` which of its processes live.
"""

import contextlib
import re
import time
from collections.abc import Iterator
from typing import NoReturn, TypeAlias

from tfps.cluster import devices, fault_log, tf_logging
from tfps.cluster.local import LocalCluster
from tfps.cluster.spec import ClusterSpec
from tfps.errors import ClusterError, IdRangeError, LibraryError, TaskDiedError, TfpsError

Cluster: TypeAlias = LocalCluster | ClusterSpec | None

_PEER = re.compile(r"ipv[46]:(?P<address>\S+?:\d+)\b")
_UNREACHABLE = re.compile(
    r"failed to connect to all addresses|connection reset by peer|connection refused|socket closed|broken pipe|"
    r"keepalive watchdog timeout|connection timed out|GOAWAY|endpoint closing",
    re.IGNORECASE,
)
_RESTARTED = re.compile(r"unable to find a context_id|session handle is not found", re.IGNORECASE)
_NO_OP = re.compile(r"Op type not registered '(?P<op>\w+)'")
_NO_PORT = re.compile(r"could not start grpc server", re.IGNORECASE)
_NEWS_S = 1.0


@contextlib.contextmanager
def translated(cluster: Cluster) -> Iterator[None]:
    """Runs a block and raises the failures of the cluster, and ids out of range, as ours.

    Args:
        cluster: as for `translate`.
    """
    try:
        yield
    except Exception as error:
        raise_translated(error, translate(error, cluster))


def raise_translated(error: BaseException, ours: BaseException) -> NoReturn:
    """Raises what `translate` made of an error; call it where the error is being handled.

    Args:
        error: what was caught.
        ours: its translation; `error` itself where there is none.
    """
    if ours is error:
        raise error
    # Without its traceback: frames of the translation, or of a thread that ran the call, say nothing to the user.
    raise ours.with_traceback(None) from None


def translate(error: Exception, cluster: Cluster) -> Exception:
    """The error of ours that says what happened, or `error` itself if it is none of the cluster's or of a lookup's.

    Args:
        error: what TensorFlow, or a closure of its coordinator, raised.
        cluster: the cluster it ran on. For a `LocalCluster` a dead server is named with the tail of its log.
    """
    if isinstance(error, TfpsError):
        return error
    ours = _translation(error, cluster)
    if ours is None:
        return error
    if path := fault_log.record(error):
        text = str(ours)
        # After the tail of a log the file gets a line of its own.
        gap = "\n" if "\n" in text else " " if text.endswith(".") else ". "
        ours.args = (f"{text}{gap}TensorFlow's full message: {path}", *ours.args[1:])
    return ours


def _translation(error: Exception, cluster: Cluster) -> TfpsError | None:
    # A closure that was aborted, or whose inputs failed, carries the error that did it.
    error_text = str(getattr(error, "original_exception", None) or error)
    # From the most telling to the least: a server without our ops may also close its connection.
    if missing := _NO_OP.search(error_text):
        return _library_error(missing["op"], error_text)
    if _NO_PORT.search(error_text):
        return ClusterError(f"The chief cannot listen on its port; another process may have it. {_first_line(error)}")
    if _RESTARTED.search(error_text):
        return _lost(error_text, cluster, "was started again and has lost what it held")
    if _UNREACHABLE.search(error_text) and _is_connectivity(error):
        return _dead_task(cluster) or _lost(error_text, cluster, "cannot be reached")
    return _id_out_of_range(error, error_text)


def _id_out_of_range(error: Exception, error_text: str) -> IdRangeError | None:
    import tensorflow as tf

    from tfps.ops import id_range

    of_tensorflow = isinstance(getattr(error, "original_exception", None) or error, tf.errors.InvalidArgumentError)
    return id_range.find(error_text) if of_tensorflow else None


def _is_connectivity(error: Exception) -> bool:
    # A user's own error may quote such words: only TensorFlow's errors of these kinds are about connections.
    import tensorflow as tf

    kinds = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.InternalError, tf.errors.UnknownError)
    return isinstance(getattr(error, "original_exception", None) or error, kinds)


def _dead_task(cluster: Cluster) -> TaskDiedError | None:
    if not isinstance(cluster, LocalCluster) or not cluster.tasks:
        return None
    deadline = time.monotonic() + _NEWS_S  # the connection breaks a little before the news of the death arrives
    while time.monotonic() < deadline:
        try:
            cluster.check()
        except TaskDiedError as died:
            return died
        time.sleep(0.02)
    return None


def _lost(text: str, cluster: Cluster, what: str) -> ClusterError:
    spec = _spec_of(cluster)
    task = _task_to_blame(text, spec)
    tf_logging.quieten()
    who = "A server" if task is None else _with_address(*task, spec)
    return ClusterError(f"{who} {what}. TensorFlow says: {_reason(text)}", task)


def _spec_of(cluster: Cluster) -> ClusterSpec | None:
    """Where the tasks are; None where nobody knows, as of an embedded cluster that has stopped."""
    if isinstance(cluster, LocalCluster):
        return cluster.spec if cluster.tasks else None
    return cluster


def _task_to_blame(text: str, spec: ClusterSpec | None) -> tuple[str, int] | None:
    """The peer at the broken end of the connection, else the innermost target named."""
    # Example: worker 0 reports that ps 1 refuses its connection. The text names worker 0 as the remote target, and only
    # the peer's address, "ipv4:10.0.0.5:2222", says who is to blame.
    if isinstance(spec, ClusterSpec):
        for peer in _PEER.finditer(text):
            if task := spec.task_at(peer["address"]):
                return task
    return devices.find_task(text)


def _with_address(job: str, index: int, spec: ClusterSpec | None) -> str:
    endpoints = () if spec is None else spec.endpoints(job)
    return f"{job} {index} at {endpoints[index]}" if index < len(endpoints) else f"{job} {index}"


def _library_error(op: str, text: str) -> LibraryError:
    task = devices.find_task(text)
    where = "A server" if task is None else f"{task[0]} {task[1]}"
    return LibraryError(
        f"{where} does not know the op {op!r}: it was not started by tfps, or by one without the C++ library. Install "
        "the same tfps on every host, or set TFPS_DISABLE_OPS=1 on the chief."
    )


def _reason(text: str) -> str:
    found = _UNREACHABLE.search(text) or _RESTARTED.search(text)
    if found is None:
        return text.strip()
    start = text.rfind("\n", 0, found.start()) + 1
    return text[start:].splitlines()[0].strip()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
