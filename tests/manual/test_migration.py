"""The programs that docs/migration/ starts from run as they stand, where what they need is installed."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import tfps
from tfps.cluster.ports import reserve_address

MIGRATION = pathlib.Path(__file__).parents[2] / "docs/migration"
LIMIT_S = 300


def section(document, begin, end, language):
    """The program between two headings of a document."""
    text = (MIGRATION / document).read_text().partition(begin)[2].partition(end)[0]
    return re.search(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL).group(1)


def program(document):
    """The program that a document starts from."""
    return section(document, "## Before", "## After", "py")


@pytest.fixture
def begin(tmp_path):
    """Starts a program in a folder of the test: `begin(text, TF_CONFIG=...)`; ended with the test."""
    started = []

    def start(text, **environment):
        script = tmp_path / f"train{len(started)}.py"
        script.write_text(text)
        kept = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"} | {"TF_CPP_MIN_LOG_LEVEL": "2"}
        with script.with_suffix(".out").open("w") as out:
            process = subprocess.Popen(
                [sys.executable, script], cwd=tmp_path, env=kept | environment, stdout=out, stderr=out
            )
        process.output = script.with_suffix(".out").read_text
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(LIMIT_S)


@pytest.mark.slow
def test_the_program_on_the_strategy_of_tensorflow_runs(begin):
    tasks = {"chief": 0, "ps": 0, "worker": 0}
    cluster = {job: [reserve_address()] for job in tasks}
    started = {
        job: begin(
            program("parameter_server_strategy.md"),
            TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": job, "index": index}}),
        )
        for job, index in tasks.items()
    }
    assert started["chief"].wait(LIMIT_S) == 0, started["chief"].output()
    assert "Epoch 2/2" in started["chief"].output()


@pytest.mark.slow
def test_the_weights_of_tf_keras_are_taken_over(begin, tmp_path, strategy, monkeypatch):
    before = begin(program("tf_keras.md"))
    assert before.wait(LIMIT_S) == 0, before.output()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tfps, "ParameterServerStrategy", lambda: strategy)
    after, _, fit = section("tf_keras.md", "## After", "## What", "python").rpartition("model.fit")
    names = {}
    exec(after, names)
    with np.load("weights.npz") as arrays:
        table, kernel, bias = (arrays[name] for name in arrays.files)
    some = names["ids"][:64]
    expected = 1 / (1 + np.exp(-(table[some].reshape(64, -1) @ kernel + bias)))
    np.testing.assert_allclose(names["model"].predict(some, verbose=0), expected, rtol=1e-5)
    # The program goes on training from there.
    exec(f"model.fit{fit}", names)
    assert int(names["model"].optimizer.iterations) == 80
