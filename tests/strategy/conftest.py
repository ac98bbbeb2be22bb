"""Programs of their own: what becomes of a strategy is a matter of the whole process."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def run_program(tmp_path):
    """Runs a Python program to its end; fails with its output unless its status is 0; returns its output by lines."""

    def run(source, *arguments, timeout_s=540, **environment):
        base = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"}
        base |= {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "1", "TMPDIR": str(tmp_path)}
        path = tmp_path / "program.py"
        path.write_text(source)
        ended = subprocess.run(
            [sys.executable, "-X", "faulthandler", str(path), *arguments],
            env=base | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr[-6000:]
        return ended.stdout.splitlines()

    return run
