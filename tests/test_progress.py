"""Progress bars: on a terminal, and nowhere else."""

import os
import pathlib
import pty
import select
import subprocess
import sys
import threading
import time

import pytest

from tfps import progress
from tfps.errors import ConfigError

ROOT = pathlib.Path(__file__).parents[1]
PROGRAM = """
import sys, time
import rich.progress  # imported when a bar is drawn, which can take longer than this program
from tfps import progress
progress._AFTER_S = 0.1
with progress.progress("saving /runs/ckpt-5", 4, "parts") as bar:
    for _ in range(4):
        time.sleep(0.5)
        bar.add()
print("over", file=sys.stderr)
"""


def environment(**more):
    return {k: v for k, v in os.environ.items() if not k.startswith("TFPS_")} | {"PYTHONPATH": str(ROOT)} | more


def on_a_terminal(program, **more):
    """Everything that a program writes to a terminal."""
    ours, theirs = pty.openpty()
    # rich asks these what a terminal can do.
    variables = environment(TERM="xterm", COLUMNS="100", **more)
    process = subprocess.Popen([sys.executable, "-c", program], stderr=theirs, stdout=theirs, env=variables)
    os.close(theirs)
    written, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline and (process.poll() is None or select.select([ours], [], [], 0)[0]):
        if select.select([ours], [], [], 0.1)[0]:
            try:
                written += os.read(ours, 65536)
            # The end of a terminal whose last program has ended.
            except OSError:
                break
    assert process.wait(10) == 0, written
    os.close(ours)
    return written.decode()


def test_a_terminal_shows_the_bar_and_loses_it_at_the_end():
    written = on_a_terminal(PROGRAM)
    assert "saving /runs/ckpt-5" in written and "parts" in written
    assert any(f"{done}/4" in written for done in (1, 2, 3))
    # The line is erased before the program goes on.
    bar, _, rest = written.rpartition("\x1b[2K")
    assert "saving" in bar and rest.strip().startswith("over")


@pytest.mark.parametrize("variables", [{"TFPS_PROGRESS": "0"}])
def test_a_switch_turns_bars_off(variables):
    assert on_a_terminal(PROGRAM, **variables).strip() == "over"


def test_a_log_has_no_bar():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "over\n")


def test_quick_work_shows_none():
    assert on_a_terminal(PROGRAM.replace("0.1", "30").replace("0.25", "0.0")).strip() == "over"


def test_other_threads_draw_nothing(monkeypatch):
    class Terminal:
        closed = False

        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    found = []
    thread = threading.Thread(target=lambda: found.append(progress.is_shown()))
    thread.start()
    thread.join(10)
    assert found == [False] and progress.is_shown()


def test_counts_of_many_threads_add_up():
    with progress.progress("x", None, "parts") as bar:
        threads = [threading.Thread(target=lambda: [bar.add() for _ in range(1000)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert bar.done == 8000
        bar.expect(3)
        bar.expect(4)
        assert bar.total == 7


def test_errors_pass_through():
    with pytest.raises(ZeroDivisionError), progress.progress("x", 1, "parts"):
        raise ZeroDivisionError


def test_a_wrong_switch_is_named(monkeypatch):
    monkeypatch.setenv("TFPS_PROGRESS", "off")
    with pytest.raises(ConfigError, match="TFPS_PROGRESS must be 0 or 1. Received: 'off'"):
        progress.env.progress()
