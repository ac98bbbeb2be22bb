"""What /proc and the kernel say of a process, against what is known of it."""

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

from tfps.monitoring import process, sockets
from tfps.monitoring.process import ProcessReader, allowed_cores, idle_seconds, parse_stat, read_all
from tfps.monitoring.sockets import Traffic, TrafficCounter, connection_bytes

HAS_PROC = os.path.exists("/proc/self/stat")
needs_proc = pytest.mark.skipif(not HAS_PROC, reason="needs /proc")
needs_sock_diag = pytest.mark.skipif(connection_bytes() is None, reason="needs sock_diag of the kernel")


@contextlib.contextmanager
def connection():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as one:
        other, _ = listener.accept()
        with other:
            yield one, other


def send(sender, receiver, count):
    """Sends bytes, and waits until they are there and the kernel of the sender knows it."""

    def read():
        left = count
        while left:
            left -= len(receiver.recv(left))

    thread = threading.Thread(target=read)
    thread.start()
    sender.sendall(bytes(count))
    thread.join(20)
    assert not thread.is_alive()


@needs_proc
def test_this_process():
    reading = ProcessReader().read(None)
    assert reading.pid == os.getpid() and reading.host == socket.gethostname()
    assert abs(reading.cpu_s - time.process_time()) < 2 and reading.resident_bytes > 5_000_000
    assert reading.cores == len(os.sched_getaffinity(0)) and reading.host_idle_s > 0
    assert reading.received_bytes is None and reading.sent_bytes is None


@needs_proc
def test_cpu_time_grows_with_work():
    reader = ProcessReader()
    before, began = reader.read(None).cpu_s, time.process_time()
    while time.process_time() - began < 0.3:
        sum(range(10_000))
    assert 0.2 < reader.read(None).cpu_s - before < 1.0


@needs_proc
def test_a_process_that_has_ended_is_not_read():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    reader = ProcessReader(child.pid)
    assert reader.read(None).pid == child.pid
    child.kill()
    # Not reaped yet: what is left in /proc is no process.
    deadline = time.monotonic() + 10
    while reader.read(None) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert reader.read(None) is None
    child.wait()
    assert reader.read(None) is None


def test_names_with_brackets():
    fields = ["4"] * 10 + ["250", "50"] + ["0"] * 8 + ["77"] + ["0"] * 20
    text = f"17 (a) S 1 (b)) S {' '.join(fields)}\n"
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    assert parse_stat(text) == (300 / ticks, 77 * page)
    assert parse_stat(text.replace(") S 4", ") Z 4")) is None
    assert parse_stat("") is None and parse_stat("17 (a) S 1") is None


def test_lists_of_cores():
    assert allowed_cores("Name:\tx\nCpus_allowed_list:\t0-3,8\n") == 5
    assert allowed_cores("Cpus_allowed_list:\t7\n") == 1
    assert allowed_cores("") == 1
    ticks = os.sysconf("SC_CLK_TCK")
    assert idle_seconds("cpu  9 9 9 300 100 0\ncpu0 1\ncpu1 2\nintr 7\n") == 200 / ticks
    assert idle_seconds("") == 0


@needs_sock_diag
def test_the_bytes_of_a_connection():
    with connection() as (one, other):
        send(one, other, 300_000)
        send(other, one, 7_000)
        found = connection_bytes()
        for end, received, sent in ((one, 7_000, 300_000), (other, 300_000, 7_000)):
            traffic = found[os.fstat(end.fileno()).st_ino]
            assert traffic == Traffic(received, sent)
            # The twin: the kernel's answer for this socket alone.
            info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            assert struct.unpack_from("=Q", info, 128)[0] == received
            assert struct.unpack_from("=Q", info, 200)[0] == sent


@needs_sock_diag
def test_a_closed_connection_stays_in_the_sums():
    counter = TrafficCounter()
    base = counter.count(connection_bytes())
    with connection() as (one, other):
        send(one, other, 50_000)
        open_now = counter.count(connection_bytes())
        # Both ends are of this process.
        assert (open_now.received - base.received, open_now.sent - base.sent) == (50_000, 50_000)
    assert counter.count(connection_bytes()) == open_now
    with connection() as (one, other):
        send(one, other, 1_000)
        after = counter.count(connection_bytes())
        assert (after.received - open_now.received, after.sent - open_now.sent) == (1_000, 1_000)


def test_an_inode_that_is_used_again(monkeypatch):
    monkeypatch.setattr(sockets, "sockets_of", lambda pid: frozenset({5}))
    counter = TrafficCounter()
    assert counter.count({5: Traffic(100, 10)}) == Traffic(100, 10)
    # Another connection has its number, and begins at 0.
    assert counter.count({5: Traffic(30, 20)}) == Traffic(130, 30)
    assert counter.count({5: Traffic(40, 20)}) == Traffic(140, 30)
    assert counter.count({}) == Traffic(140, 30)


@needs_sock_diag
def test_only_its_own_connections_count():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with connection() as (one, other):
            send(one, other, 1_000)
            mine, its = read_all([ProcessReader(), ProcessReader(child.pid)])
            assert mine.received_bytes >= 1_000 and its.received_bytes == 0
    finally:
        child.kill()
        child.wait()


def test_a_kernel_that_does_not_tell(monkeypatch):
    def refuse(family):
        raise OSError("no netlink")

    monkeypatch.setattr(sockets, "_dump", refuse)
    assert connection_bytes() is None
    (reading,) = read_all([ProcessReader()])
    assert reading is None if not HAS_PROC else reading.received_bytes is None


@needs_proc
def test_a_task_reads_itself_for_a_graph(monkeypatch):
    monkeypatch.setattr(process, "_HERE", [])
    (text,) = process.read_here()
    fields = json.loads(str(text))
    assert fields["pid"] == os.getpid()
    assert process.ProcessReading(**fields).cores == len(os.sched_getaffinity(0))
