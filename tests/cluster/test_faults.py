"""Foreign errors into ours: one test a message. The texts are TensorFlow's, as it gave them."""

import pytest
import tensorflow as tf

from tfps.cluster import faults
from tfps.cluster.spec import ClusterSpec
from tfps.errors import ClusterError, ConfigError, LibraryError

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
    assert type(ours) is ClusterError
    assert str(ours).startswith("ps 0 at 127.0.0.1:2001 cannot be reached. TensorFlow says: failed to connect")


@pytest.mark.parametrize(
    "text",
    [
        "Socket closed",
        "recvmsg:Connection reset by peer",
        "sendmsg: Broken pipe",
        "keepalive watchdog timeout",
        "GOAWAY received",
        "Endpoint closing",
        "Connection timed out",
    ],
)
def test_broken_connection(text):
    ours = faults.translate(unavailable(text + FROM_WORKER_1), SPEC)
    assert type(ours) is ClusterError
    assert str(ours) == f"worker 1 at 127.0.0.1:3002 cannot be reached. TensorFlow says: {text}"


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


def test_translated_keeps_the_cause_and_other_errors():
    foreign = unavailable(REFUSED)
    with pytest.raises(ClusterError) as caught, faults.translated(SPEC):
        raise foreign
    assert caught.value.__cause__ is foreign
    with pytest.raises(KeyError), faults.translated(SPEC):
        raise KeyError("user's")
