"""The build of the C++ ops shows a bar on a terminal."""

import os
import pathlib
import pty
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# A command of setuptools that builds nothing.
PROGRAM = """
import sys, time
sys.argv = ["setup.py", "--version"]
import setup
for one in setup.shown(iter(range(5)), 5):
    time.sleep(0.15)
"""


@pytest.mark.parametrize("switch", ["1", "0"])
def test_files_that_are_compiled_are_counted(switch):
    ours, theirs = pty.openpty()
    environment = os.environ | {"TFPS_PROGRESS": switch, "TERM": "xterm", "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    done = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stderr=theirs, stdout=subprocess.DEVNULL, env=environment, cwd=ROOT
    )
    os.close(theirs)
    written = b""
    try:
        while more := os.read(ours, 65536):
            written += more
    # The end of a terminal whose last program has ended.
    except OSError:
        pass
    assert done.wait(60) == 0, written
    os.close(ours)
    assert (b"compiling the C++ ops" in written) == (switch == "1")
