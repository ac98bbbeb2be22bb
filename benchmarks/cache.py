"""Rows that workers keep (`cache_rows`): hit rate, bytes of a step and speed, by size of the cache and staleness.

    python -m benchmarks.cache --zipf 1.05 --rows-kept 262144 --staleness 16,256 --rounds 2
    python -m benchmarks.cache --task adult --data data --workers 4 --epochs 10 --seeds 3

Prints one line of JSON. The first form measures speed and bytes: a model with one table looks up ids of a Zipf
distribution, without a cache and with each cache, in turns. The bytes are counted at the sockets of the servers. A turn
is one `fit` of two epochs, of which the second is measured: a cache is empty when `fit` begins, and the first epoch
fills it. The second form measures AUC: it trains a model on real data and reports the AUC on held-out examples after
each epoch, as the mean over seeds.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.meter import Meter

_OLD = 1_000_000
"""Steps that a model counts as trained for, so that it uses rows as often as it ever will."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What workers keep.

    Args:
        cache_rows: the rows; 0 for none.
        max_staleness: the steps for which a row is used.
        max_missed: how often it is used in this time.
    """

    cache_rows: int
    max_staleness: int = 0
    max_missed: int = 0

    @property
    def size(self) -> Any:
        """The setting as the strategy has it."""
        from tfps.embedding.row_cache import CacheSize

        return CacheSize(self.cache_rows, self.max_staleness, self.max_missed) if self.cache_rows else None


@dataclasses.dataclass(frozen=True)
class Turn:
    """One measured epoch.

    Args:
        examples_per_s: the speed.
        cpu_ms_a_step: CPU time of all processes but the chief.
        sent_bytes: bytes a step that servers sent: rows.
        received_bytes: bytes a step that servers received: requests and pushes.
        hit_rate: the part of the rows of a step that its worker had kept.
        unique_rows: rows of a step, each once.
    """

    examples_per_s: float
    cpu_ms_a_step: float
    sent_bytes: float
    received_bytes: float
    hit_rate: float
    unique_rows: float


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        "benchmarks.cache", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--zipf", type=float, default=1.05, help="exponent of the ids (default %(default)s)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the table (default %(default)s)")
    parser.add_argument("--dim", type=int, default=16, help="floats of a row (default %(default)s)")
    parser.add_argument("--ids", type=int, default=26, help="of an example (default %(default)s)")
    parser.add_argument("--batch", type=int, default=512, help="examples of a step (default %(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="of an epoch (default %(default)s)")
    parser.add_argument("--rows-kept", type=_numbers, default=[1 << 18], help="sizes of caches (default %(default)s)")
    parser.add_argument("--staleness", type=_numbers, default=[256], help="in steps (default %(default)s)")
    parser.add_argument("--uses", type=_numbers, default=[4], help="of a row in this time (default %(default)s)")
    parser.add_argument("--ps", type=int, default=1, help="parameter servers (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="workers (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each setting (default %(default)s)")
    parser.add_argument("--task", choices=("adult", "criteo"), help="train on real data, and report AUC")
    parser.add_argument("--data", type=pathlib.Path, help="the directory of the data sets, for --task")
    parser.add_argument("--epochs", type=int, default=4, help="of a task (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="of a task (default %(default)s)")
    args = parser.parse_args()
    if (args.task is None) != (args.data is None):
        parser.error("--task and --data must come together.")
    print(json.dumps(compare(args) if args.task is None else compare_quality(args)))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _settings(args: argparse.Namespace) -> list[Setting]:
    return [
        Setting(0),
        *(Setting(rows, steps, uses) for rows in args.rows_kept for steps in args.staleness for uses in args.uses),
    ]


def compare_quality(args: argparse.Namespace) -> dict[str, Any]:
    """Trains a task with each setting; returns the mean AUC after each epoch, and the hit rate."""
    import numpy as np

    import tfps
    from benchmarks.convergence_run import Mode, Run
    from benchmarks.convergence_tasks import TASKS

    task, found = dataclasses.replace(TASKS[args.task](args.data), epochs=args.epochs), []
    cluster = tfps.LocalCluster(args.ps, args.workers)
    with tfps.ParameterServerStrategy(cluster, dense_tables_bytes=0) as strategy:
        for setting in _settings(args):
            strategy.cache_size = setting.size
            run, before = Run(task, Mode("async"), args.workers, strategy), strategy.record.counts().cached
            curves = [[one["auc"] for one in run.train(seed)["curve"]] for seed in range(args.seeds)]
            now = strategy.record.counts().cached
            rate = (now.found - before.found) / max(1, now.asked - before.asked)
            auc = np.mean(curves, axis=0).round(5).tolist()
            found.append(dataclasses.asdict(setting) | {"auc": auc, "hit_rate": round(rate, 3)})
    return {"of": {name: getattr(args, name) for name in ("task", "workers", "epochs", "seeds")}, "settings": found}


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Trains with each setting in turns; returns the medians, and the ratios to the setting without a cache."""
    import tfps
    from tfps.training import traced_closures

    # As in a run that has lasted for a while: its graphs are not traced again while an epoch is measured.
    traced_closures.SHORT_STEPS = 0
    settings = _settings(args)
    with tfps.ParameterServerStrategy(tfps.LocalCluster(args.ps, args.workers), dense_tables_bytes=0) as strategy:
        trainers = [_trainer(strategy, setting, args) for setting in settings]
        turns: list[list[Turn]] = [[] for _ in settings]
        for _ in range(args.rounds):
            for trainer, of_setting in zip(trainers, turns, strict=True):
                of_setting.append(trainer())
    medians = [_median(of_setting) for of_setting in turns]
    return {
        "of": {name: getattr(args, name) for name in ("zipf", "rows", "dim", "ids", "batch", "steps", "ps", "workers")},
        "settings": [
            dataclasses.asdict(setting) | dataclasses.asdict(median) | _ratios(median, medians[0])
            for setting, median in zip(settings, medians, strict=True)
        ],
    }


def _median(turns: list[Turn]) -> Turn:
    fields = [field.name for field in dataclasses.fields(Turn)]
    return Turn(*(round(statistics.median(getattr(turn, name) for turn in turns), 4) for name in fields))


def _ratios(one: Turn, none: Turn) -> dict[str, float]:
    total, before = (turn.sent_bytes + turn.received_bytes for turn in (one, none))
    return {
        "times_fewer_bytes_sent": round(none.sent_bytes / one.sent_bytes, 2),
        "times_fewer_bytes": round(before / total, 2),
        "speed_ratio": round(one.examples_per_s / none.examples_per_s, 3),
        "cpu_ratio": round(one.cpu_ms_a_step / none.cpu_ms_a_step, 3),
    }


def _trainer(strategy: Any, setting: Setting, args: argparse.Namespace) -> Callable[[], Turn]:
    """Makes a model that is trained with a setting; returns the function that trains it for one turn."""
    import keras
    import numpy as np
    import tensorflow as tf

    with strategy.scope():
        inputs = keras.Input((args.ids,), dtype="int64")
        rows = keras.layers.Flatten()(keras.layers.Embedding(args.rows, args.dim)(inputs))
        model = keras.Model(inputs, keras.layers.Dense(1)(rows))
        model.compile("adagrad", keras.losses.BinaryCrossentropy(from_logits=True))
    weights = np.cumsum(1.0 / np.arange(1, args.rows + 1) ** args.zipf)
    weights = tf.constant(weights / weights[-1])
    shape = (args.batch, args.ids)

    def batch(seed: Any) -> tuple[Any, Any]:
        draws = tf.random.stateless_uniform([args.batch * args.ids], [0, seed], dtype=tf.float64)
        ids = tf.reshape(tf.searchsorted(weights, draws, out_type=tf.int64), shape)
        return ids, tf.cast(ids[:, :1] % 2, tf.float32)

    data = tf.data.Dataset.range(1 << 40).map(batch)
    readers = _ServerBytes(strategy.cluster)
    roles = {"tasks": [task.pid for task in strategy.cluster.tasks]}

    def train() -> Turn:
        strategy.cache_size = setting.size
        model.optimizer.build(model.trainable_variables)
        model.optimizer.iterations.assign(_OLD)
        meter, seen, found = Meter(roles), [], []

        def begin(epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                seen.append((time.perf_counter(), readers.read(), strategy.record.counts()))
                meter.start()

        def end(epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                meter.stop()
                found.append((time.perf_counter(), readers.read(), strategy.record.counts()))

        callback = keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end)
        model.fit(data, epochs=2, steps_per_epoch=args.steps, verbose=0, callbacks=[callback])
        (began, (sent_before, received_before), before), (ended, (sent, received), now) = seen[0], found[0]
        steps, asked = now.steps - before.steps, now.cached.asked - before.cached.asked
        assert meter.reading is not None
        return Turn(
            examples_per_s=steps * args.batch / (ended - began),
            cpu_ms_a_step=meter.reading.cpu_ms["tasks"] / steps,
            sent_bytes=(sent - sent_before) / steps,
            received_bytes=(received - received_before) / steps,
            hit_rate=(now.cached.found - before.cached.found) / asked if asked else 0.0,
            unique_rows=(now.unique_rows - before.unique_rows) / steps,
        )

    return train


class _ServerBytes:
    """The bytes that all servers of a cluster have sent and received by TCP."""

    def __init__(self, cluster: Any) -> None:
        from tfps.monitoring.process import ProcessReader

        self._readers = [ProcessReader(task.pid) for task in cluster.tasks if task.order.job == "ps"]

    def read(self) -> tuple[int, int]:
        from tfps.monitoring.process import read_all

        readings = read_all(self._readers)
        return sum(one.sent_bytes for one in readings), sum(one.received_bytes for one in readings)


if __name__ == "__main__":
    main()
