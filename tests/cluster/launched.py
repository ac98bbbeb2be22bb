"""What the tests of real process managers share: programs for their tasks, and how a command is run."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]

FIND = """
import os, sys
from tfps.cluster.environments.find import find_task
from tfps.cluster.environments.roles import RoleCounts
task = find_task(RoleCounts(num_ps=2))
# One write, so that the lines of tasks do not mix.
node = os.environ.get("SLURMD_NODENAME")
sys.stdout.write(f"{task.name}|{task.endpoint}|{node}|{task.cluster.as_dict()}\\n")
"""
"""Prints the task of a process, its address, the node that SLURM has put it on, and the cluster."""

TRAIN = """
import keras, numpy as np, tfps
strategy = tfps.ParameterServerStrategy(dense_tables_bytes=0)
with strategy.scope():
    layers = [keras.Input((3,), dtype="int64"), keras.layers.Embedding(100, 4), keras.layers.Flatten()]
    model = keras.Sequential([*layers, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adagrad(0.1), loss="mse")
ids = np.random.default_rng(0).integers(0, 100, (320, 3))
history = model.fit(ids, ids[:, :1] % 2, batch_size=8, epochs=2, verbose=0).history["loss"]
assert history[1] < history[0], history
print("trained", strategy.num_servers, strategy.num_workers, int(model.optimizer.iterations.numpy()), flush=True)
"""
"""Trains two epochs of 40 batches. As a server it serves, with the strategy's constructor or by `tfps-launch`."""


def run_command(*command, timeout_s=300, **environment):
    """Runs a command to its end: (status, standard output, standard error)."""
    base = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"}
    base |= {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "1"}
    done = subprocess.run(command, env=base | environment, capture_output=True, text=True, timeout=timeout_s)
    return done.returncode, done.stdout, done.stderr


def launch(*arguments):
    """The command `tfps-launch` of this checkout."""
    return [sys.executable, "-m", "tfps.cli.launch", *arguments]
