"""A server that dies gets back what it held of a table that grows."""

import json
import os
import pathlib

from tests import programs

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import json, os, signal, sys, tempfile
import keras, numpy as np, tensorflow as tf, tfps
from tests.growing.models import counter, counts_of, rows_of

strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=2, num_workers=1), dense_tables_bytes=0)

class Kill(keras.callbacks.Callback):
    left = 70

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            servers = [task for task in strategy.cluster.tasks if task.order.job == "ps"]
            os.kill(servers[1].pid, signal.SIGKILL)

model = counter(strategy, admission=tfps.admission.Count(1))
ids = np.random.default_rng(0).integers(-(2**62), 2**62, 1200)
ids[600:900] = ids[:300]
data = tf.data.Dataset.from_tensor_slices((ids.reshape(-1, 2), np.zeros(600))).batch(4)
checkpoint = tfps.callbacks.Checkpoint(tempfile.mkdtemp(), every_steps=25)
model.fit(data, shuffle=False, verbose=0, callbacks=[checkpoint, Kill()])
rows = rows_of(model.get_layer("counts"))
exact = {one: -row[0] for one, row in rows.items()} == counts_of(ids)
print(json.dumps({"exact": exact, "rows": len(rows)}), flush=True)
"""


def test_a_killed_server_gets_its_rows_back():
    environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"} | {"PYTHONPATH": str(ROOT)}
    done = programs.run(["-c", PROGRAM], env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (result,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert result == {"exact": True, "rows": 900}
    assert "replaced after" in done.stderr
