"""Whether cheap steps cost no more with more workers and more servers: 1, 2, 4 and 8 of each.

    python -m benchmarks.doublings --check

Prints a line of JSON for each cluster, and one with the growth of each doubling. The growth is the CPU time that a step
takes of all processes with twice as many workers or servers, divided by that before. A growth of 1.25 means: with a
core for each process, throughput would grow by 1 / 1.25 = 0.8 of a doubling. CPU time is measured because this machine
may have fewer cores than processes. --check ends with status 1 if a growth is above 1 / 0.9.
"""

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.meter import Meter

_COUNTS = (1, 2, 4, 8)
_MOST_GROWTH = 1 / 0.9
_TRAINED_STEPS = 1_000_000
"""Young models are trained by fewer workers, in shorter closures."""
_ROWS = 200_000


@dataclasses.dataclass(frozen=True)
class Shape:
    """A cluster and its steps.

    Args:
        series: "workers" or "servers": which of the two grows.
        workers: the number of workers.
        servers: the number of servers.
        batch: the examples of a step. A server has to get hundreds of rows with each request: a request costs the same
            for few rows.
        ids: the ids of an example.
    """

    series: str
    workers: int
    servers: int
    batch: int
    ids: int

    @property
    def count(self) -> int:
        """The number of what grows."""
        return self.workers if self.series == "workers" else self.servers


def main() -> None:
    """Runs the command."""
    parser = _parser()
    args = parser.parse_args()
    if len(args.counts) < 2:
        parser.error("--counts must have 2 numbers or more, to see what grows.")
    shapes = [Shape("workers", count, 1, 64, 8) for count in args.counts]
    shapes += [Shape("servers", 1, count, 4096, 32) for count in args.counts]
    found: dict[Shape, list[dict[str, float]]] = {shape: [] for shape in shapes}
    for number in range(args.rounds):
        # Each round in the other direction, so that a machine that gets slower makes no trend.
        for shape in shapes if number % 2 else reversed(shapes):
            found[shape].append(_measure(shape, args.seconds, args.steps_per_closure))
    for shape, runs in found.items():
        print(json.dumps({**dataclasses.asdict(shape), **_median(runs)}))
    growth = {series: _growth({s: _median(r) for s, r in found.items() if s.series == series}) for series in _SERIES}
    print(json.dumps({"growth": growth, "most": round(_MOST_GROWTH, 3)}))
    if args.check and max(max(one.values()) for one in growth.values()) > _MOST_GROWTH:
        sys.exit(1)


_SERIES = ("workers", "servers")


def _growth(found: dict[Shape, dict[str, float]]) -> dict[str, float]:
    """Returns CPU a step / CPU a step of the cluster before, by "before to after"."""
    pairs = zip(found.items(), list(found.items())[1:], strict=False)
    return {
        f"{old.count} to {new.count}": round(after["cpu_ms_a_step"] / before["cpu_ms_a_step"], 3)
        for (old, before), (new, after) in pairs
    }


def _median(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(run[name] for run in runs), 4) for name in runs[0]}


def _measure(shape: Shape, seconds: float, steps_per_closure: int) -> dict[str, float]:
    """Runs a cluster of this machine and returns its figures: CPU milliseconds a step by role, and steps a second."""
    import tfps
    from tfps.training import traced_closures

    # As in a run that has lasted for a while. Small clusters would be measured while their graphs are traced again.
    traced_closures.SHORT_STEPS = 0
    cluster = tfps.LocalCluster(num_ps=shape.servers, num_workers=shape.workers)
    with tfps.ParameterServerStrategy(cluster, dense_tables_bytes=0) as strategy:
        model, data = _build(strategy, shape, steps_per_closure)
        steps = 4 * shape.workers * steps_per_closure
        # At its first closures a worker makes functions. The second time tells how many steps fill the seconds.
        model.fit(data, steps_per_epoch=steps, verbose=0)
        warm = _run(strategy, model, data, steps)
        return _run(strategy, model, data, max(steps, round(warm["steps_per_s"] * seconds)))


def _run(strategy: Any, model: Any, data: Any, steps: int) -> dict[str, float]:
    import os

    pids: dict[str, list[int]] = {"chief": [os.getpid()], "worker": [], "ps": []}
    for task in strategy.cluster.tasks:
        pids[task.order.job].append(task.pid)
    meter = Meter(pids)
    meter.start()
    model.fit(data, steps_per_epoch=steps, verbose=0)
    meter.stop()
    reading = meter.reading
    assert reading is not None
    return {
        "steps": steps,
        "steps_per_s": steps / reading.seconds,
        "cpu_ms_a_step": sum(reading.cpu_ms.values()) / steps,
        **{f"{job}_cpu_ms_a_step": ms / steps for job, ms in reading.cpu_ms.items()},
    }


def _build(strategy: Any, shape: Shape, steps_per_closure: int) -> tuple[Any, Any]:
    """Makes a model of one table and one weight vector, and its endless input."""
    import keras
    import tensorflow as tf

    from benchmarks.file_input import read_ids_by_file

    with strategy.scope():
        layers = [keras.layers.Embedding(_ROWS, 8), keras.layers.Flatten(), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((shape.ids,), dtype="int64"), *layers])
        model.compile("sgd", "mse", steps_per_execution=steps_per_closure)
        model.optimizer.iterations.assign(_TRAINED_STEPS)
    data = read_ids_by_file(shape.workers, shape.ids, _ROWS, shape.batch)
    return model, data.map(lambda ids: (ids, tf.zeros([shape.batch, 1])))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "benchmarks.doublings", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--counts", type=int, nargs="+", default=_COUNTS, help="workers, and servers (1 2 4 8)")
    parser.add_argument("--seconds", type=float, default=3.0, help="about how long a run takes (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each cluster (default %(default)s)")
    parser.add_argument("--steps-per-closure", type=int, default=32, help="(default %(default)s)")
    parser.add_argument("--check", action="store_true", help="end with status 1 if CPU a step grows too much")
    return parser


if __name__ == "__main__":
    main()
