"""A planted delay on the wire and a planted slow server show as what they are."""

import contextlib
import json
import os
import pathlib
import socket
import threading
import time

import pytest

from tests import programs
from tests.diagnosis.planted_program import DELAY, SLOW

PROGRAM = pathlib.Path(__file__).with_name("planted_program.py")
DELAY_S = 0.02
"""The delay on the wire, in each direction."""


class Proxy:
    """Passes what comes to a port on to another port, and back; `DELAY_S` seconds later while there is a file.

    It is not in the chief, whose Python stands still during some calls of TensorFlow, and so is what follows.
    """

    def __init__(self, port, target, delay):
        self._target, self._delay = target, delay
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            near, _ = self._listener.accept()
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            # The server has not started yet.
            except OSError:
                near.close()
                continue
            for one, other in ((near, far), (far, near)):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 20):
                # A delay, and not a slower wire: what waits meanwhile comes with the next piece.
                time.sleep(DELAY_S if self._delay.exists() else 0.0)
                other.sendall(data)
        for end in (one, other):
            end.close()


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


class Limit:
    """Gives a process a tenth of a core, while there is a file. Needs a group of processes that this user may make."""

    def __init__(self, pid, file):
        self._file, self._ended = file, threading.Event()
        # The first version of control groups has a folder for CPU alone.
        base = pathlib.Path("/sys/fs/cgroup/cpu")
        self._is_first = base.exists()
        self._folder = (base if self._is_first else base.parent) / f"tfps-test-{os.getpid()}"
        self._folder.mkdir()
        self._set(False)
        (self._folder / "cgroup.procs").write_text(str(pid))
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _set(self, limited):
        # 1 ms of CPU in 10 ms: whatever the process does, it does it in slices with long pauses.
        if self._is_first:
            (self._folder / "cpu.cfs_period_us").write_text("10000")
            (self._folder / "cpu.cfs_quota_us").write_text("1000" if limited else "-1")
        else:
            (self._folder / "cpu.max").write_text("1000 10000" if limited else "max 10000")

    def _follow(self):
        before = False
        while not self._ended.wait(0.05):
            if self._file.exists() != before:
                before = not before
                self._set(before)

    def remove(self):
        self._ended.set()
        self._thread.join()
        self._set(False)

    def forget(self):
        """Removes the group, whose process has ended."""
        with contextlib.suppress(OSError):
            self._folder.rmdir()


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the profiles of the program say: plain, with the delay, with the slow server."""
    folder = tmp_path_factory.mktemp("planted")
    proxy, server, worker, chief = free_ports(4)
    base = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"}

    def environment(job):
        # The server alone listens at its own port; all others know that of the proxy.
        ports = {"chief": chief, "worker": worker, "ps": server if job == "ps" else proxy}
        cluster = {name: [f"127.0.0.1:{port}"] for name, port in ports.items()}
        config = {"cluster": cluster, "task": {"type": job, "index": 0}}
        return base | {"TF_CONFIG": json.dumps(config), "TF_CPP_MIN_LOG_LEVEL": "2"}

    Proxy(proxy, server, folder / DELAY)
    arguments = [PROGRAM, folder]
    tasks = [programs.start(arguments, env=environment(job)) for job in ("ps", "worker")]
    try:
        limit = Limit(tasks[0].pid, folder / SLOW)
    except OSError as error:
        for task in tasks:
            task.kill()
        pytest.skip(f"needs control groups of the kernel that this user may make: {error}")
    try:
        done = programs.run(arguments, env=environment("chief"), timeout=240, check=True)
    finally:
        limit.remove()
        for task in tasks:
            task.kill()
            task.wait(30)
        limit.forget()
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_a_delay_on_the_wire_is_seen(found):
    plain, delay = found["plain"], found["delay"]
    # Steps of a turn request their rows at once, so a step need not wait for a whole round trip.
    assert delay["wire"] > plain["wire"] + 0.25 * DELAY_S * 1e3, found
    assert delay["wire"] > 0.5 * sum(delay["ms"].values()), found
    assert delay["servers"] < 0.3 * delay["wire"], found
    assert "waiting for messages" in delay["advice"]


def test_a_slow_server_is_seen(found):
    plain, slow = found["plain"], found["slow"]
    assert slow["servers"] > 3 * plain["servers"], found
    # In its own stages, too: gathers and updates take longer, and nothing else of the server.
    assert slow["server_ms"]["rows"] + slow["server_ms"]["push"] > 3 * (
        plain["server_ms"]["rows"] + plain["server_ms"]["push"]
    ), found
