"""Real data over 3 workers, in every mode: the metrics of `evaluate` are those of scikit-learn."""

import json
import os

import pytest

from tests import programs

RELATIVE = {"auc": 3e-4, "exact_auc": 1e-5, "group_auc": 1e-5, "positive_negative_ratio": 1e-4}


@pytest.mark.slow
def test_metrics_are_those_of_scikit_learn(data):
    program = ["-m", "tests.metrics.real_program", str(data)]
    done = programs.run(program, env=dict(os.environ), timeout=900, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 6
    for case, values in found.items():
        for name, (ours, theirs) in values.items():
            assert ours == pytest.approx(theirs, rel=RELATIVE.get(name, 1e-5)), (case, name)
