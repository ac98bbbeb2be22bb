"""A parameter server that is killed is replaced in the same program, if something restores what it held."""

import json
import os
import pathlib

import pytest

from tests import programs

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import json, os, signal, keras, numpy as np, tensorflow as tf, tfps
from tfps.placement.spec import TableDtypes
from tfps.runtime import recovery

ROWS, SIZE, BATCHES = 50, 8, 40
strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=2, num_workers=2), dense_tables_bytes=0)
ids = np.random.default_rng(0).integers(0, ROWS, (BATCHES * SIZE, 2))
data = tf.data.Dataset.from_tensor_slices((ids, np.ones((len(ids), 2, 1), "float32"))).batch(SIZE)

class Kill(keras.callbacks.Callback):
    def __init__(self, server):
        super().__init__()
        self.server = server

    def on_train_batch_end(self, batch, logs=None):
        if batch == BATCHES // 2:
            servers = [task for task in strategy.cluster.tasks if task.order.job == "ps"]
            os.kill(servers[self.server].pid, signal.SIGKILL)

def make(optimizer):
    with strategy.scope():
        layers = [keras.Input((2,), dtype="int64"), keras.layers.Embedding(ROWS, 4), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile(optimizer, "mse")
    model.fit(data, verbose=0)
    return model

with strategy.scope():
    plain = tf.Variable([1.0, 2.0])
other = make("sgd")
optimizers = [keras.optimizers.Adagrad(0.1), tfps.optimizers.Sync(keras.optimizers.Adagrad(0.1))]
for server, optimizer in enumerate(optimizers):
    # The second server that is lost holds rows and slots of bfloat16.
    strategy.factory.stored = [TableDtypes(), TableDtypes("bfloat16", "bfloat16")][server]
    model = make(optimizer)
    model.predict(ids[:4], verbose=0)
    variables = [*model.variables, *model.optimizer.variables]
    saved = [np.array(variable.numpy()) for variable in variables]

    def restore(lost):
        told.append(lost)
        for variable, value in zip(variables, saved):
            variable.assign(value)

    told = []
    recovery.register(strategy, restore)
    try:
        model.fit(data, verbose=0, callbacks=[Kill(server)])
    except tfps.errors.ServerLostError as error:
        recovery.replace_servers(strategy, error.servers)
    restored = all(np.array_equal(variable.numpy(), value) for variable, value in zip(variables, saved))
    before = int(model.optimizer.iterations)
    model.fit(data, verbose=0)
    found = {
        "told": told,
        "restored": restored,
        "stored": model.layers[0].embeddings._value.stored_dtype.name,
        "steps": int(model.optimizer.iterations) - before,
        "predicted": bool(np.isfinite(model.predict(ids[:4], verbose=0)).all()),
        "evaluated": bool(np.isfinite(model.evaluate(data, verbose=0))),
    }
    print(json.dumps(found), flush=True)
print(json.dumps({"left out": bool(np.isnan(other.get_weights()[0]).any() or np.isnan(plain.numpy()).any())}))
losses = strategy.record.counts().losses
print(json.dumps({"losses": [[loss.job, loss.index, loss.back_at > loss.at] for loss in losses]}), flush=True)
recovery.register(strategy, None)
try:
    other.fit(data, verbose=0, callbacks=[Kill(0)])
except tfps.errors.ServerLostError as error:
    print(json.dumps({"ended": str(error).splitlines()[0]}), flush=True)
    try:
        recovery.replace_servers(strategy, error.servers)
    except tfps.errors.ClusterError as refused:
        print(json.dumps({"refused": str(refused)}), flush=True)
"""


@pytest.mark.slow
def test_the_program_goes_on_with_a_new_server():
    environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"} | {"PYTHONPATH": str(ROOT)}
    done = programs.run(["-c", PROGRAM], env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    *by_mode, left_out, losses, ended, refused = [
        json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")
    ]
    for server, (result, steps, stored) in enumerate(zip(by_mode, [40, 20], ["float32", "bfloat16"], strict=True)):
        expected = {"told": [[server]], "restored": True, "steps": steps, "predicted": True, "evaluated": True}
        assert result == {**expected, "stored": stored}
    # Nothing takes a lost value that nobody restored for a trained one.
    assert left_out == {"left out": True}
    # Those who watch the job were told.
    assert losses == {"losses": [["ps", 0, True], ["ps", 1, True]]}
    assert ended["ended"].startswith("ps 0 (process") and "SIGKILL" in ended["ended"]
    assert "replaced only if something restores" in refused["refused"]
