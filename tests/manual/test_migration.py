"""The programs that docs/migration/ starts from run as they stand, where what they need is installed."""

import json
import pathlib
import re

import pytest

from tests import programs
from tfps.cluster.ports import reserve_address

MIGRATION = pathlib.Path(__file__).parents[2] / "docs/migration"
LIMIT_S = 300


def program(document):
    """The program of the section "Before"."""
    text = (MIGRATION / document).read_text().partition("## Before")[2].partition("## After")[0]
    return re.search(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL).group(1)


@pytest.fixture
def start(tmp_path):
    """Starts a program in a folder of the test: `start(text, TF_CONFIG=...)`; ended with the test."""
    started = []

    def begin(text, **environment):
        (tmp_path / "train.py").write_text(text)
        with (tmp_path / f"out{len(started)}").open("w") as out:
            process = programs.start(["train.py"], cwd=tmp_path, env_more=environment, stdout=out, stderr=out)
        process.output = (tmp_path / f"out{len(started)}").read_text
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait(LIMIT_S)
