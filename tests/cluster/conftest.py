"""Real processes for the cluster's tests: start one, find what it left behind."""

import os
import pathlib
import subprocess
import sys
import time
import types

import pytest

ROOT = pathlib.Path(__file__).parents[2]


class Program:
    """A Python program under test, with its output in files; killed at the end of the test."""

    def __init__(self, arguments, directory, environment):
        self.out, self.err = directory / "out", directory / "err"
        base = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"}
        base |= {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "1", "TMPDIR": str(directory)}
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *arguments], stdout=out, stderr=err, env=base | environment, start_new_session=True
            )

    def wait(self, timeout_s=240):
        return self.process.wait(timeout_s)

    def wait_for(self, word, timeout_s=240):
        """The output once `word` is in it."""
        deadline = time.monotonic() + timeout_s
        while word not in self.output() and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert word in self.output(), self.output()
        return self.output()

    def output(self):
        return self.out.read_text() + self.err.read_text()


@pytest.fixture
def run(tmp_path):
    """Starts a program: `run(source_or_arguments, NAME="value")`."""
    programs = []

    def start(program, **environment):
        directory = tmp_path / str(len(programs))
        directory.mkdir()
        arguments = ["-c", program] if isinstance(program, str) else program
        programs.append(Program(arguments, directory, environment))
        return programs[-1]

    yield start
    for program in programs:
        if program.process.poll() is None:
            program.process.kill()
            program.process.wait()


@pytest.fixture(scope="session")
def processes():
    """What one can ask of processes by their ids."""
    functions = (living, is_alive, wait_until_gone, descendants)
    return types.SimpleNamespace(**{function.__name__: function for function in functions})


def living(pids):
    """Those of the processes that still run."""
    return [pid for pid in pids if is_alive(pid)]


def is_alive(pid):
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or while it was read
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pids, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while living(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return living(pids) == []


def descendants(pid):
    """Every process below `pid` now."""
    children = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found
