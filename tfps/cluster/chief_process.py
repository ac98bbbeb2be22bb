"""The chief's process: the user's program, started by the launcher.

Ownership: `end` ends the process and its process group; on Linux they also end when the launcher is killed.
Threading: main thread only.
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
    """Runs `command` as the chief and shows its output.

    Args:
        command: the program and its arguments.
        config: the chief's task, passed on as TF_CONFIG.
        terminal: shows every line of the output.
        log_path: a file that also gets the output, or None.
    """

    def __init__(self, command: Sequence[str], config: TaskConfig, terminal: Terminal, log_path: str | None) -> None:
        # Buffered output would arrive late and out of order.
        environment = os.environ | {"TF_CONFIG": config.to_json(), "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            tied_command(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            # In the launcher's session a Ctrl-C would reach the program twice: from the terminal and by `interrupt`.
            start_new_session=True,
        )
        log = open(log_path, "ab", buffering=0) if log_path else None  # noqa: SIM115 (the pipes outlive this)
        assert self._process.stdout is not None and self._process.stderr is not None
        terminal.read_pipe(config.name, self._process.stdout, copy_to=log)  # type: ignore[arg-type]
        terminal.read_pipe(config.name, self._process.stderr, error=True, copy_to=log)  # type: ignore[arg-type]

    def wait(self, timeout_s: float) -> int | None:
        """Returns the exit status as a shell reports it, or None if the program still runs after `timeout_s`."""
        # With a shell's convention `tfps-launch` ends as the program would have ended without it.
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        return status if status >= 0 else _SIGNAL_BASE - status

    @property
    def killed_by(self) -> int:
        """The number of the signal that has ended the program; 0 if it runs or has ended by itself."""
        return max(0, -(self._process.returncode or 0))

    def interrupt(self, number: int) -> None:
        """Forwards a signal to the program."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def end(self) -> None:
        """Kills the program, if it still runs, and the processes that it left in its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
