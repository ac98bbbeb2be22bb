"""Waiting for servers and for the chief, against plain sockets."""

import socket
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


def address_of(listener):
    return f"127.0.0.1:{listener.getsockname()[1]}"


def test_reserved_ports_differ_and_can_be_bound():
    addresses = [ports.reserve_address() for _ in range(20)]
    assert len(set(addresses)) == 20
    with listen(addresses[0]) as listener:
        assert address_of(listener) == addresses[0]


def test_wait_for_servers_returns_when_all_listen():
    late = ports.reserve_address()
    with listen() as early:
        opened = []
        timer = threading.Timer(0.5, lambda: opened.append(listen(late)))
        timer.start()
        reach.wait_for_servers(ClusterSpec(worker=(address_of(early),), ps=(late,)), timeout_s=120)
        assert opened
        opened[0].close()


def test_wait_for_servers_names_who_is_missing():
    missing = ports.reserve_address()
    with listen() as there:
        spec = ClusterSpec(worker=(missing,), ps=(address_of(there),))
        with pytest.raises(ClusterTimeoutError) as caught:
            reach.wait_for_servers(spec, timeout_s=0.3)
    assert f"worker 0 at {missing} (Connection refused)" in str(caught.value)
    assert "0.3 s" in str(caught.value) and "ps 0" not in str(caught.value)


def test_chief_that_never_comes():
    address = ports.reserve_address()
    with pytest.raises(ClusterTimeoutError, match=f"ps 3 waited 0.3 s .* chief at {address}, which never came"):
        chief_watch.wait_for_chief("ps 3", address, 0.3)


def test_chief_is_done_when_its_port_is_closed():
    listener = listen()
    chief_watch.wait_for_chief("ps 0", address_of(listener), 120)
    done = threading.Thread(target=chief_watch.wait_until_done, args=(address_of(listener), None), daemon=True)
    done.start()
    connection, _ = listener.accept()  # the one of wait_for_chief
    connection.close()
    connection, _ = listener.accept()
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
            connection, _ = listener.accept()
            connection.close()
        connection, _ = listener.accept()
        assert done.is_alive()
        connection.close()
    done.join(120)
    assert not done.is_alive()


def test_grace_lets_a_chief_come_back():
    address = ports.reserve_address()
    listener = listen(address)
    done = threading.Thread(target=chief_watch.wait_until_done, args=(address, 600), daemon=True)
    done.start()
    connection, _ = listener.accept()
    connection.close()
    listener.close()
    time.sleep(2.5)  # longer than without a grace
    assert done.is_alive()
    with listen(address) as again:
        again.accept()[0].close()
