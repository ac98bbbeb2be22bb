"""Examples a second of three models under each strategy, in turns, beside what `tfps.explain_strategy` had chosen.

    python -m benchmarks.strategies --rounds 5 --seconds 3
    python -m benchmarks.strategies --models ctr --strategies plain one --rounds 5

The models: "dense" is an MLP without a table; "ctr" is the CTR-DNN of `benchmarks.ctr_dnn`; "large" is the same with
a table of 8 million rows. The strategies: "plain" is Keras without one; "one" device; "mirrored" over 2 logical CPU
devices of one process; "hosts" is MultiWorkerMirroredStrategy over 2 processes; "servers" is 1 server and 2 workers.

All of them train batches of as many examples in all: a replica has its part. Under "servers" each worker has
batches of its own, as it is asynchronous. Prints one line of JSON. If other programs run, only the ratios count.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from typing import Any

from benchmarks.ctr_task import CtrTask, adagrad, build_model, dataset
from benchmarks.turns import in_turns, take_turns

_STRATEGIES = ("plain", "one", "mirrored", "hosts", "servers")
_BATCH = 512
_WARM_UP_STEPS, _TRIAL_STEPS, _FEWEST_STEPS = 30, 60, 32
_PREDICTED = {
    "OneDeviceStrategy": "one",
    "MirroredStrategy": "mirrored",
    "MultiWorkerMirroredStrategy": "hosts",
    "ParameterServerStrategy": "servers",
}


class Dense:
    """A model without a table: the MLP of the CTR-DNN on 64 numbers."""

    batch = _BATCH

    def build(self, keras: Any) -> Any:
        """Returns the model, compiled."""
        layers = [keras.layers.Dense(400, activation="relu") for _ in range(3)]
        model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(1, activation="sigmoid")])
        model.compile(adagrad(keras.optimizers), "binary_crossentropy")
        return model

    def dataset(self) -> Any:
        """Returns the batches, without end."""
        import numpy as np
        import tensorflow as tf

        draw = np.random.default_rng(0)
        numbers = draw.random((32, _BATCH, 64), np.float32)
        labels = draw.integers(0, 2, (32, _BATCH, 1)).astype(np.float32)
        return tf.data.Dataset.from_tensor_slices((numbers, labels)).repeat().prefetch(4)


class Ctr:
    """The CTR-DNN."""

    batch = _BATCH

    def __init__(self, rows: int = CtrTask.rows) -> None:
        self._task = CtrTask(batch=_BATCH, rows=rows)

    def build(self, keras: Any) -> Any:
        """Returns the model, compiled."""
        model = build_model(self._task, keras)
        model.compile(adagrad(keras.optimizers), "binary_crossentropy")
        return model

    def dataset(self) -> Any:
        """Returns the batches, without end."""
        return dataset(self._task)


_MODELS = {"dense": Dense, "ctr": Ctr, "large": lambda: Ctr(8_000_000)}


def main() -> None:
    """Runs the command."""
    args = _parser().parse_args()
    if args.inner:
        _run_inner(args)
        return
    results = {}
    for model in args.models:
        commands = {name: _command(model, name, args.seconds) for name in args.strategies}
        speeds, cpu, turns = in_turns(commands, args.rounds)
        best = max((name for name in speeds if name != "plain"), key=lambda name: speeds[name])
        chosen = _explain(model, args.strategies)
        results[model] = {
            "examples_per_s": speeds,
            "cpu_ms_per_1000_examples": cpu,
            "fastest": best,
            "explain_strategy": chosen,
            "chosen_of_fastest": round(speeds[chosen["choice"]] / speeds[best], 3)
            if chosen["choice"] in speeds
            else None,
            "one_of_plain": round(speeds["one"] / speeds["plain"], 3) if {"one", "plain"} <= set(speeds) else None,
            "turns": turns,
        }
    print(json.dumps(results))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "benchmarks.strategies", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=_MODELS, default=list(_MODELS), help="default: all")
    parser.add_argument("--strategies", nargs="+", choices=_STRATEGIES, default=list(_STRATEGIES), help="default: all")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each strategy (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="about how long a turn takes (default %(default)s)")
    # How the sides run, and the second process of "hosts".
    parser.add_argument("--inner", help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--ports", help=argparse.SUPPRESS)
    return parser


def _command(model: str, strategy: str, seconds: float) -> list[str]:
    return [
        sys.executable,
        "-m",
        "benchmarks.strategies",
        f"--inner={strategy}",
        f"--models={model}",
        f"--seconds={seconds}",
    ]


def _explain(model: str, strategies: list[str]) -> dict[str, Any]:
    """Returns what `tfps.explain_strategy` says of this machine, without allocating the tables."""
    program = (
        "import json, keras, tfps; from benchmarks.strategies import _MODELS; "
        f"task = _MODELS[{model!r}](); "
        f"found = tfps.explain_strategy(lambda: task.build(keras), batch_size={_BATCH}); "
        "print('chosen: ' + json.dumps(found.to_dict()))"
    )
    output = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True).stdout
    line = next(line for line in output.splitlines() if line.startswith("chosen: "))
    found = json.loads(line.removeprefix("chosen: "))
    return found | {"choice": _PREDICTED.get(found["choice"], found["choice"])}


def _run_inner(args: argparse.Namespace) -> None:
    """One side: trains the same number of steps once for every turn."""
    import tensorflow as tf

    if args.inner == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    if args.inner == "hosts" and args.ports is None:
        args.ports = ",".join(map(str, _free_ports(2)))
        with _second_worker(args):
            _train(args)
        return
    _train(args)


def _train(args: argparse.Namespace) -> None:
    import keras

    task = _MODELS[args.models[0]]()
    strategy, processes = _make_strategy(args)
    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        model = task.build(keras)
    data = task.dataset()

    def train(steps: int) -> float:
        begin = time.perf_counter()
        model.fit(data, steps_per_epoch=steps, verbose=0)
        return time.perf_counter() - begin

    train(_WARM_UP_STEPS)
    # Both workers of "hosts" have to make as many steps.
    steps = (
        _TRIAL_STEPS
        if args.inner == "hosts"
        else max(_FEWEST_STEPS, round(args.seconds * _TRIAL_STEPS / train(_TRIAL_STEPS)))
    )
    if args.worker:
        while True:
            train(steps)

    def measure() -> dict[str, Any]:
        from benchmarks.meter import Meter

        meter = Meter({"all": [os.getpid(), *processes()]})
        meter.start()
        seconds = train(steps)
        meter.stop()
        assert meter.reading is not None
        examples = steps * task.batch
        cpu = {role: 1000 * ms / examples for role, ms in meter.reading.cpu_ms.items()}
        return {"examples_per_s": round(examples / seconds), "cpu_ms_per_1000_examples": cpu}

    take_turns(measure)


def _make_strategy(args: argparse.Namespace) -> tuple[Any, Any]:
    """Returns the strategy, and a function that lists the other processes of it."""
    import tfps

    if args.inner == "one":
        return tfps.OneDeviceStrategy(), list
    if args.inner == "mirrored":
        return tfps.MirroredStrategy(["CPU:0", "CPU:1"]), list
    if args.inner == "hosts":
        cluster = {"worker": [f"127.0.0.1:{port}" for port in args.ports.split(",")]}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": args.worker}})
        strategy = tfps.MultiWorkerMirroredStrategy()
        return strategy, lambda: _SECOND
    if args.inner == "servers":
        strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=1, num_workers=2))
        cluster = strategy.cluster
        return strategy, lambda: [task.pid for task in cluster.tasks]
    return None, list


_SECOND: list[int] = []
"""The process id of the second worker of "hosts"."""


@contextlib.contextmanager
def _second_worker(args: argparse.Namespace) -> Any:
    """Runs the second worker of "hosts", which waits for the first one at every step."""
    command = [*_command(args.models[0], "hosts", args.seconds), "--worker=1", f"--ports={args.ports}"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _SECOND.append(process.pid)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    main()
