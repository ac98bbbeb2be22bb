"""A task's tunnel: stunnel, started beside the task, watched, and told of new certificates.

Ownership: the tunnel ends with this process, however it ends. Its configuration is in the file system only while
stunnel reads it. If the tunnel itself ends, it is started again; connections that went through it are lost, as if the
network had failed.
Threading: `start` may be called from any thread. One thread watches the process, another reads its log, and one has
started it. Cost: a start takes about 0.2 s; stunnel takes 5 MB and a thread for each connection.
"""

import contextlib
import os
import queue
import secrets
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from tfps.cluster import logs
from tfps.cluster.processes import tied_command
from tfps.cluster.tls.files import TlsFiles
from tfps.cluster.tls.stunnel_log import StunnelLog
from tfps.errors import ClusterError, ConfigError

_START_S = 10.0
_POLL_S = 0.1
_LOOK_S = 1.0
"""Seconds between two looks at the files of the certificates."""
_BUDGET, _BUDGET_S = 5, 60.0
"""The tunnel is started again at most so often within so many seconds."""


class Tunnel:
    """The stunnel of one task.

    Args:
        task: the task's name in messages.
        program: the path of stunnel.
        config: its configuration.
        files: the files of the certificates that the configuration names.
        host: the host for which the certificate must be valid.
        peers: the name and address of the task behind each service of the configuration.
    """

    def __init__(
        self, task: str, program: str, config: str, files: TlsFiles, host: str, peers: Mapping[str, str]
    ) -> None:
        self._task, self._program, self._files, self._host, self._peers = task, program, files, host, peers
        self._config = config
        # stunnel reads it again, at the same path, when it takes new certificates.
        self._path = os.path.join(tempfile.gettempdir(), f"tfps-stunnel-{secrets.token_hex(8)}.conf")
        self._version = files.version()
        self._starts: deque[float] = deque()
        self._log = StunnelLog(task, peers)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id of stunnel; None before the start."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Starts stunnel, and returns when it listens.

        Raises:
            ClusterError: it does not start; the message has the end of its log.
        """
        self._start_and_wait()
        threading.Thread(target=self._watch, name="tfps-tunnel", daemon=True).start()

    def _start_and_wait(self) -> None:
        self._log = log = StunnelLog(self._task, self._peers)
        with self._config_file():
            process = self._process = _start_process([self._program, self._path])
            reader = threading.Thread(target=self._read_log, args=(process, log), name="tfps-tunnel-log", daemon=True)
            reader.start()
            if self._wait_until_read(0):
                return
        process.kill()
        process.wait()
        reader.join(_START_S)
        why = "; ".join(log.errors) or "its log has no reason"
        raise ClusterError(f"The TLS tunnel of {self._task} did not start ({self._program}): {why}.")

    @contextlib.contextmanager
    def _config_file(self) -> Iterator[None]:
        """Has the configuration at its path for the duration of a block."""
        with open(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(self._config)
        try:
            yield
        finally:
            os.unlink(self._path)

    def _wait_until_read(self, before: int) -> bool:
        """Returns whether stunnel has read its configuration more than `before` times, within a limit."""
        assert self._process is not None
        limit = time.monotonic() + _START_S
        while self._log.configured <= before:
            if self._process.poll() is not None or time.monotonic() > limit:
                return False
            time.sleep(_POLL_S / 5)
        return True

    def _read_log(self, process: "subprocess.Popen[bytes]", log: StunnelLog) -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                message = log.read(line.decode(errors="replace").rstrip())
                if message is not None:
                    logs.say(message)

    def _watch(self) -> None:
        """Starts the tunnel again when it has ended, and tells it of new certificates. Ends with the process."""
        assert self._process is not None
        next_look = time.monotonic() + _LOOK_S
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self._process.wait(_POLL_S)
                if not self._start_again(logs.describe_status(status)):
                    return
            if time.monotonic() >= next_look:
                self._look_at_files()
                next_look = time.monotonic() + _LOOK_S

    def _start_again(self, how: str) -> bool:
        """Returns whether the tunnel is watched any further."""
        now = time.monotonic()
        while self._starts and now - self._starts[0] > _BUDGET_S:
            self._starts.popleft()
        if len(self._starts) == _BUDGET:
            logs.say(
                f"error: the TLS tunnel of {self._task} ended {how}, {_BUDGET + 1} times within {_BUDGET_S:g} s, and "
                f"is not started again: no task reaches this one. Its log: {'; '.join(self._log.errors) or 'empty'}"
            )
            return False
        self._starts.append(now)
        logs.say(f"the TLS tunnel of {self._task} ended {how}; its connections are lost, and it is started again")
        try:
            self._start_and_wait()
            logs.say(f"the TLS tunnel of {self._task} is up again")
        except ClusterError as error:
            # The next look at the process sees that it has ended.
            logs.say(f"error: {error}")
        return True

    def _look_at_files(self) -> None:
        version = self._files.version()
        if version in (self._version, ()):
            return
        self._version = version
        try:
            until = self._files.check(self._host)
        except ConfigError as error:
            # A copy that is under way has a key that does not fit yet, and changes the files again.
            logs.say(f"{self._task} keeps its TLS certificate: {error}")
            return
        assert self._process is not None
        before = self._log.configured
        with self._config_file():
            self._process.send_signal(signal.SIGHUP)
            done = self._wait_until_read(before)
        if done:
            logs.say(f"{self._task} takes its new TLS certificate, valid until {until}")
        else:
            logs.say(f"error: {self._task} cannot take its new TLS certificate: {'; '.join(self._log.errors)}")


def _start_process(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Starts a process that the kernel kills when this process ends, and not before."""
    started: queue.SimpleQueue[subprocess.Popen[bytes] | OSError] = queue.SimpleQueue()

    def start_and_stay() -> None:
        # The kernel watches the thread that has started the process. One that returned, or ran Python code while the
        # interpreter shuts down, would end before TensorFlow has said goodbye to the other tasks. So this one waits for
        # ever, in the kernel, where no signal wakes it.
        try:
            started.put(
                subprocess.Popen(
                    tied_command(command),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            )
        except OSError as error:
            started.put(error)
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        threading.Event().wait()

    threading.Thread(target=start_and_stay, name="tfps-tunnel-parent", daemon=True).start()
    process = started.get()
    if isinstance(process, OSError):
        raise ClusterError(f"The TLS tunnel did not start: {process}.")
    return process
