"""Waiting for servers and for the chief, against plain sockets."""

import contextlib
import socket
import struct
import threading
import time

import pytest

from tfps.cluster import chief_watch, ports, reach
from tfps.cluster.spec import ClusterSpec
from tfps.errors import ClusterTimeoutError


def listen(address=None):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(address.rpartition(":")[2]) if address else 0))
    listener.listen()
    return listener


def greet(listener):
    """Accepts a connection and speaks first, as a gRPC server does."""
    connection, _ = listener.accept()
    connection.sendall(b"settings")
    return connection


@contextlib.contextmanager
def serving(address=None):
    """A listener that greets every connection."""
    listener, kept = listen(address), []

    def serve():
        with contextlib.suppress(OSError):
            while True:
                kept.append(greet(listener))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener
    # A close alone does not wake the thread.
    listener.shutdown(socket.SHUT_RDWR)
    thread.join(60)
    for one in (listener, *kept):
        one.close()


def address_of(listener):
    return f"127.0.0.1:{listener.getsockname()[1]}"


def test_reserved_ports_differ_and_can_be_bound():
    addresses = [ports.reserve_address() for _ in range(20)]
    assert len(set(addresses)) == 20
    with listen(addresses[0]) as listener:
        assert address_of(listener) == addresses[0]


def test_wait_for_servers_returns_when_all_listen():
    late = ports.reserve_address()
    with serving() as early, contextlib.ExitStack() as stack:
        opened = []
        timer = threading.Timer(0.5, lambda: opened.append(stack.enter_context(serving(late))))
        timer.start()
        reach.wait_for_servers(ClusterSpec(worker=(address_of(early),), ps=(late,)), timeout_s=120)
        assert opened


def test_wait_for_servers_names_who_is_missing():
    missing = ports.reserve_address()
    with serving() as there:
        spec = ClusterSpec(worker=(missing,), ps=(address_of(there),))
        with pytest.raises(ClusterTimeoutError) as caught:
            reach.wait_for_servers(spec, timeout_s=0.3)
    assert f"worker 0 at {missing} (Connection refused)" in str(caught.value)
    assert "0.3 s" in str(caught.value) and "ps 0" not in str(caught.value)


def close_without_a_word(listener, reset):
    """Does what a tunnel does whose far end is not there."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()


@pytest.mark.parametrize("reset", [False, True])
def test_an_open_port_is_no_answer(monkeypatch, reset):
    with listen() as silent, listen() as tunnel:
        threading.Thread(target=close_without_a_word, args=(tunnel, reset), daemon=True).start()
        spec = ClusterSpec(worker=(address_of(silent),), ps=(address_of(tunnel),))
        monkeypatch.setattr(reach.connect_to_server, "__defaults__", (0.3,))
        missing = reach.find_unreachable(spec)
        assert missing[f"worker 0 at {address_of(silent)}"] == "timed out"
        assert missing[f"ps 0 at {address_of(tunnel)}"] == "Connection closed without an answer"
        assert reach.find_hung(spec, 0.3) == ["worker 0"]
        with pytest.raises(ClusterTimeoutError, match="never came: Connection closed without an answer"):
            chief_watch.wait_for_chief("ps 3", address_of(tunnel), 0.3)
        # The chief's end behind a tunnel, whose port stays open.
        began = time.monotonic()
        chief_watch.wait_until_done(address_of(tunnel), None)
        assert 2 <= time.monotonic() - began < 20
        tunnel.shutdown(socket.SHUT_RDWR)


def test_chief_that_never_comes():
    address = ports.reserve_address()
    with pytest.raises(ClusterTimeoutError, match=f"ps 3 waited 0.3 s .* chief at {address}, which never came"):
        chief_watch.wait_for_chief("ps 3", address, 0.3)


def test_chief_is_done_when_its_port_is_closed():
    listener = listen()
    waiting = threading.Thread(target=chief_watch.wait_for_chief, args=("ps 0", address_of(listener), 120), daemon=True)
    waiting.start()
    greet(listener).close()
    waiting.join(120)
    done = threading.Thread(target=chief_watch.wait_until_done, args=(address_of(listener), None), daemon=True)
    done.start()
    connection = greet(listener)
    time.sleep(0.3)
    assert done.is_alive()
    connection.close()
    listener.close()
    done.join(120)
    assert not done.is_alive()


def test_chief_that_only_drops_the_connection_is_not_done():
    with listen() as listener:
        done = threading.Thread(target=chief_watch.wait_until_done, args=(address_of(listener), 0.2), daemon=True)
        done.start()
        for _ in range(3):  # TensorFlow closes an idle connection now and then
            greet(listener).close()
        connection = greet(listener)
        assert done.is_alive()
        connection.close()
    done.join(120)
    assert not done.is_alive()


def test_grace_lets_a_chief_come_back():
    address = ports.reserve_address()
    listener = listen(address)
    done = threading.Thread(target=chief_watch.wait_until_done, args=(address, 600), daemon=True)
    done.start()
    greet(listener).close()
    listener.close()
    time.sleep(2.5)  # longer than without a grace
    assert done.is_alive()
    with listen(address) as again:
        greet(again).close()
