"""The chief's link to the zygote, the process that forks the servers of every cluster.

Threading: every method may be called from any thread; each link has a lock for its state. Ownership: the zygote belongs
to the process that started it and ends with it for any reason; a fork of that process starts another zygote. A zygote
ends earlier if it has had no group for `IDLE_S`. Cost: the first group waits for an import of TensorFlow, later groups
for a fork (about 40 ms per server).
"""

import collections
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from typing import Any

from tfps import env
from tfps.cluster import logs
from tfps.cluster.processes import boot_command
from tfps.errors import ClusterError
from tfps.types import is_integer

IDLE_S = 60.0
"""Seconds after which a zygote without servers ends. Until then it holds the memory of an import of TensorFlow."""

_END_S = 5.0
_BOOT = "from tfps.cluster import zygote; zygote.main(int(sys.argv[2]), sys.argv[3])"
_KEYS = itertools.count()

_READ_AT_IMPORT = (
    "TF_",
    "TFPS_DISABLE_OPS",
    "XLA_",
    "OMP_",
    "KMP_",
    "ONEDNN_",
    "DNNL_",
    "GRPC_",
    "LD_",
    "MALLOC_",
    "PYTHON",
)
"""Prefixes of the environment variables that TensorFlow, its libraries or Python read when they are loaded."""

_SET_BY_STRATEGY = ("TF_ENABLE_EAGER_CLIENT_STREAMING_ENQUEUE", "TF_PS_DISABLE_ASYNC_EXECUTOR_GLOBALLY")
"""Variables that TensorFlow's strategy sets when it connects, meant for the chief alone."""

Event = Mapping[str, Any]


class ZygoteLink:
    """A zygote and the pipes to it.

    States: importing -> ready (its first event) -> closed (`end`, or the zygote died). A closed link is not used again.

    Args:
        environment: the environment of the new process.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        # Guards all fields below.
        self._lock = threading.RLock()
        self._owner = os.getpid()
        self._environment = dict(environment)
        self._log_dir = tempfile.mkdtemp(prefix="tfps-zygote-")
        self._inboxes: dict[int, collections.deque[Event]] = {}
        self._pending = b""
        self._ready = self._closed = False
        self._idle_timer: threading.Timer | None = None
        self._requests_fd = self._events_fd = -1
        try:
            self._process = self._start_process()
        except BaseException:
            self._close_pipes()
            shutil.rmtree(self._log_dir, ignore_errors=True)
            raise

    @property
    def pid(self) -> int:
        """The id of the zygote's process."""
        return self._process.pid

    @property
    def log_path(self) -> str:
        """The path of the zygote's own log; each server has another one."""
        return os.path.join(self._log_dir, "servers.log")

    @property
    def closed(self) -> bool:
        """Whether the zygote, and with it all its servers, has ended."""
        return self._closed

    def serves(self, environment: Mapping[str, str]) -> bool:
        """Returns whether this process can use the zygote for servers with such an environment."""
        alive = self._owner == os.getpid() and not self._closed and self._process.poll() is None
        # Libraries read their variables once, when they are loaded, and the zygote has loaded them already.
        return alive and _import_time_variables(environment) == _import_time_variables(self._environment)

    def start(self, tasks: list[dict[str, Any]], environment: Mapping[str, str], log_dir: str, temporary: bool) -> int:
        """Requests the servers of one cluster and returns at once.

        Args:
            tasks: the `TaskOrder` of each server, as a dictionary.
            environment: the environment of the servers.
            log_dir: the directory of their logs.
            temporary: whether `log_dir` is removed when the group ends. It stays if a server ended by itself.

        Returns:
            The group's key, for the other methods.
        """
        request: dict[str, Any] = {"tasks": tasks, "environment": dict(environment), "directory": os.getcwd()}
        request |= {"log_dir": log_dir, "temporary": temporary}
        with self._lock:
            self._stop_idle_timer()
            key = next(_KEYS)
            self._inboxes[key] = collections.deque()
            self._send({"start": key} | request)
            return key

    def start_again(self, key: int, task: dict[str, Any]) -> None:
        """Requests one server of a group anew, after the old one has ended. Returns at once."""
        with self._lock:
            self._send({"again": key, "task": task})

    def watch(self, key: int, pid: int, address: str, limit_s: float) -> None:
        """Has one server of a group killed if it does not answer for `limit_s` seconds."""
        with self._lock:
            self._send({"watch": key, "pid": pid, "address": address, "limit_s": limit_s})

    def kill(self, key: int, pid: int) -> None:
        """Kills one server of a group; the zygote then reports its end."""
        with self._lock:
            self._send({"kill": key, "pid": pid})

    def events(self, key: int, timeout_s: float = 0.0) -> list[Event]:
        """Returns the events of a group since the last call.

        If there are none, it waits up to `timeout_s` for the next event of any group.
        """
        with self._lock:
            inbox = self._inboxes.get(key, collections.deque[Event]())
            self._read(0.0 if inbox else timeout_s)
            return [inbox.popleft() for _ in range(len(inbox))]

    def stop(self, key: int, timeout_s: float) -> bool:
        """Ends the servers of a group; returns whether the zygote confirms within the limit that they are gone."""
        with self._lock:
            inbox = self._inboxes.get(key)
            if inbox is None or self._closed:
                return self._closed
            # A zygote that still imports TensorFlow has no servers and would read the request only seconds later.
            if not self._ready and len(self._inboxes) == 1:
                self.end()
                return True
            self._send({"stop": key})
            # If it is not ready but has other groups, it forks and kills this group after the import; do not wait.
            stopped = not self._ready
            while not stopped and not self._closed and self._read(timeout_s):
                stopped = any(event["event"] == "stopped" for event in inbox)
            del self._inboxes[key]
            self._start_idle_timer()
            return stopped or self._closed

    def end(self) -> None:
        """Ends the zygote and its remaining servers. Does nothing in a fork or when called again."""
        with self._lock:
            if self._owner != os.getpid() or self._requests_fd < 0:
                return
            self._stop_idle_timer()
            # A closed input tells the zygote to end. It reads its input only after the import, hence the kill.
            os.close(self._requests_fd)
            if not self._ready:
                self._process.kill()
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            os.close(self._events_fd)
            self._requests_fd = self._events_fd = -1
            self._closed = True
            shutil.rmtree(self._log_dir, ignore_errors=True)

    def end_if_unused(self) -> None:
        """Ends the zygote if it has no group."""
        with self._lock:
            if not self._inboxes:
                self.end()

    def _start_process(self) -> "subprocess.Popen[bytes]":
        # Other programs that this one starts do not inherit the pipes: Python makes pipes non-inheritable.
        # Plain descriptors, not file objects: Python would close those, and so kill the servers, at its end, while
        # TensorFlow still talks to the servers. The kernel closes descriptors when the process is really gone.
        requests, self._requests_fd = os.pipe()
        self._events_fd, events = os.pipe()
        try:
            with open(self.log_path, "ab") as log:
                return subprocess.Popen(
                    boot_command(_BOOT, str(os.getpid()), self._log_dir),
                    stdin=requests,
                    stdout=events,
                    stderr=log,
                    # CUDA does not survive a fork: only a server that was forked may look for cards.
                    env=self._environment | {"CUDA_VISIBLE_DEVICES": "-1"},
                    start_new_session=True,
                )
        finally:
            os.close(requests)
            os.close(events)

    def _close_pipes(self) -> None:
        for descriptor in (self._requests_fd, self._events_fd):
            if descriptor >= 0:
                os.close(descriptor)
        self._requests_fd = self._events_fd = -1

    def _send(self, request: Mapping[str, Any]) -> None:
        data = json.dumps(request).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._requests_fd, data) :]
        except BrokenPipeError:
            # The zygote died. Callers that wait for events are about to see it.
            self._closed = True

    def _read(self, timeout_s: float) -> bool:
        """Moves new events into the inboxes of their groups; returns whether there were any."""
        if self._closed or self._owner != os.getpid() or not select.select([self._events_fd], [], [], timeout_s)[0]:
            return False
        data = os.read(self._events_fd, 65536)
        if not data:
            self._closed = True
        # A line may arrive in two reads; text after the last line end waits for the rest of its line.
        *lines, self._pending = (self._pending + data).split(b"\n")
        for event in parse_events(b"\n".join(lines)):
            if event["event"] == "ready":
                self._ready = True
            # A group that was stopped during its start has no inbox any more.
            elif event["group"] in self._inboxes:
                self._inboxes[event["group"]].append(event)
        return bool(data)

    def _start_idle_timer(self) -> None:
        if not self._inboxes and not self._closed:
            self._idle_timer = threading.Timer(IDLE_S, self.end_if_unused)
            self._idle_timer.daemon, self._idle_timer.name = True, "tfps-idle-zygote"
            self._idle_timer.start()

    def _stop_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def tail(self) -> str:
        """Returns the last lines of the zygote's own log."""
        return logs.tail(self.log_path)


def parse_events(text: bytes) -> list[Event]:
    """Returns the events of a zygote, from their lines of JSON.

    Raises:
        ClusterError: a line is no event. Then something else writes to the zygote's pipe.
    """
    events = []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        if not _is_event(event):
            raise ClusterError(f"the process that forks the servers must report events. Received: {line[:200]!r}.")
        events.append(event)
    return events


def _is_event(event: object) -> bool:
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return False
    numbers = [event[key] for key in ("group", "index", "pid", "status") if key in event]
    texts = [event[key] for key in ("job", "address") if key in event]
    # Every event but the first belongs to a group.
    complete = event["event"] == "ready" or "group" in event
    return complete and all(map(is_integer, numbers)) and all(isinstance(text, str) for text in texts)


class _Current:
    """Holds the link that new clusters use; `lock` guards it."""

    lock = threading.Lock()
    link: ZygoteLink | None = None


def current_link() -> ZygoteLink:
    """Returns the zygote for a new cluster, and starts one if there is none that fits.

    Libraries keep what they read from the environment when they were loaded. So a program that has since changed such a
    variable, `TF_CPP_MIN_LOG_LEVEL` for example, gets a new zygote.
    """
    environment = server_environment()
    with _Current.lock:
        link = _Current.link
        if link is None or not link.serves(environment):
            # An old zygote that still has groups ends `IDLE_S` after its last group.
            if link is not None:
                link.end_if_unused()
            link = _Current.link = ZygoteLink(environment)
        return link


def server_environment() -> dict[str, str]:
    """Returns the environment of the servers of this machine: the chief's, without TF_CONFIG."""
    environment = {key: value for key, value in os.environ.items() if key not in ("TF_CONFIG", *_SET_BY_STRATEGY)}
    # A thread of OpenBLAS, or of the allocator of pyarrow, would make forks unsafe.
    return environment | {
        "OPENBLAS_NUM_THREADS": "1",
        "JE_ARROW_MALLOC_CONF": "background_thread:false",
        "TF_CPP_MIN_LOG_LEVEL": env.server_log_level(),
    }


def _import_time_variables(environment: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key.startswith(_READ_AT_IMPORT)}
