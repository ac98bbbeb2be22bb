"""How long `fit` stands still after a parameter server was killed, until the next batch is trained.

    python -m benchmarks.recovery --gigabytes 1 --servers 2 --rounds 3 --folder /mnt/disk

A table with one slot (Adagrad) of the given size is trained with a `tfps.callbacks.Checkpoint`; one server is killed by
SIGKILL, another in each round. Prints one line of JSON: the seconds from the kill to the end of the next batch, and how
many batches are trained again.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import tempfile
import time

import keras
import numpy as np

import tfps
from tfps import jobs
from tfps.callbacks import Checkpoint

_DIM = 16
_BATCHES, _SIZE, _EVERY = 200, 256, 40


class _Kill(keras.callbacks.Callback):
    """Kills a server after some batches, and measures the time until the next batch of the `fit` that goes on."""

    def __init__(self, cluster: tfps.LocalCluster, server: int, after: int) -> None:
        super().__init__()
        self._cluster, self._server, self._left = cluster, server, after
        self._killed_at: float | None = None
        self._goes_on = False
        self.seconds: float | None = None
        self.again = 0

    def on_train_begin(self, logs: object = None) -> None:
        """Notes that `fit` goes on after the kill."""
        self._goes_on = self._killed_at is not None

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Kills, or measures."""
        self._left -= 1
        if self._left == 0:
            pids = [task.pid for task in self._cluster.tasks if task.order.job == jobs.PS]
            self._killed_at, self.again = time.monotonic(), batch
            os.kill(pids[self._server], signal.SIGKILL)
        elif self._goes_on and self.seconds is None and self._killed_at is not None:
            self.seconds = time.monotonic() - self._killed_at
            self.again -= batch - 1


def main() -> None:
    """Runs the command."""
    args = _parser().parse_args()
    folder = tempfile.mkdtemp(prefix="tfps-benchmark-", dir=args.folder)
    rows = int(args.gigabytes * 1e9 / (2 * 4 * _DIM))
    rng = np.random.default_rng(0)
    ids, labels = rng.integers(0, rows, (_BATCHES * _SIZE, 8)), np.zeros(_BATCHES * _SIZE)
    seconds, again = [], []
    try:
        cluster = tfps.LocalCluster(num_ps=args.servers, num_workers=2)
        with tfps.ParameterServerStrategy(cluster) as strategy:
            for number in range(args.rounds):
                with strategy.scope():
                    layers = [keras.Input((8,), dtype="int64"), keras.layers.Embedding(rows, _DIM)]
                    model = keras.Sequential([*layers, keras.layers.Flatten()])
                    model.compile(keras.optimizers.Adagrad(0.1), lambda y, found: keras.ops.mean(found))
                kill = _Kill(cluster, number % args.servers, after=_EVERY + _EVERY // 2)
                checkpoint = Checkpoint(f"{folder}/{number}", every_steps=_EVERY, keep=1)
                model.fit(ids, labels, batch_size=_SIZE, verbose=0, callbacks=[checkpoint, kill])
                seconds.append(kill.seconds or float("nan"))
                again.append(kill.again)
                shutil.rmtree(f"{folder}/{number}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result = {
        "bytes": 2 * 4 * _DIM * rows,
        "servers": args.servers,
        "s_from_kill_to_next_batch": round(statistics.median(seconds), 2),
        "s_of_each_round": [round(one, 2) for one in seconds],
        "batches_again": again,
    }
    print(json.dumps(result))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="bytes of the table with its slot, in 10^9")
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where to write (default the folder for temporary files)")
    return parser


if __name__ == "__main__":
    main()
