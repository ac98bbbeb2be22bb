"""`fit` of the CTR-DNN on one server and two workers: from files, and from the same batches in memory."""

import pathlib
import statistics
from typing import Any

from benchmarks.ctr_setup import Setup
from benchmarks.ctr_task import CtrTask, adagrad, build_model
from benchmarks.input_files import BATCH, BUCKETS, tfps_records, tfps_table
from benchmarks.meter import Meter, Reading

_TRAINED_STEPS = 1_000_000
"""A young model is trained by fewer workers; `benchmarks.ctr_dnn` says so too."""


def compare_fit(folder: pathlib.Path, format: str, lines: int, rounds: int) -> dict[str, Any]:
    """Fits epochs on both inputs in turns.

    Args:
        folder: the files of `benchmarks.input_files.write_files`.
        format: of the file that is read.
        lines: its lines.
        rounds: epochs of each side.
    """
    import keras
    import tensorflow as tf

    import tfps
    from tfps.training import traced_closures

    # As in a run that has lasted for a while: its graphs are not traced again while an epoch is measured.
    traced_closures.SHORT_STEPS = 0
    task = CtrTask(batch=BATCH, rows=BUCKETS)
    cluster = tfps.LocalCluster(1, 2)
    processes: dict[str, list[int]] = {"servers": [], "workers": []}
    with Setup().strategy(cluster) as strategy:
        # A cluster has no processes before a strategy starts it.
        for one in cluster.tasks:
            processes["servers" if one.order.job == "ps" else "workers"].append(one.pid)
        with strategy.scope():
            model = build_model(task, keras)
            model.compile(adagrad(keras.optimizers), "binary_crossentropy")
        model.optimizer.iterations.assign(_TRAINED_STEPS)
        read = _dataset(folder, format)
        batches = list(_dataset(folder, "tsv").take(lines // BATCH))
        stacked = tf.nest.map_structure(lambda *values: tf.stack(values), *batches)
        sides = {"files": read, "memory": tf.data.Dataset.from_tensor_slices(stacked)}
        for dataset in sides.values():
            model.fit(dataset, verbose=0)
        readings: dict[str, list[Reading]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, dataset in sides.items():
                meter = Meter(processes)
                meter.start()
                model.fit(dataset, verbose=0)
                meter.stop()
                assert meter.reading is not None
                readings[name].append(meter.reading)
    figures = {name: _figures(own, lines) for name, own in readings.items()}
    ratios = [m.seconds / f.seconds for f, m in zip(readings["files"], readings["memory"], strict=True)]
    cpu = [_cpu_ms(f) / _cpu_ms(m) for f, m in zip(readings["files"], readings["memory"], strict=True)]
    return {
        **figures,
        "speed, files / memory": round(statistics.median(ratios), 3),
        "cpu, files / memory": round(statistics.median(cpu), 3),
    }


def _dataset(folder: pathlib.Path, format: str) -> Any:
    """Batches of ((ids, numbers), label), as the model takes them."""
    if format == "tfrecord":
        dataset = tfps_records(folder)
    else:
        dataset = tfps_table(folder / f"a.{format}", format, drop_remainder=True)
    return dataset.map(lambda features, label: ((features["ids"], features["numbers"]), label[:, None]))


def _figures(readings: list[Reading], lines: int) -> dict[str, Any]:
    seconds = statistics.median(reading.seconds for reading in readings)
    cpu = {role: statistics.median(reading.cpu_ms[role] for reading in readings) for role in readings[0].cpu_ms}
    return {
        "examples_per_s": round(lines / seconds),
        "cpu_us_per_example": {role: round(1000 * ms / lines, 2) for role, ms in cpu.items()},
    }


def _cpu_ms(reading: Reading) -> float:
    return sum(reading.cpu_ms.values())
