"""A follower needs no TensorFlow and no Keras, and loads none."""

import os
import pathlib
import subprocess
import sys

from tests.serving.exporter import Exporter
from tfps.serving.versions import FULL

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "keras", "tf_keras", "absl", "google"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Refusing())
import numpy as np
import tfps
follower = tfps.serving.Follower(sys.argv[1])
assert follower.update() == [1, 2]
rows, found = follower.lookup("items", [0, 1, 2, 7])
assert found.tolist() == [True, True, True, False]
print(rows.sum(), follower.dense["top/kernel"].sum())
assert not any(name.partition(".")[0] in ("tensorflow", "keras") for name in sys.modules)
from tfps.errors import ExportGapError
"""


def test_a_follower_runs_where_tensorflow_is_not(tmp_path):
    one = Exporter(tmp_path)
    one.train(range(3))
    one.export(FULL)
    one.train([1])
    one.export()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    rows, dense = map(float, done.stdout.split())
    assert abs(rows - sum(float(row.sum()) for row in one.tables["items/embeddings"].values())) < 1e-4 and dense == 4
