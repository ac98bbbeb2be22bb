"""The user's program as the chief, in a process of its own.

Ownership: the process and its group end with `end`, and (Linux) when the launcher is killed. Use it from the main
thread alone.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

from tfps.cluster.processes import tied_command
from tfps.cluster.terminal import Terminal
from tfps.cluster.tf_config import TaskConfig

_SIGNAL_BASE = 128  # a shell's status for a program ended by signal n is 128 + n


class ChiefProcess:
    """Runs `command` with the chief's TF_CONFIG; its lines go to `terminal` and, if given, to the file `log_path`."""

    def __init__(self, command: Sequence[str], config: TaskConfig, terminal: Terminal, log_path: str | None) -> None:
        # Unbuffered, or a program's lines would come late and out of order; a session of its own, so that a Ctrl-C
        # reaches it once, through `interrupt`.
        environment = os.environ | {"TF_CONFIG": config.to_json(), "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            tied_command(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        log = open(log_path, "ab", buffering=0) if log_path else None  # noqa: SIM115 (the pipes outlive this)
        assert self._process.stdout is not None and self._process.stderr is not None
        terminal.read_pipe(config.name, self._process.stdout, copy_to=log)  # type: ignore[arg-type]
        terminal.read_pipe(config.name, self._process.stderr, error=True, copy_to=log)  # type: ignore[arg-type]

    def wait(self, timeout_s: float) -> int | None:
        """The exit status as a shell gives it, None if the program still runs after `timeout_s`."""
        # A shell's convention, so that `tfps-launch` ends as the program would have ended by itself.
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        return status if status >= 0 else _SIGNAL_BASE - status

    def interrupt(self, number: int) -> None:
        """Passes a signal on to the program."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def end(self) -> None:
        """Kills what is left of the program and of the processes it started in its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
