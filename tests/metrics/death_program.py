"""Kills a worker while a model trains, and prints its metrics beside those of scikit-learn, as JSON."""

import json
import os
import signal

import keras
import numpy as np

import tfps
from tests.metrics import models


class Kill(keras.callbacks.Callback):
    """Kills the last worker after some batches."""

    def __init__(self, strategy):
        super().__init__()
        self.strategy = strategy
        self.killed = False

    def on_train_batch_end(self, batch, logs=None):
        if batch == 20 and not self.killed:
            self.killed = True
            victim = [task for task in self.strategy.cluster.tasks if task.order.job == "worker"][-1]
            os.kill(victim.pid, signal.SIGKILL)


if __name__ == "__main__":
    features, labels, weights = models.clicks()
    strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=1, num_workers=2), dense_tables_bytes=0)
    with strategy.scope():
        model = models.make(models.all_metrics(), keras.optimizers.SGD(0.0))
    # All workers train from the second epoch on, which begins with a model of some age.
    model.fit(models.dataset((features, labels, weights), 2), verbose=0, epochs=2)
    kill = Kill(strategy)
    history = model.fit(models.dataset((features, labels, weights), 4), verbose=0, callbacks=[kill]).history
    scores = model.predict(features, verbose=0)
    right = models.expected(labels, scores, weights, features["user"])
    counted = model.metrics[1].metrics[1].tfps_buffer.size
    result = {name: [history[name][0], float(value)] for name, value in right.items()}
    print(json.dumps({"killed": kill.killed, "counted": [counted, int(np.sum(weights > 0))], "metrics": result}))
    strategy.close()
