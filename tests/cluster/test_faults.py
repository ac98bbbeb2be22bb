"""Foreign errors into ours: one test a message. The texts are TensorFlow's, as it gave them."""

import os

import pytest
import tensorflow as tf

from tfps.cluster import faults
from tfps.cluster.spec import ClusterSpec
from tfps.errors import ClusterError, ConfigError, IdRangeError, LibraryError, ServerLostError

SPEC = ClusterSpec(worker=("127.0.0.1:3001", "127.0.0.1:3002"), ps=("127.0.0.1:2001",))
REFUSED = (
    "Graph execution error:\n\nfailed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:2001: Failed to "
    "connect to remote host: Connection refused\nAdditional GRPC error information from remote target "
    "/job:worker/replica:0/task:0 while calling /tensorflow.eager.EagerService/Enqueue:\n"
)
FROM_WORKER_1 = (
    "\nAdditional GRPC error information from remote target /job:worker/replica:0/task:1 while calling "
    "/tensorflow.eager.EagerService/Enqueue:\n"
)


def unavailable(text):
    return tf.errors.UnavailableError(None, None, text)


def test_refused_connection_blames_the_peer_not_the_reporter():
    ours = faults.translate(unavailable(REFUSED), SPEC)
    assert type(ours) is ServerLostError
    assert str(ours).startswith("ps 0 at 127.0.0.1:2001 cannot be reached. TensorFlow says: failed to connect")


@pytest.mark.parametrize(
    "text",
    [
        "Socket closed",
        "recvmsg:Connection reset by peer",
        "sendmsg: Broken pipe",
        "keepalive watchdog timeout",
        "ping timeout",
        "GOAWAY received",
        "Endpoint closing",
        "Connection timed out",
    ],
)
def test_broken_connection(text):
    ours = faults.translate(unavailable(text + FROM_WORKER_1), SPEC)
    assert type(ours) is ClusterError
    message, _, path = str(ours).partition(". TensorFlow's full message: ")
    assert message == f"worker 1 at 127.0.0.1:3002 cannot be reached. TensorFlow says: {text}"
    with open(path) as log:
        assert text + FROM_WORKER_1 in log.read()


def test_a_call_that_grpc_cancels_names_the_server():
    """gRPC closes a connection whose other end stands still; a user's own cancelled call names no task."""
    text = "CANCELLED" + FROM_WORKER_1.replace("worker/replica:0/task:1", "ps/replica:0/task:1")
    ours = faults.translate(tf.errors.CancelledError(None, None, text), SPEC)
    assert type(ours) is ServerLostError and ours.servers == (1,) and "has broken off a call" in str(ours)
    mine = tf.errors.CancelledError(None, None, "CANCELLED")
    assert faults.translate(mine, SPEC) is mine


def test_without_a_spec_the_task_is_still_named():
    assert str(faults.translate(unavailable("Socket closed" + FROM_WORKER_1), None)).startswith("worker 1 cannot")


@pytest.mark.parametrize(
    "text",
    [
        "Unable to find a context_id matching the specified one (5). Perhaps the worker was restarted",
        "Session handle is not found: 7. Possibly this worker just restarted.",
    ],
)
def test_restarted_server(text):
    ours = faults.translate(tf.errors.AbortedError(None, None, text + FROM_WORKER_1), SPEC)
    assert type(ours) is ClusterError and "worker 1 at 127.0.0.1:3002 was started again" in str(ours)


def test_server_without_our_ops():
    text = "Op type not registered 'TfpsUnique' in binary running on host. Make sure" + FROM_WORKER_1
    ours = faults.translate(tf.errors.NotFoundError(None, None, text), SPEC)
    assert type(ours) is LibraryError and "worker 1" in str(ours) and "'TfpsUnique'" in str(ours)


def test_port_of_the_chief_taken():
    ours = faults.translate(tf.errors.UnknownError(None, None, "Could not start gRPC server"), SPEC)
    assert type(ours) is ClusterError and "port" in str(ours)


def test_aborted_closure_is_known_by_what_aborted_it():
    class AbortedError(Exception):
        original_exception = unavailable(REFUSED)

    assert str(faults.translate(AbortedError("aborted"), SPEC)).startswith("ps 0 at 127.0.0.1:2001")


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.InvalidArgumentError(None, None, "assertion failed: [mine]" + FROM_WORKER_1),
        ValueError("the mail server said: connection refused"),
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"),
        ConfigError("ours already"),
    ],
)
def test_other_errors_are_left_alone(error):
    assert faults.translate(error, SPEC) is error


def test_translated_hides_the_original_and_leaves_other_errors():
    foreign = unavailable(REFUSED)
    with pytest.raises(ClusterError) as caught, faults.translate_errors(SPEC):
        raise foreign
    # Python does not print it; a debugger finds it.
    assert caught.value.__context__ is foreign and caught.value.__suppress_context__
    with pytest.raises(KeyError), faults.translate_errors(SPEC):
        raise KeyError("user's")


def test_an_id_out_of_range_is_found_in_what_a_worker_and_a_server_wrapped_around_it():
    op = "id out of range: table 'a/item/embeddings' holds ids at least 0 and below 100. Received: 105 at position 31"
    text = f"2 root error(s) found.\n  (0) INVALID_ARGUMENT: {op} of ids of shape [4,8]\n\t [[{{{{node x}}}}]]"
    text += FROM_WORKER_1
    ours = faults.translate(tf.errors.InvalidArgumentError(None, None, text), SPEC)
    assert type(ours) is IdRangeError and (ours.layer, ours.id, ours.rows, ours.place) == ("a/item", 105, 100, (3, 7))
    assert faults.translate(error := ValueError(text), SPEC) is error  # a user may quote it


def test_a_full_disk_hides_no_error(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no space")

    monkeypatch.setattr(faults.fault_log, "_path", fail)
    assert str(faults.translate(unavailable(REFUSED), SPEC)).endswith("Connection refused")


def test_the_file_does_not_grow_without_end(monkeypatch):
    monkeypatch.setattr(faults.fault_log, "_MOST_BYTES", 1)
    path = faults.fault_log.record(ValueError("one"))
    size = os.path.getsize(path)
    assert faults.fault_log.record(ValueError("two")) == path and os.path.getsize(path) <= max(size, 200)
