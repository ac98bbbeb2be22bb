"""Tables that grow: the speed of a training step compared with fixed tables, and the memory of many rows.

    python -m benchmarks.growing --rounds 5
    python -m benchmarks.growing --fill 10_000_000 --dim 8
    python -m benchmarks.growing --fill 50_000_000 --max-rows 2_000_000

Prints one line of JSON. The first form runs the click model of `benchmarks.ctr_dnn` with both kinds of tables in turns;
the ratios say how much more time and CPU a step takes with tables that grow. The second form trains ids that never
come again with Adagrad, and reports the bytes of a row beyond its floats and its slot's, and the memory of the servers.
With a budget, rows are evicted all the time, and the figures are the largest that were seen.
"""

import argparse
import json
import sys
import time
from typing import Any

from benchmarks.meter import resident_bytes
from benchmarks.turns import compare

_BATCH = 65_536


def main() -> None:
    """Runs the command."""
    args = _parser().parse_args()
    if args.fill:
        print(json.dumps(fill(args.fill, args.dim, args.ps, args.max_rows)))
    else:
        print(json.dumps(beside_fixed(args.rounds, args.seconds)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "benchmarks.growing", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each kind of table (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn, about (default %(default)s)")
    parser.add_argument("--fill", type=int, default=0, help="make and measure so many rows, instead of steps")
    parser.add_argument("--dim", type=int, default=8, help="floats of a row (default %(default)s)")
    parser.add_argument("--max-rows", type=int, help="the budget of the table, whose oldest rows then go")
    parser.add_argument("--ps", type=int, default=1, help="parameter servers (default %(default)s)")
    return parser


def beside_fixed(rounds: int, seconds: float) -> dict[str, Any]:
    """Trains the click model with tables that grow and with fixed ones, in turns."""
    command = [sys.executable, "-m", "benchmarks.ctr_dnn", "--seconds", str(seconds), "--turns", "--baseline"]
    found = compare({"growing": [*command, "growing"], "fixed": [*command, "tfps"]}, rounds)
    return {
        "of": found["of"],
        # `compare` has the ratio of speeds; at half the speed a step takes twice the time.
        "time_ratio": round(1 / found["ratio"], 3),
        "cpu_ratio": found["cpu_ratio"],
        **{name: found[name] for name in ("examples_per_s", "cpu_ms_per_1000_examples", "turns")},
    }


def fill(rows: int, dim: int, num_ps: int, max_rows: int | None) -> dict[str, Any]:
    """Makes rows by training steps, and measures what they take."""
    import keras
    import tensorflow as tf

    import tfps

    cluster = tfps.LocalCluster(num_ps, 1)
    with tfps.ParameterServerStrategy(cluster) as strategy:
        with strategy.scope():
            inputs = keras.Input((), dtype="int64")
            eviction = tfps.eviction.LeastRecent() if max_rows else None
            layer = tfps.layers.DynamicEmbedding(dim, name="items", eviction=eviction, max_rows=max_rows)
            model = keras.Model(inputs, layer(inputs))
            model.compile("adagrad", loss=lambda _, y: keras.ops.sum(y))
        model.optimizer.build(model.trainable_variables)
        servers = [task.pid for task in cluster.tasks if task.order.job == "ps"]
        before, began = sum(map(resident_bytes, servers)), time.monotonic()
        # A bijection of 64 bits, so every id is new and none is near another.
        data = tf.data.Dataset.range(0, rows, _BATCH).map(
            lambda start: (tf.range(start, tf.minimum(start + _BATCH, rows)) * 0x1E3779B97F4A7C15, tf.zeros([1]))
        )
        data = data.map(lambda ids, y: (ids, tf.broadcast_to(y, [tf.size(ids)])))
        seen = []

        def look(batch: int, logs: Any = None) -> None:
            if batch % 50 == 49 or logs is None:
                seen.append((layer.counts(), sum(map(resident_bytes, servers)) - before))

        model.fit(data, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=look)])
        seconds = time.monotonic() - began
        look(0)
        counts = seen[-1][0]
        grown = max(resident for _, resident in seen)
    floats = counts.rows * dim * 4 * 2
    return {
        "ids": rows,
        "rows": counts.rows,
        "most_rows": max(one.rows for one, _ in seen),
        "most_bytes": max(one.bytes for one, _ in seen),
        "evicted": counts.evicted,
        "dim": dim,
        "optimizer": "adagrad",
        "seconds": round(seconds, 1),
        "rows_per_s": round(rows / seconds),
        "bytes_a_row_beyond_floats": round((counts.bytes - floats) / counts.rows, 2),
        "resident_bytes_a_row_beyond_floats": round((grown - floats) / counts.rows, 2),
        "load": round(counts.load, 3),
        "probes": round(counts.probes, 3),
    }


if __name__ == "__main__":
    main()
