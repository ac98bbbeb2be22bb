"""Metrics under the strategies with replicas, in a program: logical devices have to be set before TensorFlow starts."""

import json
import os

import pytest

from tests import programs


@pytest.fixture(scope="module")
def found():
    done = programs.run(["-m", "tests.metrics.replicas_program"], env=dict(os.environ), timeout=600, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mirrored", "one"])
def test_logs_are_those_of_scikit_learn(found, kind):
    for name, (right, *logs) in found[kind].items():
        assert logs == pytest.approx([right] * 4, abs=1e-6), name
