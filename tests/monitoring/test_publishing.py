"""Boards find programs by their sockets, and see how they end."""

import contextlib
import http.server
import os
import pathlib
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

from tests.monitoring.jobs_for_tests import full_snapshot
from tfps.errors import ClusterError, ConfigError
from tfps.monitoring import publishing, runtime_folder
from tfps.monitoring.collector import Collector
from tfps.monitoring.feeds import HttpFeed, SocketFeed
from tfps.monitoring.publishing import Publisher
from tfps.monitoring.runtime_folder import find_folders, find_sockets, make_folder, socket_path

ROOT = pathlib.Path(__file__).parents[2]
PUBLISH = """
import sys, time
sys.path.insert(0, {root!r})
from tests.monitoring.jobs_for_tests import full_snapshot
from tfps.monitoring.collector import Collector
from tfps.monitoring.publishing import Publisher
publisher = Publisher(Collector(full_snapshot, every_s=0.1))
print(publisher.path, flush=True)
time.sleep({seconds})
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    # Programs of others may be where temporary files are.
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(runtime_folder.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    return tmp_path / "tfps"


@pytest.fixture
def published():
    collector = Collector(full_snapshot, every_s=0.05)
    publisher = Publisher(collector)
    yield publisher, collector
    collector.close()
    publisher.close()


def start_program(seconds=60):
    code = PUBLISH.format(root=str(ROOT), seconds=seconds)
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    return program, pathlib.Path(program.stdout.readline().strip())


def first(feed):
    return next(snapshot for snapshot in feed.snapshots() if snapshot is not None)


def wait_until(condition, limit_s=10.0):
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_a_board_gets_snapshots_while_it_is_there(published):
    publisher, collector = published
    time.sleep(0.2)
    assert collector.made == 0
    assert find_sockets() == [(os.getpid(), publisher.path)]
    # The look for sockets connects, and is no board.
    with SocketFeed(publisher.path) as feed:
        snapshots = [snapshot for snapshot, _ in zip(feed.snapshots(), range(3), strict=False)]
        assert snapshots == [full_snapshot()] * 3
    wait_until(lambda: not any(thread.name == "tfps-board" for thread in threading.enumerate()))
    made = collector.made
    time.sleep(0.3)
    assert collector.made == made


def test_only_the_user_may_connect(published, folder):
    publisher, _ = published
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(publisher.path.stat().st_mode) == 0o600


def test_a_folder_of_others_is_refused(folder):
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    with pytest.raises(ClusterError, match="must be a folder of this user, with mode 0700. Received: drwxr-xr-x"):
        make_folder()
    folder.rmdir()
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)
    with pytest.raises(ClusterError, match="Received: l"):
        make_folder()


def test_a_board_looks_where_a_program_of_cron_puts_its_socket(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    elsewhere = tmp_path / "temporary" / f"tfps-{os.getuid()}"
    assert find_folders() == [elsewhere]
    collector = Collector(full_snapshot, every_s=0.05)
    publisher = Publisher(collector)
    try:
        assert publisher.path.parent == elsewhere
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        assert find_folders() == [tmp_path / "tfps", elsewhere]
        assert find_sockets() == [(os.getpid(), publisher.path)]
        # In a folder that others may write to, anybody could pretend to be a job.
        elsewhere.chmod(0o777)
        assert find_sockets() == [] and publisher.path.exists()
    finally:
        collector.close()
        publisher.close()


def test_a_strategy_that_ends_is_seen_to_end(published):
    publisher, collector = published
    with SocketFeed(publisher.path) as feed:
        phases = []
        for snapshot in feed.snapshots():
            if snapshot is not None:
                phases.append(snapshot.phase)
            if len(phases) == 2:
                collector.close()
                publisher.close()
    assert phases[0] == "train" and phases[-1] == "ended"
    assert find_sockets() == [] and not publisher.path.exists()


def test_a_program_that_is_killed_is_seen_to_end(folder):
    program, path = start_program()
    with SocketFeed(path) as feed:
        assert first(feed) == full_snapshot()
        program.send_signal(signal.SIGKILL)
        program.wait(10)
        # The feed ends by itself.
        assert all(snapshot in (None, full_snapshot()) for snapshot in feed.snapshots())
    assert path.exists()
    assert find_sockets() == [] and not path.exists()


def test_a_program_that_ends_takes_its_socket_with_it():
    program, path = start_program(seconds=0)
    assert program.wait(20) == 0
    assert not path.exists()


def test_a_number_that_another_process_has_now(folder):
    make_folder()
    # Nobody listens, but a process of this number runs: this one.
    path = socket_path(folder, os.getpid(), 77)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    (folder / "notes.txt").write_text("not ours")
    assert find_sockets() == [] and not path.exists()
    assert (folder / "notes.txt").exists()
    with pytest.raises(ClusterError, match=f"process {os.getpid()} cannot be watched"):
        SocketFeed(path)


def test_a_board_that_does_not_read_is_left(published, monkeypatch):
    publisher, collector = published
    monkeypatch.setattr(publishing, "_SEND_S", 0.2)
    monkeypatch.setattr(collector, "_make", lambda: full_snapshot(name="x" * 100_000))
    collector.every_s = 0.01
    stopped = runtime_folder.connect(publisher.path, 5)
    try:
        wait_until(lambda: any(thread.name == "tfps-board" for thread in threading.enumerate()))
        # Another board sees every snapshot meanwhile.
        with SocketFeed(publisher.path) as feed:
            assert first(feed).name.startswith("xxx")
        wait_until(lambda: not any(thread.name == "tfps-board" for thread in threading.enumerate()))
    finally:
        stopped.close()


def test_the_number_of_boards_is_limited(published):
    publisher, _ = published
    boards = [SocketFeed(publisher.path) for _ in range(publishing._MOST_BOARDS)]
    for board in boards:
        assert first(board) == full_snapshot()
    with (
        SocketFeed(publisher.path) as one_more,
        pytest.raises(ClusterError, match=f"process {os.getpid()} cannot be watched: 8 others watch it."),
    ):
        first(one_more)
    boards.pop().close()
    # A board that has gone makes room for another.
    wait_until(lambda: len([one for one in threading.enumerate() if one.name == "tfps-board"]) == len(boards))
    with SocketFeed(publisher.path) as another:
        assert first(another) == full_snapshot()
    for board in boards:
        board.close()


def test_a_program_that_closes_every_connection_leaves_the_board_its_deadline(folder, monkeypatch):
    monkeypatch.setattr("tfps.monitoring.feeds._LOOK_S", 0.01)
    path = socket_path(make_folder(), os.getpid(), 3)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(8)

        def close_all():
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        threading.Thread(target=close_all, daemon=True).start()
        with SocketFeed(path) as feed:
            # Each turn of its loop, and not never.
            assert [snapshot for snapshot, _ in zip(feed.snapshots(), range(5), strict=False)] == [None] * 5
        listener.shutdown(socket.SHUT_RDWR)


def test_a_path_that_is_too_long_for_the_kernel(monkeypatch, tmp_path):
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    collector = Collector(full_snapshot, every_s=0.05)
    publisher = Publisher(collector)
    try:
        assert len(str(publisher.path)) > 107
        assert find_sockets() == [(os.getpid(), publisher.path)]
        with SocketFeed(publisher.path) as feed:
            assert first(feed) == full_snapshot()
    finally:
        collector.close()
        publisher.close()


@pytest.mark.parametrize(
    "url",
    ["http://", "ftp://host:1", "http://host:1/metrics", "//host", "http://[::1", "http://host:x", "http://h:1?a"],
)
def test_urls_that_are_none(url):
    with pytest.raises(ConfigError, match="`job` must be http://host:port without a path. Received: "):
        HttpFeed(url)


def test_a_port_where_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ClusterError, match=f"{url} cannot be watched"):
            next(HttpFeed(url).snapshots())
        with pytest.raises(ClusterError, match=f"{url} cannot be watched"):
            HttpFeed(url).check()
    with pytest.raises(ClusterError, match="http://a..b:1 cannot be watched"):
        next(HttpFeed("http://a..b:1").snapshots())


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            b"<html>hi</html>",
            "`job` must be the metrics port of a tfps chief; {url} answered with something else: a snap",
        ),
        (
            b"[" * 100_000,
            "`job` must be the metrics port of a tfps chief; {url} answered with something else: a snapshot",
        ),
        (404, "{url} is not the metrics port of a chief (it has no /snapshot.json). Valid: the port that was given to"),
        (500, "{url} cannot be watched: HTTP error 500."),
    ],
)
def test_a_server_that_is_no_chief(answer, words):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if isinstance(answer, int):
                # The words beside the number could control a terminal.
                self.send_error(answer, "\x1b[31m")
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        feed = HttpFeed(url)
        feed.check()
        with pytest.raises(ClusterError, match=re.escape(words.format(url=url))) as caught:
            next(feed.snapshots())
        assert "\x1b" not in str(caught.value)
        server.shutdown()
