"""Two tasks of one machine that take each other for hosts: 127.0.0.1 and 127.0.0.2."""

import concurrent.futures
import socket
import time

import pytest

from tfps.choice import bandwidth
from tfps.choice.tasks import Tasks
from tfps.cluster.ports import reserve_address


@pytest.fixture
def tasks():
    """A function of an index: the tasks of a cluster of three, as that task sees them."""
    ports = [reserve_address().rpartition(":")[2] for _ in range(3)]
    addresses = (f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}", f"127.0.0.2:{ports[2]}")
    return lambda index: Tasks("TF_CONFIG", 2, 3, 0, 0, "worker", index, addresses)


def measure_on(*tasks, wait_s=10.0):
    with concurrent.futures.ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(lambda task: bandwidth.measure_bandwidth(task, wait_s), tasks))


def test_the_two_tasks_agree_and_the_third_does_not_wait(tasks):
    first, second, third = measure_on(*map(tasks, range(3)))
    assert first == third and 1e7 < first < 1e12
    assert second is None
    # The strategy binds the port next.
    socket.create_server(("", int(tasks(0).address.rpartition(":")[2]))).close()


def test_a_task_that_is_late_or_missing_is_not_waited_for_long(tasks):
    start = time.monotonic()
    assert measure_on(tasks(0), wait_s=0.2) == measure_on(tasks(2), wait_s=0.2) == [None]
    assert time.monotonic() - start < 5


def test_a_stranger_is_turned_away(tasks):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(bandwidth.measure_bandwidth, tasks(0), 10.0)
        address = ("127.0.0.1", int(tasks(0).address.rpartition(":")[2]))
        while True:
            try:
                stranger = socket.create_connection(address)
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
        with stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert measure_on(tasks(2)) == [waiting.result()]


def test_a_port_that_is_taken_and_tasks_of_one_host_have_no_measurement(tasks):
    with socket.create_server(("", int(tasks(0).address.rpartition(":")[2]))):
        assert measure_on(tasks(0)) == [None]
    assert measure_on(Tasks("TF_CONFIG", 1, 2, 0, 0, "worker", 0, ("localhost:1", "127.0.0.1:2"))) == [None]
    assert measure_on(Tasks("SLURM", 2, 2, 0, 0, "worker", 0)) == [None]
