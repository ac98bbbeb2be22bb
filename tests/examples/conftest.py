"""The examples as a user runs them: programs of their own, on real data."""

import os
import pathlib

import pytest

from tests import programs

ROOT = pathlib.Path(__file__).parents[2]
LIMIT_S = 900  # a slow machine; most take about 20 s


@pytest.fixture
def begin(tmp_path):
    """Starts a Python program in a session of its own: `begin(arguments, TF_CONFIG=...)`; ended with the test."""
    started = []

    def start(*arguments, **environment):
        kept = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"}
        variables = kept | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"} | environment
        with (tmp_path / f"out{len(started)}").open("w") as out:
            process = programs.start(list(map(str, arguments)), cwd=ROOT, env=variables, stdout=out, stderr=out)
        process.output = (tmp_path / f"out{len(started)}").read_text
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(LIMIT_S)


@pytest.fixture
def run(begin):
    """The output of a program that ended well."""

    def run_to_the_end(*arguments):
        process = begin(*arguments)
        status = process.wait(LIMIT_S)
        assert status == 0, process.output()
        return process.output()

    return run_to_the_end


@pytest.fixture
def head(data, tmp_path):
    """The first lines of a real file, as a file."""

    def write(name, lines):
        path = tmp_path / "head"
        with (data / name).open() as file:
            path.write_text("".join(line for line, _ in zip(file, range(lines), strict=False)))
        return path

    return write
