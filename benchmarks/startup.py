"""Measures the start: seconds until a cluster is ready and until the first step, and the chief's memory by table size.

    python -m benchmarks.startup --rounds 3 --rows 10000 10000000
    python -m benchmarks.startup --rounds 3 --only fit_inputs --inputs 26 300

The second command shows where the time to a first step goes, for models with an `Embedding` for each input and a MLP of
three layers: seconds by phase (`benchmarks.startup_phases`), and CPU seconds of the chief, the workers and the servers.

Prints one line of JSON with medians over the rounds. Each figure comes from a process of its own, and the processes
take turns, so that a machine that slows down slows all of them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter as _now
from typing import Any

from benchmarks.ctr_task import CtrTask, adagrad, build_model, dataset
from benchmarks.meter import peak_bytes
from benchmarks.startup_phases import Phases

_STEPS = 8
_MIB = 1 << 20


def import_tensorflow(options: argparse.Namespace) -> dict[str, float]:
    """The import alone, which everything else is held against."""
    started = _now()
    import tensorflow  # noqa: F401

    return {"import_tensorflow_s": _now() - started}


def start_cluster(options: argparse.Namespace) -> dict[str, float]:
    """The embedded cluster, from a process that has imported TensorFlow; the servers have not."""
    import tensorflow  # noqa: F401

    import tfps

    started = _now()
    with tfps.LocalCluster(options.ps, options.workers):
        return {"cluster_ready_s": _now() - started}


def fit_once(options: argparse.Namespace) -> dict[str, float]:
    """From `compile` to the end of the first step of `fit`, for the model of `benchmarks.ctr_dnn`."""
    task = CtrTask()
    trained = _Trained(options, lambda keras: build_model(task, keras))
    return {"first_fit_step_s": trained.first_step_s(dataset(task))}


def fit_inputs(options: argparse.Namespace) -> dict[str, float]:
    """The phases from `fit` to the end of its first step, for a model of `options.table` inputs."""
    task = CtrTask(slots=options.table, tables=options.tables or options.table)
    trained = _Trained(options, lambda keras: build_model(task, keras))
    return trained.phases(dataset(task), f"inputs_{options.table}")


def train_table(options: argparse.Namespace) -> dict[str, float]:
    """The chief's peak memory when a table of `options.table` rows is made and trained."""
    import numpy as np
    import tensorflow as tf

    def embedding(keras: Any) -> Any:
        layers = [keras.Input((4,), dtype="int64"), keras.layers.Embedding(options.table, options.dim)]
        return keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(1, activation="sigmoid")])

    trained = _Trained(options, embedding)
    ids = np.random.default_rng(0).integers(0, options.table, (256, 4))
    trained.fit(tf.data.Dataset.from_tensors((ids, np.zeros((256, 1), np.float32))).repeat())
    seconds, name = trained.age_s, f"{options.table}_rows"
    return {f"made_and_trained_{name}_s": seconds, f"chief_peak_{name}_mib": peak_bytes() / _MIB}


class _Trained:
    """A model in the scope of a strategy of its own.

    Args:
        options: of the command.
        build: makes the model from the module `keras`.
    """

    def __init__(self, options: argparse.Namespace, build: Callable[[Any], Any]) -> None:
        import keras

        import tfps

        self._cluster = tfps.LocalCluster(options.ps, options.workers)
        strategy = tfps.ParameterServerStrategy(self._cluster)
        self._keras, self._started = keras, _now()
        with strategy.scope():
            self._model = build(keras)
            self._model.compile(optimizer=adagrad(keras.optimizers), loss="binary_crossentropy")

    @property
    def age_s(self) -> float:
        """Seconds since the cluster was ready."""
        return _now() - self._started

    def fit(self, data: Any, *callbacks: Any) -> None:
        """A few steps."""
        self._model.fit(data, steps_per_epoch=_STEPS, verbose=0, callbacks=list(callbacks))

    def phases(self, data: Any, prefix: str) -> dict[str, float]:
        """The figures of `Phases` for a first step, with names that begin with `prefix`."""
        processes: dict[str, list[int]] = {"chief": [os.getpid()], "workers": [], "servers": []}
        for task in self._cluster.tasks:
            processes["servers" if task.order.job == "ps" else "workers"].append(task.pid)
        phases = Phases(processes)
        self.fit(data, self._keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: phases.end_step()))
        return phases.figures(prefix)

    def first_step_s(self, data: Any) -> float:
        """Seconds from the call of `fit` to the end of its first step."""
        ends: list[float] = []
        note = self._keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ends.append(_now()))
        started = _now()
        self.fit(data, note)
        return ends[0] - started


_PARTS = {part.__name__: part for part in (import_tensorflow, start_cluster, fit_once, fit_inputs, train_table)}


def main() -> None:
    """Runs the command."""
    options = _parser().parse_args()
    if options.part:
        print(json.dumps(_PARTS[options.part](options)))
        return
    turns = [_measure(part) for _ in range(options.rounds) for part in _parts(options)]
    names = dict.fromkeys(name for turn in turns for name in turn)
    medians = {name: statistics.median(turn[name] for turn in turns if name in turn) for name in names}
    if "cluster_ready_s" in medians and "import_tensorflow_s" in medians:
        medians["cluster_to_import"] = medians["cluster_ready_s"] / medians["import_tensorflow_s"]
    print(json.dumps({name: round(value, 2) for name, value in medians.items()}))


def _parts(options: argparse.Namespace) -> list[list[str]]:
    """The arguments of each part of a round."""
    sizes = {"fit_inputs": options.inputs, "train_table": options.rows}
    chosen = [name for name in _PARTS if options.only in (None, name)]
    return [
        ["--part", name, *(["--table", str(size)] if size else [])] for name in chosen for size in sizes.get(name, [0])
    ]


def _measure(part: list[str]) -> dict[str, float]:
    """One part, in a process of its own, with the options of this one."""
    command = [sys.executable, "-m", "benchmarks.startup", *sys.argv[1:], *part]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "benchmarks.startup", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--ps", type=int, default=1, help="parameter servers (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="workers (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each part (default %(default)s)")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 10_000_000], help="of the tables that are made")
    parser.add_argument("--inputs", type=int, nargs="+", default=[26, 300], help="of the models for `fit_inputs`")
    parser.add_argument("--tables", type=int, help="of those models, which share them (default: one for each input)")
    parser.add_argument("--only", choices=_PARTS, help="measure only this")
    parser.add_argument("--dim", type=int, default=16, help="floats a row (default %(default)s)")
    parser.add_argument("--part", choices=_PARTS, help=argparse.SUPPRESS)  # how each is run
    parser.add_argument("--table", type=int, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
